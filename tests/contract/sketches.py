"""Methods that no shipped variant is, written against the protocol of hooks: each is real and trains on every
backbone."""

import torch
from torch import Tensor

from harness.method.hooks import GStep, Hooks, Kind, Memory, Term
from harness.rng import Streams


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


ALL = {"limited": Limited, "noise": Noise}
