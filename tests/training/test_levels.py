"""Which levels variants act at: those that are written, or the backbone's own; and what a backbone lacks is refused."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from backbones import sn_resnet, stylegan2
from harness.errors import UserError
from harness.experiment.parse import parse_trial, to_plain
from harness.experiment.spec import Trial
from harness.training.arm import build, load_data, settled
from tests import tiny


def made(trial: Trial, resolution: int = 32) -> Any:
    """Networks and hooks for images of that side."""
    data, _ = load_data(trial)
    images = np.zeros((len(data), 3, resolution, resolution), np.uint8)
    return build(trial, replace(data, images=images), torch.device("cpu"))


def resnet(**variants: Any) -> Trial:
    return tiny.trial("sn_resnet", variants=variants)


@pytest.mark.parametrize(("resolution", "levels"), [(32, (8, 16)), (48, (6, 12, 24)), (64, (4, 8, 16))])
def test_an_option_that_names_none_takes_the_backbones_own(resolution: int, levels: tuple[int, ...]) -> None:
    trial = resnet(sel={}, align={})
    assert trial.variant("align").levels is trial.variant("sel").heatmaps.levels is None
    assert parse_trial(to_plain(trial), "t") == trial
    g, d, hooks = made(trial, resolution)
    assert d.levels == levels and hooks.taps == tuple(map(str, levels))
    assert tuple(g.encoder.options.heatmaps.levels) == levels
    assert sorted(site.resolution for site in g.encoder.reads) == list(levels)
    assert settled(trial, d).variant("align").levels == levels
    flat, _, _ = made(resnet(flatten={}), resolution)
    assert flat.encoder.join.weight.shape[1] == 8 + sum(level**2 for level in levels)


@pytest.mark.parametrize("backbone", tiny.BACKBONES)
def test_of_a_backbone_without_own_levels_nothing_changed(backbone: str) -> None:
    trial = tiny.trial(backbone, "align")
    assert trial.variant("align").levels == trial.variant("sel").heatmaps.levels == (4, 8, 16)
    written = {"sel": {"heatmaps": {"levels": [4, 8, 16]}}, "align": {"levels": [4, 8, 16]}}
    assert tiny.trial(backbone, "align", variants=written).id == trial.id
    left = {"sel": {"heatmaps": {"levels": None}}, "align": {"levels": None}}
    assert made(tiny.trial(backbone, "align", variants=left))[2].taps == made(trial)[2].taps == ("4", "8", "16")


def test_the_papers_heatmaps_may_be_drawn_where_only_some_are_aligned() -> None:
    """Of the three levels those that D has; G has all three."""
    g, _, hooks = made(resnet(sel={"heatmaps": {"levels": [4, 8, 16]}}, align={}))
    assert hooks.taps == ("8", "16") and tuple(g.encoder.options.heatmaps.levels) == (4, 8, 16)


@pytest.mark.parametrize(
    ("backbone", "variants", "says"),
    [
        (
            "sn_resnet", {"sel": {"heatmaps": {"levels": [4, 8, 16]}}, "align": {"levels": [4, 8]}},
            r"variants.align.levels: 4: the discriminator has no feature map of that resolution; "
            r"choose among \[8, 16\]",
        ),
        (
            "sn_dcgan", {"flatten": {"heatmaps": {"levels": [12], "counts": [1]}}, "align": {"levels": [12]}},
            r"variants.align.levels: 12: the discriminator .*; choose among \[4, 8, 16\]",
        ),
        ("sn_resnet", {"sel": {}, "align": {"levels": [4]}}, r"levels: 4: no such heatmap is drawn; .*\[8, 16\]"),
        ("sn_resnet", {"sel": {"levels": [4]}}, r"variants.sel.levels: 4: must be among heatmaps.levels \[8, 16\],"),
        ("sn_resnet", {"sel": {"heatmaps": {"counts": [1]}}}, r"variants.sel.heatmaps.counts: \[1\]: .* levels \[8,"),
        ("sn_resnet", {"sel": {"heatmaps": {"levels": [8]}}, "align": {}}, r"align.levels: 16: no such heatmap is"),
    ],
)  # fmt: skip
def test_a_level_that_a_network_lacks_is_refused_in_one_line(backbone: str, variants: Any, says: str) -> None:
    with pytest.raises(UserError, match=says) as e:
        made(tiny.trial(backbone, variants=variants))
    assert "\n" not in str(e.value)


def test_a_written_level_of_a_resnet_stays_written() -> None:
    trial = resnet(sel={"heatmaps": {"levels": [16]}}, align={"levels": [16]})
    assert trial.id != resnet(sel={}, align={}).id
    assert made(trial)[2].taps == ("16",)


def test_a_profile_names_no_levels() -> None:
    trial = tiny.trial("sn_resnet", "align", profile="release")
    assert made(trial)[2].taps == ("8", "16")


def test_what_a_resnet_cannot_be_is_refused() -> None:
    for changes, resolution, key in (
        ({}, 40, "resolution"),
        ({"d_down": (True,)}, 32, "d_down"),
        ({"g_channels": (8,) * 7}, 32, "g_channels"),
        ({"d_channels": (8,) * 6, "d_down": (True,) * 6}, 32, "d_down"),
        ({"g_channels": ()}, 32, "g_channels"),
    ):
        with pytest.raises(ValueError, match=f"^{key}: "):
            sn_resnet.check(sn_resnet.Options(**changes), resolution, 0)
    given = sn_resnet.Options(g_channels=(8, 8, 8), d_channels=(4, 4), d_down=(True, True))
    g, d = sn_resnet.build(given, 40, 0, 1)
    assert d(g(torch.randn(2, 128)).images)[0].shape == (2,) and d.levels == (10, 20)
    assert stylegan2.Discriminator.levels == (4, 8, 16)
