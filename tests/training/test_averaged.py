"""Whoever draws, scores or reads back an averaged G has it with statistics of its own, at every moment."""

import copy
import json

import pytest
import torch

from harness.errors import UserError
from harness.evaluation import evaluate, statistics
from harness.experiment import ids
from harness.experiment.parse import scored_as, scoring_to_plain, to_plain
from harness.pictures import gallery
from harness.store import checkpoint
from harness.store.journal import Journal
from harness.training import trained
from harness.training.arm import build, load_data
from harness.training.state import new_state
from harness.training.train import train
from harness.trial import run as trials
from harness.trial import scoring, upkeep
from tests import tiny
from tests.image_files import noise, png, write_zip

EVAL = {
    "num_fakes": 16, "batch_size": 8, "during": {"kimg": 0.032, "num_fakes": 8},
    "metrics": {"fd_efficientnet_lite0": {"size": 32}, "disequilibrium": {"n": 4}},
}  # fmt: skip


@pytest.fixture(autouse=True)
def few(monkeypatch):
    """How many batches there are is of no account here, but for the time that they take."""
    assert statistics.BATCHES >= 100
    monkeypatch.setattr(statistics, "BATCHES", 4)


@pytest.fixture
def journal(tmp_path):
    made = Journal(tmp_path / "events.jsonl", 0)
    yield made
    made.close()


def averaging(backbone="sn_dcgan", weights="auto", arm="baseline", conditional=False, **over):
    train = {"ema_kimg": 0.02, "ema_rampup": None, "total_kimg": 0.064, "snapshot_kimg": 0.032}
    return tiny.trial(backbone, arm, conditional, train=train, eval={**EVAL, "weights": weights}, **over)


def networks(trial):
    data, _ = load_data(trial)
    g, d, hooks = build(trial, data, torch.device("cpu"))
    return data, new_state(g, d, trial.train), hooks


def stepped(trial, upkeep=lambda state: False):
    data, state, hooks = networks(trial)
    train(state, trial.train, data, hooks, seed=0, conditional=trial.conditional, upkeep=upkeep)
    return data, state


def own(trial, data, state):
    """The averaged G as it should be, made from its weights alone."""
    g = copy.deepcopy(state.g_ema)
    for buffer in g.buffers():
        buffer.zero_()
    labels = data.labels if trial.conditional else None
    statistics.settle(g, batch_size=trial.train.microbatch, seed=trial.seed, labels=labels)
    return g


def same(a, b):
    return all(torch.equal(v, b.state_dict()[k]) for k, v in a.state_dict().items())


class Live:
    now = {"latest": {}}  # noqa: RUF012
    control = type("Control", (), {"stop": lambda self: False, "report": lambda self, progress: None})()

    def update(self, **_):
        pass

    check = fence = update


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arm", "conditional"), [("baseline", False), pytest.param("sel", True, marks=pytest.mark.slow)]
)
def test_every_door_shows_the_averaged_weights_with_their_own_statistics(
    tmp_path, monkeypatch, journal, arm, conditional
):
    """Sample grid, curves, both scorings, pictures, best snapshot, last checkpoint, and what is read back from them."""
    trial = averaging(arm=arm, conditional=conditional)
    seen, drawn = [], []

    def scored(g, d, data, heldout, spec, *, seed, conditional, weights_used, **_):
        seen.append((weights_used, copy.deepcopy(g)))
        value = {"value": float(len(seen)), "better": "lower", "role": "distance", "se": None, "measure": "m"}
        return {"fd": value}

    monkeypatch.setattr(evaluate, "evaluate", scored)
    monkeypatch.setattr(gallery, "trained", lambda trial, g, d, data, weights, nimg: drawn.append((weights, g)))
    monkeypatch.setattr(gallery, "note_attention", lambda *_: None)
    monkeypatch.setattr(gallery, "draw", lambda *_: {})
    data, state, hooks = networks(trial)
    keep = upkeep.Upkeep(trial, data, tmp_path, journal, Live(), 1e9, None, [1])
    wanted = {}

    def watched(state):
        if state.nimg == 32:
            wanted[32] = own(trial, data, state)
        stop = keep(state)
        assert state.g_ema.training is False and state.g.training is True
        return stop

    train(state, trial.train, data, hooks, seed=0, conditional=conditional, upkeep=watched)
    last = own(trial, data, state)
    keep.finish(state)
    records = scoring.of_last(trial, state, data, None, Live())
    best = scoring.of_best(keep.watch, state, records, None, Live())
    trials.draw(trial, state, data, tmp_path)
    assert best["nimg"] == 32 and len(seen) == 4 and len(drawn) == 4
    assert {weights for weights, _ in seen + drawn} == {"ema"}
    for (_, g), expected in zip(seen, (wanted[32], last, last, wanted[32]), strict=True):
        assert same(g, expected)
    assert same(drawn[-1][1], last) and same(drawn[-2][1], last)
    for path, expected in ((tmp_path, last), (keep.watch.folder / keep.watch.best["file"], wanted[32])):
        assert same(trained.load(path).g, expected)
        file = path if path.is_file() else next((path / "checkpoints").glob("*.safetensors"))
        tensors = checkpoint.read(file).tensors
        assert all(torch.equal(tensors[f"g_ema/{k}"], v) for k, v in expected.state_dict().items())


def test_a_checkpoint_of_before_is_read_with_statistics_of_its_own(tmp_path):
    """Its averaged G holds the moments of the raw one."""
    trial = averaging()
    data, state = stepped(trial)
    name = "backbone.norm.0.bn.running_var"
    assert torch.equal(state.g_ema.state_dict()[name], state.g.state_dict()[name])
    meta = {"nimg": state.nimg, "journal_offset": 0, "config": to_plain(trial)}
    checkpoint.save(tmp_path / "checkpoints", state.tensors(), meta)
    model = trained.load(tmp_path)
    assert same(model.g, own(trial, data, state)) and not torch.equal(
        model.g.state_dict()[name], state.g.state_dict()[name]
    )
    raw = trained.load(tmp_path, sets=["eval.weights=raw"])
    assert raw.weights == "raw" and same(raw.g, state.g)


@pytest.mark.slow
@pytest.mark.parametrize("conditional", [False, True])
def test_no_option_that_is_laid_on_a_trained_model_moves_its_averaged_weights(tmp_path, conditional):
    trial = averaging(conditional=conditional)
    data, state = stepped(trial)
    meta = {"nimg": state.nimg, "journal_offset": 0, "config": to_plain(trial)}
    checkpoint.save(tmp_path / "checkpoints", state.tensors(), meta)
    expected = own(trial, data, state)
    for laid in ("seed=5", "train.batch_gpu=4", "train.batch_size=16", "dataset.seed=3", "dataset.num_images=17"):
        model = trained.load(tmp_path, sets=[laid])
        assert same(model.g, expected), laid
        key, value = laid.split("=")
        where, _, name = key.rpartition(".")
        asked = {"": model.trial, "train": model.trial.train, "dataset": model.trial.dataset.options}[where]
        assert getattr(asked, name) == int(value)
    assert len(model.data) == 17


@pytest.mark.slow
def test_labels_that_moved_are_the_same_and_those_that_are_gone_are_missed(tmp_path):
    files = {f"{i}.png": png(noise(i, 32)) for i in range(12)}
    write_zip(tmp_path / "a.zip", files, [[name, i % 3] for i, name in enumerate(files)])
    write_zip(tmp_path / "other.zip", files, [[name, 2 * (i % 2)] for i, name in enumerate(files)])
    trial = trials.with_data(
        averaging(conditional=True, dataset={"name": "image_zip", "path": str(tmp_path / "a.zip")})
    )
    data, state = stepped(trial)
    meta = {"nimg": state.nimg, "journal_offset": 0, "config": to_plain(trial)}
    checkpoint.save(tmp_path / "checkpoints", state.tensors(), meta)
    expected, at = own(trial, data, state), "dataset.path={}/{}.zip".format
    assert same(trained.load(tmp_path, sets=[at(tmp_path, "other")]).g, expected)
    (tmp_path / "a.zip").rename(tmp_path / "moved.zip")
    assert same(trained.load(tmp_path, sets=[at(tmp_path, "moved")]).g, expected)
    with pytest.raises(UserError, match="labels that it was trained with.*a.zip.*eval.weights=raw"):
        trained.load(tmp_path, sets=[at(tmp_path, "other")])
    assert same(trained.load(tmp_path, sets=[at(tmp_path, "other"), "eval.weights=raw"]).g, state.g)


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["sn_dcgan", "stylegan2"])
@pytest.mark.parametrize("weights", ["auto", "raw"])
def test_curves_and_the_final_score_are_of_one_generator(backbone, weights, tmp_path, monkeypatch, journal):
    """Grid, DI of snapshots, pictures and records: all of the G that `eval.weights` names."""
    trial = averaging(backbone, weights)
    data, state = stepped(trial)
    keep = upkeep.Upkeep(trial, data, tmp_path, journal, Live(), 1e9, None, [1])
    shown, told = [], []
    fakes = keep._fakes
    monkeypatch.setattr(keep, "_fakes", lambda g, *rest: shown.append(g) or fakes(g, *rest))
    monkeypatch.setattr(gallery, "trained", lambda trial, g, d, data, weights, nimg: told.append((g, weights)))
    monkeypatch.setattr(gallery, "note_attention", lambda *_: None)
    g, used = scoring.chosen(trial, state, data)
    assert g is (state.g if weights == "raw" else state.g_ema) and used == ("raw" if weights == "raw" else "ema")
    keep.sample(state)
    assert len(shown) > 2 and all(one is g for one in shown) and told == [(g, used)]
    assert state.g.training and not state.g_ema.training


def test_sampling_leaves_no_trace_in_the_training():
    trial = averaging()
    sampled = []

    def look(state):
        sampled.append(scoring.chosen(trial, state, load_data(trial)[0])[0])
        return False

    quiet, watched = stepped(trial)[1], stepped(trial, look)[1]
    assert len(sampled) == 8
    a, b = quiet.tensors(), watched.tensors()
    assert a.keys() == b.keys() and all(torch.equal(v, b[k]) for k, v in a.items())


def test_only_what_is_scored_otherwise_now_is_scored_again():
    def epochs(*args, **over):
        trial = averaging(*args, **over)
        return trial.scoring["epochs"]

    assert epochs() == epochs(arm="sel") == epochs(conditional=True) == {"statistics": 2}
    assert epochs("stylegan2") == epochs(weights="raw") == {}
    assert not ids.own_statistics(tiny.trial())
    trial = averaging()
    of_old = {"config": {"eval": scoring_to_plain(trial.eval)}}
    since = {"scoring": {"options": ids.of_scoring(trial.eval)["options"], "epochs": {}}}
    for result in (of_old, since):
        assert scored_as(result, trial.eval) and not scored_as(
            result, trial.eval, own_statistics=ids.own_statistics(trial)
        )


def test_a_best_that_foreign_statistics_chose_is_forgotten_while_it_trains(tmp_path):
    trial = averaging()
    data, _ = load_data(trial)
    meta = {"config": json.loads(json.dumps(to_plain(trial))), "best": {"nimg": 32}, "complete": False}
    assert scoring.Watch(trial, data, tmp_path, meta).best is None
    for known in ({"scored_by": scoring.scored_by(trial)}, {"complete": True}):
        assert scoring.Watch(trial, data, tmp_path, meta | known).best == {"nimg": 32}
    plain = averaging("stylegan2")
    assert scoring.Watch(plain, data, tmp_path, meta | {"config": to_plain(plain)}).best == {"nimg": 32}
