"""Results behind a URL: whatever moment one looks, or a sender dies, what is there can be gone on from."""

import json
import os
import signal
import time

import pytest

from harness.errors import UserError
from harness.orchestration import attempt
from harness.store import remote
from tests.orchestration.test_cluster import end, matrix, short, told, until

__all__ = ["short"]  # the fixture


def train(folder, step):
    """What a trial leaves: a journal line a step, its commit in a checkpoint and in the pointer, two kept; and as many
    best snapshots, which the checkpoints of their step name."""
    (folder / "checkpoints" / "best").mkdir(parents=True, exist_ok=True)
    (folder / "checkpoints" / "best" / f"{step:03d}.x.safetensors").write_text("best")
    with (folder / "events.jsonl").open("a") as f:
        f.write(f"{step}\n")
        offset = f.tell()
    (folder / "checkpoints" / f"{step:03d}.x.safetensors").write_text(str(offset))
    (folder / "checkpoints" / "latest.json").write_text(json.dumps({"nimg": step, "journal_offset": offset}))
    (folder / "state.json").write_text(json.dumps({"state": "running", "nimg": step}))
    for kind in ("checkpoints", "checkpoints/best"):
        for old in sorted((folder / kind).glob("*.safetensors"))[:-2]:
            old.unlink()


def finish(folder):
    with (folder / "events.jsonl").open("a") as f:
        f.write("final\n")
    (folder / "result.json").write_text('{"status": "done"}')


def sound(folder):
    """Nothing names what is not there."""
    journal = (folder / "events.jsonl").read_text() if (folder / "events.jsonl").exists() else ""
    for path in folder.glob("checkpoints/*.safetensors"):
        assert int(path.read_text()) <= len(journal)
        assert (path.parent / "best" / path.name).exists()
    latest = folder / "checkpoints" / "latest.json"
    if latest.exists():
        pointer = json.loads(latest.read_text())
        assert pointer["journal_offset"] <= len(journal)
        assert (folder / "checkpoints" / f"{pointer['nimg']:03d}.x.safetensors").exists()
    if (folder / "result.json").exists():
        assert journal.endswith("final\n")


class Cut(Exception):
    pass


@pytest.mark.parametrize("after", range(14))
def test_a_sender_may_die_between_any_two_files(tmp_path, monkeypatch, after):
    home, url = tmp_path / "home", f"file://{tmp_path}/store"
    store = remote.Store(url)
    train(home, 1)
    store.push(home, "trials/a")
    for step in (2, 3, 4):
        train(home, step)
    finish(home)
    written, write = [], store.write

    def dying(to, data):
        if len(written) == after:
            raise Cut
        written.append(to)
        write(to, data)

    monkeypatch.setattr(store, "write", dying)
    try:
        store.push(home, "trials/a")
        assert after >= 6 and written[-1].endswith("result.json")
    except Cut:
        pass
    sound(tmp_path / "store/trials/a")
    remote.Store(url).pull("trials/a", tmp_path / "next")
    sound(tmp_path / "next")


def test_a_reader_beside_a_sender_sees_a_state_that_was(tmp_path, monkeypatch):
    home, url = tmp_path / "home", f"file://{tmp_path}/store"
    sender, reader = remote.Store(url), remote.Store(url)
    train(home, 1)
    sender.push(home, "trials/a")
    get = reader._fs.get_file

    def meanwhile(source, target):
        get(source, target)
        train(home, 1 + len(list((home / "events.jsonl").read_text().splitlines())))
        sender.push(home, "trials/a")

    monkeypatch.setattr(reader._fs, "get_file", meanwhile)
    reader.pull("trials/a", tmp_path / "front", leave=(".safetensors",))
    latest = json.loads((tmp_path / "front/checkpoints/latest.json").read_text())
    assert latest["journal_offset"] <= (tmp_path / "front/events.jsonl").stat().st_size
    assert not list((tmp_path / "front").rglob("*.safetensors"))


def test_only_what_changed_travels(tmp_path, monkeypatch):
    home, store = tmp_path / "home", remote.Store(f"file://{tmp_path}/store")
    train(home, 1)
    store.push(home, "trials/a")
    sent = []
    monkeypatch.setattr(store, "write", lambda to, data: sent.append(to))
    store.push(home, "trials/a")
    assert sent == []
    (home / "state.json").write_text("{}")
    store.push(home, "trials/a")
    assert sent == ["trials/a/state.json"]


def test_the_driver_numbers_attempts_at_the_url_too(tmp_path, monkeypatch):
    monkeypatch.setattr(remote, "_url", None)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    front = remote.folder(f"file://{tmp_path}/store")
    assert attempt.begin(front / "trials" / "a") == 1
    assert attempt.begin(front / "trials" / "a") == 2
    assert (tmp_path / "store/trials/a/attempt").read_text() == "2"
    for p in sorted(front.rglob("*"), reverse=True):  # another machine, or a lost cache
        p.unlink() if p.is_file() else p.rmdir()
    assert attempt.begin(remote.folder(f"file://{tmp_path}/store") / "trials" / "a") == 3


def test_a_folder_is_a_folder_and_an_unknown_protocol_one_line(tmp_path):
    assert remote.folder(str(tmp_path)) == tmp_path and remote.url() is None
    with pytest.raises(UserError, match="--results nothing://x: Protocol not known"):
        remote.Store("nothing://x")


@pytest.mark.slow
def test_a_matrix_behind_a_url_is_stopped_and_goes_on_elsewhere(short, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(short / "here"))
    url = ["--results", f"file://{short}/store"]
    assert end(matrix(short, "alone", "--local"))[0] == 0
    driver = matrix(short, "unused", *url)
    until(lambda: list(short.glob("store/trials/*/checkpoints/*.safetensors")), 120)
    time.sleep(0.5)
    os.killpg(driver.pid, signal.SIGINT)
    assert end(driver)[0] == 130
    assert not list(short.glob("store/trials/*/result.json"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(short / "elsewhere"))
    code, out, err = end(matrix(short, "unused", *url, "--local"))
    assert code == 0, out + err
    assert told(short, "store") == told(short, "alone")
    assert list(short.glob("store/one/report.html"))
    assert end(matrix(short, "unused", *url))[0] == 0  # all finished: nothing starts
    assert [p.read_text() for p in short.glob("store/trials/*/attempt")] == ["2"]
