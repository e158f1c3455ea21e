"""A small classifier of grey images, trained here: what the metric `modes` reads three channels with.

It is fitted on the first five sixths of the images that it is given and judged on the rest, which it never saw. A
reading is a class and how sure of it the network is, in five steps: what is sure is hardly ever wrong. How often each
class gives each reading (the confusion) is kept with the weights. Both lie in the cache folder under the
content of images, classes and recipe, and are made once per machine, under a lock.
"""

import functools
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load as unpack
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn import functional as F

from harness import locks
from harness.disk import cache_folder, write_atomic
from harness.errors import UserError
from harness.rng import derive, stream

EPOCH = 1
VERSION = 2
"""Raised when the same images give another classifier or confusion, with the EPOCH of the metric `modes` and without
that above: all scorings reach this file by imports, and the figures of no other metric hang on it."""

CLASSES = 10
EPOCHS, BATCH_SIZE, PEAK_LR, SEED = 3, 128, 4e-3, 0
WIDTHS = (16, 32, 64)
SURE = (0.5, 0.7, 0.9, 0.99)
"""The probabilities that part the five steps."""
READINGS = CLASSES * (len(SURE) + 1)
REMEDY = "set NASHBOARD_CACHE to a folder with room"
RECIPE = f"CNN {'-'.join(map(str, WIDTHS))}, {EPOCHS} epochs, recipe {VERSION}, seed {SEED}"


class Network(nn.Module):
    """uint8 images [N, C, R, R] -> log probabilities [N, C * 10]: each channel is read by itself."""

    def __init__(self) -> None:
        super().__init__()
        blocks: list[nn.Module] = []
        for before, after in zip((1, *WIDTHS), WIDTHS, strict=False):
            convolution = nn.Conv2d(before, after, 3, padding=1, bias=False)
            blocks += [convolution, nn.BatchNorm2d(after), nn.ReLU(), nn.MaxPool2d(2)]
        self.body = nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Dropout(0.3))
        self.head = nn.Linear(WIDTHS[-1] * 16, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        x = images.flatten(0, 1)[:, None].float().div(127.5).sub(1)
        return self.head(self.body(x)).log_softmax(1).unflatten(0, images.shape[:2]).flatten(1)


class Classifier(NamedTuple):
    """`confusion` float64 [10, 50]: row, the true class; column, how often it gives each reading; rows sum to 1."""

    network: Network
    confusion: NDArray[np.float64]
    accuracy: float
    sha256: str


_images: dict[str, tuple[NDArray[np.uint8], NDArray[np.int64]]] = {}  # by the name of the classifier made from them


def named(grey: NDArray[np.uint8], classes: NDArray[np.int64]) -> str:
    """The name of the classifier of these images uint8 [M, R, R] with their classes int64 [M]. `ready` makes it."""
    digest = hashlib.sha256(np.ascontiguousarray(grey).data)
    digest.update(np.ascontiguousarray(classes, "<i8").data)
    recipe = (VERSION, EPOCHS, BATCH_SIZE, PEAK_LR, SEED, WIDTHS, SURE, grey.shape)
    name = f"{derive(digest.hexdigest(), recipe):016x}"
    _images.clear()
    _images[name] = grey, classes
    return name


def ready(name: str, waiting: Callable[[], None] = lambda: None) -> Path:
    """The file of the classifier that `named` named in this process, trained now (a minute or two) if it is not there.

    `waiting` is called now and then meanwhile, or while another process trains it. UserError where it can't be kept.
    """
    path = _path(name)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with locks.held(path.with_suffix(".lock"), REMEDY, waiting):
            if _whole(path) is None and name in _images:
                write_atomic(path, _fit(*_images[name], waiting))
    except OSError as e:
        raise UserError(f"{path.parent}: {e.strerror or e}; {REMEDY}") from None
    return path


@functools.lru_cache(maxsize=2)
def load(name: str) -> Classifier:
    """The classifier of that name, in eval mode on the CPU, trained now if it is not there."""
    path = ready(name)
    found = _whole(path)
    if found is None:
        raise UserError(f"{path}: gone since it was made; run again")
    tensors, digest = found
    network = Network()
    network.load_state_dict({k.removeprefix("network."): v for k, v in tensors.items() if k.startswith("network.")})
    confusion = tensors["confusion"].numpy()
    return Classifier(network.eval().requires_grad_(False), confusion, float(tensors["accuracy"]), digest)


def _fit(grey: NDArray[np.uint8], classes: NDArray[np.int64], waiting: Callable[[], None]) -> bytes:
    count = len(grey) * 5 // 6
    if min(count, len(grey) - count) < 1 or len(np.unique(classes[count:])) < CLASSES:
        raise UserError(f"eval: metrics.modes: {len(grey)} images: too few to fit and judge a classifier of 10 classes")
    images, labels = torch.from_numpy(grey), torch.from_numpy(classes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive("modes/classifier", SEED))  # initial weights and dropout
        network = Network().to(memory_format=torch.channels_last)
        batch_size = min(BATCH_SIZE, count)
        steps = count // batch_size
        optimiser = torch.optim.AdamW(network.parameters(), PEAK_LR / 25, weight_decay=0.01)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, PEAK_LR, total_steps=EPOCHS * steps)
        for epoch in range(EPOCHS):
            order = torch.randperm(count, generator=stream(SEED, "modes/order", epoch))
            for rows in order[: steps * batch_size].split(batch_size):
                optimiser.zero_grad()
                F.nll_loss(network(images[rows, None]), labels[rows]).backward()
                optimiser.step()
                schedule.step()
                waiting()
    network.eval()
    with torch.inference_mode():
        log_p = torch.cat([network(x[:, None]) for x in images[count:].split(500)])
    confusion = confusion_of(labels[count:].numpy(), readings(log_p.numpy()))
    tensors = {f"network.{k}": v.contiguous() for k, v in network.state_dict().items()}
    accuracy = (log_p.argmax(1) == labels[count:]).double().mean()
    body = save({**tensors, "confusion": torch.from_numpy(confusion), "accuracy": accuracy})
    return hashlib.sha256(body).digest() + body


def readings(log_p: NDArray[np.floating[Any]]) -> NDArray[np.int64]:
    """Log probabilities [..., 10] -> the reading [...]: 5 times the likeliest class, plus how sure it is (0 to 4)."""
    return log_p.argmax(-1) * (len(SURE) + 1) + np.searchsorted(np.log(SURE), log_p.max(-1))


def confusion_of(true: NDArray[np.int64], read: NDArray[np.int64]) -> NDArray[np.float64]:
    """Shares [10, 50] of each true class that give each reading. Half a count is added to every cell (Jeffreys' prior;
    Krichevsky and Trofimov 1981): what was not met among a thousand images is rare, not impossible. With too little a
    rare mistake is taken for a mode of its own."""
    counts = np.zeros((CLASSES, READINGS))
    np.add.at(counts, (true, read), 1)
    counts += 0.5
    return counts / counts.sum(1, keepdims=True)


def _whole(path: Path) -> tuple[dict[str, Tensor], str] | None:
    """The tensors of a file with its right checksum; None where it is missing or spoilt."""
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        return None
    if hashlib.sha256(raw[32:]).digest() != raw[:32]:
        return None
    try:
        return unpack(raw[32:]), raw[:32].hex()
    except SafetensorError:
        return None


def _path(name: str) -> Path:
    return cache_folder() / "classifiers" / f"{name}.bin"
