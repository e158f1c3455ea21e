"""Foreign image bytes to RGB: bounded before allocation, and one line for whatever is wrong."""

import io
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from PIL import ExifTags, Image, ImageOps

from harness.errors import UserError, one_line

EPOCH = 1

MAX_PIXELS = 64 * 2**20
"""The largest picture that is decoded (8192 x 8192); a small file that claims more is a bomb."""

Filter = Literal["box", "bilinear", "hamming", "bicubic", "lanczos"]
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
    """The first frame of a PNG, JPEG or WebP as RGB: upright by the camera's orientation tag, transparency composited
    on white, no colour profile applied. The one way from a file to pixels: to a data set and to `data prepare` a
    picture means the same. Raises UserError naming `place`."""
    try:
        with Image.open(io.BytesIO(data), formats=("PNG", "JPEG", "WEBP")) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise UserError(f"{place}: {width}x{height} pixels: more than {MAX_PIXELS}; scale the image down")
            image.load()
            depth = "16-bit" if image.mode.startswith("I") else "8-bit"
            return Picture(_rgb(ImageOps.exif_transpose(image)), depth, tuple(_notes(image)))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise UserError(f"{place}: more than {MAX_PIXELS} pixels; scale the image down") from None
    except UserError:
        raise
    except Exception as e:  # decoders raise many kinds (OSError, SyntaxError, struct.error ...) on foreign bytes
        reason = "no PNG, JPEG or WebP" if isinstance(e, Image.UnidentifiedImageError) else one_line(e)
        raise UserError(f"{place}: not a readable image ({reason}); replace or remove it") from None


def _notes(image: Image.Image) -> Iterator[str]:
    if image.getexif().get(ExifTags.Base.Orientation, 1) in range(2, 9):
        yield TURNED
    profile = image.info.get("icc_profile")
    if profile and b"sRGB" not in profile and "sRGB".encode("utf-16-be") not in profile:
        yield PROFILE
    if getattr(image, "n_frames", 1) > 1:
        yield FRAMES


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16-bit grey, which Pillow would clip instead of scale
        image = image.convert("I").point([v >> 8 for v in range(65536)], "L")
    if image.mode in ("LA", "PA", "RGBA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (255, 255, 255, 255)), image)
    return image.convert("RGB")


def centre_crop(image: Image.Image) -> Image.Image:
    """The largest square around the centre (half a pixel up and left where it can't be exact)."""
    side = min(image.size)
    x, y = (image.width - side) // 2, (image.height - side) // 2
    return image.crop((x, y, x + side, y + side))


def resize(image: Image.Image, resolution: int, filter: Filter) -> Image.Image:
    """To resolution x resolution with Pillow's antialiasing filter of that name."""
    if image.size == (resolution, resolution):
        return image
    return image.resize((resolution, resolution), _FILTERS[filter])


def require_square(image: Image.Image, place: str) -> None:
    if image.width != image.height:
        raise UserError(f"{place}: {image.width}x{image.height}: must be square; crop it, or see `data prepare folder`")
