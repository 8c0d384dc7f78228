"""The `openai` package against `bam serve`: arguments are the server's address and the model's name."""

import sys

import openai

address, model = sys.argv[1:]
client = openai.OpenAI(base_url=f"http://{address}/v1", api_key="unused")

models = client.models.list().data
assert [m.id for m in models] == [model], models

prompt = "There is an important info hidden inside a lot of irrelevant text."
asked = dict(model=model, prompt=prompt, max_tokens=12, temperature=0)
whole = client.completions.create(**asked)
choice = whole.choices[0]
assert choice.finish_reason in ("stop", "length"), choice
assert whole.usage.completion_tokens <= 12, whole.usage

pieces = list(client.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
text = "".join(piece.choices[0].text for piece in pieces if piece.choices)
assert text == choice.text, (text, choice.text)
assert pieces[-1].usage == whole.usage, pieces[-1]

scored = client.completions.create(model=model, prompt=prompt, max_tokens=1, temperature=0, echo=True, logprobs=2)
logprobs = scored.choices[0].logprobs
assert logprobs.token_logprobs[0] is None and all(x <= 0 for x in logprobs.token_logprobs[1:]), logprobs
assert len(logprobs.tokens) == len(logprobs.top_logprobs) == len(logprobs.text_offset)
assert scored.choices[0].text.startswith(prompt)

several = client.completions.create(model=model, prompt=[prompt, "The grass is"], n=2, max_tokens=5, seed=3)
assert [c.index for c in several.choices] == [0, 1, 2, 3], several
again = client.completions.create(model=model, prompt=[prompt, "The grass is"], n=2, max_tokens=5, seed=3)
assert [c.text for c in several.choices] == [c.text for c in again.choices]

for wrong, error in [
    (dict(prompt=prompt, model="other"), openai.NotFoundError),
    (dict(prompt=prompt, model=model, temperature=9), openai.BadRequestError),
    (dict(prompt=[10**9], model=model), openai.BadRequestError),
]:
    try:
        client.completions.create(**wrong)
    except error as refused:
        assert refused.body["message"], refused
    else:
        raise AssertionError(f"{wrong} was taken")

try:
    client.chat.completions.create(model=model, messages=[{"role": "user", "content": "hello"}], max_tokens=4)
except openai.BadRequestError as refused:
    assert "chat template" in refused.body["message"], refused

print(f"openai {openai.__version__}: completions, streams, log-probabilities, choices and errors are as expected")
