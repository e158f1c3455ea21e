"""R3GAN's loss and its whole training steps against recorded numbers: the loop itself, with the variant `relativistic`,
on recorded images, latents and labels."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from harness.experiment.spec import Adam, Train
from harness.method import losses
from harness.method.generator import SpatialGenerator
from harness.method.hooks import ArmHooks
from harness.method.losses import r1_penalty
from harness.method.schedules import Scheduled, at
from harness.training import train as loop
from harness.training.state import State, new_state
from harness.variants import relativistic
from tests.golden._golden import FORWARD, GRADIENT, Case, cases, close
from tests.golden.test_r3gan import SCHEDULE, discriminator, generator, labels, moving, own_names

MOVED = 1e-3  # Adam without momentum turns the sign of a gradient near 0 into a full step
FINAL = 1e-4


def trained(case: Case, t: Train, gamma: Scheduled, phases: list[str], monkeypatch: pytest.MonkeyPatch) -> State:
    """The state after `harness.training.train.train` was fed the reals, labels and latents of `phases`, in turn; in
    float64, since in Adam's first steps rounding turns into whole steps."""
    g, d = generator(case, "sd/G/").double(), discriminator(case, "sd/D/").double()
    state = new_state(SpatialGenerator(g), d, t)
    hooks = ArmHooks({"relativistic": relativistic.hooks(relativistic.Options(r1_gamma=gamma), g.resolution)})
    reals, latents = iter(phases), iter(phases)

    def batch(*_: Any) -> tuple[Tensor, Tensor | None]:
        phase = next(reals)
        return case[f"{phase}real"].double(), labels(case, f"{phase}c")

    monkeypatch.setattr(loop, "batch", batch)
    monkeypatch.setattr(loop, "to_device", lambda x, y, part, device: (x, y))
    monkeypatch.setattr(g, "sample_z", lambda n, rng: case[f"{next(latents)}z"].double(), raising=False)
    data: Any = SimpleNamespace(labels=np.zeros(1, dtype=np.int64))
    loop.train(state, t, data, hooks, seed=0, conditional=bool(case.config["c_dim"]), upkeep=lambda state: False)
    assert next(reals, None) is next(latents, None) is None
    return state


@pytest.mark.parametrize("case", cases("r3gan_loss*"))
def test_losses_penalties_and_gradients(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    gamma, batch = case.config["gamma"], case.config["batch"]
    still = Adam(lr=0.0, betas=(0.0, 0.9))  # both phases begin from the recorded weights
    t = Train(total_kimg=batch / 1000, batch_size=batch, g=still, d=still)
    state = trained(case, t, gamma, ["in/D/", "in/G/"], monkeypatch)
    seen = {name: torch.stack(values) for name, values in state.stats.values.items()}
    close(seen["scores/real"][0], case["out/D/real_logits"], FORWARD, "D real")
    close(seen["scores/fake"][0], case["out/D/fake_logits"], FORWARD, "D fake")
    penalties = {k: seen[f"loss/relativistic/{k}"][0] for k in ("r1", "r2")}
    for k, penalty in penalties.items():
        close(penalty, case[f"out/D/{k}_penalty"].mean(), GRADIENT, k)
    close(seen["loss/d"][0] + gamma / 2 * sum(penalties.values()), case["out/D/loss"], GRADIENT, "D loss")
    close(seen["loss/g"][0], case["out/G/loss"], FORWARD, "G loss")
    for network, module in (("D", state.d), ("G", state.g.backbone)):
        names = own_names(module_names(case, f"out/{network}/grad"))
        grads = {n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in module.named_parameters()}
        for name, own in names.items():
            if f"out/{network}/grad/{name}" in case:
                close(grads[own], case[f"out/{network}/grad/{name}"], GRADIENT, name)
            if f"out/{network}/grad_norm/{name}" in case:
                close(grads[own].norm(), case[f"out/{network}/grad_norm/{name}"], GRADIENT, name)


@pytest.mark.parametrize("case", cases("r3gan_loss*"))
def test_each_sample_of_the_loss(case: Case) -> None:
    g, d, gamma = generator(case, "sd/G/"), discriminator(case, "sd/D/"), case.config["gamma"]
    for phase in "DG":
        y = labels(case, f"in/{phase}/c")
        x, fakes = case[f"in/{phase}/real"].requires_grad_(), g(case[f"in/{phase}/z"], y).images
        close(fakes[:2], case[f"out/{phase}/fake_img"], FORWARD, "fakes")
        fakes = fakes.detach().requires_grad_()
        (real, _), (fake, _) = d(x, y), d(fakes, y)
        ahead, behind = (real, fake) if phase == "D" else (fake, real)
        close(ahead - behind, case[f"out/{phase}/relativistic_logits"], FORWARD, phase)
        each = relativistic.apart(ahead, behind)
        close(each, case[f"out/{phase}/adversarial_per_sample"], FORWARD, phase)
        if phase == "D":
            r1, r2 = r1_penalty(x, real), r1_penalty(fakes, fake)
            close(r1, case["out/D/r1_penalty"], GRADIENT, "r1")
            close(r2, case["out/D/r2_penalty"], GRADIENT, "r2")
            each = each + gamma / 2 * (r1 + r2)
        close(each, case[f"out/{phase}/loss_per_sample"], GRADIENT, phase)


def module_names(case: Case, prefix: str) -> Iterator[str]:
    heads = (f"{prefix}/", f"{prefix}_norm/")
    found = {key.removeprefix(head) for key in case.keys for head in heads if key.startswith(head)}
    assert found
    return iter(found)


@pytest.mark.parametrize("case", cases("r3gan_steps*"))
def test_whole_steps_of_the_recipe(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    c = case.config
    batch, count, burn_in = c["batch"], c["iterations"], c["burn_in_nimg"] / 1000
    ends = {"lr": c["lr"], "beta2": c["beta2"], "gamma": c["gamma_schedule"], "ema": [n / 1000 for n in c["ema_nimg"]]}
    lr, beta2, gamma, half_life = (moving(first, last, burn_in) for first, last in ends.values())
    adam = Adam(lr, (0.0, beta2), 1e-8)
    t = Train(total_kimg=count * batch / 1000, batch_size=batch, g=adam, d=adam, ema_kimg=half_life)
    paces, betas, paced, ema_beta = [], [], loop.paced, losses.ema_beta
    monkeypatch.setattr(loop, "paced", lambda *a: paces.append(paced(*a)) or paces[-1])
    monkeypatch.setattr(losses, "ema_beta", lambda *a: betas.append(ema_beta(*a)) or betas[-1])
    phases = [f"in/steps/{i}/{phase}/" for i in range(count) for phase in "DG"]
    state = trained(case, t, gamma, phases, monkeypatch)
    starts = [i * batch for i in range(count)]
    rows = [
        [n, g["lr"], g["betas"][1], at(gamma, n), 1000 * at(half_life, n), beta]
        for n, g, beta in zip(starts, paces[::2], betas, strict=True)
    ]
    assert paces[::2] == paces[1::2]
    expected = case["out/steps/nimg_lr_beta2_gamma_halflife_emabeta"]
    torch.testing.assert_close(torch.tensor(rows, dtype=torch.float64), expected, rtol=SCHEDULE, atol=0)
    seen = {name: torch.stack(values) for name, values in state.stats.values.items()}
    for i in range(count):
        out = {phase: case.group(f"out/steps/{i}/{phase}/") for phase in "DG"}
        apart = seen["scores/real"][i] - seen["scores/fake"][i]
        close(apart, out["D"]["relativistic_logits"], FORWARD, f"D {i}")
        close(seen["loss/d"][i], out["D"]["adversarial_per_sample"].mean(), FORWARD, f"D {i}")
        close(seen["loss/g"][i], out["G"]["adversarial_per_sample"].mean(), FORWARD, f"G {i}")
        for k in ("r1", "r2"):
            close(seen[f"loss/relativistic/{k}"][i], out["D"][f"{k}_penalty"].mean(), GRADIENT, f"{k} {i}")
    assert state.g_ema is not None
    g, d, g_ema = state.g.backbone, state.d, state.g_ema.backbone
    for network, module, start in (("G", g, "G"), ("D", d, "D"), ("G_ema", g_ema, "G")):
        norms = case.group(f"out/steps/moved_norm/{network}/")
        names = own_names(norms)
        assert sorted(names.values()) == sorted(name for name, _ in module.named_parameters())
        for name, norm in norms.items():
            moved = module.get_parameter(names[name]).double() - case[f"sd/{start}/{name}"].double()
            close(moved.norm().to(norm.dtype), norm, MOVED, f"{network} {name}")
    y = labels(case, "in/steps/0/G/c")
    z, first = case["in/steps/0/G/z"][:1].double(), None if y is None else y[:1]
    with torch.no_grad():
        for name, made in (("img_G", g(z, first)), ("img_G_ema", g_ema(z, first))):
            close(made.images, case[f"out/steps/final/{name}"], FINAL, name)
        close(d(case["in/steps/0/G/real"].double(), y)[0], case["out/steps/final/real_logits"], FINAL, "real_logits")
