"""What extractors see in the real images: computed once per machine, shared by all trials.

A cache file is named by the hash of all that decides its content (data fingerprint,
extractor, weights, resize, count, code), is written beside its place and moved there, carries its
own checksum, and is computed under a lock, so trials that start together compute it once. A
file that fails its checksum is computed again.
"""

import contextlib
import hashlib
import io
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from harness import locks, rng
from harness.data.imageset import ImageSet
from harness.disk import write_atomic
from harness.errors import UserError
from harness.evaluation import collect, features, frechet
from harness.evaluation.collect import Collector
from harness.evaluation.evidence import Evidence, Sample
from harness.evaluation.frechet import Moments

REMEDY = "set NASHBOARD_CACHE to a folder with room"
_SOURCES = tuple(str(module.__file__) for module in (features, collect, frechet)) + (__file__,)
_CODE = hashlib.sha256(b"".join(hashlib.sha256(Path(f).read_bytes()).digest() for f in _SOURCES)).hexdigest()
"""Of the files that decide what is cached, as this process runs them: fakes are never met by reals of other code."""


def reference(
    images: ImageSet,
    moments: Iterable[Sample],
    features: Iterable[Sample],
    *,
    batch_size: int,
    device: torch.device | str,
    cache: Path,
    progress: Callable[[int], None] = lambda count: None,
) -> Evidence:
    """Moments and features of the asked samples of real images. `progress` is told of every batch's images, and of 0
    now and then while another process computes them."""
    evidence = Evidence()
    for keep, samples in ((False, moments), (True, features)):
        for sample in samples:
            collector = Collector(sample.extractor, () if keep else (sample,), (sample,) if keep else (), device)
            told = [0]

            def compute(
                collector: Collector = collector, sample: Sample = sample, told: list[int] = told
            ) -> dict[str, NDArray]:
                for batch in _batches(images, sample.count, batch_size):
                    collector.add(torch.from_numpy(batch))
                    told[0] += len(batch)
                    progress(len(batch))
                if sample in collector.evidence.features:
                    return {"features": collector.evidence.features[sample]}
                done = collector.evidence.moments[sample]
                return {"mean": done.mean.cpu().numpy(), "scatter": done.scatter.cpu().numpy()}

            key = {
                "code": _CODE,
                "data": images.fingerprint,
                **collector.network.about,
                "layer": sample.layer,
                "count": sample.count,
                "kind": "features" if keep else "moments",
            }
            arrays = cached(cache, key, compute, waiting=lambda: progress(0))
            evidence.about[sample.extractor] = collector.network.about
            if keep:
                evidence.features[sample] = arrays["features"]
            else:
                mean, scatter = torch.from_numpy(arrays["mean"]), torch.from_numpy(arrays["scatter"])
                evidence.moments[sample] = Moments(sample.count, mean, scatter)
            progress(sample.count - told[0])
    return evidence


def chosen(total: int, count: int) -> NDArray[np.int64]:
    """Which reals a protocol of `count` uses: all in order, else a fixed random choice, the same in every trial."""
    if count == total:
        return np.arange(total)
    order = torch.randperm(total, generator=rng.stream(0, "eval/reals"))
    return np.sort(order[:count].numpy())


def cached(
    folder: Path,
    key: dict[str, object],
    compute: Callable[[], dict[str, NDArray]],
    waiting: Callable[[], None] = lambda: None,
) -> dict[str, NDArray]:
    """`compute()`, or what it gave before for the same key. `waiting` is called now and then while another process
    computes the same. Raises UserError if the folder can't be written."""
    name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:24]
    path = folder / "reals" / f"{name}.npz"
    with _usable(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
    with locks.held(path.with_suffix(".lock"), REMEDY, waiting):
        arrays = _read(path)
        if arrays is None:
            arrays = compute()
            _write(path, arrays)
        return arrays


def _batches(images: ImageSet, count: int, batch_size: int) -> Iterator[NDArray[np.uint8]]:
    rows = chosen(len(images.images), count)
    for start in range(0, count, batch_size):
        yield np.ascontiguousarray(images.images[rows[start : start + batch_size]])


@contextlib.contextmanager
def _usable(folder: Path) -> Iterator[None]:
    """Trouble with files of the cache, and with nothing else, as a UserError."""
    try:
        yield
    except OSError as e:
        raise UserError(f"{folder}: {e.strerror or e}; {REMEDY}") from None


def _write(path: Path, arrays: dict[str, NDArray]) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    body = buffer.getvalue()
    with _usable(path.parent):
        write_atomic(path, hashlib.sha256(body).digest() + body)


def _read(path: Path) -> dict[str, NDArray] | None:
    """The arrays of a whole file; None if it is missing or its checksum is wrong."""
    with _usable(path.parent):
        if not path.exists():
            return None
        raw = path.read_bytes()
    if hashlib.sha256(raw[32:]).digest() != raw[:32]:
        return None
    with np.load(io.BytesIO(raw[32:]), allow_pickle=False) as file:
        return {name: file[name] for name in file.files}
