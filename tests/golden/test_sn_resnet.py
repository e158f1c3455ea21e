"""SNGAN-ResNet against recorded images, moments, power iterations and gradients, in both variants of either network."""

from typing import Any, TypeVar

import pytest
import torch
from torch import Tensor, nn

from backbones import sn_resnet
from harness.method import losses
from tests.golden._golden import FORWARD, GRADIENT, Case, cases, close, close_all

Net = TypeVar("Net", bound=nn.Module)
_UNUSED = {"g_channels": (1,), "d_channels": (1,), "d_down": (False,)}  # of the network that a file does not hold


def options(config: dict[str, Any], **changes: Any) -> sn_resnet.Options:
    """A recorded configuration, of G or of D, as options."""
    renamed = {"z_dim": "z_dim", "downsample": "d_down", "bn_eps": "norm_eps", "bn_momentum": "norm_momentum"}
    renamed["channels"] = "d_channels" if "downsample" in config else "g_channels"
    read = {own: config[key] for key, own in renamed.items() if key in config}
    return sn_resnet.Options(
        **{**_UNUSED, **{k: tuple(v) if isinstance(v, list) else v for k, v in read.items()}, **changes}
    )


def network(case: Case, which: int, **changes: Any) -> Any:
    """G (0) or D (1) as `build` makes it, with the recorded weights; every name on either side must be met."""
    c = case.config
    changes["last_bias"] = any(sn_resnet.own_name(k) == "linear.bias" for k in case.group("sd/")) and which == 1
    net = sn_resnet.build(options(c, **changes), c["r"], c["c_dim"], c.get("img_channels", 3))[which]
    net.load_state_dict({sn_resnet.own_name(k): v for k, v in case.group("sd/").items()}, strict=True)
    return net


def labels(case: Case) -> Tensor | None:
    return case["in/y"] if case.config["c_dim"] else None


def variants(case: Case, names: tuple[str, ...]) -> list[tuple[str, str]]:
    """Those of the names that the file holds."""
    found = [(n, n) for n in names if any(k.startswith(f"out/{n}/") for k in case.keys)]
    assert found, case.name
    return found


def thinned(x: Tensor) -> Tensor:
    """As `block_eval` is recorded: the first sample, at most 8 pixels a side."""
    step = max(1, x.shape[-1] // 8)
    return x[:1, :, ::step, ::step]


def outputs(net: nn.Module) -> dict[str, Tensor]:
    """Filled, by the next pass, with what each block gives."""
    seen: dict[str, Tensor] = {}
    for name, block in net.named_children():
        if name.startswith("block"):
            block.register_forward_hook(lambda _m, _i, out, name=name: seen.__setitem__(name, thinned(out)))
    return seen


def named_gradients(net: nn.Module, reference: list[str]) -> dict[str, Tensor]:
    """By reference name; zero where there is none."""
    own = dict(net.named_parameters())
    grads = {name: own[sn_resnet.own_name(name)] for name in reference}
    return {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in grads.items()}


def check_gradients(case: Case, net: nn.Module, prefix: str) -> None:
    expected, norms = case.group(f"{prefix}/"), case.group(f"{prefix}_norm/")
    assert expected and norms
    close_all(named_gradients(net, list(expected)), expected, GRADIENT)
    close_all({k: g.norm() for k, g in named_gradients(net, list(norms)).items()}, norms, GRADIENT)


@pytest.mark.parametrize(("case", "how"), cases("sn_resnet_g*", lambda c: variants(c, ("nearest", "bilinear"))))
class TestGenerator:
    def test_sampling(self, case: Case, how: Any) -> None:
        g = network(case, 0, upsample=how).eval()
        assert g.sites[1].resolution == case.config["bottom_width"]
        seen, met = outputs(g), dict[str, Tensor]()
        images, _ = g(case["in/z"], labels(case), modulate=lambda site, x: met.setdefault(site.name, x))
        close(images, case[f"out/{how}/img_eval"], FORWARD, "images")
        close_all(seen, case.group(f"out/{how}/block_eval/"), FORWARD)
        for block, site in zip(seen.values(), g.sites[2:], strict=True):
            assert torch.equal(block, thinned(met[site.name]))

    def test_training(self, case: Case, how: Any) -> None:
        g = network(case, 0, upsample=how).train()
        z = case["in/z"].requires_grad_()
        images, _ = g(z, labels(case))
        close(images, case[f"out/{how}/img_train"], FORWARD, "images")
        moved = case.group(f"out/{how}/bn_after/")
        close_all({k: g.get_buffer(sn_resnet.own_name(k)) for k in moved}, moved, FORWARD)
        (images * case["in/t"]).sum().backward()
        assert z.grad is not None
        close(z.grad, case[f"out/{how}/grad_z"], GRADIENT, "grad_z")
        check_gradients(case, g, f"out/{how}/grad")


@pytest.mark.parametrize(("case", "how"), cases("sn_resnet_d*", lambda c: variants(c, ("plain", "relu_shortcut"))))
class TestDiscriminator:
    def test_scoring(self, case: Case, how: str) -> None:
        d = network(case, 1, relu_shortcut=how == "relu_shortcut").eval()
        real, seen = case["in/real"].requires_grad_(), outputs(d)
        logits, feats = d(real, labels(case), taps=d.taps)
        close(logits[:, None], case[f"out/{how}/logits_eval"], FORWARD, "logits")
        (grad,) = torch.autograd.grad(logits.sum(), real)
        close(grad, case[f"out/{how}/grad_real_eval"], GRADIENT, "grad_real")
        recorded = case.group(f"out/{how}/block_eval/")
        close_all(seen, recorded, FORWARD)
        for side, feature in feats.items():
            assert feature.shape[-1] == int(side) and any(torch.equal(thinned(feature), x) for x in seen.values())

    def test_three_passes_of_training(self, case: Case, how: str) -> None:
        d = network(case, 1, relu_shortcut=how == "relu_shortcut").train()
        hinge = losses.ADVERSARIAL["hinge"]
        real, _ = d(case["in/real"], labels(case))
        check_vectors(case, d, "out/sn_after_1")
        fake, _ = d(case["in/fake"], labels(case))
        check_vectors(case, d, "out/sn_after_2")
        close(real[:, None], case[f"out/{how}/logits_real_train_1"], FORWARD, "real")
        close(fake[:, None], case[f"out/{how}/logits_fake_train_2"], FORWARD, "fake")
        loss = hinge.d_real(real).mean() + hinge.d_fake(fake).mean()
        close(loss, case[f"out/{how}/hinge_d_loss"], FORWARD, "loss")
        loss.backward()
        check_gradients(case, d, f"out/{how}/hinge_d_grad")
        made = case["in/fake"].requires_grad_()
        loss = hinge.g(d(made, labels(case))[0]).mean()
        close(loss, case[f"out/{how}/hinge_g_loss_train_3"], FORWARD, "G's loss")
        (grad,) = torch.autograd.grad(loss, made)
        close(grad, case[f"out/{how}/hinge_g_grad_fake"], GRADIENT, "grad_fake")


def check_vectors(case: Case, d: nn.Module, prefix: str) -> None:
    """The stored pairs of the power iteration."""
    expected = case.group(f"{prefix}/")
    assert expected
    close_all({k: d.get_buffer(sn_resnet.own_name(k)) for k in expected}, expected, FORWARD)


@pytest.mark.parametrize("case", cases("sn_resnet_d*"))
def test_singular_values(case: Case) -> None:
    """The original weight over the one in use, which goes towards the largest singular value."""
    d = network(case, 1)
    given = {name: case[f"sd/{name}.weight_orig"] for name in case.group("out/sigma_eval/")}
    layers = {name: d.get_submodule(sn_resnet.own_name(f"{name}.").rstrip(".")) for name in given}

    def sigma(iterations: int) -> dict[str, Tensor]:
        d.train()
        for _ in range(iterations):
            for layer in layers.values():
                _ = layer.weight  # in training each access iterates
        d.eval()
        return {name: (given[name].norm() / layer.weight.norm()).detach() for name, layer in layers.items()}

    close_all(sigma(0), case.group("out/sigma_eval/"), FORWARD)
    close_all(sigma(1), case.group("out/sigma_train_1/"), FORWARD)
    close_all(sigma(1), case.group("out/sigma_train_2/"), FORWARD)
    exact = {name: torch.linalg.matrix_norm(w.double().flatten(1), 2) for name, w in given.items()}
    close_all(exact, case.group("out/sigma_exact/"), FORWARD)
    close_all(sigma(100), {name: value.float() for name, value in exact.items()}, 1e-2)


def test_published_sizes() -> None:
    """Of CIFAR-10, unconditional: 4,276,739 and 1,053,824 parameters."""
    pair = sn_resnet.build(sn_resnet.Options(), 32, 0)
    assert [sum(p.numel() for p in net.parameters()) for net in pair] == [4_276_739, 1_053_824]
