"""report.html, its charts and pictures: self-contained, well-formed, complete, and safe with odd names."""

import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from PIL import Image

from harness.pictures import figures
from harness.report import charts, grounds, page
from harness.report.collect import collect
from tests import fake_results as fake

VOID = {"meta", "img", "input", "br", "link"}


class Outline(HTMLParser):
    """Counts tags and raises on one that is closed out of turn."""

    def __init__(self, text):
        super().__init__()
        self.open: list[str] = []
        self.tags: dict[str, int] = {}
        self.links: list[str | None] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags[tag] = self.tags.get(tag, 0) + 1
        self.links += [v for k, v in attrs if k in ("src", "href", "data", "action")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_startendtag(self, tag, attrs):
        self.tags[tag] = self.tags.get(tag, 0) + 1


@pytest.fixture(scope="module")
def html(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    exp = fake.matrix(seeds=(0, 1))
    fake.fill(folder, exp, skip=lambda place, t: place[0] == "table3" and t.seed == 1)
    return page.html(collect(exp, folder))


def test_page_is_whole_and_needs_no_network(html):
    outline = Outline(html)
    assert all(link and link.startswith("data:image/webp;base64,") for link in outline.links)
    assert not re.search(r"https?://|@import|url\(|<link|<iframe", html)
    assert outline.tags["script"] == outline.tags["style"] == 1
    text = re.sub(r"base64,[^\"]*", "", html)
    assert "NaN" not in text and "None" not in text
    assert len(html) < 2_000_000


def test_page_has_tables_curves_and_pictures(html):
    outline = Outline(html)
    assert len(re.findall(r'<section class="table"', html)) == 3
    assert len(re.findall(r'<section class="ground"', html)) == 4  # LSUN Cat, FFHQ, CIFAR-10 twice
    assert outline.tags["polyline"] > 40
    arms = 5 + 3 + 3 + 3
    assert outline.tags["img"] == arms * grounds.MOST_SNAPSHOTS
    assert len(re.findall(r"<img[^>]* hidden", html)) == arms * (grounds.MOST_SNAPSHOTS - 1)
    for text in ("replicated", "paper 8.36", "seeds: 1 of 2: missing", "0123abcd4567", "last 5:"):
        assert text in html


def test_every_svg_is_well_formed_and_named(html):
    drawings = re.findall(r"<svg.*?</svg>", html, re.S)
    assert len(drawings) > 20
    for drawing in drawings:
        assert ET.fromstring(drawing).attrib["aria-label"]


def test_page_without_any_result(tmp_path):
    text = page.html(collect(fake.matrix(), tmp_path))
    Outline(text)
    assert "0 of 42 trials done, 42 missing" in text
    assert "ground" not in text.split("<main>")[1]


def test_page_of_failures_alone(tmp_path):
    table = fake.table(seeds=(0,), settings={"cifar10_unconditional": {}})
    one, two, three = (table.cells["cifar10_unconditional", a][0] for a in table.arms)
    fake.finish(
        tmp_path, one, {}, status="diverged", reason="loss/d is <not> finite", series={"loss/d": [[100, "nan"]]}
    )
    fake.live(tmp_path, two, "failed", message="RuntimeError: & so on")
    fake.live(tmp_path, three, "running")
    text = page.html(collect(fake.experiment(table), tmp_path))
    Outline(text)
    assert "loss/d is &lt;not&gt; finite" in text
    assert "RuntimeError: &amp; so on" in text
    assert "running 32%" in text


def test_names_are_escaped(tmp_path):
    evil = '<img src=x onerror=alert(1)>"'
    table = fake.table(title=evil, labels={"sel": evil, "cifar10_unconditional": evil}, seeds=(0, 1))
    exp = fake.experiment(table)
    fake.fill(tmp_path, exp, images=False)
    text = page.html(collect(exp, tmp_path))
    Outline(text)
    assert "<img src=x" not in text


def test_vanished_pictures_are_left_out(tmp_path):
    exp = fake.experiment(fake.table(seeds=(0,)))
    fake.fill(tmp_path, exp)
    for picture in tmp_path.rglob("*.png"):
        picture.unlink()
    text = page.html(collect(exp, tmp_path))
    Outline(text)
    assert "<img" not in text


def test_further_pictures_of_a_trial_are_shown(tmp_path):
    table = fake.table(seeds=(0,), settings={"cifar10_unconditional": {}})
    one = table.cells["cifar10_unconditional", "align"][0]
    figures.save(np.zeros((8, 8, 3), np.uint8), tmp_path / "trials" / one.id / "figures" / "gradcam.png")
    fake.finish(tmp_path, one, {"di": 1.0}, figures={"gradcam": "figures/gradcam.png"})
    text = page.html(collect(fake.experiment(table), tmp_path))
    assert grounds.CAPTIONS["gradcam"] in text
    assert "data:image/webp" in text


# ── charts ───────────────────────────────────────────────────────────────────


def test_band_is_mean_and_range_over_runs():
    b = charts.band("x", "red", [[[0, 1.0], [10, 2.0]], [[0, 3.0], [10, 6.0]]])
    assert b is not None
    np.testing.assert_array_equal([b.x, b.mean, b.low, b.high], [[0, 10], [2, 4], [1, 2], [3, 6]])


def test_band_keeps_runs_that_ended_early_and_gaps():
    b = charts.band("x", "red", [[[0, 1.0], [10, 2.0]], [[0, 3.0]], [[0, "nan"]]])
    assert b is not None
    np.testing.assert_array_equal(b.mean, [2, 2])
    assert charts.band("x", "red", [[], [[0, "nan"]]]) is None


def test_long_curves_are_averaged_in_bins():
    n = 5000
    b = charts.band("x", "red", [[[i, float(i)] for i in range(n)]])
    assert b is not None
    assert len(b.x) <= charts.MOST_POINTS
    assert b.mean[-1] == pytest.approx(n - n / charts.MOST_POINTS / 2, rel=0.01)


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-3.2, 0.1), (1e-5, 3e-5), (0, 25e6), (-1, -0.999)])
def test_ticks_are_round_few_and_inside(low, high):
    marks = charts.ticks(low, high)
    assert 2 <= len(marks) <= 6
    assert all(low - 1e-9 * (high - low) <= m <= high + 1e-9 * (high - low) for m in marks)


def test_constant_data_can_be_drawn():
    flat = charts.band("x", "red", [[[0, 2.0], [1, 2.0]]])
    assert flat is not None
    for drawing in (
        charts.curves([flat], "t"),
        charts.scatter([charts.Dot("a", "red", 0.0, 0.0)], "t", "x", "y"),
        charts.intervals([charts.Row("a", "red", 0.0, None, None)], "t", "x"),
    ):
        assert "nan" not in ET.tostring(ET.fromstring(drawing)).decode()


# ── pictures ─────────────────────────────────────────────────────────────────


def test_pixels_invert_the_scaling_of_reals():
    values = torch.arange(256, dtype=torch.float32).reshape(1, 1, 16, 16).expand(1, 3, 16, 16)
    assert (figures.to_pixels(values / 127.5 - 1) == values.numpy()).all()
    assert figures.to_pixels(torch.full((1, 3, 2, 2), 9.0)).max() == 255


def test_grid_file_holds_every_image_in_its_place(tmp_path):
    images = torch.linspace(-1, 1, 64).reshape(64, 1, 1, 1).expand(64, 3, 4, 4)
    figures.save_grid(images, tmp_path / "a" / "grid.png")
    saved = np.asarray(Image.open(tmp_path / "a" / "grid.png"))
    assert saved.shape == (32, 32, 3)
    for i in (0, 9, 63):
        assert (saved[i // 8 * 4, i % 8 * 4] == figures.to_pixels(images)[i, :, 0, 0]).all()


def test_overlay_is_brighter_where_the_map_is_high():
    images = np.full((2, 3, 16, 16), 100, np.uint8)
    maps = np.zeros((2, 4, 4))
    maps[:, 0, 0] = 1
    out = figures.overlay(images, maps)
    assert out.shape == images.shape
    assert out[0, :, 0, 0].sum() > out[0, :, -1, -1].sum() + 100
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\]"):
        figures.overlay(images, maps * 2)


def test_attention_and_edit_rows_have_a_column_an_image():
    images = np.zeros((3, 3, 16, 16), np.uint8)
    maps = {"4": np.full((3, 4, 4), 0.5), "8": np.full((3, 8, 8), 0.5)}
    assert figures.attention(images, maps).shape == (3 * 18 - 2, 3 * 18 - 2, 3)
    centres = np.stack([np.full((1, 2), 0.25 + 0.25 * t) for t in range(3)])
    rows = figures.edits([images], [centres])
    assert rows.shape == (16, 3 * 18 - 2, 3)
    assert (rows[..., 0] > 200).any()


def test_large_grids_are_cropped_and_shrunk(tmp_path):
    figures.save(np.zeros((1024, 1024, 3), np.uint8), tmp_path / "big.png")
    source = grounds.embed(tmp_path / "big.png", cells=True)
    assert source is not None
    assert len(source) < 5000


def test_curves_that_all_ended_before_the_first_step_are_drawn():
    at = np.zeros(1)
    drawn = charts.curves([charts.Band("Baseline", "#123456", at, at, at, at)], "DI during training")
    assert drawn.startswith("<svg") and "nan" not in drawn
