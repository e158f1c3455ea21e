"""What an experiment is made of: frozen, typed, checked. `harness.experiment.files` reads it from YAML."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from harness import plugins
from harness.errors import UserError
from harness.experiment import ids
from harness.experiment.schema import convert, parse, plain


@dataclass(frozen=True)
class Adam:
    """Adam's options; `lr` per image batch, as the recipes print it."""

    lr: Annotated[float, "> 0"] = 2e-4
    betas: tuple[Annotated[float, ">= 0, < 1"], Annotated[float, ">= 0, < 1"]] = (0.5, 0.999)
    eps: Annotated[float, "> 0"] = 1e-8


@dataclass(frozen=True)
class Train:
    """One training. Progress is counted in real images shown to D (`kimg` = 1000 of them)."""

    total_kimg: Annotated[float, "> 0, <= 1000000000"] = 6400.0
    batch_size: Annotated[int, ">= 1"] = 64
    batch_gpu: Annotated[int, ">= 1"] | None = None  # images per forward pass; None: the batch
    loss: Literal["logistic", "hinge"] = "logistic"
    d_steps: Annotated[int, ">= 1"] = 1  # n_dis: steps of D for each step of G
    g: Adam = field(default_factory=Adam)
    d: Adam = field(default_factory=Adam)
    lr_decay: Literal["none", "linear"] = "none"  # linear: to 0 at total_kimg
    r1_gamma: Annotated[float, ">= 0"] = 0.0
    r1_interval: Annotated[int, ">= 1"] | None = None  # lazy R1; also sets Adam's lazy correction
    pl_weight: Annotated[float, ">= 0"] = 0.0
    pl_interval: Annotated[int, ">= 1"] | None = None  # lazy path length; also sets Adam's correction
    pl_decay: Annotated[float, "> 0, <= 1"] = 0.01
    pl_batch_shrink: Annotated[int, ">= 1"] = 2
    style_mixing: Annotated[float, ">= 0, <= 1"] = 0.0
    ema_kimg: Annotated[float, "> 0"] | None = None  # half-life; None: no EMA
    ema_rampup: Annotated[float, "> 0"] | None = None
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"  # autocast of G and D; R1, path length, GradCAM: fp32
    tf32: bool = False
    tick_kimg: Annotated[float, "> 0"] = 4.0  # losses and score quantiles are reported per tick
    snapshot_kimg: Annotated[float, "> 0"] | None = None  # sample grid and DI; None: at the end only

    def __post_init__(self) -> None:
        if self.batch_gpu is not None and self.batch_size % self.batch_gpu:
            raise ValueError(f"batch_gpu: {self.batch_gpu}: must divide batch_size {self.batch_size}")
        if self.r1_gamma and self.r1_interval is None:
            raise ValueError("r1_interval: missing; R1 needs its interval in steps (1: every step, 16: lazy)")
        if self.pl_weight and self.pl_interval is None:
            raise ValueError("pl_interval: missing; path length needs its interval in steps (4 is usual)")

    @property
    def microbatch(self) -> int:
        """Images per forward pass of one process."""
        return self.batch_gpu or self.batch_size


@dataclass(frozen=True)
class Plugin:
    """A plugin's name with its parsed options."""

    name: str
    options: Any


@dataclass(frozen=True)
class During:
    """A distance measured while a trial trains, cheaply, under the name that says so (`fid5k_full`). The best snapshot
    by it is kept and scored at the end beside the last one."""

    kimg: Annotated[float, "> 0"]  # how often
    num_fakes: Annotated[int, ">= 2"] = 5000  # against `eval.num_reals`
    metric: str | None = None  # one of `eval.metrics` that compares images with the data; None: the first of them


@dataclass(frozen=True)
class Eval:
    """The one evaluation pass at the end of a trial."""

    metrics: tuple[Plugin, ...]
    num_fakes: Annotated[int, ">= 2"] = 50_000
    num_reals: Annotated[int, ">= 2"] | None = None  # None: all of them
    batch_size: Annotated[int, ">= 1"] = 64
    weights: Literal["auto", "ema", "raw"] = "auto"  # auto: EMA where the trial keeps one
    during: During | None = None  # None: nothing but DI, at snapshots

    @property
    def distances(self) -> dict[str, Plugin]:
        """The metrics whose records are named by how many fakes meet how many reals."""
        return {m.name: m for m in self.metrics if hasattr(m.options, "protocols")}

    @property
    def while_training(self) -> "Eval | None":
        """The short pass that `during` asks for: its metric with one protocol, that of its count."""
        if self.during is None:
            return None
        metric = self.distances[self.during.metric or next(iter(self.distances))]
        once = Plugin(metric.name, replace(metric.options, protocols=()))
        return replace(self, metrics=(once,), num_fakes=self.during.num_fakes, during=None)


@dataclass(frozen=True)
class Trial:
    """All that decides the numbers of one training, and how it is scored.

    `data` identifies its images by their content (`identity` of the dataset); it is empty where nobody has looked.
    """

    dataset: Plugin
    backbone: Plugin
    conditional: bool
    variants: tuple[Plugin, ...]
    train: Train
    eval: Eval
    seed: int
    data: str = ""
    known_as: str | None = field(default=None, compare=False)  # the id that its results go by, where it is another

    @cached_property
    def id(self) -> str:
        """12 hex digits of what decides the trained weights (see `harness.experiment.ids`): not `eval`, and no path."""
        return self.known_as or ids.digest(ids.of_trial(self))

    @property
    def plugins(self) -> tuple[tuple[str, str], ...]:
        """(package, name) of all that it is made of."""
        parts = {
            "harness.datasets": (self.dataset,), "backbones": (self.backbone,),
            "harness.variants": self.variants, "harness.metrics": self.eval.metrics,
        }  # fmt: skip
        return tuple((package, p.name) for package, chosen in parts.items() for p in chosen)

    def variant(self, name: str) -> Any:
        """The options of variant `name`, or None where the arm has no such variant."""
        return next((v.options for v in self.variants if v.name == name), None)


@dataclass(frozen=True)
class Resources:
    """What one trial is given. `cpus` is also its thread count. Several whole GPUs train it in as many
    processes; `processes` asks for them on a CPU."""

    gpus: Annotated[float, ">= 0"] | Literal["auto"] = "auto"
    cpus: Annotated[int, ">= 1, <= 4096"] = 1
    processes: Annotated[int, ">= 1, <= 4096"] = 1

    @property
    def world(self) -> int:
        """Processes that train one trial together."""
        return max(self.processes, int(self.gpus) if self.gpus != "auto" else 1)


@dataclass(frozen=True)
class Run:
    """How trials are run; decides no number, so not part of a trial's id."""

    resources: Resources = field(default_factory=Resources)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    checkpoint_s: Annotated[float, ">= 0"] = 120.0
    retries: Annotated[int, ">= 0"] = 2
    timeout_s: Annotated[float, "> 0"] | None = None
    hang_s: Annotated[float, "> 0"] = 1800.0


@dataclass(frozen=True)
class Table:
    """A query over trials: rows are arms, columns are settings, a cell holds one trial a seed."""

    name: str
    title: str
    paper: str | None  # key in experiments/paper.yaml whose figures stand beside ours
    labels: dict[str, str]
    arms: tuple[str, ...]
    settings: tuple[str, ...]
    cells: dict[tuple[str, str], tuple[Trial, ...]]  # (setting, arm) -> by seed
    changes: dict[str, dict[str, Any]] = field(default_factory=dict)  # arm -> what its `set` changes, by dotted key


@dataclass(frozen=True)
class Experiment:
    name: str
    path: Path
    tables: tuple[Table, ...]
    run: Run
    plugins: tuple[Path, ...] = ()  # folders of plugins from outside


TRIAL_KEYS = ("dataset", "backbone", "conditional", "profile", "variants", "train", "eval")


def parse_trial(raw: dict[str, Any], place: str) -> Trial:
    """A trial from its plain form: names and options of plugins are looked up and checked."""
    raw = dict(raw)
    for key in raw:
        if key not in (*TRIAL_KEYS, "seed", "data"):
            raise UserError(f"{place}: {key}: unknown key{plugins.hint(key, list(TRIAL_KEYS))}")
    for key in ("dataset", "backbone", "train", "eval"):
        if key not in raw:
            raise UserError(f"{place}: {key}: missing; every trial names its dataset, backbone, train and eval")
    profile = convert(Literal["paper", "release"], raw.pop("profile", "paper"), f"{place}: profile")
    variants = named(raw.pop("variants", {}), f"{place}: variants")
    trial = Trial(
        dataset=plugin("harness.datasets", raw["dataset"], f"{place}: dataset"),
        backbone=plugin("backbones", raw["backbone"], f"{place}: backbone"),
        conditional=convert(bool, raw.get("conditional", False), f"{place}: conditional"),
        variants=tuple(
            plugin("harness.variants", {"profile": profile, **opts, "name": name}, f"{place}: variants.{name}")
            for name, opts in variants.items()
        ),
        train=parse(Train, raw["train"], f"{place}: train"),
        eval=parse_eval(raw["eval"], place),
        seed=convert(Annotated[int, ">= 0"], raw.get("seed", 0), f"{place}: seed"),
        data=convert(str, raw.get("data", ""), f"{place}: data"),
    )
    _check_variants(trial, place)
    return trial


def parse_eval(raw: Any, place: str) -> Eval:
    """A trial's `eval` from its plain form."""
    scoring = dict(mapping(raw, f"{place}: eval"))
    metrics = named(scoring.pop("metrics", {}), f"{place}: eval.metrics")
    if not metrics:
        raise UserError(f"{place}: eval.metrics: missing; known: {', '.join(plugins.names('harness.metrics'))}")
    scored: Eval = parse(Eval, {**scoring, "metrics": []}, f"{place}: eval")
    spec = replace(
        scored,
        metrics=tuple(
            plugin("harness.metrics", {**opts, "name": name}, f"{place}: eval.metrics.{name}")
            for name, opts in metrics.items()
        ),
    )
    _check_during(spec, place)
    return spec


def to_plain(trial: Trial) -> dict[str, Any]:
    """The resolved trial as plain data; `parse_trial` reads it back to an equal trial."""
    flat = plain(trial)
    flat["dataset"] = {"name": trial.dataset.name, **flat["dataset"]["options"]}
    flat["backbone"] = {"name": trial.backbone.name, **flat["backbone"]["options"]}
    flat["variants"] = {v["name"]: v["options"] for v in flat["variants"]}
    flat["eval"] = scoring_to_plain(trial.eval)
    del flat["known_as"]
    if not trial.data:
        del flat["data"]
    return flat


def scoring_to_plain(scoring: Eval) -> dict[str, Any]:
    """The part of `to_plain` that says how a trial is scored."""
    flat: dict[str, Any] = plain(scoring)
    flat["metrics"] = {m["name"]: m["options"] for m in flat["metrics"]}
    if scoring.during is None:
        del flat["during"]  # as in results that were scored before there was such a thing
    return flat


def scored_as(result: Mapping[str, Any], spec: Eval) -> bool:
    """Whether a result was scored as `spec` asks, by the scoring code of today."""
    wanted = ids.of_scoring(spec)
    if "scoring" in result:
        return bool(result["scoring"] == wanted)
    stored = result.get("config", {}).get("eval")  # of the previous format, when every EPOCH was 1
    try:
        same = (
            stored == scoring_to_plain(spec)
            or ids.of_scoring(parse_eval(stored, "result"))["options"] == wanted["options"]
        )
    except UserError:
        return False
    return same and not wanted["epochs"]


def merge(base: dict[str, Any], over: dict[str, Any], place: str) -> dict[str, Any]:
    """`over` laid on `base`, mapping by mapping; a list replaces what was there. Where `over` names another
    plugin, only those options of the old one remain which the new one has too."""
    out = dict(base)
    for key, value in over.items():
        old = out.get(key)
        if not (isinstance(old, dict) and isinstance(value, dict)):
            out[key] = value
        elif key in ("dataset", "backbone") and value.get("name", old.get("name")) != old.get("name"):
            package = "backbones" if key == "backbone" else "harness.datasets"
            module = plugins.find(package, value["name"], f"{place}: {key}.name")
            shared = {f.name for f in fields(module.Options)}
            out[key] = {**{k: v for k, v in old.items() if k in shared}, **value}
        else:
            out[key] = merge(old, value, place)
    return out


# ── plugins ──────────────────────────────────────────────────────────────────


def mapping(raw: Any, place: str) -> dict[str, Any]:
    if not isinstance(raw, dict):
        raise UserError(f"{place}: {raw!r}: must be a mapping of options")
    return raw


def named(raw: Any, place: str) -> dict[str, dict[str, Any]]:
    """`[sel, {align: {...}}]` or `{sel: , align: {...}}` -> {name: options}."""
    if isinstance(raw, list) and all(isinstance(v, str | dict) for v in raw):
        pairs = [pair for v in raw for pair in (v.items() if isinstance(v, dict) else [(v, {})])]
        raw = dict(pairs)
        if len(raw) < len(pairs):
            raise UserError(f"{place}: {[name for name, _ in pairs]}: must name each once")
    if raw is None:
        raw = {}
    return {name: mapping(opts or {}, f"{place}.{name}") for name, opts in mapping(raw, place).items()}


def plugin(package: str, raw: Any, place: str) -> Plugin:
    """The plugin that `raw` names, with its options: its profile's where it has profiles, `raw`'s laid on them."""
    raw = dict(mapping(raw, place))
    if not isinstance(raw.get("name"), str):
        raise UserError(f"{place}.name: missing; known: {', '.join(plugins.names(package))}")
    name = raw.pop("name")
    module = plugins.find(package, name, f"{place}.name")
    has_profile = any(f.name == "profile" for f in fields(module.Options))
    if not has_profile:
        raw.pop("profile", None)
    else:
        profiles = module.PROFILES
        chosen = convert(Literal[tuple(profiles)], raw.get("profile", "paper"), f"{place}.profile")
        raw = merge(copy.deepcopy(profiles[chosen]), raw, place)
    return Plugin(name, parse(module.Options, raw, place))


def _check_variants(trial: Trial, place: str) -> None:
    """Each variant's `REQUIRES` must be among what the others `PROVIDE`, one provider is enough, nobody meets what it
    `CLASHES` with; and each file's own `check` has its say."""
    modules = {v.name: plugins.find("harness.variants", v.name) for v in trial.variants}
    provided = [what for name in modules for what in _provides(name)]
    for name, module in modules.items():
        for what in getattr(module, "REQUIRES", ()):
            if what not in provided:
                givers = [n for n in plugins.names("harness.variants") if what in _provides(n)]
                raise UserError(f"{place}: variants.{name}: needs {what}; add one of: {', '.join(givers)}")
    for what in set(provided):
        if provided.count(what) > 1:
            raise UserError(f"{place}: variants: {what} come from more than one variant; keep one")
    for name, module in modules.items():
        others = {v.name: v.options for v in trial.variants if v.name != name}
        for refused in getattr(module, "CLASHES", ()):
            _check_clash(trial, f"{place}: variants.{name}", refused, others)
        if hasattr(module, "check"):
            try:
                module.check(trial.variant(name), others)
            except ValueError as e:
                raise UserError(f"{place}: variants.{name}.{e}") from None


def _check_clash(trial: Trial, place: str, refused: str, others: dict[str, Any]) -> None:
    """`refused`: another variant, what one provides, or a key of the trial, like train.r1_gamma, that must be off."""
    if "." in refused:
        value: Any = trial
        for part in refused.split("."):
            if not hasattr(value, part):
                raise UserError(f"{place}: CLASHES: {refused!r}: no such key of a trial; mend the variant's file")
            value = getattr(value, part)
        if value not in (None, 0, "none", "off"):
            raise UserError(f"{place}: refuses {refused}, here {value}; set it to 0 or null, in this arm by `set:`")
    for other in others:
        if other == refused or refused in _provides(other):
            raise UserError(f"{place}: can't be in one arm with {other}; keep one of them")


def _check_during(scoring: Eval, place: str) -> None:
    """`during` needs a metric that compares images with the data, one of those that the trial is scored by."""
    if scoring.during is None:
        return
    if not scoring.distances:
        raise UserError(f"{place}: eval.during: no distance among eval.metrics; add one, like fid")
    if scoring.during.metric not in (None, *scoring.distances):
        known = ", ".join(scoring.distances)
        raise UserError(
            f"{place}: eval.during.metric: {scoring.during.metric!r}: must be a distance of eval.metrics: {known}"
        )


def _provides(name: str) -> tuple[str, ...]:
    return tuple(getattr(plugins.find("harness.variants", name), "PROVIDES", ()))
