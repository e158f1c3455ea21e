"""The figures of report.html: per ground, all arms and seeds beside each other.

A ground is what trials share that differ only in variants and seed: data, backbone, training.
Its arms can be compared, whichever tables they serve.
"""

import base64
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from PIL import Image

from harness.experiment.parse import to_plain
from harness.experiment.spec import Trial
from harness.report import charts, names
from harness.report.model import Outcome, Report, counts

MOST_SNAPSHOTS = 4  # sample grids an arm, evenly spread over training
GRID_COLUMNS = 8  # of a trial's sample grid
PICTURE_SIDE = 560  # pixels at which a picture is embedded
CAPTIONS = {
    "gradcam": "GradCAM of D: images, then its attention at 4, 8 and 16 pixels",
    "edit": "A latent a row, while its heatmap moves",
    "heatmaps": "A heatmap a row, a latent a column",
    "robustness": "Attention of D on ever noisier images",
    "consistency": "Attention of D over training",
}


class Colours:
    """One CSS colour per way of changing the baseline, the same wherever it appears on the page."""

    def __init__(self, trials: Sequence[Trial]) -> None:
        kinds = dict.fromkeys(_variants(t) for t in trials if t.variants)
        self._inks = {kind: f"var(--c{1 + i % 7})" for i, kind in enumerate(kinds)}

    def of(self, trial: Trial) -> str:
        return self._inks.get(_variants(trial), "var(--c0)")


def colours(report: Report) -> Colours:
    return Colours([o.trial for o in report.outcomes])


def grounds(report: Report, inks: Colours) -> list[str]:
    """One section a ground that has any finished or diverged trial."""
    groups: dict[str, list[Outcome]] = {}
    for o in {o.trial.id: o for t in report.tables for group in t.outcomes.values() for o in group}.values():
        groups.setdefault(_ground(o.trial), []).extend([o] if o.result else [])
    labels = {o.trial.id: t.label(arm) for t in reversed(report.tables)
              for (_, arm), group in t.outcomes.items() for o in group}  # fmt: skip
    settings = {o.trial.id: t.label(s) for t in reversed(report.tables)
                for (s, _), group in t.outcomes.items() for o in group}  # fmt: skip
    out = []
    for members in groups.values():
        if members:
            arms: dict[str, list[Outcome]] = {}
            for o in members:
                arms.setdefault(labels[o.trial.id], []).append(o)
            first = members[0].trial
            title = (
                f"{settings[first.id]}: {first.backbone.name}, {charts.images(first.train.total_kimg * 1000)} images"
            )
            out.append(_section(title, [_Arm(k, inks.of(v[0].trial), tuple(v)) for k, v in arms.items()]))
    return out


@dataclass(frozen=True)
class _Arm:
    label: str
    colour: str
    outcomes: tuple[Outcome, ...]

    def band(self, key: str, *, dashed: bool = False, faint: bool = False) -> charts.Band | None:
        runs = [o.result.get("series", {}).get(key, []) for o in self.outcomes]
        return charts.band(f"{self.label}: {key}", self.colour, runs, dashed=dashed, faint=faint)


def _section(title: str, arms: list[_Arm]) -> str:
    legend = "".join(f'<li style="--ink:{a.colour}">{escape(a.label)}{_few(a)}</li>' for a in arms)
    blocks = [_scores(arms), _curves(arms), _samples(arms), _pictures(arms), _cost(arms)]
    return (
        f'<section class="ground"><h2>{escape(title)}</h2><ul class="legend">{legend}</ul>{"".join(blocks)}</section>'
    )


def _few(arm: _Arm) -> str:
    """How many of an arm's ended runs gave figures, where not all did: a mean of curves is of those that got there."""
    lost = [o.word for o in arm.outcomes if o.state != "done"]
    return f" ({counts(len(arm.outcomes), lost)})" if lost else ""


def _scores(arms: list[_Arm]) -> str:
    """The paper's figure 1, one small chart an arm on one scale, the first arm faint behind the others."""
    own = [[b for b in _pair(a) if b] for a in arms]
    every = [b for bands in own for b in bands]
    if not every:
        return ""
    limits = charts.extent(every)
    figures = []
    for i, (arm, bands) in enumerate(zip(arms, own, strict=True)):
        if bands:
            behind = [b for b in _pair(arms[0], faint=True) if b] if i else []
            chart = charts.curves([*behind, *bands], f"{arm.label}: D's extreme scores", limits=limits)
            figures.append(f"<figure><figcaption>{escape(arm.label)}</figcaption>{chart}</figure>")
    about = "solid: lowest score of reals; dashed: highest score of fakes; between them the disequilibrium"
    return f'<h3>D\'s scores during training <small>{about}</small></h3><div class="charts">{"".join(figures)}</div>'


def _pair(arm: _Arm, *, faint: bool = False) -> tuple[charts.Band | None, charts.Band | None]:
    return arm.band("scores/real_min", faint=faint), arm.band("scores/fake_max", dashed=True, faint=faint)


def _curves(arms: list[_Arm]) -> str:
    """DI of snapshots, the distance that chose the best, and all losses over training; DI against FID at the end."""
    losses = dict.fromkeys(k for a in arms for o in a.outcomes for k in o.result.get("series", {}))
    distances = dict.fromkeys(f"eval/{o.result['best']['by']}" for a in arms for o in a.outcomes if "best" in o.result)
    keys = ["eval/di", *distances, "loss/g", "loss/d", *(k for k in losses if k.startswith("loss/") and k not in _MAIN)]
    figures = [_scatter(arms)]
    for key in keys:
        bands = [b for a in arms if (b := a.band(key))]
        if bands:
            name = {"eval/di": "DI at snapshots", "loss/g": "Loss of G", "loss/d": "Loss of D"}.get(key, key)
            chart = charts.curves(bands, f"{name} during training")
            figures.append(f"<figure><figcaption>{escape(name)}</figcaption>{chart}</figure>")
    if not any(figures):
        return ""
    about = "mean over seeds; shaded: range over seeds"
    return f'<h3>Equilibrium and losses <small>{about}</small></h3><div class="charts">{"".join(figures)}</div>'


_MAIN = ("loss/g", "loss/d")


def _scatter(arms: list[_Arm]) -> str:
    """The final equilibrium against the distance: small dots are seeds, large ones their means."""
    both = names.pair(s.name for a in arms for o in a.outcomes for s in o.scores.values())
    if both is None:
        return ""
    first, second = (n.key for n in both)
    distance, equilibrium = (n.label for n in both)
    dots = []
    for a in arms:
        points = [(o.scores[first].value, o.scores[second].value, o.trial.seed) for o in a.outcomes
                  if first in o.scores and second in o.scores]  # fmt: skip
        dots += [charts.Dot(f"{a.label} s{seed}", a.colour, x, y) for x, y, seed in points]
        if points:
            x, y = (sum(p[i] for p in points) / len(points) for i in (0, 1))
            dots.append(charts.Dot(f"{a.label}{_few(a)}, mean", a.colour, x, y, strong=True))
    if not dots:
        return ""
    chart = charts.scatter(dots, f"{equilibrium} against distance", distance, equilibrium)
    return f"<figure><figcaption>{escape(equilibrium)} against {escape(distance)}</figcaption>{chart}</figure>"


# ── pictures ─────────────────────────────────────────────────────────────────


def _samples(arms: list[_Arm]) -> str:
    """Grids of one seed's fixed latents, arms side by side, through training."""
    chosen = _common_seed(arms)
    if not chosen:
        return ""
    seed = chosen[0][1].trial.seed
    count = min(MOST_SNAPSHOTS, max(len(o.result["samples"]) for _, o in chosen))
    figures: list[str] = []
    steps: list[str] = []
    for arm, o in chosen:
        paths = _spread(o.result["samples"], count)
        steps = [charts.images(int(Path(p).stem)) for p in paths] if len(paths) > len(steps) else steps
        shown = "".join(
            f'<img alt="{escape(arm.label)} after {charts.images(int(Path(p).stem))} images" src="{src}"'
            f"{' hidden' * (i < len(paths) - 1)}>"
            for i, p in enumerate(paths)
            if (src := embed(o.folder / p, cells=True))
        )
        if shown:
            figures.append(
                f'<figure style="--ink:{arm.colour}"><figcaption>{escape(arm.label)}</figcaption>{shown}</figure>'
            )
    if not figures:
        return ""
    slider = (
        f'<label class="slider">after <output>{steps[-1]}</output> images <input type="range" min="0" '
        f'max="{len(steps) - 1}" value="{len(steps) - 1}" data-steps="{escape(json.dumps(steps))}"></label>'
        if len(steps) > 1
        else f"<small>after {steps[-1]} images</small>"
    )
    about = f"the same latents in every arm, seed {seed}"
    return (
        f'<div class="film"><h3>Samples <small>{about}</small> {slider}</h3>'
        f'<div class="samples" style="--count:{len(figures)}">{"".join(figures)}</div></div>'
    )


def _common_seed(arms: list[_Arm]) -> list[tuple[_Arm, Outcome]]:
    """The trials of the seed that most arms have samples of."""
    by_seed: dict[int, list[tuple[_Arm, Outcome]]] = {}
    for arm in arms:
        for o in arm.outcomes:
            if o.result.get("samples"):
                by_seed.setdefault(o.trial.seed, []).append((arm, o))
    return max(by_seed.values(), key=lambda found: (len(found), -found[0][1].trial.seed), default=[])


def _spread(items: Sequence[str], count: int) -> list[str]:
    """`count` of the items, evenly spread, the last one included."""
    if count >= len(items):
        return list(items)
    return [items[round((i + 1) * len(items) / count) - 1] for i in range(count)]


def _pictures(arms: list[_Arm]) -> str:
    """Whatever a trial drew besides: result.json's optional `figures`, {kind: path}."""
    kinds = dict.fromkeys(k for a in arms for o in a.outcomes for k in o.result.get("figures", {}))
    blocks = []
    for kind in kinds:
        figures = []
        for arm in arms:
            o = next((o for o in arm.outcomes if kind in o.result.get("figures", {})), None)
            src = embed(o.folder / o.result["figures"][kind]) if o else None
            if src:
                label = escape(arm.label)
                figures.append(
                    f'<figure style="--ink:{arm.colour}"><figcaption>{label}</figcaption>'
                    f'<img alt="{label}: {escape(kind)}" src="{src}"></figure>'
                )
        if figures:
            title = escape(CAPTIONS.get(kind, kind))
            blocks.append(f'<h3>{title}</h3><div class="samples wide">{"".join(figures)}</div>')
    return "".join(blocks)


def embed(path: Path, *, cells: bool = False) -> str | None:
    """A picture as a data URI, at most PICTURE_SIDE wide or high; None where the file is gone or no picture any more.

    `cells`: a sample grid; of one with large images only the upper left quarter is shown.
    """
    try:
        picture = Image.open(path).convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):  # what PIL makes of broken files
        return None
    if cells and picture.width // GRID_COLUMNS > 96:
        picture = picture.crop((0, 0, picture.width // 2, picture.height // 2))
    side = PICTURE_SIDE if cells else 2 * PICTURE_SIDE
    picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", quality=88)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"


# ── cost ─────────────────────────────────────────────────────────────────────


def _cost(arms: list[_Arm]) -> str:
    """Parameters, speed and memory of each arm; the overhead is against the first."""
    rows: list[list[str]] = []
    first = None
    for arm in arms:
        costs = [o.result["cost"] for o in arm.outcomes if o.state == "done" and o.result.get("cost")]
        if not costs:
            continue
        speed = _mean(costs, "images_per_s")
        first = first or speed
        over = f"{first / speed - 1:+.0%}".replace("-", "−") if speed and first and len(rows) else ""
        params, memory = (_mean(costs, k) for k in ("params_g", "peak_memory_mib"))
        rows.append(
            [arm.label, f"{params / 1e6:.2f} M" if params else "", f"{1000 / speed:.2f}" if speed else "", over,
             f"{memory:.0f}" if memory else ""]
        )  # fmt: skip
    if not rows:
        return ""
    head = ("Arm", "Parameters of G", "s per 1,000 images", "against the first", "peak MiB")
    lines = "".join("<tr>" + "".join(f"<td>{escape(c)}</td>" for c in row) + "</tr>" for row in rows)
    heads = "".join(f"<th>{h}</th>" for h in head)
    return (
        '<details><summary>Cost</summary><div class="scroll"><table class="plain">'
        f"<thead><tr>{heads}</tr></thead><tbody>{lines}</tbody></table></div></details>"
    )


def _mean(costs: list[Mapping[str, Any]], key: str) -> float | None:
    values = [float(c[key]) for c in costs if c.get(key)]
    return sum(values) / len(values) if values else None


def _variants(trial: Trial) -> str:
    return json.dumps(to_plain(trial)["variants"], sort_keys=True)


def _ground(trial: Trial) -> str:
    plain = to_plain(trial)
    return json.dumps({k: v for k, v in plain.items() if k not in ("variants", "seed", "eval")}, sort_keys=True)
