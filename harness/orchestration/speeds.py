"""How fast a trial of a *shape* trains: backbone, resolution, variants, batch, precision.

Speeds come from trials of that shape that finished here, else from throughput.json beside this file
(`python -m bench.throughput`), else from what was published. A shape without any says so; nothing is guessed.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from harness.errors import UserError
from harness.experiment import ids
from harness.experiment.parse import parse_trial, plugin
from harness.experiment.schema import plain
from harness.experiment.spec import Plugin, Trial

Kind = Literal["gpu", "cpu"]
KINDS: tuple[Kind, ...] = ("gpu", "cpu")
CLASSES = 10  # of a conditional trial, to size its networks; a class more or less is a row of an embedding
# Sides of datasets that have no option for it.
NATIVE = {"cifar10": 32, "fashion_mnist": 32, "stacked_fashion_mnist": 32}
THROUGHPUT = Path(__file__).parent / "throughput.json"  # of the package, so that an installed one knows it too
# StyleGAN3's documentation gives 2.47 s per 1,000 images for `paper256` on 8 A100; the paper adds "around 30 %".
PUBLISHED_GPU_S_PER_KIMG = 8 * 2.47
PUBLISHED_OVERHEAD = 1.30
PUBLISHED = "published: 2.47 s/kimg of paper256 on 8 A100, +30 % for arms with variants"


class Record(NamedTuple):
    """A measured speed: images per second of one trial of `shape` on one `device` ("cpu", or a GPU's name)."""

    shape: Mapping[str, Any]
    device: str
    images_per_s: float
    source: str


class Speed(NamedTuple):
    """Images per second on one device, and where that is known from."""

    images_per_s: float
    source: str


def shape(trial: Trial) -> dict[str, Any]:
    """What a trial's speed hangs on, flat and as plain data; of its images that is their size."""
    t = trial.train
    return {
        "backbone": trial.backbone.name,
        **{f"backbone.{k}": v for k, v in plain(trial.backbone.options).items()},
        "resolution": resolution(trial),
        "conditional": trial.conditional,
        "variants": [_variant(v) for v in trial.variants],
        "batch_size": t.batch_size,
        "microbatch": t.microbatch,
        "d_steps": t.d_steps,
        "r1_interval": t.r1_interval if t.r1_gamma else None,
        "pl_interval": t.pl_interval if t.pl_weight else None,
        "precision": t.precision,
        "tf32": t.tf32,
    }


def _variant(variant: Plugin) -> str:
    """A variant's name with its profile and whatever is not as that profile has it: `sel (release, hidden 8)`."""
    profile = getattr(variant.options, "profile", "paper")
    usual = plugin("harness.variants", {"name": variant.name, "profile": profile}, "variant")
    changed = [f"{k} {json.dumps(v)}" for k, v in ids.differing(variant.options, usual.options).items()]
    said = ", ".join([*([profile] if profile != "paper" else []), *changed])
    return f"{variant.name} ({said})" if said else variant.name


def resolution(trial: Trial) -> int | None:
    """Side of the trial's images in pixels; None where only the files tell it."""
    return getattr(trial.dataset.options, "resolution", None) or NATIVE.get(trial.dataset.name)


def speed(trial: Trial, kind: Kind, records: Iterable[Record]) -> Speed | None:
    """The trial's speed on one GPU, or on its share of cores; None where nobody measured it.

    The first record whose shape the trial has counts; a record made before an option existed still does.
    """
    now = shape(trial)
    for r in records:
        if (r.device == "cpu") == (kind == "cpu") and r.shape.items() <= _hashable(now).items():
            return Speed(r.images_per_s, r.source)
    if kind == "gpu" and _is_paper256(now):
        slower = PUBLISHED_OVERHEAD if trial.variants else 1.0
        return Speed(1000 / (PUBLISHED_GPU_S_PER_KIMG * slower), PUBLISHED)
    return None


def _is_paper256(shape: Mapping[str, Any]) -> bool:
    wanted = {"backbone": "stylegan2", "backbone.channel_base": 16384, "resolution": 256, "batch_size": 64}
    return wanted.items() <= _hashable(shape).items()


def _hashable(shape: Mapping[str, Any]) -> dict[str, Any]:
    """`shape` with lists as tuples, so that the items of two shapes can be compared as sets."""
    return {k: tuple(v) if isinstance(v, list) else v for k, v in shape.items()}


def measured(path: Path = THROUGHPUT) -> list[Record]:
    """The records of throughput.json; none where the file is missing. UserError where it is broken."""
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
        return [
            Record(
                _hashable(r["shape"]), r["device"], float(r["images_per_s"]), f"measured: {r['machine']}, {r['commit']}"
            )
            for r in rows
        ]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as e:
        raise UserError(f"{path}: not readable ({e!r}); remove it and measure again") from None


def finished_here(results: Path) -> list[Record]:
    """A record for every finished trial under `results`/trials, the fastest of a shape first."""
    found = []
    for path in sorted((results / "trials").glob("*/result.json")):
        try:
            result = json.loads(path.read_text(encoding="utf-8"))
            trial = parse_trial(result["config"], str(path))
            rate, device = float(result["cost"]["images_per_s"]), str(result["env"]["device"])
        except (OSError, ValueError, KeyError, TypeError, UserError):
            continue  # a result of another version tells nothing about speed
        if result.get("status") == "done" and rate > 0:
            found.append(Record(_hashable(shape(trial)), device, rate, "measured: trials that finished here"))
    return sorted(found, key=lambda r: -r.images_per_s)


def seconds(trial: Trial, records: Iterable[Record]) -> float:
    """How long the trial trains, for the order of launching: on a GPU, else on a core, else 0 for not known."""
    known = speed(trial, "gpu", records) or speed(trial, "cpu", records)
    return images(trial) / known.images_per_s if known else 0.0


def images(trial: Trial) -> int:
    """Real images shown to D in the whole training."""
    return round(trial.train.total_kimg * 1000)
