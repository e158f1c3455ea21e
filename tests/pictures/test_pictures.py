"""Pictures show what they say: centres where heatmaps peak, attention as it is aligned, only what is there."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import cli
from harness.experiment.parse import to_plain
from harness.experiment.schema import parse
from harness.experiment.spec import Trial
from harness.method import heatmaps
from harness.method.heatmaps import RELEASE, HeatmapOptions, Regions
from harness.pictures import of_model as pictures
from harness.store import checkpoint
from harness.training import trained
from harness.training.arm import build, load_data
from harness.training.state import new_state
from harness.variants import align
from tests import tiny

ALWAYS = {"samples", "attention_real", "attention_generated"}
SPATIAL = {"move_level_0", "move_finer", "exchange"}


def saved(folder: Path, t: Trial) -> Path:
    """The folder of a trial whose encoder is away from its zero start."""
    g, d, _ = build(t, load_data(t)[0], torch.device("cpu"))
    torch.manual_seed(0)
    for p in g.encoder.parameters() if g.encoder else ():
        p.data.add_(0.3 * torch.randn_like(p))
    meta = {"nimg": 8, "journal_offset": 0, "config": to_plain(t)}
    checkpoint.save(folder / "checkpoints", new_state(g, d, t.train).tensors(), meta)
    return folder


def test_a_picture_per_sampler(tmp_path: Path) -> None:
    assert cli.main(["pictures", "--samplers", "--out", str(tmp_path)]) == 0
    found = {}
    for path in tmp_path.glob("*.png"):
        with Image.open(path) as image:
            found[path.stem] = image.size
    assert set(found) == {f"sampler_{s}" for s in ("hierarchical", "non_hierarchical", "gaussian_noise", "constant")}
    assert all(width > 8 * pictures.SIDE and height > 6 * pictures.SIDE for width, height in found.values())


def test_what_is_missing_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["pictures"]) == 2
    assert cli.main(["pictures", "--samplers"]) == 2
    assert "--out" in capsys.readouterr().err


@pytest.mark.parametrize("changes", [{}, RELEASE], ids=["paper", "release"])
def test_a_ring_stands_where_the_heatmap_peaks(changes: dict) -> None:
    options = parse(HeatmapOptions, {**changes, "levels": [16]}, "test")
    centers = torch.tensor([[[-0.5, 0.3]], [[0.6, -0.7]]])
    maps = heatmaps.render(options, Regions({16: centers}, {16: torch.full((2, 1), 0.2)}), 64)[16]
    size = maps.shape[-1]
    for place, peak in zip(pictures.places(options, centers, size)[:, 0], maps.flatten(1).argmax(1), strict=True):
        row, column = divmod(int(peak), size)
        assert np.abs(place * size - (column + 0.5, row + 0.5)).max() <= 0.5 + 1e-6


@pytest.mark.parametrize(
    ("backbone", "arm", "conditional"),
    [
        ("sn_dcgan", "baseline", False),
        ("sn_dcgan", "flatten", True),
        ("stylegan2", "align", False),
        ("sn_resnet", "align", False),
    ],
)
def test_a_trial_is_drawn_whole(tmp_path: Path, backbone: str, arm: str, conditional: bool) -> None:
    model = trained.load(saved(tmp_path, tiny.trial(backbone, arm, conditional)))
    paths = pictures.of_model(model, tmp_path / "pictures")
    assert {p.stem for p in paths} == ALWAYS | (SPATIAL if arm != "baseline" else set())


@pytest.mark.parametrize("backbone", tiny.BACKBONES)
def test_the_same_call_makes_the_same_pixels(tmp_path: Path, backbone: str) -> None:
    model = trained.load(saved(tmp_path, tiny.trial(backbone, "sel")))
    first, second = (pictures.samples(model, tmp_path / name).read_bytes() for name in ("a", "b"))
    assert first == second


def test_noise_has_no_centres_to_move(tmp_path: Path) -> None:
    noise = {"sel": {"heatmaps": {"sampler": "gaussian_noise"}}}
    model = trained.load(saved(tmp_path, tiny.trial("sn_dcgan", "sel", variants=noise)))
    paths = pictures.of_model(model, tmp_path / "pictures")
    assert {p.stem for p in paths} == ALWAYS


@pytest.mark.parametrize("profile", ["paper", "release"])
def test_attention_is_shown_as_it_is_aligned(tmp_path: Path, profile: str, monkeypatch: pytest.MonkeyPatch) -> None:
    t = tiny.trial("sn_dcgan", "align", profile=profile, variants={"align": {"compare_at": "feature"}})
    model = trained.load(saved(tmp_path, t))
    own = align.Alignment(t.variant("align"), 32)
    fakes, labels = pictures.generate(model, 4)
    seen: dict[int, Tensor] = {}
    attended = own.attended
    monkeypatch.setattr(own, "attended", lambda m: seen.setdefault(m.shape[-1], attended(m)))
    logits, feats = model.d(fakes.images.requires_grad_(True), labels, taps=own.taps)
    own.term(logits, feats, fakes)
    shown = pictures.gradcam(model, fakes.images, labels)
    assert sorted(shown) == sorted(seen) == [4, 8, 16]
    for level, aligned in seen.items():
        assert torch.allclose(shown[level], aligned, atol=1e-6)


def test_heatmaps_move_by_the_steps_and_images_follow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = trained.load(saved(tmp_path, tiny.trial("sn_dcgan", "sel")))
    options = pictures.heatmap_options(model)
    assert options is not None
    rendered: list[Regions] = []
    real_render = heatmaps.render
    monkeypatch.setattr(heatmaps, "render", lambda o, r, n: rendered.append(r) or real_render(o, r, n))
    rows = pictures.moved(model, options, torch.tensor([0.0, 1.0]), None, "right", 2)
    for step, regions in zip(pictures.STEPS, rendered, strict=True):
        assert torch.allclose(regions.centers[4][:, 0], torch.tensor([0.0, step]), atol=1e-6)
    assert all(len(images) == len(pictures.STEPS) and (images[0] != images[-1]).any() for _, images in rows)
    rendered.clear()
    pictures.moved(model, options, torch.tensor([0.0, 1.0]), 8, "right", 2)
    assert all(torch.equal(r.centers[k], rendered[0].centers[k]) for r in rendered for k in (4, 16))
    assert torch.allclose(rendered[-1].centers[8] - rendered[0].centers[8], torch.tensor([0.0, 1.2]), atol=1e-6)


def test_text_is_wrapped_at_words() -> None:
    from PIL import ImageFont

    font = ImageFont.load_default(13)
    lines = pictures.wrapped("one two three four five", font, 60)
    assert " ".join(lines) == "one two three four five"
    assert len(lines) > 1 and all(font.getlength(line) <= 60 for line in lines)
