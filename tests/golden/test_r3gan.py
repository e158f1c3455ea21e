"""R3GAN's networks, initialisation and schedules against recorded numbers."""

import math
from typing import Any, TypeVar

import pytest
import torch
from torch import Tensor, nn

from backbones import r3gan
from harness.experiment.files import preset
from harness.experiment.parse import merge, parse_trial, plugin
from harness.experiment.spec import Trial
from harness.method.losses import ema_beta, r1_penalty
from harness.method.schedules import Schedule, Scheduled, at
from tests.golden._golden import FORWARD, GRADIENT, Case, cases, close, close_all, gradients

Net = TypeVar("Net", bound=nn.Module)
PRESETS = {"CIFAR10": "r3gan_cifar", "FFHQ-64": "r3gan_ffhq64", "FFHQ-256": "r3gan_ffhq256"}  # those of both sides
SCHEDULE = 1e-12


def options(config: dict[str, Any]) -> r3gan.Options:
    return r3gan.Options(config["z_dim"], config["g_embed"], tuple(config["widths"]), tuple(config["groups"]))


def built(config: dict[str, Any], channels: int = 3) -> tuple[r3gan.Generator, r3gan.Discriminator]:
    return r3gan.build(options(config), 4 << (len(config["widths"]) - 1), config["c_dim"], channels)


def filled(net: Net, weights: dict[str, Tensor]) -> Net:
    """The network with the recorded weights; every name on either side must be met."""
    net.load_state_dict({own: weights[name] for name, own in own_names(weights).items()}, strict=True)
    return net


def own_names(reference: Any) -> dict[str, str]:
    return {name: own for name in reference if (own := r3gan.own_name(name)) is not None}


def generator(case: Case, prefix: str = "sd/") -> r3gan.Generator:
    weights = case.group(prefix)
    return filled(built(case.config, len(weights["AggregationLayer.Layer.weight"]))[0], weights)


def discriminator(case: Case, prefix: str = "sd/") -> r3gan.Discriminator:
    weights = case.group(prefix)
    return filled(built(case.config, weights["ExtractionLayer.Layer.weight"].shape[1])[1], weights)


def labels(case: Case, key: str = "in/c") -> Tensor | None:
    return case[key].argmax(1) if key in case else None


def sparse(maps: dict[str, Tensor]) -> dict[str, Tensor]:
    """What is recorded of [N, C, r, r]: the first sample, above 8x8 8 pixels a row."""
    return {r: x[:1, :, :: max(1, x.shape[2] // 8), :: max(1, x.shape[2] // 8)] for r, x in maps.items()}


def check_gradients(output: Tensor, net: nn.Module, case: Case, prefix: str, **more: Tensor) -> None:
    """d output / d parameters and `more`, against `<prefix>grad/`, `grad_norm/` and `grad_<more>`."""
    names = own_names(n.removeprefix(f"{prefix}grad_norm/") for n in case.keys if n.startswith(f"{prefix}grad_norm/"))
    parameters = dict(net.named_parameters())
    assert sorted(names.values()) == sorted(parameters), "a norm for every parameter"
    found = gradients(output, {**parameters, **more})
    whole = case.group(f"{prefix}grad/")
    assert whole
    close_all({n: found[names[n]] for n in whole}, whole, GRADIENT)
    for name, norm in case.group(f"{prefix}grad_norm/").items():
        close(found[names[name]].double().norm().to(norm.dtype), norm, GRADIENT, name)
    for name in more:
        close(found[name], case[f"{prefix}grad_{name}"], GRADIENT, name)


@pytest.mark.parametrize("case", cases("r3gan_g*"))
def test_generator(case: Case) -> None:
    g = generator(case)
    z = case["in/z"].requires_grad_()
    entered: dict[str, Tensor] = {}
    left: dict[str, Tensor] = {}
    for site, stage in zip(g.sites[1:], g.stages, strict=True):
        stage.layers[-1].register_forward_hook(lambda *a, at=site.name: left.update({at: a[2]}))

    def modulate(site: Any, x: Tensor) -> Tensor:
        entered[site.name] = x
        return x

    images = g(z, labels(case), modulate=modulate).images
    close(images, case["out/img"], FORWARD, "img")
    close(entered["4"], case["out/basis"], FORWARD, "basis")
    close_all(sparse({r: x for r, x in entered.items() if r not in ("latent", "4")}), case.group("out/up/"), FORWARD)
    close_all(sparse(left), case.group("out/stage/"), FORWARD)
    check_gradients((images * case["in/t"]).sum(), g, case, "out/", z=z)


@pytest.mark.parametrize("case", cases("r3gan_d*"))
def test_discriminator(case: Case) -> None:
    d = discriminator(case)
    images, c = case["in/img"].requires_grad_(), labels(case)
    entered: dict[str, Tensor] = {}
    for tap, stage in zip(d.taps[1:], d.stages, strict=False):
        stage.layers[-1].register_forward_hook(lambda *a, at=tap: entered.update({at: a[2]}))
    h, feats = d.penultimate(images, taps=d.taps)
    logits = d.logits_of(h, c)
    close(logits, case["out/logits"], FORWARD, "logits")
    close(h, case["out/basis"], FORWARD, "basis")
    close(h @ d.state_dict()[f"stages.{len(d.taps) - 1}.layers.2.linear"].t(), case["out/head"], FORWARD, "head")
    close_all(sparse(feats), case.group("out/block/"), FORWARD)
    close_all(sparse(entered), case.group("out/down/"), FORWARD)
    (grad,) = torch.autograd.grad(logits.sum(), images, retain_graph=True)
    close(grad, case["out/grad_img"], GRADIENT, "grad_img")
    check_gradients(logits.sum(), d, case, "out/sum_logits/")
    penalty = r1_penalty(images, d(images, c)[0])
    close(penalty, case["out/r1_penalty"], GRADIENT, "r1_penalty")
    check_gradients(penalty.mean(), d, case, "out/mean_r1/")


def _presets(case: Case) -> list[tuple[str, Any]]:
    return list(case.config["presets"].items())


@pytest.mark.parametrize(("case", "recipe"), cases("r3gan_recipe*", _presets))
def test_parameter_counts(case: Case, recipe: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    name = next(n for n, r in case.config["presets"].items() if r is recipe)
    monkeypatch.setattr(r3gan, "_normal", lambda *shape, gain=1.0: nn.Parameter(torch.empty(shape)))  # none is drawn
    counts = [sum(p.numel() for p in net.parameters()) for net in built(recipe)]
    assert counts == case[f"out/{name}/parameters_G_D"].tolist()


@pytest.mark.parametrize(("case", "recipe"), cases("r3gan_recipe*", _presets))
def test_schedules_and_what_our_preset_says_of_them(case: Case, recipe: dict[str, Any]) -> None:
    name = next(n for n, r in case.config["presets"].items() if r is recipe)
    scale = {"ema": 1e-3}  # kimg
    said = {
        key: moving(first * scale.get(key, 1), last * scale.get(key, 1), recipe["burn_in_nimg"] / 1000)
        for key, (first, last) in recipe["schedules_first_last"].items()
    }
    if name in PRESETS:
        ours = preset(PRESETS[name], "")
        whole = merge(ours, {"dataset": {"name": "synthetic"}, "eval": {"metrics": ["disequilibrium"]}}, "")
        assert said == _moved_by(parse_trial(whole, name))
        assert ours["train"]["batch_size"] == recipe["batch"]
        own = plugin("backbones", ours["backbone"], "").options
        assert own.widths == tuple(recipe["widths"]) and r3gan._groups(own) == tuple(recipe["groups"])
        assert own.half_stages == len(recipe["bf16_stages_G_from_the_end"])
    points = case[f"in/{name}/nimg"].tolist()
    for key, out in (("lr", "lr"), ("beta2", "beta2"), ("gamma", "gamma"), ("aug", "augment_p")):
        near([at(said[key], n) for n in points], case[f"out/{name}/{out}"])
    half_lives = [at(said["ema"], n) for n in points]
    near([1000 * kimg for kimg in half_lives], case[f"out/{name}/ema_half_life_nimg"])
    near([ema_beta(recipe["batch"], 0, kimg) for kimg in half_lives], case[f"out/{name}/ema_beta"])


def moving(first: float, last: float, kimg: float) -> Scheduled:
    return float(first) if first == last else Schedule(float(first), float(last), kimg, "cosine")


def _moved_by(trial: Trial) -> dict[str, Scheduled | None]:
    t, loss, ada = trial.train, trial.variant("relativistic"), trial.variant("ada")
    assert t.g == t.d and t.g.betas[0] == 0 and t.g.eps == 1e-8
    assert loss.r2_gamma is None and ada.control == "given"
    return {"lr": t.g.lr, "beta2": t.g.betas[1], "gamma": loss.r1_gamma, "ema": t.ema_kimg, "aug": ada.p}


def near(values: list[float], expected: Tensor) -> None:
    torch.testing.assert_close(torch.tensor(values, dtype=torch.float64), expected, rtol=SCHEDULE, atol=0)


@pytest.mark.parametrize("case", cases("r3gan_recipe*"))
def test_initial_weights_are_distributed_as_recorded(case: Case) -> None:
    """Standard deviations and means within 5 standard errors of the difference of both samples, zeros exact."""
    torch.manual_seed(0)
    drawn = [built(case.config["init"]) for _ in range(8)]
    for k, network in enumerate("GD"):
        expected = case.group(f"out/init/{network}/")
        names = own_names(expected)
        assert sorted(names.values()) == sorted(n for n, _ in drawn[0][k].named_parameters())
        for name, (sd, mean, error, count) in ((n, v.tolist()) for n, v in expected.items()):
            pool = torch.cat([pair[k].get_parameter(names[name]).detach().flatten() for pair in drawn]).double()
            if sd == 0:
                assert not pool.any(), name
                continue
            both = math.sqrt(1 + count / len(pool))
            assert abs(pool.std().item() - sd) <= 5 * error * both, name
            assert abs(pool.mean().item() - mean) <= 5 * sd / math.sqrt(count) * both, name
