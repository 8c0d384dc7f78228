"""EleutherAI's `lm_eval`, unmodified, against `bam serve`, beside `bam eval loglikelihood`: figures and logged samples.

Arguments: address, model's name, `bam`, folder of the model, requests (.jsonl or .jsonl.gz), their number.
"""

import gzip
import json
import math
import os
import pathlib
import subprocess
import sys
import tempfile

address, model, bam, folder, requests, count = sys.argv[1:]
CHOICES = 4
TASK = """task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
output_type: {kind}
test_split: test
doc_to_text: context
doc_to_target: {target}
{more}
metric_list:
  - {{metric: acc, aggregation: mean, higher_is_better: true}}
  - {{metric: {second}, aggregation: {aggregation}, higher_is_better: {better}}}
metadata: {{version: 1.0}}
"""


def documents(pairs):
    """The documents of two tasks, as lm_eval reads them, with the same as our requests."""
    words, choices = [], []
    for number, pair in enumerate(pairs):
        words.append((pair, {**pair, "task": "bam_ll", "doc_id": number, "doc": pair}))
    for number in range(len(pairs) // CHOICES):
        few = pairs[number * CHOICES : (number + 1) * CHOICES]
        texts = [pair["continuation"].strip() for pair in few]
        document = {"choices": texts, "context": few[0]["context"].rstrip(), "gold": number % CHOICES}
        asked = {"context": document["context"], "continuations": [" " + text for text in texts], "label": document["gold"]}
        choices.append((document, {**asked, "task": "bam_mc", "doc_id": number, "doc": document}))
    return words, choices


def write(path, values):
    path.write_text("".join(json.dumps(value) + "\n" for value in values), encoding="utf-8")


def logged(folder, task):
    """The lines of a task's samples, and what the results say of them."""
    (samples,) = folder.rglob(f"samples_{task}_*.jsonl")
    (results,) = folder.rglob("results_*.json")
    lines = [json.loads(line) for line in samples.read_text(encoding="utf-8").splitlines()]
    results = json.loads(results.read_text(encoding="utf-8"))
    return sorted(lines, key=lambda line: line["doc_id"]), results["results"][task], results["task_hashes"][task]


def close(a, b):
    """The same value, or the same but for rounding where it says a number."""
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(close, a, b))
    try:
        return math.isclose(float(a), float(b), rel_tol=1e-4, abs_tol=1e-4)
    except (TypeError, ValueError):
        return a == b


with tempfile.TemporaryDirectory() as scratch:
    scratch = pathlib.Path(scratch)
    opened = gzip.open if requests.endswith(".gz") else open
    with opened(requests, "rt", encoding="utf-8") as lines:
        pairs = [json.loads(line)["request"] for line, _ in zip(lines, range(int(count)))]
    words, choices = documents(pairs)
    for name, of in [("bam_ll", words), ("bam_mc", choices)]:
        write(scratch / f"{name}.jsonl", [document for document, _ in of])
    asked = scratch / "asked.jsonl"
    write(asked, [request for _, request in words + choices])
    perplexity = {"kind": "loglikelihood", "target": "continuation", "more": "", "second": "perplexity", "aggregation": "perplexity", "better": "false"}
    accuracy = {"kind": "multiple_choice", "target": "gold", "more": "doc_to_choice: choices", "second": "acc_norm", "aggregation": "mean", "better": "true"}
    for name, task in [("bam_ll", perplexity), ("bam_mc", accuracy)]:
        (scratch / f"{name}.yaml").write_text(TASK.format(name=name, file=scratch / f"{name}.jsonl", **task))
    arguments = (
        f"model={model},base_url=http://{address}/v1/completions,tokenizer_backend=remote,"
        "max_length=524288,timeout=3600,num_concurrent=4"
    )
    command = [sys.executable, "-m", "lm_eval", "run", "--model", "local-completions", "--model_args", arguments]
    command += ["--tasks", "bam_ll,bam_mc", "--include_path", str(scratch), "--output_path", str(scratch / "theirs"), "--log_samples"]
    environment = {"OPENAI_API_KEY": "unused", "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(scratch)}
    ran = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True)
    if ran.returncode != 0:
        sys.exit(f"lm_eval ended with {ran.returncode}:\n{ran.stderr[-3000:]}")
    command = [bam, "eval", "loglikelihood", folder, "--requests", str(asked), "--out", str(scratch / "record.json")]
    subprocess.run([*command, "--export", f"lm-eval:{scratch / 'ours'}"], capture_output=True, check=True)

    for task, second in [("bam_ll", "perplexity"), ("bam_mc", "acc_norm")]:
        theirs, figures, digest = logged(scratch / "theirs", task)
        ours, own, own_digest = logged(scratch / "ours", task)
        print(f"lm_eval: {task}, {len(theirs)} samples; {second} {figures[second + ',none']:.6f}, ours {own[second + ',none']:.6f}; "
              f"acc {figures['acc,none']:.6f}, ours {own['acc,none']:.6f}")
        assert math.isclose(figures[f"{second},none"], own[f"{second},none"], rel_tol=1e-4)
        assert math.isclose(figures["acc,none"], own["acc,none"], abs_tol=1e-9)
        assert len(theirs) == len(ours)
        for their, our in zip(theirs, ours):
            assert their.keys() == our.keys(), (their.keys(), our.keys())
            for field, value in their.items():
                assert sorted(value) == sorted(our[field]) if field == "metrics" else close(value, our[field]), (field, value, our[field])
        assert digest == own_digest
