"""A metric that measures with a network that an arm was trained with is said to, wherever its table is."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness import outside, plugins
from harness.experiment.schema import parse
from harness.experiment.spec import Plugin, Table
from harness.report import networks, tables
from harness.report.collect import collect
from harness.report.latex import latex
from harness.report.write import write
from tests import fake_results as fake
from tests.fake_results import finish, score

OWN = """
from dataclasses import dataclass

@dataclass(frozen=True)
class Options:
    network: str = "efficientnet_lite0"

def uses(options):
    return (options.network,) if options.network else ()

def check(options, resolution, num_classes): ...
def build(options, resolution, num_classes, channels=3): ...
"""
LITE0, LITE1 = "efficientnet-lite0", "efficientnet-lite1"
FAVOURS = "it favours what was trained with it"


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Path]:
    for file in ("variants/projected.py", "backbones/taught.py"):
        (tmp_path / "mine" / file).parent.mkdir(parents=True)
        (tmp_path / "mine" / file).write_text(OWN)
    outside.use([outside.read(tmp_path / "mine")])
    yield tmp_path
    outside.use([])


def plugin(shelf: str, name: str, **options: str) -> Plugin:
    return Plugin(name, parse(plugins.find(shelf, name).Options, options, "test"))


def table(arms: dict[str, dict[str, Any]]) -> Table:
    made = fake.table(settings={"one": {}}, arms=dict.fromkeys(arms, ()), labels={"projected": "+ Projected"})
    cells = {place: tuple(replace(t, **arms[place[1]]) for t in cell) for place, cell in made.cells.items()}
    return replace(made, cells=cells)


def test_it_stands_below_the_table_on_the_page_and_in_mlflows_note(own: Path) -> None:
    projected = {"variants": (plugin("harness.variants", "projected"),)}
    made = table({"baseline": {}, "projected": projected})
    for cell in made.cells.values():
        for trial in cell:
            distances = {"fd_efficientnet_lite0_5k_full": LITE0, "fd_efficientnet_lite1_5k_full": LITE1}
            finish(own, trial, {name: score(3.0, extractor=used) for name, used in distances.items()})
    report = collect(fake.experiment(made), own)
    (t,) = report.tables
    (said,) = [note for note in t.notes if FAVOURS in note]
    assert said.startswith(
        "FD-Lite0 5k_full measures with efficientnet-lite0, as variant projected does in + Projected:"
    )
    written = {path.suffix: path.read_text() for path in write(report, own) if path.suffix in (".html", ".md", ".tex")}
    texts = ["\n".join(tables.grid(t).notes), tables.note(report), latex(t)]
    assert len(written) == 3 and all(said in text for text in (*texts, *written.values()))


@pytest.mark.parametrize(
    "network, extractor, alike",
    [
        ("efficientnet_lite0", LITE0, True),
        ("EfficientNet-Lite0", LITE0, True),
        ("efficientnet", LITE1, True),
        ("inception", "inception-v3-compat", True),
        ("dinov2", "dinov2-vit-l-14", True),
        ("efficientnet_lite0", LITE1, False),
        ("efficientnet_lite", LITE0, False),
        ("vgg16", LITE0, False),
        ("", LITE0, False),
    ],
)
def test_a_network_is_known_by_the_front_of_its_name(network: str, extractor: str, alike: bool, own: Path) -> None:
    assert networks.same(network, extractor) == alike
    for part in (
        {"backbone": plugin("backbones", "taught", network=network)},
        {"variants": (plugin("harness.variants", "projected", network=network),)},
    ):
        assert bool(networks.shared(replace(fake.trial(), **part), {"extractor": extractor})) == alike


def test_nothing_is_said_where_nobody_names_a_network(own: Path) -> None:
    assert networks.shared(fake.trial(variants=("sel",)), {"extractor": LITE0}) is None
    taught = replace(fake.trial(), backbone=plugin("backbones", "taught"))
    assert networks.shared(taught, {}) is None


def test_what_a_record_tells_stands_below_its_table_once(tmp_path: Path) -> None:
    """On the page, in the tables as text and in MLflow's note, whoever of the trials says it; a record of before that
    tells nothing is read as ever."""
    made = table({"baseline": {}, "sel": {"variants": (plugin("harness.variants", "sel"),)}})
    for arm, cell in zip(("baseline", "sel"), made.cells.values(), strict=True):
        for trial in cell:
            figure = score(950.0, "higher")
            figure["extra"] = {"told": "read by a classifier that is right about 91.4%"} if arm == "sel" else {}
            finish(tmp_path, trial, {"modes50k": figure, "fid50k_full": 3.0})
    report = collect(fake.experiment(made), tmp_path)
    (t,) = report.tables
    assert [note for note in t.notes if "91.4%" in note] == ["read by a classifier that is right about 91.4%"]
    pages = [path.read_text() for path in write(report, tmp_path) if path.suffix in (".html", ".md")]
    assert len(pages) == 2 and all("91.4%" in text for text in (*pages, tables.note(report)))
