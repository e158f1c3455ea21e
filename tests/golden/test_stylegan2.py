"""StyleGAN2 against recorded outputs, features and first- and second-order gradients."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar, cast

import pytest
import torch
from torch import Tensor, nn

from backbones import stylegan2
from harness.method.losses import r1_penalty
from tests.golden import own_stylegan2
from tests.golden._golden import FORWARD, GRADIENT, Case, cases, close, close_all, gradients

Net = TypeVar("Net", bound=nn.Module)


def options(config: dict[str, Any]) -> stylegan2.Options:
    """A recorded configuration, of G or D, as options."""
    renamed = {
        "z_dim": "z_dim",
        "w_dim": "w_dim",
        "mapping_num_layers": "mapping_layers",
        "channel_base": "channel_base",
        "channel_max": "channel_max",
        "mbstd_group_size": "mbstd_group",
        "mbstd_num_channels": "mbstd_channels",
        "conv_clamp": "conv_clamp",
    }
    return stylegan2.Options(**{own: config[key] for key, own in renamed.items() if key in config})


def sizes(config: dict[str, Any]) -> tuple[int, int, int]:
    """Resolution, classes and channels of the images."""
    return config["img_resolution"], config["c_dim"], config.get("img_channels", 3)


def generator(config: dict[str, Any], weights: dict[str, Tensor]) -> stylegan2.Generator:
    return filled(stylegan2.Generator(options(config), *sizes(config)), weights)


def discriminator(config: dict[str, Any], weights: dict[str, Tensor]) -> stylegan2.Discriminator:
    return filled(stylegan2.Discriminator(options(config), *sizes(config)), weights)


def filled(net: Net, weights: dict[str, Tensor]) -> Net:
    """The network with the recorded weights; every name on either side must be met."""
    names = {name: stylegan2.own_name(name) for name in weights}
    net.load_state_dict({own: weights[name] for name, own in names.items() if own is not None}, strict=True)
    return net.eval()


def labels(case: Case) -> Tensor | None:
    return case["in/c"].argmax(1) if case.config["c_dim"] else None


def _parts(key: str) -> tuple[str, str, str]:
    """ "const_psi_cutoff_fused" -> ("const", "psi_cutoff", "fused")"""
    noise, *truncation, fused = key.split("_")
    return noise, "_".join(truncation), fused


@contextmanager
def recorded(net: nn.Module, names: list[str]) -> Iterator[dict[str, Tensor]]:
    """Outputs of the named submodules during the calls inside."""
    seen: dict[str, Tensor] = {}
    handles = [
        net.get_submodule(n).register_forward_hook(lambda _m, _i, out, n=n: seen.__setitem__(n, out)) for n in names
    ]
    yield seen
    for handle in handles:
        handle.remove()


@pytest.mark.parametrize("case", cases("stylegan2_g*"))
class TestGenerator:
    def test_styles_and_truncation(self, case: Case) -> None:
        g = generator(case.config, case.group("sd/"))
        w = g.mapping(case["in/z"], labels(case))
        ws = w[:, None].expand(-1, g.num_ws, -1)
        close(g.truncate(ws), case["out/ws_psi1"], FORWARD)
        g.psi = case.config["psi"]
        close(g.truncate(ws), case["out/ws_psi"], FORWARD)
        g.cutoff = case.config["cutoff"]
        close(g.truncate(ws), case["out/ws_psi_cutoff"], FORWARD)

    def test_images(self, case: Case) -> None:
        g = generator(case.config, case.group("sd/"))
        for key, expected in case.group("out/img_").items():
            noise, truncation, fused = _parts(key)
            g.noise = cast(Any, noise)
            g.psi = 1.0 if truncation == "psi1" else case.config["psi"]
            g.cutoff = case.config["cutoff"] if truncation == "psi_cutoff" else None
            g.synthesis.fused = "always" if fused == "fused" else "never"
            if noise == "random":
                g.noise_source = lambda n, draws: lambda layer: case[f"in/noise_random/{layer.site.name}"]
            close(g(case["in/z"], labels(case)).images, expected, FORWARD, key)

    def test_every_layer(self, case: Case) -> None:
        g = generator(case.config, case.group("sd/"))
        g.noise, g.synthesis.fused = "const", "always"
        layers, blocks = case.group("out/layer/"), case.group("out/block_x/")
        with recorded(g.synthesis, [*layers, *blocks]) as seen:
            g(case["in/z"], labels(case))
        close_all({n: seen[n] for n in layers}, layers, FORWARD)
        close_all({n: seen[n][0] for n in blocks}, blocks, FORWARD)
        images = case.group("out/block_img/")
        close_all({n: seen[n][1] for n in images}, images, FORWARD)

    def test_average_style_moves_in_training(self, case: Case) -> None:
        g = generator(case.config, case.group("sd/")).train()
        g(case["in/z"], labels(case))
        close(g.mapping.w_avg, case["out/w_avg_after_one_training_forward"], FORWARD)


@pytest.mark.parametrize("case", cases("stylegan2_d*"))
class TestDiscriminator:
    def test_logits_and_features(self, case: Case) -> None:
        d = discriminator(case.config, case.group("sd/"))
        images, c = case["in/img"], labels(case)
        layers, blocks = case.group("out/layer/"), case.group("out/block/")
        stddev = []
        d.b4.conv.register_forward_pre_hook(lambda _m, args: stddev.append(args[0]))
        with recorded(d, [n for n in layers if n != "b4.mbstd"]) as seen:
            logits, feats = d(images, c, taps=d.taps)
        close(logits[:, None], case["out/logits"], FORWARD, "logits")
        seen["b4.mbstd"] = stddev[0]
        close_all({n: seen[n] for n in layers}, layers, FORWARD)
        close_all({n: feats[str(int(n[1:]) // 2)] for n in blocks}, blocks, FORWARD)
        if c is not None:
            close(d.mapping(None, c), case["out/cmap"], FORWARD, "cmap")

    def test_smaller_group(self, case: Case) -> None:
        d = discriminator(case.config, case.group("sd/"))
        c = labels(case)
        logits, _ = d(case["in/img"][:2], None if c is None else c[:2])
        close(logits[:, None], case["out/logits_first2"], FORWARD)

    def test_r1_and_its_parameter_gradients(self, case: Case) -> None:
        d = discriminator(case.config, case.group("sd/"))
        images = case["in/img"].requires_grad_()
        logits, _ = d(images, labels(case))
        (grad,) = torch.autograd.grad(logits.sum(), images, retain_graph=True)
        close(grad, case["out/r1_grad"], GRADIENT, "r1_grad")
        penalty = r1_penalty(images, logits)
        close(penalty, case["out/r1_penalty"], GRADIENT, "r1_penalty")
        expected = case.group("out/grad_mean_r1_penalty/")
        close_all(gradients(penalty.mean(), dict(d.named_parameters())), expected, GRADIENT)


def test_own_expectations() -> None:
    """Numbers written when the recorded references were met: they guard a clone without those files."""
    expected = json.loads(own_stylegan2.FILE.read_text())
    found = own_stylegan2.results()
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        want = torch.tensor(values, dtype=torch.float64)
        got = torch.tensor(found[name], dtype=torch.float64)
        torch.testing.assert_close(got, want, rtol=0, atol=GRADIENT * want.abs().max().item(), msg=name)
