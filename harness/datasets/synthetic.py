"""Drawn images with known spatial structure: one object per image on a textured background.

The class is the object's shape; its place, size, turn and colour are random, and its box is
known, so that spatial control can be measured. A scene is defined in units of the image's
side: the same scene is drawn at every resolution.
"""

from dataclasses import dataclass
from typing import Annotated

import numpy as np

from harness.data.imageset import Channels, ImageSet, Split, fingerprint, with_channels
from harness.rng import derive

EPOCH = 1

SHAPES = ("disc", "square", "triangle", "ring", "cross", "star", "bar", "heart", "crescent", "hourglass")
MAX_BYTES = 4 * 2**30
_LATTICE = 7  # knots of the background's texture along a side


@dataclass(frozen=True)
class Options:
    resolution: Annotated[int, ">= 8, <= 1024"] = 32
    num_images: Annotated[int, ">= 1"] = 10_000
    seed: Annotated[int, ">= 0"] = 0
    channels: Channels = 3

    def __post_init__(self) -> None:
        if self.resolution & (self.resolution - 1):
            raise ValueError(f"resolution: {self.resolution}: must be a power of two, like 32 or 64")
        most = MAX_BYTES // (3 * self.resolution**2)
        if self.num_images > most:
            raise ValueError(f"num_images: {self.num_images}: must be at most {most} at resolution {self.resolution}")


def identity(options: Options) -> str:
    """The same for all: the options decide every image."""
    return "drawn"


def has_test(options: Options) -> bool:
    return True


def load(options: Options, split: Split = "train") -> ImageSet:
    """`num_images` images; the test split is as many from another random stream.

    Image i has class i mod 10 and does not depend on how many images are drawn.
    """
    images = np.empty((options.num_images, options.channels, options.resolution, options.resolution), np.uint8)
    boxes = np.empty((options.num_images, 4))
    labels = np.arange(options.num_images) % len(SHAPES)
    rng = np.random.Generator(np.random.PCG64(derive("synthetic", options.seed, split)))
    for start in range(0, len(images), 500):
        part = slice(start, start + 500)
        draws = rng.random((len(labels[part]), _NUM_DRAWS))
        drawn, boxes[part] = draw(labels[part], draws, options.resolution)
        images[part] = with_channels(drawn, options.channels)
    about = {
        "name": "synthetic",
        "split": split,
        "seed": options.seed,
        "count": len(images),
        "resolution": options.resolution,
        "filter": "none",
        "num_classes": len(SHAPES),
        "classes": list(SHAPES),
        "xflip": False,
    }
    return ImageSet(images, labels, len(SHAPES), fingerprint(images, labels, "none"), about, boxes=boxes)


_NUM_DRAWS = 16 + _LATTICE**2


def draw(labels: np.ndarray, draws: np.ndarray, resolution: int) -> tuple[np.ndarray, np.ndarray]:
    """labels [N] and uniform draws [N, 16 + knots] -> images uint8 [N, 3, R, R] and boxes [N, 4].

    A box encloses the pixels that the object covers by half or more.
    """
    u = draws[:, :16].T[..., None, None]  # each [N, 1, 1]
    radius = 0.17 + 0.15 * u[0]
    cx, cy = (radius + (1 - 2 * radius) * u[i] for i in (1, 2))
    angle = (u[3] - 0.5) * 0.7  # at most 20 degrees, so that no shape turns into another
    pixel = (np.arange(resolution) + 0.5) / resolution
    dx, dy = pixel[None, None, :] - cx, pixel[None, :, None] - cy
    x = (np.cos(angle) * dx + np.sin(angle) * dy) / radius
    y = (np.cos(angle) * dy - np.sin(angle) * dx) / radius

    distance = np.empty(x.shape)
    for k, name in enumerate(SHAPES):
        chosen = labels == k
        distance[chosen] = _DISTANCE[name](x[chosen], y[chosen])
    cover = np.clip(0.5 - distance * radius * resolution, 0.0, 1.0)  # antialiased over one pixel

    dark = u[4] < 0.5  # a dark background takes a bright object, and the other way round
    hue = u[5]
    body = _rgb(hue, 0.75 + 0.25 * u[6], np.where(dark, 0.85 + 0.15 * u[7], 0.45 + 0.25 * u[7]))
    shade = 1.0 + 0.18 * np.clip(-(x + y) / 1.4, -1.0, 1.0)  # lit from the upper left
    ground_hue = hue + 0.3 + 0.4 * u[8]
    value = np.where(dark, 0.16 + 0.2 * u[9], 0.78 + 0.18 * u[9])
    first = _rgb(ground_hue, 0.15 + 0.35 * u[10], value)
    second = _rgb(ground_hue + 0.16 * (u[11] - 0.5), 0.15 + 0.35 * u[12], value + np.where(dark, 0.14, -0.2))
    texture = _texture(draws[:, 16:], resolution)

    ground = first + (second - first) * texture[:, None]
    image = ground + (np.minimum(body * shade[:, None], 1.0) - ground) * cover[:, None]
    return np.rint(image * 255).astype(np.uint8), _boxes(cover >= 0.5)


def _texture(knots: np.ndarray, resolution: int) -> np.ndarray:
    """Smooth noise [N, R, R] in [0, 1] through random knots [N, lattice**2], with its contrast raised."""
    at = (np.arange(resolution) + 0.5) / resolution * (_LATTICE - 1)
    left = np.minimum(at.astype(int), _LATTICE - 2)
    t = at - left
    weights = np.zeros((resolution, _LATTICE))
    weights[np.arange(resolution), left + 1] = t * t * (3 - 2 * t)
    weights[np.arange(resolution), left] = 1 - t * t * (3 - 2 * t)
    noise = weights @ knots.reshape(-1, _LATTICE, _LATTICE) @ weights.T
    return np.clip((noise - 0.5) * 1.6 + 0.5, 0.0, 1.0)


def _boxes(mask: np.ndarray) -> np.ndarray:
    """Masks [N, R, R] -> (x0, y0, x1, y1) [N, 4], x1 and y1 exclusive."""
    size = mask.shape[-1]
    columns, rows = np.asarray(mask.any(1)), np.asarray(mask.any(2))
    x0, y0 = columns.argmax(1), rows.argmax(1)
    x1, y1 = size - columns[:, ::-1].argmax(1), size - rows[:, ::-1].argmax(1)
    return np.stack([x0, y0, x1, y1], 1).astype(float)


def _rgb(hue: np.ndarray, saturation: np.ndarray, value: np.ndarray) -> np.ndarray:
    """HSV [N, 1, 1] each -> RGB [N, 3, 1, 1] in [0, 1]; hue is cyclic with period 1."""
    k = (np.array([5.0, 3.0, 1.0])[:, None, None] + hue[:, None] * 6) % 6
    return value[:, None] * (1 - saturation[:, None] * np.clip(np.minimum(k, 4 - k), 0.0, 1.0))


# Signed distances in units of the object's radius, y downwards: negative inside the shape, which
# lies within the unit disc. Exact near the edge up to corners, which is what antialiasing needs.


def _disc(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.sqrt(x * x + y * y) - 0.95


def _box(x: np.ndarray, y: np.ndarray, half_x: float, half_y: float) -> np.ndarray:
    return np.maximum(np.abs(x) - half_x, np.abs(y) - half_y)


def _triangle(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.maximum(y - 0.5, 0.8660254 * np.abs(x) - 0.5 * y - 0.5)


def _ring(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.abs(np.sqrt(x * x + y * y) - 0.69) - 0.26


def _cross(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.minimum(_box(x, y, 0.92, 0.3), _box(x, y, 0.3, 0.92))


def _star(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """A pentagram: inside at least four of its five half-planes."""
    turns = np.arange(5) * (2 * np.pi / 5)
    planes = np.stack([np.sin(a) * x + np.cos(a) * y - 0.309 for a in turns])
    planes.sort(axis=0)
    return planes[3]


def _heart(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """A unit-diagonal square on its corner, and a disc on each of its two upper sides."""
    u, v = np.abs(x) / 1.5, 0.62 - y / 1.5
    square = 0.7071068 * (u + np.abs(v - 0.5) - 0.5)
    disc = np.sqrt((u - 0.25) ** 2 + (v - 0.75) ** 2) - 0.3535534
    return 1.5 * np.minimum(square, disc)


def _crescent(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    bite = np.sqrt((x - 0.45) ** 2 + y * y) - 0.7
    return np.maximum(_disc(x, y), -bite)


def _hourglass(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.maximum(np.abs(y) - 0.76, 0.8 * np.abs(x) - 0.6 * np.abs(y) - 0.06)


_DISTANCE = {
    "disc": _disc,
    "square": lambda x, y: _box(x, y, 0.7, 0.7),
    "triangle": _triangle,
    "ring": _ring,
    "cross": _cross,
    "star": _star,
    "bar": lambda x, y: _box(x, y, 0.26, 0.95),
    "heart": _heart,
    "crescent": _crescent,
    "hourglass": _hourglass,
}
