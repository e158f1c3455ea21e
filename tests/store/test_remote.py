"""Results behind a URL: whatever moment one looks, or a sender dies, what is there can be gone on from."""

import contextlib
import json
import os
import signal
import time

import pytest
from fsspec.implementations.local import LocalFileSystem

from harness.errors import UserError
from harness.orchestration import attempt, changed
from harness.store import remote
from harness.store.bucket import Store
from harness.store.folder import Fenced, fence
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
        assert after >= 7 and written[-1].endswith("result.json")
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


def test_nobody_removes_what_it_has_not_sent_or_begun_with(tmp_path):
    url, home = f"file://{tmp_path}/store", tmp_path / "home"
    train(tmp_path / "before", 1)
    remote.Store(url).push(tmp_path / "before", "trials/a")
    store = remote.Store(url)
    store.pull("trials/a", home)
    train(home, 2)
    store.push(home, "trials/a")
    others = [
        tmp_path / "store/trials/a/checkpoints" / name for name in ("999.y.safetensors", "best/999.y.safetensors")
    ]
    for path in others:
        path.write_text("another driver's")
    for step in (3, 4):
        train(home, step)
        store.push(home, "trials/a")
    there = sorted(p.name for p in (tmp_path / "store/trials/a/checkpoints").glob("*.safetensors"))
    assert there == ["003.x.safetensors", "004.x.safetensors", "999.y.safetensors"]  # 1 was begun with, 2 sent
    assert all(path.read_text() == "another driver's" for path in others)


def in_scratch(tmp_path, monkeypatch, meanwhile):
    """An attempt at trial `a` that trains a step; `meanwhile()`, and it trains another."""
    monkeypatch.setattr(remote, "EVERY_S", 0.02)
    monkeypatch.setattr(remote, "_url", f"file://{tmp_path}/store")
    folder = tmp_path / "front/trials/a"
    folder.mkdir(parents=True)
    there = tmp_path / "store/trials/a"

    def work(config, home, run, control, number):
        train(home, 1)
        until(lambda: (there / "state.json").exists(), 5)  # the last that is sent
        meanwhile(folder)
        train(home, 2)
        until(lambda: (home / "attempt").read_text() != str(number), 5)
        fence(home, number)

    number = attempt.begin(folder)
    with pytest.raises(Fenced) as e:
        attempt._in_scratch(work, {}, folder, {}, attempt.Control(), number)
    assert attempt.failure(e.value, folder, number).word == "interrupted"
    assert not (folder / "traceback.txt").exists()


def test_a_worker_that_was_given_up_sends_nothing_through_a_retrain_however_it_ends(tmp_path, monkeypatch):
    """Between the move of the old folder and the new attempt there is no moment without a number."""
    rm, store, numbers = Store.move, tmp_path / "store", []

    def looking(self, under, to, **words):
        for name in ("cp_file", "rm_file"):
            act = getattr(self._fs, name)

            def watched(*paths, act=act):
                numbers.append((store / "trials/a/attempt").read_text())
                act(*paths)
                time.sleep(0.05)  # the worker looks meanwhile

            monkeypatch.setattr(self._fs, name, watched)
        rm(self, under, to, **words)
        monkeypatch.undo()
        monkeypatch.setattr(remote, "_url", f"file://{tmp_path}/store")

    monkeypatch.setattr(Store, "move", looking)
    in_scratch(tmp_path, monkeypatch, lambda folder: changed.supersede(tmp_path / "front", "a"))
    assert set(numbers) == {"2"}
    assert {p.name for p in (store / "trials/a").rglob("*") if p.is_file()} == {"attempt", "1", "2"}
    assert (store / "superseded/a-1/checkpoints/001.x.safetensors").exists()
    assert not (store / "superseded/a-1/checkpoints/002.x.safetensors").exists()


def test_a_worker_whose_trial_is_gone_from_the_url_sends_nothing(tmp_path, monkeypatch):
    in_scratch(tmp_path, monkeypatch, lambda folder: (tmp_path / "store/trials/a").rename(tmp_path / "gone"))
    assert not list((tmp_path / "store").rglob("*.safetensors"))


@pytest.mark.parametrize("put_away", [False, True])
def test_a_scoring_of_which_another_attempt_took_the_trial_arrives_unless_its_networks_were_put_away(
    tmp_path, monkeypatch, put_away
):
    """Two drivers score the trial; the other began later and has ended already. What it left is not written over."""
    monkeypatch.setattr(remote, "EVERY_S", 0.02)
    monkeypatch.setattr(remote, "_url", f"file://{tmp_path}/store")
    folder, there = tmp_path / "front/trials/a", tmp_path / "store/trials/a"
    folder.mkdir(parents=True)
    train(there, 1)
    (there / "result-old.json").write_text('{"networks": "001.x.safetensors"}')
    finish(there)

    def work(config, home, run, control, number):
        if put_away:
            changed.supersede(tmp_path / "front", "a")
            there.mkdir(exist_ok=True)
        else:
            attempt.begin(folder)
            (there / "result-old.json").write_text("scored again")
            (there / "result.json").write_text('{"status": "the other"}')
        until(lambda: (home / "attempt").read_text() != str(number), 5)
        (home / "figures").mkdir()
        (home / "figures" / "a.png").write_text("drawn")
        ours = {"networks": "001.x.safetensors", "figures": {"a": "figures/a.png"}}
        for name in ("result-ours.json", "result.json"):
            (home / name).write_text(json.dumps(ours))
        return "done"

    assert attempt._in_scratch(work, {}, folder, {}, attempt.Control(), attempt.begin(folder)) == "done"
    left = {p.name for p in there.rglob("*") if p.is_file()}
    assert ({"result-ours.json", "a.png"} <= left) == (not put_away) and ("result-old.json" in left) == (not put_away)
    if not put_away:
        assert (there / "result-old.json").read_text() == "scored again"
        assert (there / "result.json").read_text() == '{"status": "the other"}'


def test_what_was_only_brought_is_not_sent_back(tmp_path):
    """It may be older by now than what is there: another attempt's result of a scoring."""
    one, store = tmp_path / "one", Store(f"file://{tmp_path}/store")
    for name in ("result-a.json", "result-b.json"):
        store.write(f"trials/a/{name}", b"old")
    store.pull("trials/a", one)
    store.write("trials/a/result-a.json", b"new")
    train(one, 1)
    (one / "result-b.json").write_text("ours")
    store.push(one, "trials/a")
    there = tmp_path / "store/trials/a"
    assert [(there / f"result-{x}.json").read_text() for x in "ab"] == ["new", "ours"]


@pytest.mark.parametrize("pointer", ["result.json", "state.json", "checkpoints/latest.json"])
def test_a_pointer_that_was_only_brought_is_not_sent_back_between_the_look_whose_turn_it_is_and_the_writing(
    tmp_path, pointer
):
    """Another attempt takes the trial over just after this one was told that it is its own."""
    home, there, store = tmp_path / "home", tmp_path / "store/trials/a", Store(f"file://{tmp_path}/store")
    train(there, 1)
    finish(there)
    store.pull("trials/a", home)
    before = (home / pointer).read_text()
    for name in {"result.json", "checkpoints/latest.json", "state.json"} - {pointer}:  # this one has news of the others
        (home / name).write_text(f'{{"ours": "{name}"}}')

    def ours():
        (there / pointer).write_text("the other's")
        return True

    store.push(home, "trials/a", ours)
    assert (there / pointer).read_text() == "the other's"
    assert '"ours"' in (there / ("state.json" if pointer != "state.json" else "result.json")).read_text()
    for text in ('{"later": 1}', before):  # what is made here goes, also what is as it once was
        (home / pointer).write_text(text)
        store.push(home, "trials/a", lambda: True)
        assert (there / pointer).read_text() == text


@pytest.mark.parametrize("after", range(12))
def test_a_move_may_die_between_any_two_files_and_takes_no_place_that_is_taken(tmp_path, monkeypatch, after):
    monkeypatch.setattr(remote, "_url", f"file://{tmp_path}/store")
    front, store = tmp_path / "front", tmp_path / "store"
    (store / "superseded/a-1").mkdir(parents=True)
    (store / "superseded/a-1/result.json").write_text("another machine's")
    train(front / "trials/a", 1)
    finish(front / "trials/a")
    remote.Store(str(remote.url())).push(front / "trials/a", "trials/a")
    whole = sorted(p.read_bytes() for p in (store / "trials/a").rglob("*") if p.is_file())
    done = []

    def dying(act):
        def acts(self, *paths, **words):
            if len(done) == after:
                raise Cut
            done.append(paths)
            return act(self, *paths, **words)

        return acts

    monkeypatch.setattr(LocalFileSystem, "cp_file", dying(LocalFileSystem.cp_file))
    monkeypatch.setattr(LocalFileSystem, "rm_file", dying(LocalFileSystem.rm_file))
    with contextlib.suppress(UserError):
        changed.supersede(front, "a")
    found = [
        sorted(p.read_bytes() for p in (store / of).rglob("*") if p.is_file()) for of in ("trials/a", "superseded/a-2")
    ]
    number = sorted([b"1"] + [p.read_bytes() for p in (store / "trials/a/.attempts").iterdir()])
    assert found[0] == sorted(whole + number) or found[1] == whole
    if (store / "trials/a/result.json").exists():  # nothing names what is not there
        sound(store / "trials/a")
    assert (store / "superseded/a-1/result.json").read_text() == "another machine's"


def test_a_folder_in_front_forgets_what_is_gone_from_the_url_but_not_what_a_listing_lacks(tmp_path, monkeypatch):
    url, home = f"file://{tmp_path}/store", tmp_path / "home"
    train(home, 1)
    finish(home)
    remote.Store(url).push(home, "trials/a")
    store, front = remote.Store(url), tmp_path / "front"
    store.pull("trials", front)
    (front / "a/mine").write_text("made here")
    with monkeypatch.context() as late:
        late.setattr(LocalFileSystem, "find", lambda *words, **more: {})
        store.pull("trials", front)
    assert (front / "a/result.json").exists()
    (tmp_path / "store/trials/a/result.json").unlink()
    store.pull("trials", front)
    assert not (front / "a/result.json").exists() and (front / "a/events.jsonl").exists()
    assert (front / "a/mine").exists()


def test_what_a_listing_lacks_is_found_by_name(tmp_path, monkeypatch):
    monkeypatch.setattr(remote, "_url", f"file://{tmp_path}/store")
    home, front = tmp_path / "home", tmp_path / "front"
    train(home, 1)
    finish(home)
    remote.Store(str(remote.url())).push(home, "trials/a")
    find = LocalFileSystem.find
    monkeypatch.setattr(LocalFileSystem, "find", lambda *words, **more: {})
    (tmp_path / "next").mkdir()
    remote.begin("a", tmp_path / "next")
    sound(tmp_path / "next")
    assert (tmp_path / "next/checkpoints/001.x.safetensors").exists()
    front.mkdir()
    remote.catch_up(front, {"a": ["result.json"], "b": ["result.json"]})
    assert (front / "trials/a/events.jsonl").read_bytes() == (home / "events.jsonl").read_bytes()
    assert (front / "trials/a/result.json").exists() and not list(front.rglob("*.safetensors"))
    (home / "result.json").write_text('{"status": "done", "scored": "again"}')
    stale = find(LocalFileSystem(), f"{tmp_path}/store/trials", detail=True)
    remote.Store(str(remote.url())).push(home, "trials/a")
    monkeypatch.setattr(LocalFileSystem, "find", lambda *words, **more: stale)  # as it was before
    remote.catch_up(front, {"a": ["result.json"]})
    assert (front / "trials/a/result.json").read_bytes() == (home / "result.json").read_bytes()


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
def test_who_is_refused_at_once_is_told_at_once_and_whom_a_store_knows_waits(monkeypatch):
    """No waiting brings credentials; but a store that has answered before may refuse for a while (a token renewed)."""

    class NoCredentialsError(Exception):  # as botocore names it
        pass

    answers: list[type[Exception] | None] = []
    asked: list[int] = []

    def act() -> str:
        asked.append(1)
        answer = answers.pop(0)
        if answer is not None:
            raise answer("Unable to locate")
        return "there"

    monkeypatch.setattr(remote, "PAUSE_S", 0.001)
    remote.use("s3://bucket")
    try:
        for refused in (NoCredentialsError, PermissionError):
            answers[:], asked[:] = [refused, None], []
            with pytest.raises(UserError, match="--results s3://bucket: .*credentials"):
                remote.reach(act)
            assert len(asked) == 1
        answers[:] = [ConnectionError, None, NoCredentialsError, PermissionError, None]
        assert remote.reach(act) == remote.reach(act) == "there"
    finally:
        remote.use(None)


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
