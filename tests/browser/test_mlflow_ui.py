"""MLflow's pages in a real browser: our saved views show curves, bars, pictures; the parent shows the table."""

import json
import math
import os
import shutil
import time
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

from harness.experiment.matrix import Cell
from harness.store.journal import Journal
from harness.tracking.server import serve, view_link
from harness.tracking.sink import sync
from tests.fake_trials import entry

pytestmark = [
    pytest.mark.browser,
    pytest.mark.filterwarnings("ignore:::(mlflow|sqlalchemy|alembic|pydantic|google|starlette).*"),
]
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or "/usr/bin/chromium"
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
ARMS = ("baseline", "+ SEL", "+ L_align")
NOTE = "| arm | FD | DI |\n|---|---|---|\n| baseline | 12.31 | -0.51 |"


def trials(results):
    """Three arms of two seeds, with curves, grids and final scores, as files."""
    out = []
    for k, arm in enumerate(ARMS):
        for seed in range(2):
            e = entry(name_=f"{arm}{seed}")
            e = e._replace(serves=(Cell("table", "synthetic", arm, seed),))
            folder = results / "trials" / e.id
            journal = Journal(folder / "events.jsonl")
            for nimg in range(0, 8001, 400):
                values = {"loss/g": 2 - math.exp(-nimg / 4000) + k / 5, "loss/d": 1 + k / 9, "eval/di": -2 + nimg / 9e3}
                journal.metrics(nimg, values)
                if nimg % 4000 == 0:
                    journal.image(nimg, f"samples/{nimg}.png")
                    (folder / "samples").mkdir(exist_ok=True)
                    grid = Image.new("RGB", (128, 128), (40 * k, 90, 160))
                    ImageDraw.Draw(grid).ellipse((8, 8, 8 + nimg // 100, 90), fill="orange")
                    grid.save(folder / "samples" / f"{nimg}.png")
            scores = {"fd_efficientnet_lite0_5k_full": 12 - k + seed / 3, "di": -0.5 + k / 7}
            journal.metrics(8000, {f"final/{name}": value for name, value in scores.items()})
            journal.commit()
            journal.close()
            (folder / "result.json").write_text(
                json.dumps({"nimg": 8000, "metrics": {name: {"value": v} for name, v in scores.items()}})
            )
            (folder / "state.json").write_text(json.dumps({"state": "done", "time": time.time()}))
            out.append(e)
    return out


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    api = pytest.importorskip("playwright.sync_api")
    if not Path(CHROMIUM).exists():
        pytest.skip("no Chromium; install it or set CHROMIUM")
    results = tmp_path_factory.mktemp("results")
    sync(results, "demo", trials(results), note=NOTE)
    with serve(results, 0) as base, api.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page(viewport={"width": 1500, "height": 1400})
        page.base = base
        page.parent = json.loads(next((results / "demo").glob("tracking-*.json")).read_text())["parent"]
        yield page
        browser.close()


def shoot(page, name):
    """Keep a picture where SCREENSHOTS names a folder."""
    if folder := os.environ.get("SCREENSHOTS"):
        page.screenshot(path=Path(folder) / f"{name}.png")


def plots(page):
    return page.locator(".js-plotly-plot").count()


def test_the_view_by_arm_has_mean_curves_bars_and_a_scatter(page):
    page.goto(view_link(page.base, "demo"))
    page.wait_for_selector(".js-plotly-plot", timeout=60_000)
    page.wait_for_timeout(4000)
    shoot(page, "mlflow-by-arm")
    text = page.inner_text("body")
    assert "No charts in this section" not in text
    assert all(arm in text for arm in ARMS) and "final" in text and "loss" in text
    assert plots(page) >= 4


def test_the_view_of_every_trial_has_the_grids(page):
    page.goto(view_link(page.base, "demo", "every-trial"))
    page.wait_for_selector("img[src*='get-artifact'], img[src^='blob:'], img[src^='data:image']", timeout=60_000)
    page.wait_for_timeout(4000)
    shoot(page, "mlflow-every-trial")
    sizes = page.eval_on_selector_all("img", "all => all.map(i => i.naturalWidth)")
    assert sum(size >= 64 for size in sizes) >= 6
    text = page.inner_text("body")
    assert all(f"synthetic/{arm}/s0" in text or arm in text for arm in ARMS)


def test_the_parent_shows_the_table(page):
    address = view_link(page.base, "demo").split("/runs?")[0]
    page.goto(f"{address}/runs/{page.parent}")
    page.wait_for_selector("table", timeout=60_000)
    page.wait_for_timeout(2000)
    shoot(page, "mlflow-parent")
    text = page.inner_text("body")
    assert "12.31" in text and "-0.51" in text
