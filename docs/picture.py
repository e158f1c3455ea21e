"""README's picture: the top of an experiment's report, photographed in headless Chromium.

    make picture                                      results/rehearsal/report.html -> docs/figures/report.png
    make picture EXPERIMENT=smoke                     another experiment's

Needs a finished experiment (`python cli.py matrix ...`) and Chromium: /usr/bin/chromium, or the path in CHROMIUM.
"""

import argparse
import io
import os
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
MOST_BYTES = 400_000
COLOURS = (256, 128, 64, 32)  # of the palette: the first that keeps the file small enough


def photograph(page: Path, width: int, height: int) -> Image.Image:
    """The upper `height` pixels of the page at `width`, at twice the density, in the light style."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        tab = browser.new_page(viewport={"width": width, "height": height}, device_scale_factor=2, color_scheme="light")
        tab.goto(page.resolve().as_uri())
        shot = tab.screenshot()
        browser.close()
    return Image.open(io.BytesIO(shot)).convert("RGB")


def small_png(picture: Image.Image) -> bytes:
    """PNG of at most MOST_BYTES, with as many colours as fit."""
    for colours in COLOURS:
        buffer = io.BytesIO()
        picture.quantize(colours, dither=Image.Dither.NONE).save(buffer, "PNG", optimize=True)
        if buffer.tell() <= MOST_BYTES:
            return buffer.getvalue()
    sys.exit(f"the picture has {buffer.tell()} bytes in {COLOURS[-1]} colours; take a lower --height")


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("experiment", nargs="?", default="rehearsal")
    p.add_argument("--results", type=Path, default=Path("results"))
    p.add_argument("--out", type=Path, default=Path("docs/figures/report.png"))
    p.add_argument("--width", type=int, default=1440)
    p.add_argument("--height", type=int, default=1000)
    args = p.parse_args()
    page = args.results / args.experiment / "report.html"
    if not page.is_file():
        sys.exit(f"{page}: does not exist; run: python cli.py matrix experiments/{args.experiment}.yaml")
    if not Path(CHROMIUM).is_file():
        sys.exit(f"{CHROMIUM}: does not exist; install Chromium or set CHROMIUM to its path")
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_bytes(small_png(photograph(page, args.width, args.height)))
    print(f"{args.out}: {args.out.stat().st_size} bytes, of {page}")


if __name__ == "__main__":
    main()
