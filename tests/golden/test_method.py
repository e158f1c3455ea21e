"""The method against recorded numbers: heatmaps, SEL, the composed generator, GradCAM and L_align.

`own_method.json` holds expectations of our own, made by own_method.py, for those who clone
the repository alone.
"""

import json
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from backbones import Site, stylegan2
from harness.experiment.schema import parse
from harness.method import attention, heatmaps
from harness.method.generator import Fakes, Heatmaps, SpatialGenerator
from harness.variants import align, sel
from tests.golden import own_method
from tests.golden._golden import FORWARD, GRADIENT, Case, cases, close, close_all, gradients

LEVELS = {4: "b8", 8: "b16", 16: "b32"}  # the release names levels by the blocks of D
HEATMAPS = parse(heatmaps.HeatmapOptions, heatmaps.RELEASE, "test")


def release(module: Any, **changes: Any) -> Any:
    return parse(module.Options, {"profile": "release", **module.PROFILES["release"], **changes}, "test")


def by_level(case: Case, prefix: str) -> Heatmaps:
    return {level: case[f"{prefix}/{name}"] for level, name in LEVELS.items()}


# ── heatmaps ─────────────────────────────────────────────────────────────────


def spreads(case: Case) -> dict[int, Tensor]:
    return {
        4: case["in/sigma"].reshape(1, 1),
        8: case["in/cur_sigma2"].flatten(1),
        16: case["in/cur_sigma3"].flatten(1),
    }


def regions_of(case: Case, kind: str) -> heatmaps.Regions:
    if kind == "sampled":
        units = {
            4: (case["in/draws/normal_centers"], torch.zeros(1, 1, 2), case["in/draws/u_sigma"].reshape(1, 1)),
            8: (torch.zeros(1, 2), case["in/draws/u_l2_delta"].mT, case["in/draws/u_sigma2"].flatten(1)),
            16: (torch.zeros(1, 2), case["in/draws/u_l3_delta"].mT, case["in/draws/u_sigma3"].flatten(1)),
        }
        return heatmaps.regions(HEATMAPS, {k: heatmaps.Units(*u) for k, u in units.items()})
    first = case["in/centers"][:, None]
    if kind == "delta":
        centers = {4: first, 8: first + case["in/l2_delta"].mT, 16: first + case["in/l3_delta"].mT}
    else:
        centers = {4: first, 8: case["in/l2_centers"].mT, 16: case["in/l3_centers"].mT}
    return heatmaps.Regions(centers, spreads(case))


@pytest.mark.parametrize("kind", ["delta", "centers", "sampled"])
@pytest.mark.parametrize("case", cases("eqgan_heatmaps*"))
def test_heatmaps(case: Case, kind: str) -> None:
    for resolution in case.config["resolutions"]:
        maps = heatmaps.render(HEATMAPS, regions_of(case, kind), resolution)
        for level, expected in by_level(case, f"out/{kind}/{resolution}").items():
            close(maps[level], expected, 2e-6 / expected.abs().max().item(), f"{kind}/{resolution}/{level}")


# ── SEL ──────────────────────────────────────────────────────────────────────

PARTS = {"shared": "shared.0", "sigma": "sigma", "mu": "mu", "output": "output.1"}
NAMES = {f"{ours}.{p}": f"{theirs}.{p}" for ours, theirs in PARTS.items() for p in ("weight", "bias")}


@pytest.mark.parametrize(
    ("case", "index"), cases("eqgan_sel*", lambda c: [(str(i), i) for i in range(len(c.config["x_hm_res"]))])
)
def test_sel(case: Case, index: int) -> None:
    o = release(sel, hidden=case.config["nhidden"])
    layer = sel.SelLayer(case.config["norm_dim"], case.config["map_dim"], o)
    layer.load_state_dict({ours: case[f"sd/{theirs}"] for ours, theirs in NAMES.items()})
    x = case[f"in/{index}/x"].requires_grad_()
    hm = case[f"in/{index}/hm"].requires_grad_()
    h = heatmaps.resize(hm, x.shape[-1], o.resize)
    feature = sel._lrelu(layer.shared(h), 2**0.5)
    got = {
        "hm_feature": feature,
        "sigma": layer.sigma(feature),
        "mu": layer.mu(feature),
        "normalized": F.instance_norm(x),
        "output_branch": layer.branch(x, h),
        "y": layer(x, h),
    }
    for name, value in got.items():
        if f"out/{index}/{name}" in case:
            close(value, case[f"out/{index}/{name}"], FORWARD, name)
    inputs = {"x": x, "hm": hm, **{NAMES[k]: p for k, p in layer.named_parameters()}}
    grads = gradients((got["y"] * case[f"in/{index}/t"]).sum(), inputs)
    close(grads.pop("x"), case[f"out/{index}/grad_x"], GRADIENT, "grad_x")
    close(grads.pop("hm"), case[f"out/{index}/grad_hm"], GRADIENT, "grad_hm")
    close_all(grads, case.group(f"out/{index}/grad/"), GRADIENT)


# ── L_align ──────────────────────────────────────────────────────────────────


def discriminator(case: Case, dead: bool = False) -> torch.nn.Module:
    weights = case.group("sd/")
    if dead:
        weights["b4.out.weight"] = torch.zeros_like(weights["b4.out.weight"])
    c = case.config
    o = stylegan2.Options(
        channel_base=c["channel_base"],
        channel_max=c["channel_max"],
        mbstd_group=c["mbstd_group_size"],
        mbstd_channels=c["mbstd_num_channels"],
    )
    d = stylegan2.Discriminator(o, c["img_resolution"], c.get("c_dim", 0))
    load(d, weights)
    return d


def load(module: torch.nn.Module, weights: dict[str, Tensor]) -> None:
    """Load weights under their reference names; names must match one to one."""
    names = {k: stylegan2.own_name(k) for k in weights}
    module.load_state_dict({own: weights[k] for k, own in names.items() if own is not None})


KINDS = ("generic", "near", "dead")


@pytest.mark.parametrize(("case", "kind"), cases("eqgan_align*", lambda c: [(k, k) for k in KINDS]))
def test_align(case: Case, kind: str) -> None:
    out, size = f"out/{kind}", case.config["img_resolution"]
    given = by_level(case, f"in/{'near' if kind == 'near' else 'generic'}/heatmap")
    image = case["in/img"].requires_grad_()
    hooks = align.hooks(release(align, tau=case.config["align_thres"]), size)
    assert isinstance(hooks, align.Alignment)
    logits, feats = discriminator(case, kind == "dead")(image, taps=hooks.taps)
    total, parts = hooks.term(logits, feats, Fakes(image, image, given))

    weights = attention.gradcam_weights(logits, feats, "softplus")
    maps = attention.gradcam(logits, feats, objective="softplus", rectify="per_channel")
    losses = []
    for level, name in LEVELS.items():
        tap = str(level)
        attended, target = hooks.attended(maps[tap]), hooks.target(level, given[level], maps[tap])
        got = {
            "inter_feat": feats[tap],
            "gradcam_weights": weights[tap],
            "act_map": maps[tap],
            "norm_act": attended,
            "heatmap_used": target,
            "loss_level": parts[f"align/{level}"],
        }
        for key, value in got.items():
            if f"{out}/{key}/{name}" in case:
                tolerance = GRADIENT if key in ("gradcam_weights", "act_map", "norm_act") else FORWARD
                close(value, case[f"{out}/{key}/{name}"], tolerance, f"{key}/{name}")
        difference = (attended - target).abs()
        assert (difference > case.config["align_thres"]).sum() == case[f"{out}/n_above_tau/{name}"]
        assert difference.isfinite().sum() == case[f"{out}/n_finite/{name}"]
        losses.append(attention.alignment(attended, target, case.config["align_thres"], "mean_above"))

    gan = F.softplus(-logits)
    close(total, case[f"{out}/loss_align"], FORWARD, "loss_align")
    close(gan.mean() + total, case[f"{out}/loss_gmain_total"], FORWARD, "loss_gmain_total")
    wanted = {"grad_img_align": total, "grad_img_gmain_total": gan.mean() + total}
    wanted |= {f"grad_img_level/{n}": loss for n, loss in zip(LEVELS.values(), losses, strict=True)}
    if kind == "generic":
        close(logits, case[f"{out}/logits"].squeeze(1), FORWARD, "logits")
        close(gan, case[f"{out}/loss_gan_per_sample"].squeeze(1), FORWARD, "loss_gan_per_sample")
        assert all(f"{out}/{name}" in case for name in wanted)
    for name, loss in wanted.items():
        if f"{out}/{name}" in case:
            (grad,) = torch.autograd.grad(loss, image, retain_graph=True)
            close(grad, case[f"{out}/{name}"], GRADIENT, name)


@pytest.mark.parametrize("case", cases("eqgan_align*"))
def test_gradcam_of_the_papers_text(case: Case) -> None:
    taps = tuple(str(level) for level in LEVELS)
    logits, feats = discriminator(case)(case["in/img"].requires_grad_(), taps=taps)
    weights, maps = attention.gradcam_weights(logits, feats), attention.gradcam(logits, feats)
    for level, name in LEVELS.items():
        close(weights[str(level)], case[f"out/paper_text_variant/gradcam_weights/{name}"], GRADIENT, name)
        close(maps[str(level)], case[f"out/paper_text_variant/act_map/{name}"], GRADIENT, name)


# ── the composed generator ───────────────────────────────────────────────────


def generator(case: Case) -> tuple[stylegan2.Generator, sel.SelEncoder]:
    """The recorded generator in its two halves: everything recorded has its place in one of them."""
    c, weights = case.config, case.group("sd/")
    o = stylegan2.Options(
        z_dim=c["z_dim"],
        w_dim=c["w_dim"],
        mapping_layers=c["mapping_num_layers"],
        channel_base=c["channel_base"],
        channel_max=c["channel_max"],
        noise="const",
    )
    g = stylegan2.Generator(o, c["img_resolution"], c["c_dim"])
    encoder = sel.encoder(g.sites, c["img_resolution"], release(sel))
    assert isinstance(encoder, sel.SelEncoder)
    names = sel.reference_names(encoder)
    encoder.load_state_dict({ours: weights.pop(theirs) for ours, theirs in names.items()})
    load(g, weights)
    return g, encoder


@pytest.mark.parametrize("case", cases("eqgan_g_*"))
class TestGenerator:
    def test_images(self, case: Case) -> None:
        backbone, encoder = generator(case)
        g = SpatialGenerator(backbone, encoder).eval()
        given = by_level(case, "in/heatmap")
        labels = case["in/c"].argmax(1) if case.config["c_dim"] else None
        for key, expected in case.group("out/img_").items():
            noise, psi, fused = key.split("_")
            backbone.noise = "none" if noise == "none" else "const"
            backbone.psi = 1.0 if psi == "psi1" else case.config["psi"]
            backbone.synthesis.fused = "always" if fused == "fused" else "never"
            made = g(case["in/z"], labels, draws=lambda name: torch.default_generator, heatmaps=given)
            close(made.images, expected, FORWARD, key)
            if psi == "psi1":
                close(made.ws, case["out/ws_psi1"], FORWARD, "ws")

    def test_every_part(self, case: Case) -> None:
        backbone, encoder = generator(case)
        given = by_level(case, "in/heatmap")
        features = encoder.features(given)
        for level, name in LEVELS.items():
            if f"out/heatmap_feat/{name}" in case:
                close(features[level], case[f"out/heatmap_feat/{name}"], FORWARD, f"heatmap_feat/{name}")
        backbone.synthesis.fused = "always"
        act, seen = encoder.modulation(given), {}

        def modulate(site: Site, x: Tensor) -> Tensor:
            seen[site.name] = act(site, x)
            return seen[site.name]

        blocks: dict[str, Any] = {}
        for name in case.group("out/block_x/"):
            block = backbone.synthesis.get_submodule(name)
            block.register_forward_hook(lambda _m, _i, out, name=name: blocks.update({name: out}))
        backbone.synthesis(case["out/ws_psi1"], modulate, backbone.noise_source(0, None))
        for name, expected in case.group("out/sel/").items():
            close(seen[name], expected, FORWARD, f"sel/{name}")
        for name in blocks:
            close(blocks[name][0], case[f"out/block_x/{name}"], FORWARD, f"block_x/{name}")
            close(blocks[name][1], case[f"out/block_img/{name}"], FORWARD, f"block_img/{name}")

    def test_gradients(self, case: Case) -> None:
        expected = case.group("out/grad_sum_img_t_unfused/")
        if not expected:
            pytest.skip(f"{case.name} records no gradients")
        backbone, encoder = generator(case)
        inputs = {f"heatmap_{n}": case[f"in/heatmap/{n}"].requires_grad_() for n in LEVELS.values()}
        act = encoder.modulation({level: inputs[f"heatmap_{n}"] for level, n in LEVELS.items()})
        ws = inputs["ws"] = case["out/ws_psi1"].requires_grad_()
        image = backbone.synthesis(ws, act, backbone.noise_source(0, None))
        close_all(gradients((image * case["in/t"]).sum(), inputs), expected, GRADIENT)


# ── our own numbers ──────────────────────────────────────────────────────────


def test_own_numbers() -> None:
    """The maths gives what it gave when it was equal to the recorded numbers above."""
    expected = json.loads(own_method.FILE.read_text())
    got = own_method.numbers()
    assert sorted(got) == sorted(expected)
    for name, values in expected.items():
        scale = max(abs(v) for v in values)
        assert got[name] == pytest.approx(values, rel=0, abs=3e-5 * scale), name
