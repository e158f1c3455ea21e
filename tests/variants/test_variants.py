"""The variants on both backbones: absent means absent, nothing but G is moved, nothing is lost in half precision."""

import copy
import dataclasses
import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from backbones import Discriminator, Generator, sn_dcgan, stylegan2
from harness.errors import UserError
from harness.experiment.schema import parse
from harness.method.generator import Encoder, Fakes, SpatialGenerator
from harness.rng import Streams
from harness.variants import align, flatten, sel

R = 32
BACKBONES = ("stylegan2", "sn_dcgan")
ARMS: dict[str, tuple[Any, dict[str, Any]]] = {
    "sel_norm": (sel, {}),
    "sel_concat": (sel, {"norm": "concat"}),
    "flatten": (flatten, {}),
}
SAMPLERS = ("hierarchical", "non_hierarchical", "gaussian_noise", "constant")


def options(module: Any, profile: str = "paper", **changes: Any) -> Any:
    """As the config lays them: the profile under the changes."""
    base = copy.deepcopy(module.PROFILES[profile])
    base["heatmaps"] = {**base.get("heatmaps", {}), **changes.pop("heatmaps", {})}
    if not base["heatmaps"]:
        del base["heatmaps"]
    return parse(module.Options, {"profile": profile, **base, **changes}, "test")


def networks(name: str, num_classes: int = 0) -> tuple[Generator, Discriminator]:
    torch.manual_seed(0)
    if name == "sn_dcgan":
        return sn_dcgan.build(sn_dcgan.Options(z_dim=16, width=0.125), R, num_classes)
    o = stylegan2.Options(z_dim=16, w_dim=16, mapping_layers=2, channel_base=256, channel_max=16)
    return stylegan2.build(o, R, num_classes)


def arm(backbone: Generator, name: str, profile: str = "paper", **changes: Any) -> SpatialGenerator:
    module, own = ARMS[name]
    torch.manual_seed(1)
    return SpatialGenerator(backbone, module.encoder(backbone.sites, R, options(module, profile, **own, **changes)))


def generate(g: SpatialGenerator, n: int = 4, labels: Tensor | None = None) -> Fakes:
    draws = Streams(5, "test", 0)
    return g(g.backbone.sample_z(n, draws("z")), labels, draws=draws)


# ── encoders ─────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("name", ARMS)
def test_the_papers_arms_start_as_the_baseline(backbone: str, name: str) -> None:
    g = networks(backbone)[0]
    base = generate(SpatialGenerator(g))
    fakes = generate(arm(g, name))
    assert base.heatmaps is None and fakes.heatmaps is not None
    assert torch.equal(base.images, fakes.images)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_zero_output_branch_is_the_identity(backbone: str) -> None:
    g = networks(backbone)[0]
    spatial = arm(g, "sel_norm", "release")
    base = generate(SpatialGenerator(g)).images
    assert not torch.equal(generate(spatial).images, base)
    assert isinstance(spatial.encoder, sel.SelEncoder)
    for k, p in spatial.encoder.layers.named_parameters():
        if k.endswith("output.weight"):
            nn.init.zeros_(p)
    assert torch.equal(generate(spatial).images, base)


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("profile", ["paper", "release", "berfscene"])
def test_every_arm_learns_from_every_sampler(backbone: str, profile: str) -> None:
    """Away from its zero start every parameter of the encoder has a gradient, and the image depends
    on the heatmap."""
    g = networks(backbone)[0]
    for name, sampler in itertools.product([n for n in ARMS if profile in ARMS[n][0].PROFILES], SAMPLERS):
        spatial = arm(g, name, profile, heatmaps={"sampler": sampler})
        assert spatial.encoder is not None
        for p in spatial.encoder.parameters():
            p.data.add_(0.05 * torch.randn_like(p))
        fakes = generate(spatial)
        assert fakes.images.shape == (4, 3, R, R) and fakes.images.isfinite().all()
        grads = torch.autograd.grad(fakes.images.square().sum(), list(spatial.encoder.parameters()))
        assert all(x.isfinite().all() and x.abs().max() > 0 for x in grads), (name, sampler)
        assert fakes.heatmaps is not None
        changed = {k: h.flip(0) for k, h in fakes.heatmaps.items()}
        draws = Streams(5, "test", 0)
        other = spatial(g.sample_z(4, draws("z")), draws=draws, heatmaps=changed).images
        assert torch.equal(other, fakes.images) == (sampler == "constant"), (name, sampler)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_adding_an_arm_leaves_the_backbone_as_it_was(backbone: str) -> None:
    g = networks(backbone)[0]
    before = {k: v.clone() for k, v in g.state_dict().items()}
    arm(g, "sel_norm", "release")
    assert all(torch.equal(before[k], v) for k, v in g.state_dict().items())


def test_where_sel_sits() -> None:
    style, plain = networks("stylegan2")[0], networks("sn_dcgan")[0]

    def reads(g: Generator, profile: str, **changes: Any) -> dict[str, tuple[int, ...]]:
        encoder = sel.encoder(g.sites, R, options(sel, profile, **changes))
        assert isinstance(encoder, sel.SelEncoder)
        return {site.name: levels for site, levels in encoder.reads.items()}

    assert reads(style, "paper") == {"b4.conv1": (4,), "b8.conv1": (8,), "b16.conv1": (16,)}
    assert reads(plain, "paper") == {"4": (4,), "8": (8,), "16": (16,)}
    assert reads(style, "paper", levels=[8]) == {"b8.conv1": (8,)}
    everywhere = reads(style, "release")
    assert len(everywhere) == len([s for s in style.sites if s.resolution]) == 11
    assert everywhere["b8.conv0"] == (8,) and everywhere["b32.conv0"] == (4, 8, 16)
    assert reads(plain, "release")["32"] == (4, 8, 16)
    with pytest.raises(UserError, match=r"variants.sel.levels: 64: .*\[4, 8, 16, 32\]"):
        reads(style, "paper", heatmaps={"levels": [4, 8, 64]})


def test_the_releases_size() -> None:
    """With the paper256 channels the synthesis network grows from 22.68 M to 54.12 M parameters; the
    release builds the heatmap encoders even without SEL."""
    with torch.device("meta"):
        g = stylegan2.Generator(stylegan2.Options(), 256, 0)
        encoder = sel.encoder(g.sites, 256, options(sel, "release"))
    assert isinstance(encoder, sel.SelEncoder) and len(encoder.layers) == 20
    plain = sum(p.numel() for p in g.synthesis.parameters())
    assert round((plain + sum(p.numel() for p in encoder.encoders.parameters())) / 1e6, 2) == 22.68
    assert round((plain + sum(p.numel() for p in encoder.parameters())) / 1e6, 2) == 54.12


@pytest.mark.parametrize("norm", ["norm", "concat"])
@pytest.mark.parametrize("output_conv", [False, True])
def test_equalising_changes_the_step_and_not_the_start(norm: str, output_conv: bool) -> None:
    made = []
    for equalized in (True, False):
        torch.manual_seed(0)
        o = options(sel, norm=norm, output_conv=output_conv, zero_init=False, equalized_lr=equalized)
        made.append(sel.SelLayer(4, 1, o))
    x, h = torch.randn(2, 4, 8, 8), torch.rand(2, 1, 8, 8)
    torch.testing.assert_close(made[0](x, h), made[1](x, h))
    assert made[0].shared.weight.std() > 2 * made[1].shared.weight.std()


def test_berfscenes_sel() -> None:
    """(1 + gamma) norm(F) + beta + 0.1 F with a gamma and a beta per channel, of 1x1 convs behind one to 128 and a
    ReLU; written out as matrix products, place by place."""
    torch.manual_seed(0)
    layer = sel.SelLayer(4, 1, options(sel, "berfscene"))
    f, h = torch.randn(2, 4, 8, 8), torch.randn(2, 1, 8, 8)
    w = {name: conv.weight[:, :, 0, 0] * conv.gain for name, conv in layer.named_children()}
    assert {name: tuple(x.shape) for name, x in w.items()} == {"shared": (128, 1), "sigma": (4, 128), "mu": (4, 128)}
    phi = (h.movedim(1, 3) @ w["shared"].T).relu()
    gamma, beta = ((phi @ w[name].T).movedim(3, 1) for name in ("sigma", "mu"))
    norm = (f - f.mean((2, 3), keepdim=True)) / f.var((2, 3), correction=0, keepdim=True).sqrt()
    torch.testing.assert_close(layer(f, h), (1 + gamma) * norm + beta + 0.1 * f, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("profile", "changes", "count"),
    [
        ("paper", {}, (9 + 1) * 64 + 2 * (9 * 64 + 1)),  # eq. 3: a map for all channels
        ("paper", {"channels": "all"}, (9 + 1) * 64 + 2 * 16 * (9 * 64 + 1)),
        ("paper", {"kernel": 1}, (1 + 1) * 64 + 2 * (64 + 1)),
        ("berfscene", {}, (1 + 1) * 128 + 2 * 16 * (128 + 1)),
        ("berfscene", {"norm": "concat"}, (1 + 1) * 128 + 16 * (16 + 128 + 1)),
    ],
)
def test_the_size_of_a_sel_on_16_channels(profile: str, changes: dict[str, Any], count: int) -> None:
    layer = sel.SelLayer(16, 1, options(sel, profile, **changes))
    assert sum(p.numel() for p in layer.parameters()) == count


@pytest.mark.parametrize("norm", ["norm", "concat"])
def test_the_weight_of_the_skip_composes(norm: str) -> None:
    """v F + w branch, whatever the branch; without the residual no v."""
    torch.manual_seed(0)
    layer = sel.SelLayer(4, 1, options(sel, norm=norm, zero_init=False, skip_weight=0.3, branch_weight=0.5))
    f, h = torch.randn(2, 4, 8, 8), torch.rand(2, 1, 8, 8)
    torch.testing.assert_close(layer(f, h), 0.3 * f + 0.5 * layer.branch(f, h))
    layer.options = dataclasses.replace(layer.options, residual=False)
    torch.testing.assert_close(layer(f, h), 0.5 * layer.branch(f, h))


def test_eq_3() -> None:
    """phi_sigma(H) (F - mu(F)) / sigma(F) + phi_mu(H), written out; the residual on top."""
    torch.manual_seed(0)
    layer = sel.SelLayer(4, 1, options(sel, zero_init=False))
    f, h = torch.randn(2, 4, 8, 8), torch.rand(2, 1, 8, 8)
    phi = nn.functional.leaky_relu(layer.shared(h), 0.2) * 2**0.5
    mean, std = f.mean((2, 3), keepdim=True), f.var((2, 3), correction=0, keepdim=True).sqrt()
    eq3 = layer.sigma(phi) * (f - mean) / std + layer.mu(phi)
    torch.testing.assert_close(layer(f, h) - f, eq3, rtol=1e-4, atol=1e-4)
    alone = dataclasses.replace(layer.options, residual=False)
    layer.options = alone
    torch.testing.assert_close(layer(f, h), eq3, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("profile", ["paper", "release"])
@pytest.mark.parametrize("name", ARMS)
def test_path_length_can_be_penalised(name: str, profile: str) -> None:
    """Second derivatives exist and are finite through every encoder."""
    spatial = arm(networks("stylegan2")[0], name, profile, **({} if name == "flatten" else {"zero_init": False}))
    images, ws, _ = generate(spatial)
    (jacobian,) = torch.autograd.grad(images.square().sum(), ws, create_graph=True)
    parameters = [p for k, p in spatial.encoder.named_parameters() if "bias" not in k]
    grads = torch.autograd.grad(jacobian.square().sum(), parameters, allow_unused=True)
    assert all(x is not None and x.isfinite().all() for x in grads)


@pytest.mark.parametrize("name", ARMS)
def test_encoders_compute_in_float32_under_autocast(name: str) -> None:
    spatial = arm(networks("sn_dcgan")[0], name, "release")
    encoder = spatial.encoder
    assert isinstance(encoder, Encoder)
    maps = encoder.sample(2, torch.Generator().manual_seed(0))
    for site in spatial.backbone.sites:
        shape = (2, site.channels, *[site.resolution] * 2 * (site.resolution > 0))
        x = torch.randn(shape).bfloat16()
        exact = encoder.modulation(maps)(site, x.float())
        with torch.autocast("cpu", torch.bfloat16):
            act = encoder.modulation(encoder.sample(2, torch.Generator().manual_seed(0)))
            half = act(site, x)
            assert torch.equal(act(site, x.float()), exact)
        assert half.dtype == torch.bfloat16
        torch.testing.assert_close(half.float(), exact, rtol=1e-2, atol=1e-2)


# ── alignment ────────────────────────────────────────────────────────────────


def aligned(d: Discriminator, fakes: Fakes, o: align.Options, labels: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """(GAN loss, L_align) from one forward pass of D."""
    hooks = align.hooks(o, R)
    logits, feats = d(fakes.images, labels, taps=hooks.taps)
    total, parts = hooks.term(logits, feats, fakes)
    assert list(parts) == [*(f"{kind}/{k}" for kind in ("align_empty", "align") for k in (4, 8, 16)), "align"]
    assert all(v.ndim == 0 and not v.requires_grad for v in parts.values())
    torch.testing.assert_close(parts["align"], sum(v for k, v in parts.items() if k.startswith("align/")))
    return nn.functional.softplus(-logits).mean(), total


@pytest.mark.parametrize(
    ("shares", "rectify", "text"),
    [
        ((0.51, 0.5, 0.0), "after_sum", "(51% at 4x4), where"),
        ((0.84, 0.39, 0.9), "after_sum", "(84% at 4x4, 90% at 16x16), where"),
        ((0.5, 0.0, 0.1), "after_sum", None),
        (("nan", 0.0, 0.1), "after_sum", None),
        ((0.0, 1.0, 0.0), "per_channel", "(100% at 8x8), where"),
    ],
)
def test_maps_that_are_mostly_empty_are_told_by_level(shares: Any, rectify: str, text: str | None) -> None:
    curves = {f"loss/align_empty/{k}": v for k, v in zip((4, 8, 16), shares, strict=True)}
    told = align.told(align.Options(rectify=rectify), curves)  # type: ignore[arg-type]
    assert (told is None) == (text is None)
    assert told is None or text in told
    assert told is None or ("profile: coherent" in told) == (rectify == "after_sum")
    assert align.told(align.Options(), {"loss/align": 0.3}) is None, "older results have no such curves"


@pytest.mark.parametrize("num_classes", [0, 5])
@pytest.mark.parametrize("profile", ["paper", "coherent", "release"])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_alignment_moves_g_alone(backbone: str, profile: str, num_classes: int) -> None:
    g, d = networks(backbone, num_classes)
    labels = torch.arange(4) % num_classes if num_classes else None
    spatial, twin = arm(g, "sel_norm", "paper" if profile == "coherent" else profile), copy.deepcopy(d)
    fakes = generate(spatial, labels=labels)
    gan, extra = aligned(d, fakes, options(align, profile), labels)
    assert 0 < extra < 3

    # D's own gradients are those of the GAN loss alone, bit for bit; so are its buffers after the pass.
    plain = nn.functional.softplus(-twin(fakes.images, labels)[0]).mean()
    without = torch.autograd.grad(plain, list(twin.parameters()), retain_graph=True)
    with_term = torch.autograd.grad(gan, list(d.parameters()), retain_graph=True)
    assert all(torch.equal(a, b) for a, b in zip(without, with_term, strict=True))
    assert all(p.grad is None for p in d.parameters())
    state = d.state_dict()
    assert all(torch.equal(v, state[k]) for k, v in twin.state_dict().items())

    d.requires_grad_(False)
    grads = torch.autograd.grad(extra, list(g.parameters()), allow_unused=True)
    assert any(x is not None and x.abs().max() > 0 for x in grads)
    assert all(x is None or x.isfinite().all() for x in grads)


def test_with_d_frozen_the_gradient_is_the_same() -> None:
    """In a step of G the parameters of D need no gradient; GradCAM works all the same."""
    g, d = networks("sn_dcgan")
    fakes = generate(arm(g, "sel_norm"))
    d.eval()
    (free,) = torch.autograd.grad(aligned(d, fakes, options(align))[1], fakes.images)
    d.requires_grad_(False)
    fakes = generate(arm(networks("sn_dcgan")[0], "sel_norm"))
    (frozen,) = torch.autograd.grad(aligned(d, fakes, options(align))[1], fakes.images)
    assert torch.equal(free, frozen)


@pytest.mark.parametrize("profile", ["paper", "release"])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_alignment_is_float32_under_autocast(backbone: str, profile: str) -> None:
    g, d = networks(backbone)
    spatial, o = arm(g, "sel_norm", profile), options(align, profile)
    with torch.autocast("cpu", torch.bfloat16):
        fakes = generate(spatial)
        assert fakes.heatmaps is not None
        assert all(h.dtype == torch.float32 for h in fakes.heatmaps.values())
        total = aligned(d, fakes, o)[1]
    assert total.dtype == torch.float32 and total.isfinite()


def test_a_dead_d_ends_in_a_finite_zero_gradient() -> None:
    g, d = networks("stylegan2")
    fakes = generate(arm(g, "sel_norm"))
    nn.init.zeros_(d.get_parameter("b4.out.weight"))
    total = aligned(d, fakes, options(align))[1]
    (grad,) = torch.autograd.grad(total, fakes.images)
    assert total > 0 and (grad == 0).all()


def parts_of(o: align.Options) -> dict[str, Tensor]:
    g, d = networks("sn_dcgan")
    fakes = generate(arm(g, "sel_norm"))
    hooks = align.hooks(o, R)
    logits, feats = d(fakes.images, taps=hooks.taps)
    total, parts = hooks.term(logits, feats, fakes)
    return {"total": total, **parts}


def test_weights() -> None:
    plain = parts_of(options(align))
    heavy = parts_of(options(align, weight=3.0, level_weights=[1.0, 0.0, 0.5]))
    torch.testing.assert_close(heavy["total"], 3 * (plain["align/4"] + 0.5 * plain["align/16"]))
    torch.testing.assert_close(heavy["align/8"], plain["align/8"])
    one = parts_of(options(align, levels=[8]))
    assert sorted(one) == ["align", "align/8", "align_empty/8", "total"]


def test_weights_can_be_differentiated_through() -> None:
    """On a D that is (piecewise) linear they are constants; a smooth one tells."""
    images = torch.randn(2, 3, R, R, requires_grad=True)
    maps = {8: torch.rand(2, 1, 8, 8)}
    grads = []
    for through in (False, True):
        o = options(align, levels=[8], differentiate_weights=through)
        feats = {"8": nn.functional.avg_pool2d(images, 4)}
        logits = (feats["8"] ** 3).sum((1, 2, 3))
        total, _ = align.hooks(o, R).term(logits, feats, Fakes(images, images, maps))
        grads.append(torch.autograd.grad(total, images)[0])
    assert not torch.allclose(grads[0], grads[1])


def test_every_combination_is_finite() -> None:
    g, d = networks("sn_dcgan")
    fakes = [generate(arm(g, "sel_norm", profile)) for profile in ("paper", "release")]
    for compare, normalize, heat, truncate, made in itertools.product(
        ("feature", "image"),
        ("minmax", "max", "none"),
        ("all", "finer", "none"),
        ("mean_above", "zero_below", "none"),
        fakes,
    ):
        o = options(align, compare_at=compare, normalize=normalize, normalize_heatmaps=heat, truncate=truncate)
        assert aligned(d, made, o)[1].isfinite()


def test_a_non_finite_value_is_handed_on_where_it_arises() -> None:
    """The parts stand in the order of their making, so the first bad one is the place."""
    g, d = networks("sn_dcgan")
    fakes = generate(arm(g, "sel_norm"))
    hooks = align.hooks(options(align), R)
    logits, feats = d(fakes.images, taps=hooks.taps)

    def bad(*given: Any) -> list[str]:
        total, parts = hooks.term(*given)
        assert not total.isfinite()
        return [name for name, value in parts.items() if not value.isfinite()]

    spoilt = {**(fakes.heatmaps or {}), 8: torch.full((4, 2, 8, 8), float("nan"))}
    assert bad(logits, feats, fakes._replace(heatmaps=spoilt)) == ["align/8", "align"]
    huge = {k: v * 1e38 for k, v in feats.items()}
    steep = 1e10 * sum((v - v.detach()).sum((1, 2, 3)) for v in huge.values())
    assert bad(steep, huge, fakes)[0] == "align_empty/4"


def test_empty_maps_are_counted() -> None:
    """D's gradient planted: positive on the first two of four fakes, negative on the others, whose map is 0."""
    g, _ = networks("sn_dcgan")
    fakes = generate(arm(g, "sel_norm"))
    feats = {str(k): torch.rand(4, 3, k, k, requires_grad=True) for k in (4, 8, 16)}
    sign = torch.tensor([1.0, 1.0, -1.0, -1.0])
    for rectify, share in (("after_sum", 0.5), ("per_channel", 0.5)):
        logits = sign * sum(f.sum((1, 2, 3)) for f in feats.values())
        total, parts = align.hooks(options(align, rectify=rectify), R).term(logits, feats, fakes)
        assert [float(parts[f"align_empty/{k}"]) for k in (4, 8, 16)] == [share] * 3
        grads = torch.autograd.grad(total, list(feats.values()))
        assert all(grad[:2].any() and not grad[2:].any() for grad in grads)


def test_what_alignment_refuses() -> None:
    with pytest.raises(UserError, match=r"variants.align.levels: 16: must be below the image resolution 16"):
        align.hooks(options(align), 16)
    g, d = networks("sn_dcgan")
    fakes = generate(arm(g, "sel_norm", heatmaps={"levels": [4, 8]}))
    hooks = align.hooks(options(align), R)
    logits, feats = d(fakes.images, taps=hooks.taps)
    with pytest.raises(UserError, match=r"align.levels: 16: no such heatmap; drawn: \[4, 8\]"):
        hooks.term(logits, feats, fakes)
    with pytest.raises(UserError, match="level_weights.*entry for each level"):
        options(align, level_weights=[1.0])
    with pytest.raises(UserError, match="levels: 32: must be among heatmaps.levels"):
        options(sel, levels=[32])
    with pytest.raises(UserError, match="flatten: the generator has 0 latent sites"):
        flatten.encoder(g.sites[1:], R, options(flatten))
