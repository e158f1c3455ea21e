import json

import pytest

from harness.experiment.parse import to_plain
from harness.experiment.schema import plain
from harness.experiment.spec import Run
from harness.orchestration.attempt import Control
from harness.store.journal import Journal, committed, holds, parse, read, series
from harness.trial import run as trial
from tests import tiny


def test_events_are_read_back_in_order(tmp_path):
    path = tmp_path / "events.jsonl"
    j = Journal(path)
    j.metrics(64, {"loss/g": 1.5})
    j.image(64, "samples/000000064.png")
    j.metrics(128, {"loss/g": 1.25})
    assert j.commit() == path.stat().st_size
    j.close()
    assert [e["nimg"] for e in read(path).events] == [64, 64, 128]
    assert series(read(path).events) == {"loss/g": [[64, 1.5], [128, 1.25]]}


def test_resume_cuts_what_no_checkpoint_committed(tmp_path):
    path = tmp_path / "events.jsonl"
    j = Journal(path)
    j.metrics(64, {"a": 1.0})
    offset = j.commit()
    j.metrics(128, {"a": 2.0})
    j.close()
    j = Journal(path, offset)
    j.metrics(128, {"a": 3.0})
    j.close()
    assert series(read(path).events) == {"a": [[64, 1.0], [128, 3.0]]}


def test_an_event_computed_again_keeps_its_time(tmp_path):
    """So a tracking store that has the point already sees the same point, not a second one."""
    path = tmp_path / "events.jsonl"
    j = Journal(path)
    j.metrics(64, {"a": 1.0})
    j.close()
    first = read(path).events
    old = json.loads(path.read_text())
    old["time_ms"] -= 5000
    path.write_text(json.dumps(old) + "\n")
    j = Journal(path, 0)
    j.metrics(64, {"a": 1.0})
    j.close()
    assert [e["time_ms"] for e in read(path).events] == [first[0]["time_ms"] - 5000]


def test_a_torn_last_line_is_not_an_event(tmp_path):
    path = tmp_path / "events.jsonl"
    path.write_text('{"nimg": 1, "time_ms": 1, "metrics": {"a": 1.0}}\n{"nimg": 2, "ti')
    assert [e["nimg"] for e in read(path).events] == [1]
    assert read(path).spoilt == 0  # nothing was lost: it was never committed


POINT = b'{"nimg": %d, "time_ms": 5, "metrics": {"a": 1.0}}'
SPOILT = [
    b"", b"[1]", b"\xff\xfe", POINT[:20] % 2, b"\0" * 40,
    b'{"nimg": 2, "time_ms": 5}', b'{"nimg": 2, "metrics": {"a": 1}}',
    b'{"nimg": "2", "time_ms": 5, "metrics": {"a": 1}}', b'{"nimg": 2, "time_ms": 5, "metrics": [1]}',
    b'{"nimg": 2, "time_ms": 5, "metrics": {"a": null}}', b'{"nimg": 2, "time_ms": 5, "image": 7}',
]  # fmt: skip


@pytest.mark.parametrize("line", SPOILT)
def test_a_spoilt_line_is_left_out_and_counted_and_the_rest_is_read(tmp_path, line):
    path = tmp_path / "events.jsonl"
    path.write_bytes(b"\n".join([POINT % 1, line, POINT % 3, b""]))
    assert series(read(path).events) == {"a": [[1, 1.0], [3, 1.0]]}
    assert read(path).spoilt == 1
    journal = Journal(path, path.stat().st_size)  # whether it may go on at all, `holds` has decided
    journal.metrics(4, {"a": 2.0})
    journal.close()
    assert series(read(path).events)["a"][-1] == [4, 2.0] and read(path).spoilt == 1


class Gremlin(Control):
    """Spoils the newest line of a trial's journal, once, while it trains."""

    def __init__(self, path):
        super().__init__()
        self.path, self.done = path, False

    def stop(self):
        data = self.path.read_bytes() if self.path.exists() and not self.done else b""
        if data.count(b"\n") > 1:
            with self.path.open("r+b") as f:
                f.seek(len(data) - 10)
                f.write(b"\xff")
            self.done = True
        return False


@pytest.mark.slow
def test_a_result_counts_the_lines_that_a_disk_spoilt(tmp_path):
    t, options = tiny.trial(train={"tick_kimg": 0.008}), plain(Run(device="cpu", checkpoint_s=0))
    gremlin = Gremlin(tmp_path / "events.jsonl")
    assert trial.run(to_plain(t), tmp_path, options, gremlin) == "done" and gremlin.done
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["spoilt_lines"] == 1
    assert result["series"]["loss/g"][-1][0] == result["nimg"] and "final/di" in result["series"]


def test_what_is_flipped_in_a_journal_never_stops_its_reader(tmp_path):
    """Every single byte of a short journal, spoilt in turn: at most its own line, or two that it joins, are lost."""
    whole = b"\n".join([POINT % n for n in range(4)] + [b""])
    for at in range(len(whole)):
        broken = bytearray(whole)
        broken[at] ^= 0x80
        found = parse(bytes(broken))
        assert found.spoilt <= 1 and len(found.events) >= 2
        assert all(e in parse(whole).events for e in found.events)


def test_what_is_committed_is_what_a_checkpoint_says_until_there_is_a_result(tmp_path):
    assert committed(tmp_path) == 0
    (tmp_path / "events.jsonl").write_bytes(b"x" * 10)
    (tmp_path / "checkpoints").mkdir()
    assert committed(tmp_path) == 0
    for offset, size in ((4, 4), (40, 10)):
        (tmp_path / "checkpoints" / "latest.json").write_text(json.dumps({"journal_offset": offset}))
        assert committed(tmp_path) == size
    (tmp_path / "checkpoints" / "latest.json").write_text("{")
    assert committed(tmp_path) == 0
    (tmp_path / "result.json").touch()
    assert committed(tmp_path) == 10


def test_a_journal_shorter_than_its_checkpoint_is_refused(tmp_path):
    path = tmp_path / "events.jsonl"
    path.write_text("")
    with pytest.raises(ValueError, match="commits 10"):
        Journal(path, 10)


def test_json_has_no_nan(tmp_path):
    path = tmp_path / "events.jsonl"
    j = Journal(path)
    j.metrics(1, {"a": float("nan"), "b": float("inf")})
    j.close()
    assert json.loads(path.read_text())["metrics"] == {"a": "nan", "b": "inf"}


def test_a_lost_worker_that_lives_on_writes_where_nobody_reads(tmp_path):
    path = tmp_path / "events.jsonl"
    lost = Journal(path)
    lost.metrics(1, {"a": 1.0})
    offset = lost.commit()
    lost.metrics(2, {"a": 2.0})
    successor = Journal(path, offset)
    successor.metrics(2, {"a": 3.0})
    successor.commit()
    for journal in (lost, successor):
        journal.close()
    assert series(read(path).events) == {"a": [[1, 1.0], [2, 3.0]]}


def test_a_journal_tells_whether_it_is_what_was_committed(tmp_path):
    path = tmp_path / "events.jsonl"
    j = Journal(path)
    j.metrics(1, {"a": 1.0})
    first, digest = j.commit(), j.digest()
    j.metrics(2, {"a": 2.0})
    j.close()
    assert holds(path, first, digest)
    again = Journal(path, first)
    assert again.digest() == digest
    again.metrics(2, {"a": 3.0})
    again.close()
    data = bytearray(path.read_bytes())
    data[first // 2] ^= 1
    path.write_bytes(data)
    assert not holds(path, first, digest) and holds(path, first, None)
    assert not holds(tmp_path / "gone", first, None)
