"""Methods written against the protocol of hooks before it was fixed: each is real and trains on every backbone."""

import torch
from torch import Tensor

from backbones import Last
from harness.method.hooks import DStep, GStep, Head, Hooks, Kind, Memory, Term
from harness.rng import Streams


class San(Hooks):
    """Metrizability (Takida et al. 2024, arXiv 2301.12811): the last layer w = s omega, |omega| = 1. D's loss trains s
    and h through s <sg(omega), h>; omega is trained by the Wasserstein loss of <omega, sg(s h)>. G's loss is unchanged.
    A bias, which the paper lacks, stays in the first."""

    def __init__(self, weight: float = 1.0) -> None:
        self.weight = weight

    def head(self, h: Tensor, last: Last, labels: Tensor | None, kind: Kind | None) -> Head:
        scale = last.weight.norm(dim=1, keepdim=True)
        omega = last.weight / scale
        fun = (scale * h * omega.detach()).sum(1) + last.bias
        whole = (scale * h * omega).sum(1) + last.bias
        if kind is None:
            return Head(fun, whole, None)
        toward = ((scale * h).detach() * omega).sum(1).mean()
        return Head(fun, whole, self.weight * (toward if kind == "fake" else -toward))


class Zcr(Hooks):
    """Latent consistency (Zhao et al. 2021, arXiv 2002.04724, eqs. 3 and 4): near z' = z + delta, D's logits are drawn
    together by l_d mean (D(G(z)) - D(G(z')))^2 and G's images apart by -l_g mean (G(z) - G(z'))^2."""

    def __init__(self, l_d: float = 20.0, l_g: float = 0.5, delta: float = 0.05) -> None:
        self.l_d, self.l_g, self.delta = l_d, l_g, delta

    def near(self, z: Tensor, draws: Streams) -> Tensor:
        return z + self.delta * torch.randn(z.shape, generator=draws("delta"), device=z.device)

    def d_term(self, step: DStep, memory: Memory) -> Term:
        other = step.sample(self.near(step.z, step.draws), step.fake_labels)
        together = (step.fake_logits - step.score(other.images, step.fake_labels)).square().mean()
        return Term(self.l_d * together, {"together": together})

    def g_term(self, step: GStep, memory: Memory) -> Term:
        other = step.sample(self.near(step.z, step.draws), step.labels)
        apart = (step.fakes.images - other.images).square().mean()
        return Term(-self.l_g * apart, {"apart": apart})


class Limited(Hooks):
    """A term of G's loss (here the images' energy) whose gradient at the images may be at most `limit` times that of
    the GAN loss: its weight is the share remembered from the ratios of all microbatches of the steps before."""

    def __init__(self, limit: float = 0.1, half_life: int = 16) -> None:
        self.limit, self.half_life = limit, half_life  # images until a ratio counts half

    def memory(self) -> Memory:
        return {"share": torch.ones(())}

    def g_term(self, step: GStep, memory: Memory) -> Term:
        energy = 100 * step.fakes.images.float().square().mean()
        ours, gans = (torch.autograd.grad(x, step.fakes.images, retain_graph=True)[0] for x in (energy, step.gan))
        ratio = ours.norm() / gans.norm().clamp_min(1e-12)
        return Term(memory["share"] * energy, {"energy": energy, "ratio": ratio})

    def learn(
        self, memory: Memory, real: Tensor, fake: Tensor, parts: dict[str, Tensor], shown: int, nimg: int
    ) -> Memory:
        allowed = (self.limit / parts["ratio"].mean()).clamp_max(1.0)
        return {"share": memory["share"].lerp(allowed, 1 - 0.5 ** (shown / self.half_life))}


class Noise(Hooks):
    """Instance noise (Arjovsky & Bottou 2017) on all that D sees, as strong as ADA's rule says (Karras et al. 2020,
    section 3): stronger while D's logits of reals are positive more often than `target`, and faded out by `until`."""

    def __init__(self, sigma: float = 0.2, target: float = 0.6, kimg: float = 0.064, until: int = 10**9) -> None:
        self.sigma, self.target, self.kimg, self.until = sigma, target, kimg, until

    def memory(self) -> Memory:
        return {"p": torch.tensor(0.5)}

    def see(self, images: Tensor, draws: Streams, kind: Kind, nimg: int, memory: Memory) -> Tensor:
        noise = torch.randn(images.shape, generator=draws("noise"), device=images.device)
        return images + memory["p"] * self.sigma * max(0.0, 1 - nimg / self.until) * noise

    def learn(
        self, memory: Memory, real: Tensor, fake: Tensor, parts: dict[str, Tensor], shown: int, nimg: int
    ) -> Memory:
        step = (real.sign().mean() - self.target).sign() * shown / (self.kimg * 1000)
        return {"p": (memory["p"] + step).clamp(0, 1)}


ALL = {"san": San, "zcr": Zcr, "limited": Limited, "noise": Noise}
