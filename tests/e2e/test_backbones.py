"""A backbone with levels of its own beside one without, as a user meets them."""

import json
import textwrap
from pathlib import Path

import pytest

import cli

pytestmark = pytest.mark.slow
BOTH = """
    name: both
    seeds: [0]
    dataset: {name: synthetic, num_images: 64}
    train: {total_kimg: 0.032, batch_size: 8, tick_kimg: 0.016, snapshot_kimg: 0.016}
    settings:
      resnet: {backbone: {name: sn_resnet, width: 0.0625, z_dim: 8}, conditional: true}
      dcgan: {backbone: {name: dcgan, width: 0.03125, z_dim: 8}}
    arms: {baseline: {}, align: {sel: {}, align: {}}}
    labels: {align: + L_align}
    eval: {num_fakes: 64, batch_size: 16, metrics: [disequilibrium]}
"""


def test_each_is_trained_drawn_and_probed_at_its_levels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "both.yaml").write_text(textwrap.dedent(BOTH))
    monkeypatch.chdir(tmp_path)
    assert cli.main(["matrix", "both.yaml", "--local", "--tracking-uri", "off"]) == 0
    results = [json.loads(path.read_text()) for path in Path("results").glob("trials/*/result.json")]
    assert len(results) == 4 and not list(Path("results").rglob("failed.txt"))
    for result in results:
        levels = (8, 16) if result["config"]["backbone"]["name"] == "sn_resnet" else (4, 8, 16)
        curves = {f"loss/align_empty/{level}" for level in levels} if result["config"]["variants"] else set()
        assert {name for name in result["series"] if name.startswith("loss/align_empty/")} == curves
        assert {"gradcam", "robustness", "consistency"} <= set(result["figures"])
    assert cli.main(["attention", "both.yaml", "--device", "cpu", "--images", "16"]) == 0
    probed = json.loads(Path("results/both/attention.json").read_text())["trials"]
    for trial in probed:
        probed_at = {name.rpartition("/")[2] for name in trial["records"] if name.startswith("robustness/")}
        assert probed_at == ({"8", "16"} if "resnet" in trial["name"] else {"4", "8", "16"})
    table = Path("results/both/attention.md").read_text()
    assert table.count("| 16x16 |") == 4 and table.count("| 4x4 |") == 2


def test_a_level_that_d_lacks_stops_the_command_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lacking = BOTH.replace("align: {}}}", "align: {levels: [4]}}}").replace(
        "sel: {},", "sel: {heatmaps: {levels: [4]}},"
    )
    (tmp_path / "both.yaml").write_text(textwrap.dedent(lacking))
    monkeypatch.chdir(tmp_path)
    assert cli.main(["matrix", "both.yaml", "--local", "--tracking-uri", "off"]) == 2
    said = capsys.readouterr().err.strip()
    assert "variants.align.levels: 4: the discriminator has no feature map" in said and "[8, 16]" in said
    assert not list(Path().rglob("trials/*"))
