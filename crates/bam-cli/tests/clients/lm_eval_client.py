"""EleutherAI's `lm_eval`, unmodified, against `bam serve`, and its figures beside `bam eval loglikelihood`'s.

Arguments: address, model's name, `bam`, folder of the model, requests (.jsonl or .jsonl.gz), their number.
"""

import gzip
import json
import os
import pathlib
import subprocess
import sys
import tempfile

address, model, bam, folder, requests, count = sys.argv[1:]
with tempfile.TemporaryDirectory() as scratch:
    scratch = pathlib.Path(scratch)
    opened = gzip.open if requests.endswith(".gz") else open
    with opened(requests, "rt", encoding="utf-8") as lines:
        pairs = [json.loads(line)["request"] for line, _ in zip(lines, range(int(count)))]
    plain = scratch / "requests.jsonl"
    plain.write_text("".join(json.dumps(pair) + "\n" for pair in pairs), encoding="utf-8")
    (scratch / "bam_ll.yaml").write_text(
        "task: bam_ll\n"
        "dataset_path: json\n"
        f"dataset_kwargs: {{data_files: {{test: {plain}}}}}\n"
        "output_type: loglikelihood\n"
        "test_split: test\n"
        "doc_to_text: context\n"
        "doc_to_target: continuation\n"
        "metric_list:\n"
        "  - {metric: perplexity, aggregation: perplexity, higher_is_better: false}\n"
        "  - {metric: acc, aggregation: mean, higher_is_better: true}\n"
        "metadata: {version: 1.0}\n"
    )
    arguments = (
        f"model={model},base_url=http://{address}/v1/completions,tokenizer_backend=remote,"
        "max_length=524288,timeout=3600,num_concurrent=4"
    )
    command = [sys.executable, "-m", "lm_eval", "run", "--model", "local-completions", "--model_args", arguments]
    command += ["--tasks", "bam_ll", "--include_path", str(scratch), "--output_path", str(scratch / "out")]
    environment = {"OPENAI_API_KEY": "unused", "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(scratch)}
    ran = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True)
    if ran.returncode != 0:
        sys.exit(f"lm_eval ended with {ran.returncode}:\n{ran.stderr[-3000:]}")
    (result,) = (scratch / "out").rglob("results_*.json")
    theirs = json.loads(result.read_text())["results"]["bam_ll"]

    ran = subprocess.run(
        [bam, "eval", "loglikelihood", folder, "--requests", str(plain), "--json", "--out", str(scratch / "ours")],
        capture_output=True, text=True, check=True,
    )
    ours = json.loads(ran.stdout)["metrics"]["tasks"][0]

print(f"lm_eval: {len(pairs)} requests; perplexity {theirs['perplexity,none']:.6f}, ours {ours['perplexity']:.6f}; "
      f"greedy {theirs['acc,none']:.6f}, ours {ours['accuracy'][0]:.6f}")
assert abs(theirs["perplexity,none"] / ours["perplexity"] - 1) < 1e-4
assert abs(theirs["acc,none"] - ours["accuracy"][0]) < 1e-9
