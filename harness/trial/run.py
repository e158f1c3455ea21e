"""One trial end to end: resume -> train -> one evaluation pass -> a result.

A trial that is trained is only scored, by as many drivers as like at once: each writes a result of its own name.
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from backbones import Discriminator
from harness import outside
from harness.data import pixel_cache
from harness.data.imageset import ImageSet
from harness.disk import read_json, write_atomic
from harness.errors import Diverged, UserError
from harness.experiment import ids, loader
from harness.experiment.parse import parse_trial, scoring_of, to_plain
from harness.experiment.schema import parse, plain
from harness.experiment.spec import Run, Trial
from harness.method.generator import SpatialGenerator
from harness.method.hooks import ArmHooks
from harness.pictures import gallery
from harness.rng import Streams
from harness.store import checkpoint, code
from harness.store.folder import RESULT, finished, keep, results
from harness.store.journal import Journal, holds, read, series
from harness.training.arm import build, load_data
from harness.training.model import used
from harness.training.ranks import device_index, same, team
from harness.training.state import State, new_state
from harness.training.train import train
from harness.trial import scoring
from harness.trial.environment import environment
from harness.trial.live import Control, Interrupted, Live, Pulse
from harness.trial.upkeep import Upkeep

SCHEMA = 1


def run(raw: dict[str, Any], folder: Path, run_options: dict[str, Any], control: Control, attempt: int = 0) -> str:
    """Run the trial `raw` (see `config.to_plain`) in `folder` to its end; returns its state's word.

    done, diverged or interrupted; a failure raises. `attempt` fences off a lost worker that
    lives on: it stops as soon as the folder names a later one.
    """
    with Pulse(control):
        trial = with_data(parse_trial(raw, "trial"))
    options: Run = parse(Run, run_options, "run")
    folder.mkdir(parents=True, exist_ok=True)
    live = Live(folder, trial, control, attempt)
    with live.pulse:
        return _to_its_end(trial, folder, options, live)


def _to_its_end(trial: Trial, folder: Path, options: Run, live: Live) -> str:
    live.say("running", "preparing")
    try:
        _run(trial, folder, options, live)
    except (Interrupted, KeyboardInterrupt):
        return live.say("interrupted")
    except Diverged as e:
        return live.say("diverged", str(e))
    except UserError as e:
        if (folder / RESULT).exists():  # no driver notes an end beside a result
            live.say("failed", str(e))
        raise
    return live.say("done")


def _run(trial: Trial, folder: Path, options: Run, live: Live) -> None:
    device = prepare_device(options, trial)
    own, others, saved = finished(folder, trial), results(folder), _resumable(folder)
    if others and not (saved and saved.meta["complete"]):
        raise UserError(
            f"{folder}: has a result, but its last checkpoint is not whole: training would write over it; "
            "--retrain puts the folder away and trains anew"
        )
    plugins = outside.used_by(trial.plugins)
    env = environment(device) | ({"plugins": outside.digests(plugins)} if plugins else {})
    write_atomic(folder / "config.yaml", loader.dump_yaml(to_plain(trial)).encode())
    write_atomic(folder / "env.json", json.dumps(env, indent=1).encode())
    identity = ids.of_trial(trial)
    write_atomic(folder / ids.FILE, json.dumps(identity, indent=1).encode())
    outside.keep(folder / "plugins", plugins)
    with pixel_cache.answering(live.check):
        data, heldout = load_data(trial)
    g, d, hooks = build(trial, data, device)
    state = new_state(g, d, trial.train)
    if saved is not None:
        if saved.meta["fingerprint"] != data.fingerprint:
            raise UserError(
                f"{folder}: the data changed since its checkpoint was written "
                f"({saved.meta['fingerprint']} then, {data.fingerprint} now); restore the data or remove the folder"
            )
        state.load(saved.tensors, saved.meta["nimg"])
    made_by = code.note(folder, trial, resumed=saved is not None)
    world = worlds(saved.meta if saved else None, options.resources.world)
    trained = _trained(trial, folder, options, live, state, saved, data, hooks, others, world)
    scored: dict[str, Any] = {"metrics": {}}
    if trained.diverged:
        scored |= {"status": "diverged", "reason": trained.diverged, "diverged_in": "training"}
    else:
        try:
            scored |= _scored(trial, folder, state, trained, data, heldout, live, known=own is None)
        except Diverged as e:
            if any(r.get("status") == "done" and _asks(r) == trial.scoring["options"] for r in others):
                raise UserError(f"{folder}: not scored again: {e}; the result from before is kept") from None
            # A diverged run is a result with its nimg, never a number.
            scored |= {"status": "diverged", "reason": str(e), "diverged_in": "scoring"}
    written = read(folder / "events.jsonl", end=trained.journal)
    result = {
        "schema": SCHEMA,
        "id": trial.id,
        "status": "done",
        "reason": None,
        "nimg": state.nimg,
        "config": to_plain(trial),
        "env": env,
        "code": made_by,
        "world": world,
        "identity": identity,
        "scoring": trial.scoring,
        "dataset": {"fingerprint": data.fingerprint, "identity": trial.data, **data.about},
        "cost": {**costs(g, d), **trained.cost},
        "series": series(written.events) | _points(state.nimg, scored),
        "spoilt_lines": written.spoilt,  # of the journal, left out of the series
        "samples": sorted(f"samples/{p.name}" for p in (folder / "samples").glob("*.png")),
        "figures": {},
        "snapshots_of": _snapshots_of(trained.meta),
        "scored_ms": time.time_ns() // 1_000_000,
        **scored,
    }
    live.fence()
    keep(folder, result)
    if result["status"] == "diverged":
        raise Diverged(result["reason"])


def _asks(result: Mapping[str, Any]) -> Any:
    """The options of a result's scoring, whatever the EPOCHs of the code were."""
    return (scoring_of(result) or {}).get("options")


class _Training(NamedTuple):
    """What training left: the checkpoint of its end and what that says of itself, how much of the journal is its, what
    it cost, and why it diverged, if it did."""

    networks: str
    meta: dict[str, Any]
    journal: int | None
    cost: dict[str, float]
    diverged: str | None = None


def _trained(
    trial: Trial,
    folder: Path,
    options: Run,
    live: Live,
    state: State,
    saved: checkpoint.Checkpoint | None,
    data: ImageSet,
    hooks: ArmHooks,
    others: Sequence[Mapping[str, Any]],
    world: list[int] | None,
) -> _Training:
    """Train what is not trained yet. Of a trial that is, nothing is touched: others may score it at this moment."""
    if saved is not None and saved.meta["complete"]:
        cost = next((r["cost"] for r in others if r.get("cost")), {"train_s": saved.meta["train_s"]})
        return _Training(saved.file, saved.meta, saved.meta["journal_offset"], cost)
    raw, device = to_plain(trial), state.pl_mean.device
    journal = Journal(folder / "events.jsonl", saved.meta["journal_offset"] if saved else 0)
    upkeep = Upkeep(trial, data, folder, journal, live, options.checkpoint_s, saved.meta if saved else None, world)

    def wait() -> None:
        live.check()
        live.update()

    try:
        with team(
            options.resources.world, device, follow, raw, plain(options),
            patience_s=options.patience_s, waiting=wait,
        ):  # fmt: skip
            same(lambda: checkpoint.encode(saved.tensors, saved.meta) if saved and state.nimg else b"", device)
            live.update(message=None)
            with live.pulse.silent():
                ended = train(
                    state, trial.train, data, hooks, seed=trial.seed, conditional=trial.conditional,
                    upkeep=live.pulse.outside(upkeep),
                )  # fmt: skip
        if not ended:
            raise Interrupted
        upkeep.finish(state)
    except Diverged as e:
        journal.commit()
        return _Training("", {}, None, upkeep.costs(), str(e))
    finally:
        journal.close()
    latest = read_json(folder / "checkpoints" / "latest.json")
    meta = checkpoint.meta(folder / "checkpoints")
    return _Training(latest["file"], meta, latest["journal_offset"], upkeep.costs())


def _scored(
    trial: Trial,
    folder: Path,
    state: State,
    trained: _Training,
    data: ImageSet,
    heldout: ImageSet | None,
    live: Live,
    *,
    known: bool,
) -> dict[str, Any]:
    """Of a result the scores, and the pictures. `known`: what other scorings hold need not be made again."""
    live.share(folder / "checkpoints" / trained.networks)
    found = scoring.kept(trial, folder) if known else scoring.nothing
    watch = scoring.Watch(trial, data, folder, trained.meta)
    last = scoring.of_last(trial, state, data, heldout, live, trained.networks, found)
    best = scoring.of_best(watch, state, last, heldout, live, found)
    under = f"figures/{used(trial.eval.weights, state.g_ema is not None)}"
    drawn = [r["figures"] for r in results(folder) if r.get("networks") == trained.networks] if known else []
    figures = next((f for f in drawn if _there(f, folder, under)), None) or draw(trial, state, data, folder)
    return {"networks": trained.networks, "metrics": last, **({"best": best} if best else {}), "figures": figures}


def _snapshots_of(meta: Mapping[str, Any]) -> str | None:
    """Which G the curves of snapshots show: that of the scoring under which it was trained. None: unknown."""
    config = meta.get("config")
    return used(config["eval"].get("weights", "auto"), config["train"].get("ema_kimg") is not None) if config else None


def _there(figures: Mapping[str, str], folder: Path, under: str) -> bool:
    """Whether these pictures are of the networks that would be drawn, and in their place."""
    return all(path.startswith(f"{under}/") and (folder / path).exists() for path in figures.values())


def _points(nimg: int, scored: Mapping[str, Any]) -> dict[str, list[list[float]]]:
    """The scores as curves of one point: final/<metric>, and best/<metric> where there is a best snapshot."""
    best = scored.get("best", {"nimg": 0, "metrics": {}})
    points = {f"best/{name}": [[best["nimg"], record["value"]]] for name, record in best["metrics"].items()}
    return points | {f"final/{name}": [[nimg, record["value"]]] for name, record in scored["metrics"].items()}


def _resumable(folder: Path) -> checkpoint.Checkpoint | None:
    """The newest checkpoint that is whole and whose part of the journal is; None: start anew."""
    journal = folder / "events.jsonl"
    return checkpoint.load_latest(
        folder / "checkpoints", lambda meta: holds(journal, meta["journal_offset"], meta.get("journal_digest"))
    )


def follow(rank: int, raw: dict[str, Any], run_options: dict[str, Any]) -> Callable[[], None]:
    """What ranks 1, 2, ... do: the same steps without upkeep, from rank 0's checkpoint on where there is one."""
    trial, options = with_data(parse_trial(raw, "trial")), parse(Run, run_options, "run")
    device = prepare_device(options, trial, rank)
    data, _ = load_data(trial)
    g, d, hooks = build(trial, data, device)
    state = new_state(g, d, trial.train)

    def forget(state: State) -> bool:
        state.stats.clear()
        return False

    def rest() -> None:
        if begun := same(None, device):
            saved = checkpoint.decode(begun)
            state.load(saved.tensors, saved.meta["nimg"])
        train(state, trial.train, data, hooks, seed=trial.seed, conditional=trial.conditional, upkeep=forget)

    return rest


def with_data(trial: Trial) -> Trial:
    """The trial with the identity of the images that are here now. UserError where it was made for others."""
    here = ids.data_of(trial.dataset)
    if trial.data not in ("", here):
        raise UserError(
            f"dataset: {trial.dataset.name}: other images here ({here}) than the trial is meant for ({trial.data}); "
            "they changed since the matrix began, or this machine has others: give the same command again"
        )
    return replace(trial, data=here or "")


def worlds(saved: dict[str, Any] | None, now: int) -> list[int] | None:
    """Numbers of processes that train the trial together: those until its checkpoint, and the present one where it
    trains on. None where an older version, which did not note them, began it."""
    if saved is None:
        return [now]
    before: list[int] | None = saved.get("world")
    return before if before is None or saved["complete"] else sorted({*before, now})


def draw(trial: Trial, state: State, data: ImageSet, folder: Path) -> dict[str, str]:
    """The pictures of the trained networks: {kind: path in `folder`}."""
    g, weights = scoring.chosen(trial, state, data)
    model = gallery.trained(trial, g, state.d, data, weights, state.nimg)
    return gallery.draw(model, folder, f"figures/{weights}")


def prepare_device(options: Run, trial: Trial, rank: int = 0) -> torch.device:
    """Choose the device, set threads and precision switches for this process."""
    torch.set_num_threads(options.resources.cpus)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = trial.train.tf32
    if options.device == "cuda" and not torch.cuda.is_available():
        raise UserError("run.device: 'cuda', but this process sees no CUDA device; set run.device=cpu or auto")
    return torch.device(
        f"cuda:{device_index(rank)}" if options.device != "cpu" and torch.cuda.is_available() else "cpu"
    )


def costs(g: SpatialGenerator, d: Discriminator) -> dict[str, int]:
    """Parameters of G (the arm's additions included) and D, and multiply-adds of one forward pass for
    one image: `macs_g`, `macs_d`. Counted are convolutions and matrix products, no element-wise operations.
    """
    from torch.utils.flop_counter import FlopCounterMode  # loads a compiler, which a finished matrix need not wait for

    counts = {f"params_{name}": sum(p.numel() for p in m.parameters()) for name, m in (("g", g), ("d", d))}
    modes = [(module, module.training) for module in (g, d)]
    for module, _ in modes:
        module.eval()  # a pass in training mode would move batch statistics
    device = next(g.parameters()).device
    draws = Streams(0, "costs", 0, device)
    label = torch.zeros(1, dtype=torch.int64, device=device) if g.backbone.num_classes else None
    with FlopCounterMode(display=False) as of_g:
        images = g(g.backbone.sample_z(1, draws("z")), label, draws=draws).images
    with FlopCounterMode(display=False) as of_d:
        d(images, label)
    for module, training in modes:
        module.train(training)
    return counts | {f"macs_{name}": flops.get_total_flops() // 2 for name, flops in (("g", of_g), ("d", of_d))}
