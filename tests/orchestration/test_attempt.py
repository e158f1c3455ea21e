"""What an exception makes of an attempt: told by its type, whatever its class is called."""

import errno
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from harness.errors import Lost, one_line
from harness.orchestration import attempt

ROOT = Path(__file__).parents[2]


def named(name, base=Exception):
    """An exception class of somebody else's, which only bears a name."""
    return type(name, (base,), {})


@pytest.mark.parametrize(
    ("error", "word"),
    [
        (Lost("rank 1 is gone"), "crashed"),
        (named("Lost")("my luggage"), "failed"),
        (named("Gone", Lost)("rank 1"), "crashed"),
        (torch.OutOfMemoryError("CUDA out of memory"), "oom"),
        (named("OutOfMemoryError")("of patience"), "failed"),
        (MemoryError(), "oom"),
        (RuntimeError("could not create a primitive"), "oom"),
        (OSError(errno.ENOSPC, "No space left on device"), "interrupted"),
        (ValueError("broken"), "failed"),
    ],
)
def test_the_type_decides_the_end(tmp_path, error, word):
    ended = attempt.failure(error, tmp_path, attempt.begin(tmp_path))
    assert ended.word == word
    assert type(error).__name__ in ended.message


def test_ends_are_told_without_torch():
    code = (
        "import sys; from harness.orchestration import attempt\n"
        "class OutOfMemoryError(Exception): pass\n"
        "assert attempt.out_of_memory(MemoryError()) and not attempt.out_of_memory(OutOfMemoryError('x'))\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_an_error_is_one_line():
    assert one_line(ValueError("two\n  lines")) == "two lines"
    assert one_line(KeyboardInterrupt()) == "KeyboardInterrupt"
    assert one_line(ValueError("long " * 100), 9) == "long long"
