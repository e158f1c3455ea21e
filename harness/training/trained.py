"""A trained model read back from its trial's folder: for scoring, sampling, pictures and editing."""

from collections.abc import Iterable
from pathlib import Path

import torch

from harness import outside
from harness.errors import UserError
from harness.experiment import files
from harness.experiment.parse import parse_trial, to_plain
from harness.experiment.schema import mapping
from harness.store import checkpoint
from harness.training.arm import build, classes, load_data
from harness.training.model import Trained, settle, used


def load(
    path: Path, device: torch.device | str = "cpu", sets: Iterable[str] = (), metrics: Iterable[str] = ()
) -> Trained:
    """The model in a trial's folder (its newest whole checkpoint), or in one checkpoint file.

    Plugins from outside that it was trained with are those which its folder keeps; `sets` may name others.
    `sets` are `key=value` overrides of the recorded trial: other data, `eval.weights`. `metrics`, where
    given, take the place of the recorded ones; one that was recorded keeps its options.
    UserError where there is no model.
    """
    try:
        saved = checkpoint.load_latest(path / "checkpoints") if path.is_dir() else checkpoint.read(path)
    except ValueError as e:
        raise UserError(str(e)) from None
    if saved is None:
        raise UserError(f"{path}: no whole checkpoint in it; give a trial's folder under results/trials")
    sets, home = list(sets), path if path.is_dir() else path.parent.parent
    outside.restore(home / "plugins", map(outside.read, files.named_folders(sets) or ()))
    recorded = mapping(saved.meta.get("config"), f"{path}: config")
    plain = to_plain(parse_trial(recorded, str(path)))
    if names := list(metrics):
        plain["eval"]["metrics"] = {name: plain["eval"]["metrics"].get(name, {}) for name in names}
    trial = files.override(plain, sets, str(path))
    data, heldout = load_data(trial)
    has_ema = any(name.startswith("g_ema/") for name in saved.tensors)
    if trial.eval.weights == "ema" and not has_ema:
        raise UserError(f"{path}: eval.weights: 'ema', but the trial kept no EMA; use raw")
    weights = used(trial.eval.weights, has_ema)
    heads = ("g_ema/" if weights == "ema" else "g/", "d/")
    states = [{k.removeprefix(h): v for k, v in saved.tensors.items() if k.startswith(h)} for h in heads]
    with torch.device("meta"):  # a foreign file's options may ask for networks of any size
        expected = build(trial, data, torch.device("meta"))[:2]
    for module, state, head in zip(expected, states, heads, strict=True):
        if {k: v.shape for k, v in module.state_dict().items()} != {k: v.shape for k, v in state.items()}:
            raise UserError(
                f"{path}: its {head[:-1]} does not fit images of {data.resolution}x{data.resolution} with "
                f"{classes(trial, data)} classes; give data, and options, like those it was trained with"
            )
        if broken := [k for k, v in state.items() if not v.isfinite().all()]:
            raise UserError(f"{path}: {head}{broken[0]}: is not finite; give a checkpoint from before it diverged")
    g, d, _ = build(trial, data, torch.device(device))
    for network, state in zip((g, d), states, strict=True):
        network.load_state_dict(state)
    if weights == "ema":
        settle(trial, g, data)
    return Trained(trial, g.eval(), d.eval(), weights, data, heldout, saved.meta["nimg"])
