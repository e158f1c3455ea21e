"""report.html in headless Chromium, wide and narrow."""

import os
from pathlib import Path

import pytest

from harness.report.collect import collect
from harness.report.write import write
from tests import fake_results as fake

pytestmark = pytest.mark.browser
CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api")
    if not Path(CHROMIUM).exists():
        pytest.skip(f"no Chromium at {CHROMIUM}; install it or set CHROMIUM")
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    exp = fake.matrix(seeds=(0, 1, 2))
    fake.fill(folder, exp, skip=lambda place, t: place[0] == "table3" and t.seed == 2)
    paths = write(collect(exp, folder), folder)
    return next(p for p in paths if p.name == "report.html").as_uri()


@pytest.fixture(params=[1440, 420], ids=["wide", "narrow"])
def page(request, browser, address):
    tab = browser.new_page(viewport={"width": request.param, "height": 900})
    complaints, requests = [], []
    tab.on("console", lambda m: complaints.append(m.text))
    tab.on("pageerror", lambda e: complaints.append(str(e)))
    tab.on("request", lambda r: requests.append(r.url))
    tab.goto(address)
    yield tab
    tab.close()
    assert complaints == []
    assert all(url.startswith(("file:", "data:")) for url in requests)


def test_nothing_is_wider_than_the_window(page):
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_tables_curves_and_images_are_drawn(page):
    assert page.locator("section.table .panel:visible table.cells").count() == 3
    lines = page.locator(".charts svg polyline")
    assert lines.count() > 40
    assert all(box["width"] > 30 for box in (lines.nth(i).bounding_box() for i in range(0, lines.count(), 9)))
    shown = page.locator(".samples img:visible")
    assert shown.count() == 5 + 3 + 3 + 3
    assert page.evaluate("[...document.images].every(i => i.complete && i.naturalWidth > 0)")


def test_labels_do_not_overlap(page):
    """Row labels of the interval charts stay left of their axis and within the figure."""
    for svg in page.locator(".forests:visible svg").all()[:4]:
        frame = svg.bounding_box()
        for text in svg.locator("text[text-anchor=end]").all():
            assert text.bounding_box()["x"] >= frame["x"] - 1


def test_a_tab_shows_its_metric_alone(page):
    section = page.locator("section.table").first
    section.get_by_role("button", name="calibrated DI").click()
    assert section.locator(".panel:visible").count() == 1
    assert "calibrated DI" in section.locator(".panel:visible thead").inner_text()
    section.get_by_role("button", name="FID and DI").click()
    assert "FID" in section.locator(".panel:visible thead").inner_text()


def test_the_slider_goes_back_in_training(page):
    film = page.locator(".film").first
    before = film.locator("img:visible").first.get_attribute("alt")
    film.locator("input").fill("0")
    after = film.locator("img:visible").first.get_attribute("alt")
    assert "400k" in before
    assert "80k" in after
    assert film.locator("output").inner_text() == "80k"


def test_only_what_is_certain_within_the_page_is_filled(page):
    """The comparison of methods: a cell's look is its class, and its names stay in view while it scrolls sideways."""
    section = page.locator("section.methods").first
    clear = "rgba(0, 0, 0, 0)"
    for kind, filled in (("filled", True), ("hollow", False)):
        example = section.locator(f".key .eff.{kind}").first
        style = example.evaluate("e => [getComputedStyle(e).backgroundColor, getComputedStyle(e).boxShadow]")
        assert (style[0] != clear) == filled
        assert (style[1] != "none") != filled
    box = section.locator(".scroll").first
    name = box.locator("tbody th").first
    before = name.bounding_box()["x"]
    box.evaluate("e => e.scrollLeft = 500")
    assert abs(name.bounding_box()["x"] - before) < 1
    cells = section.locator("tbody td").all()
    assert all(cell.inner_text().strip() for cell in cells)
