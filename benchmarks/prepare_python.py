"""The `tokenizers` and `tiktoken` packages on a corpus: a line of JSON each, with a digest of all ids.

For `cargo xtask bench prepare`, which compares the digests. Ends with 3 where a package is missing.
"""

import argparse
import gzip
import hashlib
import io
import json
import os
import struct
import sys
import time


def texts(path):
    if path.endswith((".txt", ".md")):
        return [open(path, encoding="utf-8-sig", newline="").read()]
    if path.endswith(".gz"):
        lines = gzip.open(path, "rt", encoding="utf-8", newline="\n")
    elif path.endswith(".zst"):
        reader = zstandard.ZstdDecompressor(max_window_size=1 << 27).stream_reader(open(path, "rb"))
        lines = io.TextIOWrapper(reader, encoding="utf-8", newline="\n")
    else:
        lines = open(path, encoding="utf-8", newline="\n")
    return [json.loads(line)["text"] for line in lines if line.strip()]


def spelled():
    """GPT-2's characters for bytes."""
    visible = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [byte for byte in range(256) if byte not in visible]
    return {chr(b): b for b in visible} | {chr(256 + n): b for n, b in enumerate(rest)}


def measure(encode, documents, repeats):
    """Ids are taken by some documents at a time: their objects are large."""
    best, digest, count = float("inf"), None, 0
    for _ in range(repeats):
        seconds, digest, count = 0.0, hashlib.sha256(), 0
        for first in range(0, len(documents), 16):
            begun = time.perf_counter()
            ids = encode(documents[first : first + 16])
            seconds += time.perf_counter() - begun
            for of in ids:
                count += len(of)
                digest.update(struct.pack(f"<{len(of)}I", *of))
        best = min(best, seconds)
    return best, digest.hexdigest(), count


parser = argparse.ArgumentParser()
parser.add_argument("--corpus", required=True)
parser.add_argument("--tokenizer", required=True)
parser.add_argument("--threads", type=int, default=os.cpu_count())
arguments = parser.parse_args()
os.environ["RAYON_NUM_THREADS"] = str(arguments.threads)
os.environ["TOKENIZERS_PARALLELISM"] = "true"
try:
    import tiktoken
    import tokenizers
    import zstandard
except ImportError as error:
    print(f"{error}: pip install tokenizers tiktoken zstandard", file=sys.stderr)
    sys.exit(3)

documents = texts(arguments.corpus)
size = sum(len(text.encode()) for text in documents)
library = tokenizers.Tokenizer.from_file(arguments.tokenizer)
library.encode_special_tokens = True
sides = {
    f"tokenizers {tokenizers.__version__}": lambda batch: [
        of.ids for of in library.encode_batch_fast(batch, add_special_tokens=False)
    ]
}
contents = json.load(open(arguments.tokenizer))
plain = contents["pre_tokenizer"] or {}
if contents["model"]["type"] == "BPE" and plain.get("type") == "ByteLevel" and plain.get("use_regex", True):
    byte = spelled()
    special = {token["content"] for token in contents["added_tokens"]}
    ranks = {
        bytes(byte[c] for c in token): rank
        for token, rank in contents["model"]["vocab"].items()
        if token not in special
    }
    gpt2 = tiktoken.Encoding(
        "gpt2",
        pat_str=r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s",
        mergeable_ranks=ranks,
        special_tokens={},
    )
    sides[f"tiktoken {tiktoken.__version__}"] = lambda batch: gpt2.encode_ordinary_batch(
        batch, num_threads=arguments.threads
    )
for side, encode in sides.items():
    seconds, digest, count = measure(encode, documents, 3 if size < 5e7 else 1)
    row = {
        "implementation": side,
        "pass": "encode",
        "corpus": os.path.basename(arguments.corpus),
        "tokenizer": os.path.basename(arguments.tokenizer),
        "bytes": size,
        "tokens": count,
        "ids": digest,
        "milliseconds": 1e3 * seconds,
    }
    print(json.dumps(row), flush=True)
