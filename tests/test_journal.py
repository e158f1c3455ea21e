import json

import pytest

from harness.journal import Journal, events, holds, series


def test_events_are_read_back_in_order(tmp_path):
    path = tmp_path / "events.jsonl"
    j = Journal(path)
    j.metrics(64, {"loss/g": 1.5})
    j.image(64, "samples/000000064.png")
    j.metrics(128, {"loss/g": 1.25})
    assert j.commit() == path.stat().st_size
    j.close()
    assert [e["nimg"] for e in events(path)] == [64, 64, 128]
    assert series(path) == {"loss/g": [[64, 1.5], [128, 1.25]]}


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
    assert series(path) == {"a": [[64, 1.0], [128, 3.0]]}


def test_an_event_computed_again_keeps_its_time(tmp_path):
    """So a tracking store that has the point already sees the same point, not a second one."""
    path = tmp_path / "events.jsonl"
    j = Journal(path)
    j.metrics(64, {"a": 1.0})
    j.close()
    first = list(events(path))
    old = json.loads(path.read_text())
    old["time_ms"] -= 5000
    path.write_text(json.dumps(old) + "\n")
    j = Journal(path, 0)
    j.metrics(64, {"a": 1.0})
    j.close()
    assert [e["time_ms"] for e in events(path)] == [first[0]["time_ms"] - 5000]


def test_a_torn_last_line_is_not_an_event(tmp_path):
    path = tmp_path / "events.jsonl"
    path.write_text('{"nimg": 1, "time_ms": 1, "metrics": {"a": 1.0}}\n{"nimg": 2, "ti')
    assert [e["nimg"] for e in events(path)] == [1]


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
    assert series(path) == {"a": [[1, 1.0], [2, 3.0]]}


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
