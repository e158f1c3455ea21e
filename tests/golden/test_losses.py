"""The four training phases, each from the same recorded state; EMA and Adam figures."""

import pytest
import torch
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
        self.pl: losses.PathLength | None = None

    def gmain(self) -> tuple[Tensor, Tensor]:
        logits, _ = self.d(self.g(self.case["in/z"]).images)
        return LOGISTIC.g(logits), logits

    def greg(self) -> Tensor:
        half = self.config["batch"] // self.config["pl_batch_shrink"]
        images, ws = self.g(self.case["in/z"][:half])
        mean, noise = self.case["in/pl_mean_before"], self.case["in/pl_noise_raw"]
        self.pl = losses.path_length(images, ws, mean, noise, self.config["pl_decay"])
        return self.pl.penalty * self.config["pl_weight"]

    def dmain(self) -> tuple[Tensor, Tensor, Tensor]:
        with torch.no_grad():
            fakes = self.g(self.case["in/z"]).images
        fake, _ = self.d(fakes)
        real, _ = self.d(self.case["in/real_img"])
        return LOGISTIC.d_fake(fake) + LOGISTIC.d_real(real), fake, real

    def dreg(self) -> tuple[Tensor, Tensor, Tensor]:
        images = self.case["in/real_img"].requires_grad_()
        logits, _ = self.d(images)
        penalty = losses.r1_penalty(images, logits)
        return penalty * (self.config["r1_gamma"] / 2), penalty, logits

    def norms(self, net: nn.Module, loss: Tensor) -> dict[str, Tensor]:
        return {k: v.norm() for k, v in gradients(loss, dict(net.named_parameters())).items()}


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
        images, ws = run.g(case["in/z"][: len(noise)])
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
