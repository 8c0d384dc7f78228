"""Types as checkers see them: the package's own, and the stubs of the Rust side beside what is there."""

import subprocess
import sys

import pytest

pytest.importorskip("mypy")


@pytest.mark.parametrize(
    "words",
    [
        ["mypy", "--package", "bam_attention"],
        ["mypy.stubtest", "--ignore-disjoint-bases", "bam_attention._native"],
    ],
)
def test_types_are_what_they_say(words, tmp_path):
    done = subprocess.run([sys.executable, "-m", *words], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


PROGRAM = """
import numpy as np
import torch
from typing_extensions import assert_type
from bam_attention import ALiBi, BayesianAttention, LogPrior, ScalableSoftmax, attend

q, x = torch.zeros(1, 2, 9, 4), np.zeros((1, 2, 9, 4), np.float32)
assert_type(ALiBi(2)(9), LogPrior)
assert_type(attend(q, q, q, ALiBi(2)(9), temperature=ScalableSoftmax(2)(9), window=3), torch.Tensor)
assert_type(ScalableSoftmax(2)(9), torch.Tensor)
assert_type(BayesianAttention(8, 2)(q[0], is_causal=True)[0], torch.Tensor)
out: np.ndarray = attend(x, x, x, np.zeros((2, 9), np.float32))
"""
WRONG = {
    "attend(q, q, x, ALiBi(2)(9))": "Value of type variable",
    'attend(q, q, q, ALiBi(2)(9), window="3")': "incompatible type",
    "ALiBi(2)(9, offset=3)": "Unexpected keyword",
    "BayesianAttention(8, 2)(q[0], mask=None)": "Unexpected keyword",
    "number: int = attend(q, q, q, ALiBi(2)(9))": "Incompatible types",
}


def test_calls_have_types(tmp_path):
    lines = PROGRAM.splitlines()
    (tmp_path / "program.py").write_text("\n".join([*lines, *WRONG]))
    words = [sys.executable, "-m", "mypy", "--strict", "program.py"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    errors = [line for line in done.stdout.splitlines() if ": error: " in line]
    assert len(errors) == len(WRONG), done.stdout + done.stderr
    for at, (error, expected) in enumerate(zip(errors, WRONG.values()), len(lines) + 1):
        assert error.startswith(f"program.py:{at}: ") and expected in error, error
