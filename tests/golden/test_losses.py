"""The four training phases, each from the same recorded state; EMA and Adam figures.

Files of conditional networks hold `in/gen_c` and `in/real_c`: one-hot float32 [N, c_dim], of the fakes and the reals.
"""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from harness.method import losses
from tests.golden._golden import FORWARD, GRADIENT, Case, cases, close, close_all, gradients
from tests.golden.test_stylegan2 import discriminator, generator

LOGISTIC = losses.ADVERSARIAL["logistic"]
EXACT = 1e-14


class Phases:
    """G in training mode with constant noise, D, and the loss of each sample in each phase."""

    def __init__(self, case: Case) -> None:
        self.case, self.config = case, case.config
        self.g = generator(case.config["G"], case.group("sd/G/")).train()
        self.d = discriminator(case.config["D"], case.group("sd/D/")).train()
        self.g.noise = "const"
        self.gen_c, self.real_c = (labels(case, f"in/{kind}_c", self.config["D"]["c_dim"]) for kind in ("gen", "real"))
        self.pl: losses.PathLength | None = None

    def gmain(self) -> tuple[Tensor, Tensor]:
        logits, _ = self.d(self.g(self.case["in/z"], self.gen_c).images, self.gen_c)
        return LOGISTIC.g(logits), logits

    def greg(self) -> Tensor:
        half = self.config["batch"] // self.config["pl_batch_shrink"]
        images, ws = self.g(self.case["in/z"][:half], None if self.gen_c is None else self.gen_c[:half])
        mean, noise = self.case["in/pl_mean_before"], self.case["in/pl_noise_raw"]
        self.pl = losses.path_length(images, ws, mean, noise, self.config["pl_decay"])
        return self.pl.penalty * self.config["pl_weight"]

    def dmain(self) -> tuple[Tensor, Tensor, Tensor]:
        with torch.no_grad():
            fakes = self.g(self.case["in/z"], self.gen_c).images
        fake, _ = self.d(fakes, self.gen_c)
        real, _ = self.d(self.case["in/real_img"], self.real_c)
        return LOGISTIC.d_fake(fake) + LOGISTIC.d_real(real), fake, real

    def dreg(self) -> tuple[Tensor, Tensor, Tensor]:
        images = self.case["in/real_img"].requires_grad_()
        logits, _ = self.d(images, self.real_c)
        penalty = losses.r1_penalty(images, logits)
        return penalty * (self.config["r1_gamma"] / 2), penalty, logits

    def norms(self, net: nn.Module, loss: Tensor) -> dict[str, Tensor]:
        return {k: v.norm() for k, v in gradients(loss, dict(net.named_parameters())).items()}


def labels(case: Case, key: str, classes: int) -> Tensor | None:
    """Class numbers [N] of one-hot rows [N, classes]; None where the networks take no labels."""
    if not classes:
        assert key not in case, f"{case.name}: {key}, but networks without classes"
        return None
    one_hot = case[key]
    assert one_hot.shape[1] == classes and torch.equal(one_hot, nn.functional.one_hot(one_hot.argmax(1), classes))
    return one_hot.argmax(1)


@pytest.mark.parametrize("case", cases("stylegan2_losses*"))
class TestPhases:
    def test_gmain(self, case: Case) -> None:
        run = Phases(case)
        loss, logits = run.gmain()
        close(logits[:, None], case["out/Gmain/fake_logits"], FORWARD)
        close(loss[:, None], case["out/Gmain/loss_per_sample"], FORWARD)
        close(run.g.mapping.w_avg, case["out/Gmain/w_avg_after"], FORWARD)
        close_all(gradients(loss.mean(), dict(run.g.named_parameters())), case.group("out/Gmain/grad/"), GRADIENT)

    def test_greg(self, case: Case) -> None:
        run = Phases(case)
        loss = run.greg()
        assert run.pl is not None
        close(run.pl.lengths, case["out/Greg/pl_lengths"], GRADIENT)
        close(run.pl.penalty, case["out/Greg/pl_penalty"], GRADIENT)
        close(run.pl.mean, case["out/Greg/pl_mean_after"], GRADIENT)
        close(loss, case["out/Greg/loss_per_sample"], GRADIENT)
        close(run.g.mapping.w_avg, case["out/Greg/w_avg_after"], FORWARD)
        total = loss.mean() * case.config["G_reg_interval"]
        close_all(gradients(total, dict(run.g.named_parameters())), case.group("out/Greg/grad/"), GRADIENT)

    def test_path_length_gradient(self, case: Case) -> None:
        """`pl_grads` itself: the lengths alone would not tell its direction."""
        run = Phases(case)
        noise = case["in/pl_noise_raw"]
        images, ws = run.g(case["in/z"][: len(noise)], None if run.gen_c is None else run.gen_c[: len(noise)])
        y = noise / noise[0, 0].numel() ** 0.5
        close(torch.autograd.grad((images * y).sum(), ws)[0], case["out/Greg/pl_grads"], GRADIENT)

    def test_dmain(self, case: Case) -> None:
        run = Phases(case)
        loss, fake, real = run.dmain()
        close(fake[:, None], case["out/Dmain/fake_logits"], FORWARD)
        close(real[:, None], case["out/Dmain/real_logits"], FORWARD)
        close(loss[:, None], case["out/Dmain/loss_per_sample"], FORWARD)
        close(run.g.mapping.w_avg, case["out/Dmain/w_avg_after"], FORWARD)
        close_all(gradients(loss.mean(), dict(run.d.named_parameters())), case.group("out/Dmain/grad/"), GRADIENT)

    def test_dreg(self, case: Case) -> None:
        run = Phases(case)
        loss, penalty, logits = run.dreg()
        close(logits[:, None], case["out/Dreg/real_logits"], FORWARD)
        close(penalty, case["out/Dreg/r1_penalty"], GRADIENT)
        close(loss, case["out/Dreg/loss_per_sample"], GRADIENT)
        total = loss.mean() * case.config["D_reg_interval"]
        close_all(gradients(total, dict(run.d.named_parameters())), case.group("out/Dreg/grad/"), GRADIENT)

    def test_both_phases_of_g(self, case: Case) -> None:
        run = Phases(case)
        total = run.gmain()[0].mean() + run.greg().mean()
        close_all(run.norms(run.g, total), case.group("out/Gboth/grad_norm/"), GRADIENT)
        close(run.g.mapping.w_avg, case["out/Gboth/w_avg_after"], FORWARD)

    def test_both_phases_of_d(self, case: Case) -> None:
        run = Phases(case)
        total = run.dmain()[0].mean() + run.dreg()[0].mean()
        close_all(run.norms(run.d, total), case.group("out/Dboth/grad_norm/"), GRADIENT)

    def test_ema_beta(self, case: Case) -> None:
        columns = [case[f"in/ema/{k}"].tolist() for k in ("batch", "cur_nimg", "ema_kimg", "ramp_or_minus1")]
        betas = [losses.ema_beta(b, n, k, None if r < 0 else r) for b, n, k, r in zip(*columns, strict=True)]
        close(torch.tensor(betas, dtype=torch.float64), case["out/ema/beta"], EXACT)

    def test_lazy_adam(self, case: Case) -> None:
        rows = []
        for lr, beta1, beta2, interval in case["in/adam/lr_beta1_beta2_interval"].tolist():
            lr, betas = losses.lazy_adam(lr, (beta1, beta2), int(interval))
            rows.append([lr, *betas])
        close(torch.tensor(rows, dtype=torch.float64), case["out/adam/lr_beta1_beta2"], EXACT)


@pytest.mark.parametrize("of_g", cases("stylegan2_g_cond*"))
@pytest.mark.parametrize("of_d", cases("stylegan2_d_cond*"))
def test_a_conditional_file_is_read_with_its_labels(of_g: Case, of_d: Case, tmp_path: Path) -> None:
    """A file as the README describes one, from recorded conditional networks; what is expected comes from these, each
    asked with the class numbers that the file's one-hot rows stand for. Other labels give other numbers."""
    classes, count = of_d.config["c_dim"], 4
    gen, real = torch.arange(count) % classes, (torch.arange(count) + 1) % classes
    g, d = generator(of_g.config, of_g.group("sd/")).train(), discriminator(of_d.config, of_d.group("sd/")).train()
    g.noise, z = "const", torch.randn(count, of_g.config["z_dim"], generator=torch.Generator().manual_seed(0))
    images = torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    logits = d(g(z, gen).images, gen)[0]
    config = {
        "G": of_g.config,
        "D": of_d.config,
        "batch": count,
        "pl_batch_shrink": 2,
        "pl_weight": 2,
        "pl_decay": 0.01,
    }
    one_hot = {k: nn.functional.one_hot(v, classes).float() for k, v in (("gen_c", gen), ("real_c", real))}
    inputs = {"z": z, "real_img": images, "pl_mean_before": torch.tensor(0.3), "pl_noise_raw": images[:2], **one_hot}
    tensors = {f"sd/G/{k}": v for k, v in of_g.group("sd/").items()}
    tensors |= {f"sd/D/{k}": v for k, v in of_d.group("sd/").items()} | {f"in/{k}": v for k, v in inputs.items()}
    path = tmp_path / "stylegan2_losses_cond.safetensors"
    save_file({k: v.clone() for k, v in tensors.items()}, path, {"config": json.dumps(config | {"r1_gamma": 10})})
    run = Phases(Case(path))
    torch.testing.assert_close(run.gmain()[1], logits)
    run = Phases(Case(path))
    with torch.no_grad():
        torch.testing.assert_close(run.dmain()[2], d(images, real)[0])
        assert not torch.allclose(d(images, real)[0], d(images, gen)[0], rtol=1e-3)
    assert run.greg().isfinite().all() and run.dreg()[0].isfinite().all()
    run.real_c = run.gen_c
    assert not torch.allclose(run.dmain()[2], d(images, real)[0], rtol=1e-3)
