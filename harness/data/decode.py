"""Foreign image bytes to RGB: bounded before allocation, and one line for whatever is wrong.

The rules, the same at every door (a folder, a ZIP, `data prepare`, scoring):

    format        PNG, JPEG, WebP, TIFF, BMP or GIF by content, whatever the name; of several frames the first
    orientation   upright by the camera's tag
    alpha         on white: alpha channels, a transparent colour of a palette or of a file, premultiplied or not
    grey          repeated; one bit is black and white; CMYK by Pillow's formula; no colour profile is applied
    16 bits       the upper 8; values of 32 bits, signed ones and fractions are refused, whose range no file tells
    shape         square, or made so: see `square`
"""

import io
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import ExifTags, Image, ImageOps

from harness.errors import UserError, one_line

EPOCH = 1

MAX_PIXELS = 64 * 2**20
"""The largest picture that is decoded (8192 x 8192); a small file that claims more is a bomb."""

Filter = Literal["box", "bilinear", "hamming", "bicubic", "lanczos"]
Crop = Literal["none", "centre", "pad"]
"""How a picture that is not square becomes so: not at all, by its middle, or by black on both sides."""

FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF")
_FILTERS = {
    "box": Image.Resampling.BOX,
    "bilinear": Image.Resampling.BILINEAR,
    "hamming": Image.Resampling.HAMMING,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}

# Pillow warns before it refuses; a picture that large is refused here at once.
warnings.simplefilter("error", Image.DecompressionBombWarning)


TURNED = "turned upright, as their orientation tag says"
PROFILE = "of a colour profile other than sRGB, which is not applied"
FRAMES = "of several frames, the first of which is taken"


@dataclass(frozen=True)
class Picture:
    """`image` is RGB. `depth`: "8-bit" or "16-bit", as stored. `notes`: what else the file holds that a user should
    know of, like TURNED."""

    image: Image.Image
    depth: str
    notes: tuple[str, ...]


def decode(data: bytes, place: str) -> Picture:
    """The first frame of a file as RGB, by the rules above. The one way from a file to pixels: to a data set and to
    `data prepare` a picture means the same. Raises UserError naming `place`."""
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise UserError(f"{place}: {width}x{height} pixels: more than {MAX_PIXELS}; scale the image down")
            turned = _is_turned(image)  # a TIFF forgets its tag while it is loaded, a PNG may have it at its end
            image.load()
            if image.format == "TIFF" and image.mode in ("I", "F"):
                kind = "signed or 32-bit values" if image.mode == "I" else "fractions"
                raise UserError(f"{place}: holds {kind}, of which no range is known; save it with 8 or 16 bits")
            depth = "16-bit" if image.mode.startswith("I") else "8-bit"
            notes = tuple(_notes(image, turned or _is_turned(image)))
            return Picture(_rgb(ImageOps.exif_transpose(image), _is_negative(image)), depth, notes)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise UserError(f"{place}: more than {MAX_PIXELS} pixels; scale the image down") from None
    except UserError:
        raise
    except Exception as e:  # decoders raise many kinds (OSError, SyntaxError, struct.error ...) on foreign bytes
        reason = "no PNG, JPEG, WebP, TIFF, BMP or GIF" if isinstance(e, Image.UnidentifiedImageError) else one_line(e)
        raise UserError(f"{place}: not a readable image ({reason}); replace or remove it") from None


def _is_turned(image: Image.Image) -> bool:
    return image.getexif().get(ExifTags.Base.Orientation, 1) in range(2, 9)


def _is_negative(image: Image.Image) -> bool:
    """Whether 0 is white in a TIFF of 16 bits; Pillow turns only those of fewer bits round."""
    tags = getattr(image, "tag_v2", {})
    return image.mode.startswith("I;16") and tags.get(ExifTags.Base.PhotometricInterpretation) == 0


def _notes(image: Image.Image, turned: bool) -> Iterator[str]:
    if turned:
        yield TURNED
    profile = image.info.get("icc_profile")
    if profile and b"sRGB" not in profile and "sRGB".encode("utf-16-be") not in profile:
        yield PROFILE
    if getattr(image, "is_animated", False):
        yield FRAMES


def _rgb(image: Image.Image, negative: bool) -> Image.Image:
    if image.mode.startswith("I"):  # 16-bit grey, which Pillow would clip instead of scale
        clear = image.info.pop("transparency", None)
        deep = image.convert("I")
        image = deep.point([(65535 - v if negative else v) >> 8 for v in range(65536)], "L")
        if isinstance(clear, int):
            image.putalpha(Image.fromarray(np.where(np.asarray(deep) == clear, 0, 255).astype(np.uint8)))
    if image.mode in ("LA", "PA", "RGBA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (255, 255, 255, 255)), image)
    return image.convert("RGB")


def square(image: Image.Image, crop: Crop, place: str, option: str) -> Image.Image:
    """RGB made square: "centre" takes the largest square around the centre, "pad" lays the picture into the middle of
    the smallest black square that holds it (half a pixel up and left where that can't be exact). UserError naming
    `place` for "none" and a picture that is not square; `option` is what the user may set."""
    width, height = image.size
    if width == height:
        return image
    if crop == "none":
        raise UserError(
            f"{place}: {width}x{height}: must be square; {option} centre takes the middle, {option} pad adds black"
        )
    if crop == "centre":
        side = min(width, height)
        x, y = (width - side) // 2, (height - side) // 2
        return image.crop((x, y, x + side, y + side))
    side = max(width, height)
    if side**2 > MAX_PIXELS:
        raise UserError(f"{place}: {width}x{height}: {side}x{side} when padded: more than {MAX_PIXELS}; scale it down")
    padded = Image.new("RGB", (side, side))
    padded.paste(image, ((side - width) // 2, (side - height) // 2))
    return padded


def resize(image: Image.Image, resolution: int, filter: Filter) -> Image.Image:
    """To resolution x resolution with Pillow's antialiasing filter of that name."""
    if image.size == (resolution, resolution):
        return image
    return image.resize((resolution, resolution), _FILTERS[filter])
