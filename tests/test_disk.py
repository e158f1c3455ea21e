"""Files that appear whole or not at all, and where what can be made again is kept."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from harness import disk
from harness.errors import UserError


def test_a_failed_write_leaves_the_old_file_and_no_rest(tmp_path, monkeypatch):
    path = tmp_path / "x"
    disk.write_atomic(path, b"old")
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space"):
        disk.write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


def test_what_is_no_json_object_reads_as_empty(tmp_path):
    path = tmp_path / "x.json"
    assert disk.read_json(path) == {}
    for text, value in (("[1]", {}), ("{", {}), ('{"a": 1}', {"a": 1})):
        path.write_text(text)
        assert disk.read_json(path) == value


def test_where_the_cache_is(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "site"))
    monkeypatch.setenv("NASHBOARD_CACHE", str(tmp_path))
    assert disk.cache_folder() == tmp_path
    monkeypatch.delenv("NASHBOARD_CACHE")
    assert disk.cache_folder() == tmp_path / "site" / "nashboard"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert disk.cache_folder() == Path.home() / ".cache" / "nashboard"


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="--out needs a folder that can be written"):
        disk.check_writable(tmp_path / "file" / "below", "--out")


def test_a_full_disk_is_seen_through_what_it_caused():
    try:
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        except OSError:
            raise RuntimeError("the writer died") from None
    except RuntimeError as e:
        assert disk.is_full(e)
    assert not disk.is_full(OSError(errno.ENOENT, "gone"))


@pytest.mark.slow
def test_torch_makes_no_folder_of_a_fixed_name_where_all_users_write(tmp_path):
    """With a file of another user in its place, torch's compiler, and so its optimizers, could not be imported."""
    code = "from harness import disk; disk.use_own_compiler_folder()\n"
    code += "from torch._inductor.runtime import cache_dir_utils as c; print(c.cache_dir())"
    env = {**os.environ, "TMPDIR": str(tmp_path), "NASHBOARD_CACHE": str(tmp_path / "own")}
    env.pop("TORCHINDUCTOR_CACHE_DIR", None)
    done = subprocess.run([sys.executable, "-c", code], cwd=disk.ROOT, env=env, capture_output=True, text=True)
    assert done.stdout.strip() == str(tmp_path / "own" / "torch"), done.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["own"]
