"""The experiment schema: YAML in, frozen objects out. The only file that reads YAML.

An experiment is a base trial, `settings` (named overrides: the columns of a table),
`arms` (named lists of variants: its rows) and `seeds`; or it includes other experiments.
A trial's keys are those of `Trial`; presets under experiments/presets/ are partial trials.
"""

import copy
import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml

from harness import plugins
from harness.errors import UserError
from harness.schema import convert, parse, plain

SHIPPED = Path(__file__).parent.parent / "experiments"


@dataclass(frozen=True)
class Adam:
    """Adam's options; `lr` per image batch, as the recipes print it."""

    lr: Annotated[float, "> 0"] = 2e-4
    betas: tuple[Annotated[float, ">= 0, < 1"], Annotated[float, ">= 0, < 1"]] = (0.5, 0.999)
    eps: Annotated[float, "> 0"] = 1e-8


@dataclass(frozen=True)
class Train:
    """One training. Progress is counted in real images shown to D (`kimg` = 1000 of them)."""

    total_kimg: Annotated[float, "> 0"] = 6400.0
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
class Eval:
    """The one evaluation pass at the end of a trial."""

    metrics: tuple[Plugin, ...]
    num_fakes: Annotated[int, ">= 2"] = 50_000
    num_reals: Annotated[int, ">= 2"] | None = None  # None: all of them
    batch_size: Annotated[int, ">= 1"] = 64
    weights: Literal["auto", "ema", "raw"] = "auto"  # auto: EMA where the trial keeps one


@dataclass(frozen=True)
class Trial:
    """All that decides the numbers of one training, and how it is scored."""

    dataset: Plugin
    backbone: Plugin
    conditional: bool
    variants: tuple[Plugin, ...]
    train: Train
    eval: Eval
    seed: int

    @property
    def id(self) -> str:
        """12 hex digits of what decides the trained weights: not `eval`, and of a path only its
        last name, so that results can move between machines."""
        decides = {k: v for k, v in _portable(self).items() if k != "eval"}
        return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:12]

    def variant(self, name: str) -> Any:
        """The options of variant `name`, or None where the arm has no such variant."""
        return next((v.options for v in self.variants if v.name == name), None)


@dataclass(frozen=True)
class Resources:
    """What one trial is given. `cpus` is also its thread count. Several whole GPUs train it in as many
    processes; `processes` asks for them on a CPU."""

    gpus: Annotated[float, ">= 0"] | Literal["auto"] = "auto"
    cpus: Annotated[int, ">= 1"] = 1
    processes: Annotated[int, ">= 1"] = 1

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


@dataclass(frozen=True)
class Experiment:
    name: str
    path: Path
    tables: tuple[Table, ...]
    run: Run


@dataclass(frozen=True)
class _File:
    """The keys of an experiment file beside those of a trial."""

    name: str
    title: str = ""
    paper: str | None = None
    include: tuple[str, ...] | dict[str, Any] = ()  # files; as a mapping, with keys laid over each
    preset: str | None = None
    seeds: tuple[Annotated[int, ">= 0"], ...] = (0,)
    settings: dict[str, dict[str, Any]] = field(default_factory=dict)
    arms: dict[str, Any] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    run: Run = field(default_factory=Run)


_TRIAL_KEYS = ("dataset", "backbone", "conditional", "profile", "variants", "train", "eval")


def load(path: str | Path, overrides: Iterable[str] = ()) -> Experiment:
    """Read and check an experiment file. `overrides` are `key=value` texts, checked like the YAML."""
    sets = [_override(text) for text in overrides]
    path = _locate(Path(path))
    file, _ = _read(path, sets)
    return Experiment(file.name, path, tuple(_tables(path, sets)), file.run)


def parse_trial(raw: dict[str, Any], place: str) -> Trial:
    """A trial from its plain form: names and options of plugins are looked up and checked."""
    raw = dict(raw)
    for key in raw:
        if key not in (*_TRIAL_KEYS, "seed"):
            raise UserError(f"{place}: {key}: unknown key{plugins.hint(key, list(_TRIAL_KEYS))}")
    for key in ("dataset", "backbone", "train", "eval"):
        if key not in raw:
            raise UserError(f"{place}: {key}: missing; every trial names its dataset, backbone, train and eval")
    profile = convert(Literal["paper", "release"], raw.pop("profile", "paper"), f"{place}: profile")
    variants = _named(raw.pop("variants", {}), f"{place}: variants")
    scoring = dict(_mapping(raw["eval"], f"{place}: eval"))
    metrics = _named(scoring.pop("metrics", {}), f"{place}: eval.metrics")
    scoring["metrics"] = []
    if not metrics:
        raise UserError(f"{place}: eval.metrics: missing; known: {', '.join(plugins.names('harness.metrics'))}")
    scored = parse(Eval, scoring, f"{place}: eval")
    trial = Trial(
        dataset=_plugin("harness.datasets", raw["dataset"], f"{place}: dataset"),
        backbone=_plugin("backbones", raw["backbone"], f"{place}: backbone"),
        conditional=convert(bool, raw.get("conditional", False), f"{place}: conditional"),
        variants=tuple(
            _plugin("harness.variants", {"profile": profile, **opts, "name": name}, f"{place}: variants.{name}")
            for name, opts in variants.items()
        ),
        train=parse(Train, raw["train"], f"{place}: train"),
        eval=Eval(
            **{f.name: getattr(scored, f.name) for f in fields(Eval) if f.name != "metrics"},
            metrics=tuple(
                _plugin("harness.metrics", {**opts, "name": name}, f"{place}: eval.metrics.{name}")
                for name, opts in metrics.items()
            ),
        ),
        seed=convert(Annotated[int, ">= 0"], raw.get("seed", 0), f"{place}: seed"),
    )
    _check_variants(trial, place)
    return trial


def override(plain: dict[str, Any], texts: Iterable[str], place: str) -> Trial:
    """The trial `plain` with `key=value` texts laid over it, checked like any other."""
    raw = copy.deepcopy(plain)
    for key, value in map(_override, texts):
        _set_trial(raw, key, value)
    return parse_trial(raw, place)


def to_plain(trial: Trial) -> dict[str, Any]:
    """The resolved trial as plain data; `parse_trial` reads it back to an equal trial."""
    flat = plain(trial)
    flat["dataset"] = {"name": trial.dataset.name, **flat["dataset"]["options"]}
    flat["backbone"] = {"name": trial.backbone.name, **flat["backbone"]["options"]}
    flat["variants"] = {v["name"]: v["options"] for v in flat["variants"]}
    flat["eval"]["metrics"] = {m["name"]: m["options"] for m in flat["eval"]["metrics"]}
    return flat


def dump_yaml(value: Any) -> str:
    """Plain data as YAML, keys in their order."""
    return yaml.safe_dump(value, sort_keys=False, default_flow_style=None, width=110)


def paper_results() -> dict[str, Any]:
    """The paper's own figures: table -> column -> row -> {fid, di}."""
    return yaml.safe_load((SHIPPED / "paper.yaml").read_text())


# ── files and merging ────────────────────────────────────────────────────────


class _Loader(yaml.SafeLoader):
    """SafeLoader that refuses a key given twice, which YAML would silently overwrite."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":  # `<<: *other` may be overridden
                continue
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, str | int | float | bool) and key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is given twice", key_node.start_mark)
            seen.add(key if isinstance(key, str | int | float | bool) else str(key))
        return super().construct_mapping(node, deep)


def _locate(path: Path) -> Path:
    """`path`, or the shipped experiment of that name (`smoke`, `experiments/smoke.yaml`)."""
    for candidate in (path, SHIPPED / path.name, SHIPPED / f"{path.name}.yaml"):
        if candidate.is_file():
            return candidate
    known = sorted(p.stem for p in SHIPPED.glob("*.yaml") if p.stem != "paper")
    raise UserError(f"{path}: no such experiment file{plugins.hint(path.stem, known)}")


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        raw = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError) as e:
        raise UserError(f"{path}: not readable as YAML: {' '.join(str(e).split())}") from None
    except OSError as e:
        raise UserError(f"{path}: {e.strerror}; check the path and its permissions") from None
    return _mapping(raw, str(path))


def _tables(
    path: Path, sets: list[tuple[str, Any]], over: dict[str, Any] | None = None, above: tuple[Path, ...] = ()
) -> Iterator[Table]:
    """The file's own table, or those of the files it includes; `over` lies on the file, `above` are its includers."""
    file, base = _read(path, sets, over, included=bool(above))
    if not file.include:
        yield _table(file, base, sets, path)
        return
    if path in above:
        raise UserError(f"{path}: include: leads back to this file; a file can't include itself")
    parts = file.include if isinstance(file.include, dict) else dict.fromkeys(file.include, {})
    for name, changes in parts.items():
        changes = _mapping({} if changes is None else changes, f"{path}: include.{name}")
        laid = merge(base, changes, f"{path}: include.{name}")
        yield from _tables(_locate(path.parent / name), sets, laid, (*above, path))


def _read(
    path: Path, sets: list[tuple[str, Any]], over: dict[str, Any] | None = None, included: bool = False
) -> tuple[_File, dict[str, Any]]:
    """The file's own keys, and its base trial: preset, then the file's keys with those of `over` laid on them."""
    raw = merge(_read_yaml(path), over or {}, str(path))
    known = [f.name for f in fields(_File)] + list(_TRIAL_KEYS)
    for key, value in sets:
        head, _, rest = key.partition(".")
        if head not in known:
            raise UserError(f"--set {key}: unknown key{plugins.hint(head, known)}")
        if head not in _TRIAL_KEYS and not (included and _concerns_another(raw, head, rest)):
            _assign(raw, key, value)
    for key in raw:
        if key not in known:
            raise UserError(f"{path}: {key}: unknown key{plugins.hint(str(key), known)}")
    own = {k: v for k, v in raw.items() if k not in _TRIAL_KEYS}
    file: _File = parse(_File, {"name": path.stem, **own}, f"{path}: experiment")
    base = preset(file.preset, f"{path}: preset") if file.preset else {}
    return file, merge(base, {k: v for k, v in raw.items() if k in _TRIAL_KEYS}, str(path))


def _concerns_another(raw: dict[str, Any], head: str, rest: str) -> bool:
    """Whether an override of the whole experiment is none of an included file: the includer's own name,
    or a column or row that this table lacks."""
    if head in ("settings", "arms"):
        there = raw.get(head)
        return not isinstance(there, dict) or rest.split(".")[0] not in there
    return head in ("name", "title", "include")


def preset(name: str, place: str) -> dict[str, Any]:
    """A partial trial from experiments/presets/."""
    known = sorted(p.stem for p in (SHIPPED / "presets").glob("*.yaml"))
    if name not in known:
        raise UserError(f"{place}: {name!r} is not a preset{plugins.hint(name, known)}")
    return _read_yaml(SHIPPED / "presets" / f"{name}.yaml")


def _table(file: _File, base: dict[str, Any], sets: list[tuple[str, Any]], path: Path) -> Table:
    arms = file.arms or {"trial": base.get("variants", {})}
    settings = file.settings or {base.get("dataset", {}).get("name", "trial"): {}}
    cells = {}
    for setting, changes in settings.items():
        for arm, variants in arms.items():
            raw = merge(copy.deepcopy(base), _nested(changes), f"{path}: settings.{setting}")
            raw["variants"] = _named(variants, f"{path}: arms.{arm}")
            for key, value in sets:
                if key.split(".")[0] in _TRIAL_KEYS:
                    _set_trial(raw, key, value)
            place = f"{path}: arm {arm}"
            cells[setting, arm] = tuple(parse_trial({**copy.deepcopy(raw), "seed": s}, place) for s in file.seeds)
    if not file.seeds or len(set(file.seeds)) < len(file.seeds):
        raise UserError(f"{path}: seeds: {list(file.seeds)}: must be distinct and at least one")
    return Table(file.name, file.title or file.name, file.paper, file.labels, tuple(arms), tuple(settings), cells)


def _override(text: str) -> tuple[str, Any]:
    key, eq, value = text.partition("=")
    if not eq or not key:
        raise UserError(f"--set {text}: must be key=value, like train.total_kimg=1")
    try:
        return key.strip(), yaml.load(value, _Loader)
    except yaml.YAMLError as e:
        raise UserError(f"--set {text}: not readable as YAML: {' '.join(str(e).split())}") from None


def _set_trial(raw: dict[str, Any], key: str, value: Any) -> None:
    """Apply one override to a trial; an option of a variant reaches the arms that have that variant."""
    parts = key.split(".")
    if parts[0] == "variants" and len(parts) > 2 and parts[1] not in raw["variants"]:
        return
    raw.update(merge(raw, _nested({key: value}), "--set"))


def _assign(raw: dict[str, Any], key: str, value: Any) -> None:
    *parents, last = key.split(".")
    for parent in parents:
        child = raw.setdefault(parent, {})
        if not isinstance(child, dict):
            raise UserError(f"--set {key}: {parent!r} is no mapping")
        raw = child
    raw[last] = value


def _nested(changes: dict[str, Any]) -> dict[str, Any]:
    """{"train.total_kimg": 1} -> {"train": {"total_kimg": 1}}."""
    out: dict[str, Any] = {}
    for key, value in changes.items():
        _assign(out, str(key), value)
    return out


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


def _mapping(raw: Any, place: str) -> dict[str, Any]:
    if not isinstance(raw, dict):
        raise UserError(f"{place}: {raw!r}: must be a mapping of options")
    return raw


def _named(raw: Any, place: str) -> dict[str, dict[str, Any]]:
    """`[sel, {align: {...}}]` or `{sel: , align: {...}}` -> {name: options}."""
    if isinstance(raw, list) and all(isinstance(v, str | dict) for v in raw):
        raw = {name: opts for v in raw for name, opts in (v.items() if isinstance(v, dict) else [(v, {})])}
    if raw is None:
        raw = {}
    return {name: _mapping(opts or {}, f"{place}.{name}") for name, opts in _mapping(raw, place).items()}


def _plugin(package: str, raw: Any, place: str) -> Plugin:
    raw = dict(_mapping(raw, place))
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
    """Each variant's `REQUIRES` must be among what the others `PROVIDE`, and one encoder is enough.
    A variant that requires heatmaps can have those levels only that are drawn."""
    modules = [(v.name, plugins.find("harness.variants", v.name)) for v in trial.variants]
    provided = [what for _, m in modules for what in getattr(m, "PROVIDES", ())]
    for name, module in modules:
        for what in getattr(module, "REQUIRES", ()):
            if what not in provided:
                givers = [n for n in plugins.names("harness.variants") if what in _provides(n)]
                raise UserError(f"{place}: variants.{name}: needs {what}; add one of: {', '.join(givers)}")
    for what in set(provided):
        if provided.count(what) > 1:
            raise UserError(f"{place}: variants: {what} come from more than one variant; keep one")
    drawn = next((v.options.heatmaps.levels for v in trial.variants if "heatmaps" in _provides(v.name)), ())
    for variant, (name, module) in zip(trial.variants, modules, strict=True):
        for level in variant.options.levels if "heatmaps" in getattr(module, "REQUIRES", ()) else ():
            if level not in drawn:
                raise UserError(
                    f"{place}: variants.{name}.levels: {level}: no such heatmap is drawn; choose among {list(drawn)}"
                )


@cache
def _provides(name: str) -> tuple[str, ...]:
    return tuple(getattr(plugins.find("harness.variants", name), "PROVIDES", ()))


def _portable(trial: Trial) -> dict[str, Any]:
    """`to_plain` with every path reduced to its last name."""
    flat = to_plain(trial)
    options = trial.dataset.options
    for f in fields(options):
        value = getattr(options, f.name)
        if isinstance(value, Path):
            flat["dataset"][f.name] = value.name
    return flat
