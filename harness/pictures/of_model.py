"""Pictures for looking at the method: drawn heatmaps, D's attention, and images that follow a moved heatmap.

Each function writes PNG files, labelled so that they can be read by themselves, and returns their paths.
What is drawn depends on the trial's seed alone: the same call makes the same pixels.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args, get_type_hints

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from harness.data.batches import batch, to_device
from harness.disk import check_writable
from harness.errors import UserError
from harness.experiment.schema import parse
from harness.method import attention, heatmaps
from harness.method.generator import Fakes, Heatmaps
from harness.method.heatmaps import RELEASE, HeatmapOptions, Regions
from harness.pictures import figures
from harness.pictures.figures import Pixels
from harness.rng import Streams, stream
from harness.training import trained
from harness.training.arm import settled
from harness.training.model import Trained

SIDE = 96  # pixels of a shown image; larger images stay as they are
COLUMNS = 8  # images in a row
REGIONAL = ("hierarchical", "non_hierarchical")  # the samplers that place regions
COUNTED = 64  # images over which attention is counted
STEPS = (-0.6, -0.3, 0.0, 0.3, 0.6)  # by which centres are moved, in units of half a side

Row = tuple[str, Pixels]
"""A label and the images [N, 3, S, S] of one row."""


def make(trial: Path | None, out: Path | None, *, samplers_too: bool = False) -> list[Path]:
    """What `nashboard pictures` draws: the model in a trial's folder or checkpoint, and what samplers draw. `out`:
    without one, pictures/ in the trial's folder."""
    if not trial and not samplers_too:
        raise UserError("pictures: nothing to draw; give a trial's folder, or --samplers with --out DIR")
    if samplers_too and not out:
        raise UserError("pictures --samplers: --out: missing; give a folder")
    model = trained.load(trial) if trial else None
    if not out:
        assert trial
        out = (trial if trial.is_dir() else trial.parent.parent) / "pictures"
    check_writable(out, "--out")
    paths = samplers(out) if samplers_too else []
    return paths + (of_model(model, out) if model else [])


# ── heatmaps ─────────────────────────────────────────────────────────────────


def samplers(out: Path, resolution: int = 64, seed: int = 0) -> list[Path]:
    """One picture per sampler: a row per profile and level, a column per draw (one draw's levels stand
    below each other). Regions are summed; rings mark centres."""
    profiles: dict[str, dict[str, Any]] = {"paper": {}, "release": RELEASE}
    paths = []
    for sampler in get_args(get_type_hints(HeatmapOptions)["sampler"]):
        rows = []
        for profile, changes in profiles.items():
            options: HeatmapOptions = parse(HeatmapOptions, {**changes, "sampler": sampler}, "samplers")
            rows += [(f"{profile}, {label}", tiles) for label, tiles in drawn(options, resolution, seed)]
        note = (
            "A column is one draw, its levels below each other. Each row has its own colour scale, from the first "
            "value to the second at its left."
        )
        note += " A level's regions are summed; rings mark their centres." if sampler in REGIONAL else ""
        paths.append(write(out / f"sampler_{sampler}.png", f"Heatmaps of the sampler '{sampler}'", rows, note))
    return paths


def drawn(options: HeatmapOptions, resolution: int, seed: int) -> list[Row]:
    """A row of draws per level, at the resolution at which they are rendered."""
    rng = stream(seed, "pictures/samplers")
    regions = heatmaps.sample_regions(options, COLUMNS, rng) if options.sampler in REGIONAL else None
    if regions is None:
        maps = heatmaps.sample(options, COLUMNS, resolution, rng)
    else:
        maps = heatmaps.render(options, regions, resolution)
    rows = []
    for i, level in enumerate(options.drawn):
        total = maps[level].sum(dim=1).numpy()
        size, low, high = total.shape[-1], min(0.0, float(total.min())), float(total.max())
        tiles = coloured((total - low) / (high - low))
        if regions is not None:
            tiles = ringed(tiles, places(options, regions.centers[level], size))
        rows.append((f"level {i}\nfor {level}x{level} features\ndrawn {size}x{size}\n{low:.2f} to {high:.2f}", tiles))
    return rows


def places(options: HeatmapOptions, centers: Tensor, size: int) -> NDArray[np.float64]:
    """Centres [N, n, 2] (down, right) in [-1, 1] -> (x, y) in [0, 1] of a tile whose map has `size` pixels."""
    unit = (centers.double().flip(-1).numpy() + 1) / 2
    return (unit * (size - 1) + 0.5) / size if options.grid == "corners" else unit


# ── a trained model ──────────────────────────────────────────────────────────


def of_model(model: Trained, out: Path) -> list[Path]:
    """All pictures of a trained model, into `out`. Those that need heatmaps are left out for a baseline."""
    paths = [samples(model, out), attention_on_reals(model, out), attention_on_fakes(model, out)]
    options = heatmap_options(model)
    if options is not None and options.sampler in REGIONAL:
        paths += [moves(model, options, out), finer_moves(model, options, out), exchange(model, options, out)]
    return paths


def samples(model: Trained, out: Path) -> Path:
    """Generated images beside real ones."""
    n = 4 * COLUMNS
    real, fake = shown(reals(model, 2 * COLUMNS)[0]), shown(generate(model, n)[0].images)
    rows = [("" if i else "generated", fake[i : i + COLUMNS]) for i in range(0, n, COLUMNS)]
    rows += [("" if i else "real", real[i : i + COLUMNS]) for i in range(0, len(real), COLUMNS)]
    return write(out / "samples.png", f"Samples of {describe(model)}", rows, "The first of the seed; none were chosen.")


def attention_on_reals(model: Trained, out: Path) -> Path:
    """GradCAM of D on real images, level by level."""
    images, labels = reals(model, COUNTED)
    pixels = shown(images[:COLUMNS])
    rows = [("real", pixels), *(overlay(pixels, k, m) for k, m in gradcam(model, images, labels).items())]
    title = f"Where D looks on real images: {describe(model)}"
    return write(out / "attention_real.png", title, rows, attention_note(model))


def attention_on_fakes(model: Trained, out: Path) -> Path:
    """GradCAM of D on generated images, each level above the heatmap that G was given for it."""
    fakes, labels = generate(model, COUNTED)
    pixels = shown(fakes.images[:COLUMNS])
    rows = [("generated", pixels)]
    for level, seen in gradcam(model, fakes.images, labels).items():
        rows.append(overlay(pixels, level, seen))
        if fakes.heatmaps is not None and level in fakes.heatmaps:
            given = target(fakes.heatmaps[level], seen.shape[-1])
            own, other = (float((seen - h).abs().mean()) for h in (given, given.roll(1, 0)))
            label = f"G's heatmap\n{level}x{level}\ndistance {own:.3f}\n(another's {other:.3f})"
            rows.append((label, coloured(given[:COLUMNS, 0].numpy(), pixels.shape[-1], smooth=True)))
    note = attention_note(model)
    if fakes.heatmaps is not None:
        note += " Distance: mean |attention - heatmap| over all of them; in brackets with the heatmap of another image."
    return write(out / "attention_generated.png", f"Where D looks on generated images: {describe(model)}", rows, note)


def moves(model: Trained, options: HeatmapOptions, out: Path) -> Path:
    """Figure 5, (b) and (c): the same latents while the level-0 centre, and all others with it, moves."""
    rows = []
    for name, direction in (("right", (0.0, 1.0)), ("down", (1.0, 0.0))):
        rows += moved(model, options, torch.tensor(direction), None, f"all levels\nmoved {name}\nby", 3)
    note = (
        "A row is one latent, its heatmap brought to the middle and then moved by what stands above; 1 is half a side. "
        "Ring: the level-0 centre; the regions of all levels move with it."
    )
    return write(out / "move_level_0.png", f"Moving the whole heatmap: {describe(model)}", rows, note, step_labels())


def finer_moves(model: Trained, options: HeatmapOptions, out: Path) -> Path:
    """Figure 5, (d): only the centres of level 1, or of level 2, move."""
    rows = []
    for i, level in list(enumerate(options.drawn))[1:]:
        rows += moved(
            model, options, torch.tensor([0.0, 1.0]), level, f"level {i} ({level}x{level})\nmoved right\nby", 3
        )
    note = (
        "A row is one latent, its heatmap brought to the middle; then one level's regions move by what stands above, "
        "1 being half a side, and the other levels' stay. Rings: the centres that move."
    )
    return write(out / "move_finer.png", f"Moving one finer level: {describe(model)}", rows, note, step_labels())


def exchange(model: Trained, options: HeatmapOptions, out: Path) -> Path:
    """Figure 6: a row shares its heatmap, a column its latent."""
    levels, given = options.drawn[:2], 5
    latents = COLUMNS - len(levels)
    z, labels = latent(model, latents)
    regions = heatmaps.sample_regions(options, given, stream(model.trial.seed, "pictures/exchange"))
    maps = heatmaps.render(options, regions, model.data.resolution)
    rows = []
    for i in range(given):
        repeated = {k: h[i : i + 1].expand(latents, -1, -1, -1) for k, h in maps.items()}
        own = [target(maps[k][i : i + 1], maps[k].shape[-1])[:, 0].numpy() for k in levels]
        pixels = shown(forward(model, z, labels, repeated).images)
        rows.append(
            (f"heatmap {i + 1}", np.concatenate([*(coloured(h, pixels.shape[-1], smooth=True) for h in own), pixels]))
        )
    names = [*(f"{k}x{k}" for k in levels), *(f"latent {j + 1}" for j in range(latents))]
    note = "A row shares its heatmap (its first levels at left), a column its latent. No image was chosen."
    return write(out / "exchange.png", f"Heatmaps against latents: {describe(model)}", rows, note, names)


# ── what is shown ────────────────────────────────────────────────────────────


def moved(
    model: Trained, options: HeatmapOptions, direction: Tensor, level: int | None, name: str, latents: int
) -> list[Row]:
    """A row per latent: its heatmap, brought to the middle, moved by STEPS along `direction` [2]; all
    levels of it, or `level` alone. The rings follow what moves."""
    z, labels = latent(model, latents)
    start = heatmaps.sample_regions(options, latents, stream(model.trial.seed, "pictures/moves"))
    middle = heatmaps.shift(start, -start.centers[options.drawn[0]][:, 0])
    marked = options.drawn[0] if level is None else level
    images, centres = [], []
    for step in STEPS:
        now: Regions = heatmaps.shift(middle, step * direction, None if level is None else [level])
        maps = heatmaps.render(options, now, model.data.resolution)
        images.append(shown(forward(model, z, labels, maps).images))
        centres.append(places(options, now.centers[marked], heatmaps.side(options, marked, model.data.resolution)))
    return [
        ("" if j else name, ringed(np.stack([x[j] for x in images]), np.stack([c[j] for c in centres])))
        for j in range(latents)
    ]


def step_labels() -> list[str]:
    return [f"{s:+g}" if s else "0" for s in STEPS]


def latent(model: Trained, n: int) -> tuple[Tensor, Tensor | None]:
    """n fixed latents, and labels counting through the classes of a conditional model."""
    z = model.g.backbone.sample_z(n, stream(model.trial.seed, "pictures/z"))
    return z, torch.arange(n) % model.data.num_classes if model.trial.conditional else None


@torch.no_grad()
def forward(model: Trained, z: Tensor, labels: Tensor | None, maps: Heatmaps | None = None) -> Fakes:
    """G's images; whatever it draws besides (noise) is the same at every call."""
    return model.g(z, labels, draws=Streams(model.trial.seed, "pictures", 0), heatmaps=maps)


def generate(model: Trained, n: int) -> tuple[Fakes, Tensor | None]:
    z, labels = latent(model, n)
    return forward(model, z, labels), labels


def reals(model: Trained, n: int) -> tuple[Tensor, Tensor | None]:
    """The first n images of the first epoch, as D sees them."""
    images, labels = batch(model.data, model.trial.seed, 0, n, model.trial.conditional)
    return to_device(images, labels, slice(None), torch.device("cpu"))


def heatmap_options(model: Trained) -> HeatmapOptions | None:
    """How the model's heatmaps are drawn; None for a baseline."""
    variants = settled(model.trial, model.d).variants
    return next((v.options.heatmaps for v in variants if hasattr(v.options, "heatmaps")), None)


def levels_of(model: Trained) -> tuple[int, ...]:
    """At which the trial aligns D's attention; D's own where it does not."""
    align = settled(model.trial, model.d).variant("align")
    return align.compared if align else model.d.levels


def gradcam(model: Trained, images: Tensor, labels: Tensor | None) -> dict[int, Tensor]:
    """D's attention {level: [N, 1, h, h]} in [0, 1], as the trial aligns it (the paper's, at D's own levels,
    where it does not)."""
    align, levels = model.trial.variant("align"), levels_of(model)
    with torch.enable_grad():
        logits, feats = model.d(images.requires_grad_(True), labels, taps=tuple(str(k) for k in levels))
        how: dict[str, Any] = {"objective": align.objective, "rectify": align.rectify} if align else {}
        maps = attention.gradcam(logits, {k: feats[str(k)] for k in levels}, **how)
    return {k: attention.normalize(m).detach() for k, m in maps.items()}


def target(regions: Tensor, size: int) -> Tensor:
    """The summed regions [N, n, r, r] of a level, scaled to [0, 1] like the attention: [N, 1, size, size]."""
    return attention.normalize(heatmaps.resize(regions.sum(dim=1, keepdim=True), size, "centers"))


def overlay(images: Pixels, level: int, maps: Tensor) -> Row:
    """The first of `maps` [N, 1, h, h] over their images, and how many of all maps are 0 everywhere."""
    empty = int((maps.amax(dim=(1, 2, 3)) == 0).sum())
    label = f"D's attention\n{level}x{level}\nempty {empty} of {len(maps)}"
    return label, figures.overlay(images, maps[: len(images), 0].numpy())


def attention_note(model: Trained) -> str:
    align = model.trial.variant("align")
    what = "softplus(-D), ReLU per channel" if align and align.objective == "softplus" else "D's output"
    return (
        f"GradCAM of {what}, laid over the image in grey; each map is scaled to [0, 1], bright is where the score "
        f"comes from. Empty: no positive part at that level. Counted over {COUNTED} images."
    )


def describe(model: Trained) -> str:
    arm = " + ".join(v.name for v in model.trial.variants) or "baseline"
    return f"{arm} on {model.trial.backbone.name}, {model.nimg / 1000:g} kimg"


# ── drawing ──────────────────────────────────────────────────────────────────


def shown(images: Tensor) -> Pixels:
    """Images [N, 3, R, R] in [-1, 1] as pixels, small ones magnified by a whole factor to about SIDE."""
    return magnified(figures.to_pixels(images))


def magnified(images: NDArray[Any]) -> NDArray[Any]:
    factor = max(1, SIDE // images.shape[-1])
    return images.repeat(factor, axis=-2).repeat(factor, axis=-1)


def coloured(maps: NDArray[np.floating], side: int = SIDE, smooth: bool = False) -> Pixels:
    """Maps [N, h, w] in [0, 1] in colour, [N, 3, side, side]; `smooth`: interpolated, else pixel by pixel."""
    return figures.colour(maps if smooth else magnified(maps), side)


def ringed(images: Pixels, centres: NDArray[np.floating]) -> Pixels:
    """Rings on images [N, 3, S, S] at `centres` [N, n, 2] (x, y in [0, 1])."""
    size, radius, done = images.shape[-1], 3, []
    for image, points in zip(images, centres, strict=True):
        canvas = Image.fromarray(np.ascontiguousarray(image.transpose(1, 2, 0)))
        draw = ImageDraw.Draw(canvas)
        for x, y in points * size:
            for r, ink in ((radius + 1, "black"), (radius, "white")):  # seen on dark and on bright
                draw.ellipse((x - r, y - r, x + r, y + r), outline=ink)
        done.append(np.asarray(canvas).transpose(2, 0, 1))
    return np.stack(done)


def write(path: Path, title: str, rows: Sequence[Row], note: str, columns: Sequence[str] = ()) -> Path:
    """Save rows of images with their labels at left, `columns` above, a title and a note."""
    grid = figures.tile(np.concatenate([images for _, images in rows]), columns=len(rows[0][1]))
    step = rows[0][1].shape[-1] + figures.GAP
    font, large = ImageFont.load_default(13), ImageFont.load_default(18)
    left = 12 + max(int(font.getlength(line)) for label, _ in rows for line in label.split("\n")) + 12
    top = 44 + (20 if columns else 0)
    width = left + max(grid.shape[1] + 12, int(large.getlength(title)))
    lines = wrapped(note, font, width - 24)
    sheet = Image.new("RGB", (width, top + grid.shape[0] + 18 + 18 * len(lines)), "white")
    sheet.paste(Image.fromarray(grid), (left, top))
    draw = ImageDraw.Draw(sheet)
    draw.text((12, 12), title, "black", large)
    for i, name in enumerate(columns):
        draw.text((left + i * step + step / 2, top - 18), name, "black", font, anchor="ma")
    for i, (label, _) in enumerate(rows):
        draw.multiline_text((12, top + i * step + 4), label, "black", font, spacing=4)
    draw.multiline_text((12, top + grid.shape[0] + 8), "\n".join(lines), (90, 90, 90), font, spacing=4)
    figures.save(np.asarray(sheet), path)
    return path


def wrapped(text: str, font: Any, width: int) -> list[str]:
    """Lines of `text` no wider than `width` pixels."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines
