"""The pictures that a trial leaves for its report: D's attention, edited heatmaps (figures 5 to 7 of the paper)."""

import copy
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from backbones import Discriminator
from harness.data.imageset import ImageSet
from harness.evaluation.probes import AMPLITUDES, correlation
from harness.experiment.spec import Trial
from harness.method.generator import SpatialGenerator
from harness.pictures import figures
from harness.pictures import of_model as pictures
from harness.rng import stream
from harness.training.model import Trained

LEVEL = 8  # of the maps that are shown over noise and over time: this resolution, or the nearest that there is
SNAPSHOTS = 5  # rows of the picture over time


def draw(model: Trained, folder: Path, under: str = "figures") -> dict[str, str]:
    """Draw what the arm allows into `folder`/`under`; returns {kind: path relative to `folder`}.

    A finished training is worth more than its pictures: one that fails is left out, and why is
    written to failed.txt there.
    """
    out, found = folder / under, {}
    painters: dict[str, Callable[[], Path | None]] = {
        "gradcam": lambda: pictures.attention_on_fakes(model, out),
        "robustness": lambda: robustness(model, out),
        "consistency": lambda: consistency(model, folder / "attention", out),
    }
    options = pictures.heatmap_options(model)
    if options is not None and options.sampler in pictures.REGIONAL:
        painters["edit"] = lambda: pictures.moves(model, options, out)
        painters["heatmaps"] = lambda: pictures.exchange(model, options, out)
    for kind, paint in painters.items():
        with _forgiving(out, kind):
            path = paint()
            if path is not None:
                found[kind] = str(path.relative_to(folder))
    return found


@contextmanager
def _forgiving(out: Path, kind: str) -> Iterator[None]:
    """A picture that fails says so in `out`/failed.txt and stops nothing."""
    try:
        yield
    except Exception:
        out.mkdir(parents=True, exist_ok=True)
        with (out / "failed.txt").open("a", encoding="utf-8") as f:
            f.write(f"{kind}\n{traceback.format_exc()}\n")


def trained(trial: Trial, g: SpatialGenerator, d: Discriminator, data: ImageSet, weights: str, nimg: int) -> Trained:
    """The networks as `pictures` takes them: copies on the CPU, in eval mode."""
    return Trained(trial, copy.deepcopy(g).cpu().eval(), copy.deepcopy(d).cpu().eval(), weights, data, None, nimg)


def level_of(model: Trained) -> int:
    """The resolution of the attention that is shown over noise and over time."""
    return min(pictures.levels_of(model), key=lambda level: (abs(level - LEVEL), level))


def robustness(model: Trained, out: Path) -> Path:
    """Figure 7: D's attention on reals under ever more Gaussian noise."""
    images, labels = pictures.reals(model, pictures.COLUMNS)
    noise = torch.randn(images.shape, generator=stream(model.trial.seed, "gallery/noise"))
    rows, clean, level = [], None, level_of(model)
    for amplitude in (0.0, *AMPLITUDES):
        noisy = images.detach() + amplitude * noise
        seen = pictures.gradcam(model, noisy, labels)[level]
        clean = seen if clean is None else clean
        like = correlation(clean, seen)
        agree = f"\ncorrelation {np.nanmean(like):.2f}" if amplitude and not np.isnan(like).all() else ""
        overlay = figures.overlay(pictures.shown(noisy), seen[:, 0].numpy())
        rows.append((f"noise {amplitude:g}{agree}", overlay))
    note = (
        f"D's attention at {level}x{level} on real images in [-1, 1] plus Gaussian noise of that standard deviation; "
    )
    note += "correlation with the map of the clean image, mean over the row."
    title = f"Attention under noise: {pictures.describe(model)}"
    return pictures.write(out / "robustness.png", title, rows, note)


def note_attention(model: Trained, folder: Path) -> None:
    """Keep D's attention on always the same reals, for `consistency`: one row of images, attention/<nimg>.png."""
    with _forgiving(folder / "figures", "attention"):
        images, labels = pictures.reals(model, pictures.COLUMNS)
        seen = pictures.gradcam(model, images, labels)[level_of(model)]
        row = figures.overlay(pictures.shown(images), seen[:, 0].numpy())
        figures.save(figures.tile(row, columns=len(row), gap=0), folder / "attention" / f"{model.nimg:09d}.png")


def consistency(model: Trained, kept: Path, out: Path) -> Path | None:
    """Figure 7: D's attention on the same reals over training; None where less than two moments were kept."""
    paths = sorted(kept.glob("*.png"))
    if len(paths) < 2:
        return None
    steps = min(SNAPSHOTS, len(paths))
    chosen = [paths[round(i * (len(paths) - 1) / (steps - 1))] for i in range(steps)]
    rows = []
    for path in chosen:
        sheet = np.asarray(Image.open(path).convert("RGB"))
        side = sheet.shape[0]
        rows.append((f"{int(path.stem) / 1000:g} kimg", sheet.reshape(side, -1, side, 3).transpose(1, 3, 0, 2)))
    level = level_of(model)
    note = f"D's attention at {level}x{level} on the same real images while it was trained."
    return pictures.write(out / "consistency.png", f"Attention over training: {pictures.describe(model)}", rows, note)
