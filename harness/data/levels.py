"""How much of the range from black to white images use: what is hardly used is said, since training can't tell.

A 16-bit file whose values are of 12 bits is dark by its format, and stays so: brightest pixel 15 of 255.
"""

from collections.abc import Mapping

from harness.data.imageset import Pixels, blocks

LEAST = 32  # levels between the darkest and the brightest pixel of an image, of 256
SAMPLE = 1024  # images


def of_set(darkest: int, brightest: int) -> str | None:
    """A note where all pixels of a set (0 .. 255) lie in one half of the range, or in a quarter of it."""
    if brightest < 128:
        return f"brightest pixel {brightest} of 255"
    if darkest >= 128:
        return f"darkest pixel {darkest} of 255"
    if brightest - darkest < 64:
        return f"no pixel below {darkest} or above {brightest} of 255"
    return None


def notes(ranges: Mapping[str, tuple[int, int]], flat: int, count: int) -> list[str]:
    """Of `count` images: `ranges`, {kind of file: (darkest, brightest)}, and how many use fewer than LEAST levels."""
    found = [(kind, of_set(*ranges[kind])) for kind in sorted(ranges)]
    said = [f"{note}{f' in the {kind} files' if len(ranges) > 1 else ''}{_cure(kind)}" for kind, note in found if note]
    if flat and not said:
        said.append(f"{flat} of {count} images use fewer than {LEAST} of the 256 levels from black to white")
    return said


def of_sample(images: Pixels) -> list[str]:
    """Notes on uint8 images [N, C, R, R], by at most SAMPLE of them, evenly spread."""
    some = images[:: -(-len(images) // SAMPLE)]
    ends = [(int(block.min()), int(block.max())) for block in blocks(some)]
    note = of_set(min(lo for lo, _ in ends), max(hi for _, hi in ends))
    return [note] if note else []


def widen(ranges: dict[str, tuple[int, int]], kind: str, darkest: int, brightest: int) -> None:
    """Let the range of a kind of file hold one more image."""
    low, high = ranges.get(kind, (255, 0))
    ranges[kind] = min(low, darkest), max(high, brightest)


def _cure(kind: str) -> str:
    return ": 16 bits are scaled as such; if yours are fewer, scale the files up" if kind == "16-bit" else ""
