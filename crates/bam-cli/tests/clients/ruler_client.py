"""RULER's `niah_single_1` by EleutherAI's `lm_eval`, unmodified, against `bam serve`, beyond the training
length; and `bam eval ruler` on the very same samples.

Arguments: address, model's name, `bam`, folder of the model, samples of each length, lengths (4096,8192).
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile

address, model, bam, folder, count, lengths = sys.argv[1:]
lengths = [int(length) for length in lengths.split(",")]
train_length = json.loads((pathlib.Path(folder) / "config.json").read_text())["train_length"]
assert max(lengths) > train_length, f"nothing of {lengths} is beyond the training length {train_length}"
with tempfile.TemporaryDirectory() as scratch:
    scratch = pathlib.Path(scratch)
    # The task measures its prompts with a tokenizer of its own, and cuts sentences for other haystacks.
    subprocess.run([bam, "export", "hf", folder, "--out", str(scratch / "hf")], check=True, capture_output=True)
    (scratch / "nltk" / "tokenizers" / "punkt_tab").mkdir(parents=True)
    arguments = (
        f"model={model},base_url=http://{address}/v1/completions,tokenizer_backend=remote,"
        "max_length=524288,timeout=3600,num_concurrent=2"
    )
    metadata = json.dumps({"max_seq_lengths": lengths, "tokenizer": str(scratch / "hf")})
    command = [sys.executable, "-m", "lm_eval", "run", "--model", "local-completions", "--model_args", arguments]
    command += ["--tasks", "niah_single_1", "--metadata", metadata, "--log_samples", "--samples"]
    # The samples of each length lie one after the other, 500 of each.
    chosen = [500 * at + sample for at in range(len(lengths)) for sample in range(int(count))]
    command += [json.dumps({"niah_single_1": chosen}), "--output_path", str(scratch / "out")]
    environment = {
        "OPENAI_API_KEY": "unused", "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(scratch),
        "NLTK_DATA": str(scratch / "nltk"),
    }
    ran = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True)
    if ran.returncode != 0:
        sys.exit(f"lm_eval ended with {ran.returncode}:\n{ran.stderr[-3000:]}")
    (result,) = (scratch / "out").rglob("results_*.json")
    (samples,) = (scratch / "out").rglob("samples_niah_single_1_*.jsonl")
    theirs = json.loads(result.read_text())["results"]["niah_single_1"]

    ran = subprocess.run(
        [bam, "eval", "ruler", folder, "--samples-from", str(samples), "--json", "--out", str(scratch / "ours")],
        capture_output=True, text=True,
    )
    if ran.returncode != 0:
        sys.exit(f"bam eval ruler ended with {ran.returncode}:\n{ran.stderr[-3000:]}")
    cells = json.loads(ran.stdout)["metrics"]["cells"]
    ours = {cell["length"]: cell["score"][0] for cell in cells}
    answers = {(cell["length"], answer["index"]): answer["answer"] for cell in cells for answer in cell["answers"]}
    lines = [json.loads(line) for line in samples.read_text(encoding="utf-8").splitlines()]
    said = {(line["doc"]["max_length"], line["doc"]["index"]): line["resps"][0][0] for line in lines}

for length in lengths:
    their = theirs[f"{length},none"]
    print(f"niah_single_1 at {length} tokens, {length / train_length:.0f} x the training length, {count} samples: "
          f"lm_eval {their:.4f}, ours {ours[length]:.4f}")
    assert abs(their - ours[length]) < 1e-9
alike = sum(answers[key] == said[key] for key in said)
print(f"{alike} of {len(said)} answers are the same, letter by letter")
assert len(said) == len(answers) == int(count) * len(lengths)
