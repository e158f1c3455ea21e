"""Plain data to trials and back: names and options of plugins are looked up and checked."""

import copy
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Annotated, Any, Literal

from harness import plugins
from harness.errors import NotPossible, UserError
from harness.experiment import ids, spec
from harness.experiment.schema import convert, mapping, parse, plain
from harness.experiment.spec import Eval, Plugin, Trial
from harness.experiment.words import shown

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
    backbone = plugin("backbones", raw["backbone"], f"{place}: backbone")
    own_levels = getattr(plugins.find("backbones", backbone.name), "OWN_LEVELS", False)
    trial = Trial(
        dataset=plugin("harness.datasets", raw["dataset"], f"{place}: dataset"),
        backbone=backbone,
        conditional=convert(bool, raw.get("conditional", False), f"{place}: conditional"),
        variants=tuple(
            plugin(
                "harness.variants", {"profile": profile, **opts, "name": name}, f"{place}: variants.{name}", own_levels
            )
            for name, opts in variants.items()
        ),
        train=parse(spec.Train, raw["train"], f"{place}: train"),
        eval=parse_eval(raw["eval"], place),
        seed=convert(Annotated[int, ">= 0"], raw.get("seed", 0), f"{place}: seed"),
        data=convert(str, raw.get("data", ""), f"{place}: data"),
    )
    check_variants(trial, place)
    return trial


def parse_eval(raw: Any, place: str) -> Eval:
    """A trial's `eval` from its plain form."""
    scoring = dict(mapping(raw, f"{place}: eval"))
    metrics = named(scoring.pop("metrics", {}), f"{place}: eval.metrics")
    if not metrics:
        raise UserError(f"{place}: eval.metrics: missing; known: {', '.join(plugins.names('harness.metrics'))}")
    scored: Eval = parse(spec.Eval, {**scoring, "metrics": []}, f"{place}: eval")
    asked = replace(
        scored,
        metrics=tuple(
            plugin("harness.metrics", {**opts, "name": name}, f"{place}: eval.metrics.{name}")
            for name, opts in metrics.items()
        ),
    )
    _check_during(asked, place)
    return asked


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


def scored_as(result: Mapping[str, Any], spec: Eval, own_statistics: bool = False, *, reals: str = "") -> bool:
    """Whether a result was scored as `spec` asks, by the scoring code of today; `own_statistics` and `reals` as of
    `ids.of_scoring`. One that diverged while it trained has no scores, whatever is asked."""
    if result.get("diverged_in") == "training":
        return True
    wanted = ids.of_scoring(spec, own_statistics, reals=reals)
    stored = _eval_of(result)
    if "scoring" not in result and stored == scoring_to_plain(spec):
        return not wanted["epochs"] and not reals
    return scoring_of(result) == wanted


def scoring_of(result: Mapping[str, Any]) -> dict[str, Any] | None:
    """How a result was scored, as `ids.of_scoring` says it; None where it can't tell, or was spoilt."""
    if "scoring" in result:
        return dict(found) if isinstance(found := result["scoring"], dict) else None
    try:  # of the previous format, when every EPOCH was 1
        return {**ids.of_scoring(parse_eval(_eval_of(result), "result")), "epochs": {}}
    except UserError:
        return None


def _eval_of(result: Mapping[str, Any]) -> Any:
    config = result.get("config")
    return config.get("eval") if isinstance(config, dict) else None


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


def plugin(package: str, raw: Any, place: str, own_levels: bool = False) -> Plugin:
    """The plugin that `raw` names, with its options: its profile's where it has profiles, `raw`'s laid on them.
    `own_levels`: levels that neither names are those of the backbone, where it would have some by default."""
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
    if own_levels:
        raw = merge(copy.deepcopy(getattr(module, "LEVELS", {})), raw, place)
    return Plugin(name, parse(module.Options, raw, place))


def check_variants(trial: Trial, place: str) -> None:
    """Each variant's `REQUIRES` must be among what the others `PROVIDE`, one provider is enough, nobody meets what it
    `CLASHES` with; and each file's own `check` has its say. Else NotPossible."""
    modules = {v.name: plugins.find("harness.variants", v.name) for v in trial.variants}
    provided = [what for name in modules for what in _provides(name)]
    for name, module in modules.items():
        for what in getattr(module, "REQUIRES", ()):
            if what not in provided:
                givers = [n for n in plugins.names("harness.variants") if what in _provides(n)]
                raise NotPossible(f"{place}: variants.{name}: needs {what}; add one of: {', '.join(givers)}")
    for what in set(provided):
        if provided.count(what) > 1:
            raise NotPossible(f"{place}: variants: {what} come from more than one variant; keep one")
    for name, module in modules.items():
        others = {v.name: v.options for v in trial.variants if v.name != name}
        for refused in getattr(module, "CLASHES", ()):
            _check_clash(trial, f"{place}: variants.{name}", refused, others)
        if hasattr(module, "check"):
            try:
                module.check(trial.variant(name), others)
            except ValueError as e:
                raise NotPossible(f"{place}: variants.{name}.{e}") from None


def _check_clash(trial: Trial, place: str, refused: str, others: dict[str, Any]) -> None:
    """`refused`: another variant, what one provides, or a key of the trial, like train.r1_gamma, that must be off."""
    if "." in refused:
        value: Any = trial
        usual: Any = None
        for part in refused.split("."):
            if not hasattr(value, part):
                raise UserError(f"{place}: CLASHES: {refused!r}: no such key of a trial; mend the variant's file")
            value, usual = getattr(value, part), getattr(type(value), part, ...)
        if value not in (None, 0, "none", "off"):
            off = shown(usual) if usual in (None, 0, "none", "off") else "0 or null"  # its default, where that is off
            raise NotPossible(f"{place}: refuses {refused}, here {value}; set it to {off}, in this arm by `set:`")
    for other in others:
        if other == refused or refused in _provides(other):
            raise NotPossible(f"{place}: can't be in one arm with {other}; keep one of them")


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
