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
