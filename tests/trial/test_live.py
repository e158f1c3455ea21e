"""Signs of life: outside of the loop whatever the trial does, in the loop only steps."""

import importlib
import json
import threading
import time
from contextlib import ExitStack

import pytest
from PIL import Image

from harness import locks
from harness.data import pixel_cache
from harness.datasets import image_zip
from harness.experiment.parse import to_plain
from harness.experiment.schema import plain
from harness.experiment.spec import Run
from harness.orchestration.attempt import Control
from harness.trial import live, run
from tests import tiny

upkeep_of = importlib.import_module("harness.trial.upkeep").Upkeep


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(live, "BEAT_S", 0.01)


def test_a_trial_that_goes_on_says_from_where(tmp_path):
    trial = tiny.trial()
    assert live.Live(tmp_path, trial, Control(), 1).now["nimg"] == 0
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "latest.json").write_text('{"file": "x", "nimg": 48}')
    live.Live(tmp_path, trial, Control(), 1).say("running", "preparing")
    assert json.loads((tmp_path / "state.json").read_text())["nimg"] == 48


def test_a_warning_is_the_trials_first_one_also_of_an_attempt_that_resumes_it(tmp_path):
    first = live.Live(tmp_path, tiny.trial(), Control(), 1)
    first.say("running", "preparing")
    assert "warning" not in first.now
    first.warn("84% at 4x4")
    first.warn("90% at 4x4")
    assert json.loads((tmp_path / "state.json").read_text())["warning"] == "84% at 4x4"
    again = live.Live(tmp_path, tiny.trial(), Control(), 2)
    again.say("running")
    again.warn("60% at 8x8")
    assert json.loads((tmp_path / "state.json").read_text())["warning"] == "84% at 4x4"


def beats(control, wait_s=0.1):
    """How many come in a while."""
    before = control.beats
    time.sleep(wait_s)
    return control.beats - before


@pytest.mark.parametrize("busy", ["waits", "decodes"])
def test_a_trial_that_waits_for_pixels_or_decodes_them_stops_when_asked(tmp_path, monkeypatch, busy):
    monkeypatch.setattr(image_zip, "IN_MEMORY_BYTES", 0)
    monkeypatch.setenv("NASHBOARD_CACHE", str(tmp_path / "cache"))
    (tmp_path / "images").mkdir()
    for n in range(8):
        Image.new("RGB", (32, 32), (n, 0, 0)).save(tmp_path / "images" / f"{n}.png")
    trial = tiny.trial(dataset={"name": "image_zip", "path": str(tmp_path / "images")})
    control, store = Control(), pixel_cache.store

    def asked_meanwhile(key, shape, pieces, describe):
        def decoded():
            for piece in pieces:
                control.stopping = True
                yield piece
                pytest.fail("went on")

        with ExitStack() as stack:
            if busy == "waits":
                lock = pixel_cache._paths(key)[0].with_suffix(".lock")
                lock.parent.mkdir(parents=True)
                stack.enter_context(locks.held(lock, "none"))
                threading.Timer(0.1, setattr, (control, "stopping", True)).start()
            return store(key, shape, decoded(), describe)

    monkeypatch.setattr(pixel_cache, "store", asked_meanwhile)
    assert run.run(to_plain(trial), tmp_path / "trial", plain(Run(device="cpu")), control, 0) == "interrupted"
    assert not [p for p in (tmp_path / "cache").rglob("*") if p.suffix in (".part", ".u8")]


def test_only_the_loop_s_own_steps_are_silent():
    control = Control()
    seen = {}

    def upkeep(state):
        seen["upkeep"] = beats(control)
        return state == "stop"

    with live.Pulse(control) as pulse:
        assert beats(control) > 1
        with pulse.silent():
            time.sleep(0.02)
            assert beats(control) == 0
            kept = pulse.outside(upkeep)
            assert kept("stop") and not kept("go on") and seen["upkeep"] > 1
            time.sleep(0.02)
            assert beats(control) == 0
        assert beats(control) > 1
    time.sleep(0.02)
    assert beats(control) == 0


def test_what_takes_for_ever_outside_of_the_loop_falls_silent(monkeypatch):
    monkeypatch.setattr(live, "OUTSIDE_S", 0.05)
    control = Control()
    with live.Pulse(control):
        time.sleep(0.1)
        assert control.beats and beats(control) == 0


def test_a_control_that_takes_no_silence_for_hanging_needs_no_beats():
    class Plain:
        def stop(self):
            return False

        def report(self, progress):
            pass

    before = set(threading.enumerate())
    with live.Pulse(Plain()):
        assert set(threading.enumerate()) <= before


def slowly(monkeypatch, module, name, seen, control):
    """Let a function of a module take a while, and note how many beats came meanwhile."""
    act = getattr(module, name)

    def slow(*args, **options):
        seen[name] = beats(control)
        return act(*args, **options)

    monkeypatch.setattr(module, name, slow)


@pytest.mark.slow
def test_a_trial_beats_wherever_it_is_not_in_its_loop(tmp_path, monkeypatch):
    control, seen = Control(), {}
    slowly(monkeypatch, run, "with_data", seen, control)
    slowly(monkeypatch, run, "load_data", seen, control)
    slowly(monkeypatch, run, "build", seen, control)
    slowly(monkeypatch, run.scoring, "of_last", seen, control)
    slowly(monkeypatch, run, "draw", seen, control)
    slowly(monkeypatch, run, "costs", seen, control)
    slowly(monkeypatch, upkeep_of, "sample", seen, control)
    slowly(monkeypatch, upkeep_of, "save", seen, control)
    assert run.run(to_plain(tiny.trial()), tmp_path / "t", plain(Run(device="cpu")), control) == "done"
    assert all(count > 1 for count in seen.values()) and len(seen) == 8
