"""A pickle made from a golden file and imported gives that file's images and logits (issue: weights in and out)."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from backbones import stylegan2
from harness.experiment.parse import parse_trial
from harness.method.generator import SpatialGenerator
from harness.store import checkpoint
from harness.training.arm import build
from harness.weights import importer as weights
from tests import network_pickles as pickles
from tests.golden._golden import FOLDER, FORWARD, Case, cases, close

LEVELS = {4: "b8", 8: "b16", 16: "b32"}
SAME = ("img_resolution", "img_channels", "c_dim", "channel_base", "channel_max")


def imported(path: Path) -> tuple[SpatialGenerator, torch.nn.Module, dict[str, Any]]:
    """G_ema and D as a checkpoint brings them back."""
    saved = checkpoint.read(path)
    trial = parse_trial(saved.meta["config"], "test")
    classes = next((t.shape[1] for n, t in saved.tensors.items() if n == "d/mapping.embed.weight"), 0)
    images = Data(trial.dataset.options.resolution, classes, trial.dataset.options.channels)
    g, d, _ = build(trial, images, torch.device("cpu"))  # type: ignore[arg-type]
    for module, head in ((g, "g_ema/"), (d, "d/")):
        module.load_state_dict({k.removeprefix(head): v for k, v in saved.tensors.items() if k.startswith(head)})
    return g.eval(), d.eval(), saved.meta["config"]


class Data:
    """What `build` asks of images."""

    def __init__(self, resolution: int, num_classes: int, channels: int) -> None:
        self.resolution, self.num_classes, self.channels = resolution, num_classes, channels


def critic(g: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Config and weights of a D for this G: a recorded one of the same sizes, else a random one."""
    for path in sorted(FOLDER.glob("stylegan2_d*.safetensors")):
        case = Case(path)
        if all(case.config[k] == g[k] for k in SAME):
            return case.config, case.group("sd/")
    options = stylegan2.Options(channel_base=g["channel_base"], channel_max=g["channel_max"])
    made = stylegan2.Discriminator(options, g["img_resolution"], g["c_dim"], g["img_channels"]).state_dict()
    return {**{k: g[k] for k in SAME}, "mbstd_group_size": 4}, made


def publish(folder: Path, g: Case, d: tuple[dict[str, Any], dict[str, Tensor]]) -> Path:
    """The file as the reference would have written it; G differs from G_ema."""
    ema = g.group("sd/")
    raw = {k: v if k.endswith("resample_filter") else v + 1 for k, v in ema.items()}
    content = {
        "G": pickles.generator(g.config, raw),
        "D": pickles.discriminator(*d),
        "G_ema": pickles.generator(g.config, ema),
        "training_set_kwargs": pickles.easy({"path": "/there/cats.zip", "xflip": True, "use_labels": False}),
        "augment_pipe": None,
    }
    return pickles.write(folder / "network.pkl", content)


@pytest.mark.parametrize("case", cases("stylegan2_g*"))
def test_stylegan2_gives_the_recorded_images(case: Case, tmp_path: Path) -> None:
    made = weights.import_weights(publish(tmp_path, case, critic(case.config)), tmp_path / "a.safetensors")
    assert made.trial.variants == () and made.notes == []
    backbone = imported(made.file)[0].backbone
    assert isinstance(backbone, stylegan2.Generator)
    labels = case["in/c"].argmax(1) if case.config["c_dim"] else None
    for key, expected in case.group("out/img_").items():
        noise, *truncation, fused = key.split("_")
        if noise == "random":
            continue
        backbone.noise = "none" if noise == "none" else "const"
        backbone.psi = 1.0 if truncation == ["psi1"] else case.config["psi"]
        backbone.cutoff = case.config["cutoff"] if "cutoff" in truncation else None
        backbone.synthesis.fused = "always" if fused == "fused" else "never"
        close(backbone(case["in/z"], labels).images, expected, FORWARD, key)


@pytest.mark.parametrize("case", cases("stylegan2_d*"))
def test_discriminator_gives_the_recorded_logits(case: Case, tmp_path: Path) -> None:
    generators = [Case(p) for p in sorted(FOLDER.glob("stylegan2_g*.safetensors"))]
    fitting = [g for g in generators if all(g.config[k] == case.config[k] for k in SAME)]
    if not fitting:
        pytest.skip(f"no generator of {case.name}'s sizes is recorded")
    path = publish(tmp_path, fitting[0], (case.config, case.group("sd/")))
    d = imported(weights.import_weights(path, tmp_path / "a.safetensors").file)[1]
    labels = case["in/c"].argmax(1) if case.config["c_dim"] else None
    close(d(case["in/img"], labels)[0][:, None], case["out/logits"], FORWARD)


@pytest.mark.parametrize("case", cases("eqgan_g_*"))
def test_eqgan_gives_the_recorded_images(case: Case, tmp_path: Path) -> None:
    made = weights.import_weights(publish(tmp_path, case, critic(case.config)), tmp_path / "a.safetensors")
    assert [v.name for v in made.trial.variants] == ["sel"] and made.trial.variant("sel").profile == "release"
    g = imported(made.file)[0]
    backbone = g.backbone
    assert isinstance(backbone, stylegan2.Generator)
    labels = case["in/c"].argmax(1) if case.config["c_dim"] else None
    for key, expected in case.group("out/img_").items():
        noise, psi, fused = key.split("_")
        backbone.noise = "none" if noise == "none" else "const"
        backbone.psi = 1.0 if psi == "psi1" else case.config["psi"]
        backbone.synthesis.fused = "always" if fused == "fused" else "never"
        heatmaps = {level: case[f"in/heatmap/{name}"] for level, name in LEVELS.items()}
        images = g(case["in/z"], labels, draws=lambda name: torch.default_generator, heatmaps=heatmaps).images
        close(images, expected, FORWARD, key)
