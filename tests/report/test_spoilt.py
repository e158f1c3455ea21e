"""A result.json that was spoilt after it was written is one line, whatever is wrong in it, never a traceback."""

import copy
import json
from pathlib import Path

import pytest
from PIL import Image

from harness.errors import UserError
from harness.experiment import ids
from harness.report import latex, page, record, tables
from harness.report.collect import collect
from tests import fake_results as fake

TABLE = fake.table(settings={"s": {}}, arms={"baseline": (), "align": ("sel", "align")}, seeds=(0,))
WRONG = (None, True, 5, -1.5, 1e400, "x", "", [], {}, [[]], ["x"], [[1]], {"a": None}, "../../secret.png", 2**70)


def good(results):
    """Two finished trials with everything that a result may hold; the path of one."""
    for arm in ("baseline", "align"):
        (one,) = TABLE.cells["s", arm]
        folder = results / "trials" / one.id
        (folder / "samples").mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(folder / "samples" / "000000100.png")
        metrics = {"fid50k_full": fake.score(20.0, se=0.1), "di": fake.score(1.0, n=64, repeats=200)}
        series = {"loss/g": [[8, 0.5], [16, "nan"]], "eval/di": [[0, 1.0], [8, 1.5], [16, 2.0]]}
        best = {"nimg": 8, "by": "fid5k", "value": 1.0, "among": 2, "metrics": {"fid50k_full": fake.score(19.0)}}
        fake.finish(
            results, one, metrics, series=series, samples=["samples/000000100.png"], best=best, spoilt_lines=0,
            figures={"gradcam": "samples/000000100.png"}, scoring=one.scoring, identity=ids.of_trial(one), world=[1, 2],
            networks="000000100.x.safetensors", snapshots_of="raw", diverged_in=None,
            code={"training": {"a": "0"}, "scoring": {"b": "1"}},
        )  # fmt: skip
    return folder / "result.json"


def reported(results):
    rep = collect(fake.experiment(TABLE), results)
    for t in rep.tables:
        tables.markdown(t), tables.cells_csv(t), latex.latex(t)
    return page.html(rep) + tables.results_csv(rep)


def places(value, above=()):
    yield above
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for k, v in inside:
        yield from places(v, (*above, k))


def changed(result, place, value):
    made = copy.deepcopy(result)
    at = made
    for key in place[:-1]:
        at = at[key]
    at[place[-1]] = value
    return made


@pytest.mark.parametrize("every", [20, pytest.param(1, marks=pytest.mark.slow)])
def test_whatever_stands_in_a_result_the_report_is_made_or_one_line_is_said(tmp_path, every):
    path = good(tmp_path)
    result = json.loads(path.read_text())
    assert "data:image/webp" in reported(tmp_path)
    refused = 0
    read = [p for p in places(result) if p and (p[0] != "config" or every == 1)]
    for i, place in enumerate(read):
        for value in WRONG[i % every :: every]:
            path.write_text(json.dumps(changed(result, place, value)))
            try:
                reported(tmp_path)
            except UserError as e:
                refused += 1
                assert str(e).startswith(str(path)) and len(str(e).splitlines()) == 1
    assert refused > 15


@pytest.mark.parametrize("key", ["state", "nimg", "total_nimg", "message"])
def test_a_spoilt_state_is_one_line_too(tmp_path, key):
    (one,) = TABLE.cells["s", "align"]
    for value in ([], {}, [1], "x" if "nimg" in key else 5):
        fake.live(tmp_path, one, "running", **{key: value}) if key != "state" else fake.live(tmp_path, one, value)
        with pytest.raises(UserError, match=rf"state.json: {key}: .*restore it"):
            reported(tmp_path)


@pytest.mark.parametrize(
    ("place", "value", "says"),
    [
        (("samples", 0), "samples/latest.png", "samples.0: 'samples/latest.png': must be samples/IMAGES.png"),
        (("samples", 0), "samples/../../1.png", "must be samples/IMAGES.png"),
        (("samples", 0), "/etc/1.png", "must be samples/IMAGES.png"),
        (("samples", 0), "samples/\u0663.png", "must be samples/IMAGES.png"),
        (("samples",), "samples/1.png", "samples: 'samples/1.png': must be a list"),
        (("metrics", "di"), 4, "metrics.di: 4: must be an object"),
        (("metrics", "di"), {}, "metrics.di.value: missing"),
        (("metrics", "di", "better"), "less", "metrics.di.better: 'less': must be lower, higher or zero"),
        (("series", "eval/di", 1), [8], "series.eval/di.1: [8]: must be [images, value]"),
        (("figures", "gradcam"), "../../secret.png", "figures.gradcam: '../../secret.png': must be a path in"),
        (("best", "nimg"), "many", "best.nimg: 'many': must be a count"),
        (("cost", "train_s"), "long", "cost.train_s: 'long': must be a number or null"),
    ],
)
def test_the_place_and_the_rule_are_named(tmp_path, place, value, says):
    path = good(tmp_path)
    path.write_text(json.dumps(changed(json.loads(path.read_text()), place, value)))
    with pytest.raises(UserError) as e:
        reported(tmp_path)
    assert f"{path}: " in str(e.value) and says in str(e.value) and "restore it" in str(e.value)


@pytest.mark.parametrize("content", [b"", b"no picture", b"\x89PNG\r\n\x1a\n" + bytes(20)])
def test_a_picture_that_is_none_any_more_is_left_out(tmp_path, content):
    path = good(tmp_path)
    (path.parent / "samples" / "000000100.png").write_bytes(content)
    assert "fid50k_full" in reported(tmp_path)


def test_results_of_earlier_versions_hold_what_is_asked():
    for path in (Path(__file__).parents[1] / "old_results").glob("results/trials/*/result.json"):
        record.check(json.loads(path.read_text()), path)
