"""Statistics of the reals: computed once, told of as they grow, and waited for without silence."""

import fcntl
import threading

import numpy as np
import pytest

from harness import locks
from harness.datasets import synthetic
from harness.errors import UserError
from harness.evaluation import reals
from harness.evaluation.evidence import Sample
from harness.evaluation.features import EFFICIENTNET_LITE0, Extractor

COUNT, BATCH = 40, 16
SMALL = Extractor(EFFICIENTNET_LITE0.name, 32)


def reference(cache, progress):
    samples = [Sample("train", COUNT, SMALL, "pooled")]
    images = synthetic.load(synthetic.Options(num_images=COUNT))
    return reals.reference(images, samples, samples, batch_size=BATCH, device="cpu", cache=cache, progress=progress)


def test_every_batch_is_told_of_and_what_is_known_all_at_once(tmp_path):
    told = []
    first = reference(tmp_path, told.append)
    batches = [16, 16, 8]
    assert [n for n in told if n] == [*batches, *batches] and sum(told) == 2 * COUNT
    told.clear()
    again = reference(tmp_path, told.append)
    assert told == [COUNT, COUNT]
    (sample,) = first.features
    np.testing.assert_array_equal(again.features[sample], first.features[sample])


class Stopped(Exception):
    pass


def test_who_waits_for_another_process_shows_it_and_can_be_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "GLANCE_S", 0.01)
    reals.cached(tmp_path, {"a": 1}, dict)
    (path,) = tmp_path.glob("reals/*.lock")
    path.with_suffix(".npz").unlink()
    calls, enough = [], threading.Event()

    def waiting():
        calls.append(1)
        if len(calls) == 3:
            enough.set()
        if len(calls) > 5:
            raise Stopped

    with path.open("w") as other:  # held by its file, as another process would hold it
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(Stopped):
            reals.cached(tmp_path, {"a": 1}, dict, waiting)
        calls.clear()
        enough.clear()
        waits = threading.Thread(target=lambda: enough.wait(10) and fcntl.flock(other, fcntl.LOCK_UN))
        waits.start()
        found = reals.cached(tmp_path, {"a": 1}, lambda: {"x": np.ones(1)}, waiting)
        waits.join()
    assert len(calls) >= 3 and found["x"] == 1


def test_a_lock_that_fails_is_not_called_taken_and_other_trouble_not_the_cache_s(tmp_path, monkeypatch):
    def broken(*_):
        raise OSError(37, "No locks available")

    def full():
        raise OSError(28, "No space left on device", "results")

    with pytest.raises(OSError, match="No space left") as e:
        reals.cached(tmp_path, {"a": 1}, full)
    assert not isinstance(e.value, UserError), "it is no trouble of the cache's"
    monkeypatch.setattr(fcntl, "flock", broken)
    with pytest.raises(UserError, match="No locks available.*set NASHBOARD_CACHE"):
        reals.cached(tmp_path, {"a": 1}, dict)
