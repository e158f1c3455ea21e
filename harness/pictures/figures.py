"""Pictures made of pixels: sample grids, attention overlays, rows of moved heatmaps, curves with errors.

Every function takes arrays and only draws; nothing is computed, chosen or scaled to look better.
"""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor

from harness.disk import write_atomic

Pixels = NDArray[np.uint8]
"""Images [N, 3, H, W], or one picture [H, W, 3]."""

GAP = 2  # pixels between the images of a picture
PAPER_WHITE = 255


def to_pixels(images: Tensor) -> Pixels:
    """Float images [N, C, H, W] in [-1, 1] to uint8 [N, 3, H, W], the inverse of x / 127.5 - 1; values outside are
    clipped, grey (C = 1) is repeated."""
    scaled = images.detach().float().add(1).mul(127.5).round().clamp(0, 255)
    return scaled.expand(-1, 3, -1, -1).byte().cpu().numpy()


def tile(images: Pixels, columns: int | None = None, gap: int = GAP) -> Pixels:
    """Images [N, 3, H, W] row by row on white as one picture; by default about as wide as high."""
    n, _, h, w = images.shape
    columns = columns or int(np.ceil(np.sqrt(n)))
    rows = -(-n // columns)
    sheet = np.full((rows * (h + gap) - gap, columns * (w + gap) - gap, 3), PAPER_WHITE, np.uint8)
    for i, image in enumerate(images):
        y, x = i // columns * (h + gap), i % columns * (w + gap)
        sheet[y : y + h, x : x + w] = image.transpose(1, 2, 0)
    return sheet


def save_grid(images: Tensor, path: Path, columns: int | None = None) -> None:
    """Write images [N, C, H, W] in [-1, 1] as one PNG."""
    save(tile(to_pixels(images), columns, gap=0), path)


def save(picture: Pixels, path: Path) -> None:
    """Write a picture [H, W, 3] as PNG, whole or not at all."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")  # `optimize` takes five times as long for 2 % of the size
    write_atomic(path, buffer.getvalue())


def colour(maps: NDArray[np.floating], size: int) -> Pixels:
    """Maps [N, h, w] in [0, 1] resized bilinearly to size x size, on matplotlib's inferno: [N, 3, size, size]."""
    import matplotlib

    ramp = matplotlib.colormaps["inferno"]
    resized = [_resize(m, size) for m in maps]
    return np.stack([(ramp(m)[..., :3] * 255).round().astype(np.uint8).transpose(2, 0, 1) for m in resized])


def overlay(images: Pixels, maps: NDArray[np.floating], strength: float = 0.55) -> Pixels:
    """`maps` [N, h, w] in [0, 1] laid over square images [N, 3, R, R]; the image is dimmed where the map is low."""
    size = images.shape[-1]
    grey = images.mean(axis=1, keepdims=True).repeat(3, axis=1)
    mixed = (1 - strength) * grey + strength * colour(maps, size).astype(np.float64)
    return mixed.round().clip(0, 255).astype(np.uint8)


def attention(images: Pixels, maps: Mapping[str, NDArray[np.floating]]) -> Pixels:
    """GradCAM: a row of images [N, 3, R, R], then a row of overlays per feature resolution
    ({"4": [N, h, w], ...}, as given); serves robustness (noisier images) and consistency
    (later snapshots) alike, along the columns."""
    rows = [images] + [overlay(images, m) for m in maps.values()]
    return tile(np.concatenate(rows), columns=len(images))


def edits(rows: Sequence[Pixels], centres: Sequence[NDArray[np.floating]]) -> Pixels:
    """A row of images [T, 3, R, R] per latent while its heatmap moves; `centres` [T, K, 2] (x, y in
    [0, 1] of the side) are marked as rings, with a line from where each centre started."""
    size, count = rows[0].shape[-1], len(rows[0])
    sheet = Image.fromarray(tile(np.concatenate(list(rows)), columns=count))
    draw = ImageDraw.Draw(sheet)
    radius = max(1.5, size / 24)
    for r, places in enumerate(centres):
        for t, points in enumerate(places):
            origin = np.array([t, r]) * (size + GAP)
            for start, now in zip(places[0], points, strict=True):
                (x0, y0), (x, y) = origin + start * size, origin + now * size
                draw.line((x0, y0, x, y), fill=(224, 60, 49), width=max(1, size // 64))
                draw.ellipse((x - radius, y - radius, x + radius, y + radius), outline=(224, 60, 49), width=1)
    return np.asarray(sheet)


class Curve(NamedTuple):
    """y at x with an error bar of +- `error` each; all of one length."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    error: Sequence[float]


def curves(
    panels: Mapping[str, Sequence[Curve]], path: Path, x_label: str, y_label: str, *, diagonal: bool = False
) -> Path:
    """Curves side by side on one y axis, a panel for each title; `diagonal` draws y = x. Writes a PNG."""
    from matplotlib.figure import Figure  # without pyplot there is no state and no window

    figure = Figure(figsize=(3.4 * len(panels) + 0.4, 3), dpi=120, layout="constrained")
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for ax, (title, shown) in zip(axes, panels.items(), strict=True):
        for c in shown:
            ax.errorbar(c.x, c.y, c.error, label=c.label, marker="o", ms=3, lw=1.2, capsize=2)
        if diagonal:
            ax.axline((0, 0), slope=1, color="0.6", lw=0.8, zorder=0)
        ax.set(title=title, xlabel=x_label)
        ax.grid(color="0.92")
    axes[0].set_ylabel(y_label)
    axes[0].legend(fontsize=7)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    write_atomic(path, buffer.getvalue())
    return path


def _resize(values: NDArray[np.floating], size: int) -> NDArray[np.float64]:
    low, high = float(values.min()), float(values.max())
    if not (low >= 0 and high <= 1):
        raise ValueError(f"maps: {low:.4g} to {high:.4g}: must lie in [0, 1]")
    image = Image.fromarray(np.asarray(values, np.float32)).resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(image, np.float64).clip(0, 1)
