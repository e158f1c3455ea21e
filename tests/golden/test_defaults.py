"""A default hangs on an EPOCH: it can't change alone."""

import copy

from tests.golden import defaults


def test_every_default_is_as_recorded():
    before, now = defaults.recorded(), defaults.present()
    assert not defaults.unraised(before, now)
    assert now == before, "record them: python -m tests.golden.defaults --why ..."


def test_a_changed_default_needs_a_higher_epoch_and_a_new_option_does_not():
    before = defaults.present()
    now = copy.deepcopy(before)
    now["train"]["defaults"]["novel"] = 1
    now["variants.novel"] = {"epoch": 1, "defaults": {"x": 1}}
    assert not defaults.unraised(before, now)
    now["train"]["defaults"]["g"]["eps"] = 1e-7
    now["variants.sel"]["defaults"]["hidden"] = 65
    lines = defaults.unraised(before, now)
    assert [line.partition(":")[0] for line in lines] == ["train", "variants.sel"]
    assert "g.eps: 1e-08 -> 1e-07" in lines[0]
    now["train"]["epoch"] = now["variants.sel"]["epoch"] = 2
    assert not defaults.unraised(before, now)
    assert defaults.unraised(now, {**now, "train": {**now["train"], "epoch": 1}})
