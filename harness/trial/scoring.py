"""How a trial's networks are scored: the whole pass at the end, and a short one now and then while they train.

The whole pass takes the last networks, and tables compare these. Where `eval.during` asks for distances
while a trial trains, the best snapshot by them is kept too, and scored likewise: beside the last, never instead.
What another scoring of the same networks measured in the same way, by the same code, is taken and not measured again.
"""

import copy
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from backbones import Discriminator
from harness.data.imageset import ImageSet
from harness.disk import cache_folder
from harness.errors import Diverged, UserError
from harness.evaluation import evaluate, measures
from harness.evaluation.evidence import Record, Setting
from harness.experiment.parse import parse_trial, to_plain
from harness.experiment.spec import Plugin, Trial
from harness.method.generator import SpatialGenerator
from harness.store import checkpoint, code
from harness.store.folder import results
from harness.training.model import settle, used
from harness.training.state import State

Kept = Callable[[str, Mapping[str, Plugin]], dict[str, dict[str, Record]]]
"""Of networks, by their file, and measures {digest: metric}: the records {digest: {name: record}} that there are."""

RANK: dict[str, Callable[[float], float]] = {"lower": lambda v: v, "higher": lambda v: -v, "zero": abs}


class Watch:
    """Measures a trial's distance while it trains and keeps the best snapshot, in checkpoints/best.

    `best` is None or {"nimg", "by", "value", "among", "file"}: it goes into every checkpoint, so that a resumed
    trial knows what it knew then. A file is deleted only once no checkpoint names it any more.
    """

    def __init__(self, trial: Trial, data: ImageSet, folder: Path, resumed: dict[str, Any] | None) -> None:
        self.trial, self.data, self.folder = trial, data, folder / "checkpoints" / "best"
        self.spec = trial.eval.while_training
        self.best: dict[str, Any] | None = resumed.get("best") if resumed else None
        if resumed and self.best:
            before = parse_trial(resumed["config"], "checkpoint").eval.while_training
            as_now = resumed.get("complete") or resumed.get("scored_by", {}) == scored_by(trial)
            self.best = self.best if before == self.spec and as_now else None  # chosen by another distance
        self._named = [self.best]  # by the last two checkpoints

    def measure(self, state: State, progress: Callable[[int, int], None]) -> dict[str, Record]:
        """The distance now, {name: record}; the networks are kept where it is the best so far."""
        assert self.spec is not None
        g, weights = chosen(self.trial, state, self.data, lambda: progress(0, 0))
        records = evaluate.evaluate(
            g, state.d, self.data, None, self.spec,
            seed=self.trial.seed, conditional=self.trial.conditional, device=state.pl_mean.device,
            cache=cache_folder(), weights_used=weights, progress=progress,
        )  # fmt: skip
        name, record = next(iter(records.items()))
        rank, value = RANK[record["better"]], record["value"]
        among = (self.best["among"] if self.best else 0) + 1
        if self.best is None or rank(value) < rank(self.best["value"]):
            meta = {"nimg": state.nimg, "config": to_plain(self.trial), "by": name, "value": value}
            path = checkpoint.write(self.folder, state.weights(), meta)
            self.best = {"nimg": state.nimg, "by": name, "value": value, "file": path.name}
        self.best = {**self.best, "among": among}
        return records

    def committed(self) -> None:
        """To be called when a checkpoint that holds `best` is on disk."""
        self._named = [*self._named, self.best][-checkpoint.KEEP :]
        needed = {best["file"] for best in self._named if best}
        for path in self.folder.glob("*.safetensors"):
            if path.name not in needed:
                path.unlink()


def scored_by(trial: Trial) -> dict[str, Any]:
    """The EPOCHs of the code that scores `trial`, and the images that distances take where these are not its own."""
    return {**trial.scoring["epochs"], **{k: v for k, v in trial.scoring.items() if k == "reals"}}


def chosen(
    trial: Trial, state: State, data: ImageSet, beat: Callable[[], None] = lambda: None
) -> tuple[SpatialGenerator, str]:
    """The G that `eval.weights` asks for, as whoever draws or scores takes it, and which one that is: "ema", with
    statistics of its own (made once a moment, with a `beat` for each batch), or "raw", with those it trained with."""
    if used(trial.eval.weights, state.g_ema is not None) == "raw":
        return state.g, "raw"
    assert state.g_ema is not None
    if state.settled != state.nimg:
        settle(trial, state.g_ema, data, beat)
        state.settled = state.nimg
    return state.g_ema, "ema"


def kept(trial: Trial, folder: Path) -> Kept:
    """What other scorings of the trial in `folder` measured by the code that is here."""
    alike = [r for r in results(folder) if _pass(r.get("scoring", {})) == _pass(trial.scoring)]
    found = [(result, about) for result in alike for about in (result, result.get("best") or {})]

    def of(networks: str, asked: Mapping[str, Plugin]) -> dict[str, dict[str, Record]]:
        known: dict[str, dict[str, Record]] = {}
        for result, about in found:
            if about.get("networks") == networks:
                by_measure: dict[str, dict[str, Record]] = {}
                for name, record in about.get("metrics", {}).items():
                    by_measure.setdefault(record.get("measure", ""), {})[name] = record
                for measure in asked.keys() & by_measure.keys() - known.keys():
                    if code.scores_alike(folder, trial, result, asked[measure].name):
                        known[measure] = by_measure[measure]
        return known

    return of


def _pass(scored: Mapping[str, Any]) -> list[int | None]:
    """The EPOCHs of what all metrics of a scoring share: the pass, and the averaged networks' own statistics."""
    return [scored.get("epochs", {}).get(name) for name in ("scoring", "statistics")]


def nothing(networks: str, asked: Mapping[str, Plugin]) -> dict[str, dict[str, Record]]:
    """A `Kept` of nothing: all is measured."""
    return {}


def of_last(
    trial: Trial,
    state: State,
    data: ImageSet,
    heldout: ImageSet | None,
    live: Any,
    networks: str = "",
    known: Kept = nothing,
) -> dict[str, Record]:
    """The whole pass over the trained networks, which are in the checkpoint `networks`."""
    g, weights = chosen(trial, state, data, live.check)
    return _score(trial, g, state.d, weights, data, heldout, live, "", partial(known, networks))


def of_best(
    watch: Watch,
    state: State,
    last: dict[str, Record],
    heldout: ImageSet | None,
    live: Any,
    known: Kept = nothing,
) -> dict[str, Any] | None:
    """The whole pass over the best snapshot: what `watch.best` says of it, and its "metrics". None where nothing was
    measured in training, and without metrics, but a "reason", where one is not finite. UserError where its file is
    not whole."""
    if watch.best is None:
        return None
    about = {**{k: v for k, v in watch.best.items() if k != "file"}, "networks": watch.best["file"]}
    if about["nimg"] == state.nimg:
        return {**about, "metrics": last}
    path = watch.folder / watch.best["file"]
    saved = checkpoint.read_whole(path)
    if saved is None:
        raise UserError(f"{path}: gone or broken; score the trial without it: --set eval.during=null")
    weights = used(watch.trial.eval.weights, state.g_ema is not None)
    g, d = copy.deepcopy(state.g), copy.deepcopy(state.d)
    for module, head in ((g, "g_ema/" if weights == "ema" else "g/"), (d, "d/")):
        module.load_state_dict({k.removeprefix(head): v for k, v in saved.tensors.items() if k.startswith(head)})
    if weights == "ema":
        settle(watch.trial, g, watch.data, live.check)
    what = f"the best, after {about['nimg'] / 1000:g} kimg: "
    found = partial(known, about["networks"])
    try:
        return {**about, "metrics": _score(watch.trial, g, d, weights, watch.data, heldout, live, what, found)}
    except Diverged as e:  # which takes nothing from the last
        return {**about, "metrics": {}, "reason": str(e)}


def _score(
    trial: Trial,
    g: SpatialGenerator,
    d: Discriminator,
    weights: str,
    data: ImageSet,
    heldout: ImageSet | None,
    live: Any,
    what: str,
    find: Callable[[Mapping[str, Plugin]], dict[str, dict[str, Record]]],
) -> dict[str, Record]:
    """Records in the order of `eval.metrics`: those that `find` finds, and the others measured in one pass."""

    def progress(done: int, total: int) -> None:
        live.check()
        live.update(state="scoring", message=f"{what}{done}/{total} images")

    asked = measures.split(Setting(trial.eval, data, heldout, trial.seed, trial.conditional, weights))
    known = find(asked)
    missing = tuple(metric for measure, metric in asked.items() if measure not in known)
    made = evaluate.evaluate(
        g, d, data, heldout, replace(trial.eval, metrics=missing),
        seed=trial.seed, conditional=trial.conditional, device=next(g.parameters()).device,
        cache=cache_folder(), weights_used=weights, progress=progress,
    ) if missing else {}  # fmt: skip
    return _in_order(asked, [*known.values(), made])


def _in_order(asked: Iterable[str], groups: Iterable[dict[str, Record]]) -> dict[str, Record]:
    """All records, by the place that their measures have in `asked`."""
    place = {measure: n for n, measure in enumerate(asked)}
    found = [pair for group in groups for pair in group.items()]
    return dict(sorted(found, key=lambda pair: place.get(pair[1].get("measure", ""), len(place))))
