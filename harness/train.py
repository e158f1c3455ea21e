"""The training loop, top to bottom in one function. It knows no Ray, MLflow, metric or dataset name."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from backbones import Discriminator
from harness import losses
from harness.checkpoint import pack_optimizer, unpack_optimizer
from harness.config import Adam, Train
from harness.datasets import ImageSet
from harness.generator import SpatialGenerator
from harness.ranks import agree, interleaved, summed
from harness.rng import Streams, stream
from harness.variants import GTerm

EPOCH = 1  # raised when the same trial trains to other numbers than before


class Stats:
    """Per-step values since the last report: {name: equal-shaped tensors}, left on the device so
    that no step waits for the host. `places` numbers them in the order in which they were added."""

    def __init__(self) -> None:
        self.values: dict[str, list[Tensor]] = {}
        self.places: dict[str, list[int]] = {}

    def add(self, name: str, value: Tensor) -> None:
        self.places.setdefault(name, []).append(sum(map(len, self.values.values())))
        self.values.setdefault(name, []).append(value.detach())

    def join(self, step: "Stats") -> None:
        """Append the values of a step: those of every process, as one alone would have made them."""
        first, world = sum(map(len, self.values.values())), dist.get_world_size() if dist.is_initialized() else 1
        for name, values in step.values.items():
            self.values.setdefault(name, []).extend(interleaved(values))
            places = [first + place * world + rank for place in step.places[name] for rank in range(world)]
            self.places.setdefault(name, []).extend(places)

    def stacked(self) -> dict[str, Tensor]:
        return {name: torch.stack(v) for name, v in self.values.items()}

    def clear(self) -> None:
        self.values.clear()
        self.places.clear()


@dataclass
class State:
    """All that changes while a trial trains; `tensors` and `load` are what a checkpoint keeps."""

    g: SpatialGenerator
    d: Discriminator
    g_ema: SpatialGenerator | None
    opt_g: torch.optim.Optimizer
    opt_d: torch.optim.Optimizer
    pl_mean: Tensor
    nimg: int = 0
    stats: Stats = field(default_factory=Stats)

    @property
    def modules(self) -> dict[str, nn.Module]:
        named = {"g": self.g, "d": self.d, "g_ema": self.g_ema}
        return {name: m for name, m in named.items() if m is not None}

    def weights(self) -> dict[str, Tensor]:
        """Those of the networks alone, which is all that scoring needs."""
        return {f"{name}/{k}": v for name, m in self.modules.items() for k, v in m.state_dict().items()}

    def tensors(self) -> dict[str, Tensor]:
        out = self.weights()
        out |= pack_optimizer("opt_g", self.opt_g) | pack_optimizer("opt_d", self.opt_d)
        out |= {f"places/{k}": torch.tensor(v) for k, v in self.stats.places.items()}
        return out | {"pl_mean": self.pl_mean} | {f"stats/{k}": v for k, v in self.stats.stacked().items()}

    def load(self, tensors: dict[str, Tensor], nimg: int) -> None:
        for name, module in self.modules.items():
            head = f"{name}/"
            module.load_state_dict({k.removeprefix(head): v for k, v in tensors.items() if k.startswith(head)})
        unpack_optimizer("opt_g", tensors, self.opt_g)
        unpack_optimizer("opt_d", tensors, self.opt_d)
        self.pl_mean.copy_(tensors["pl_mean"])
        device = self.pl_mean.device
        for key, value in tensors.items():
            if key.startswith("stats/"):
                name = key.removeprefix("stats/")
                self.stats.values[name] = list(value.to(device).unbind())
                self.stats.places[name] = tensors[f"places/{name}"].tolist()
        self.nimg = nimg


def new_state(g: SpatialGenerator, d: Discriminator, t: Train) -> State:
    """The state before the first step. Lazy regularisation scales Adam as in StyleGAN2 (appendix B)."""
    device = next(g.parameters()).device
    g_ema = copy.deepcopy(g).eval().requires_grad_(False) if t.ema_kimg else None
    return State(
        g.train(),
        d.train(),
        g_ema,
        _adam(g, t.g, t.pl_interval),
        _adam(d, t.d, t.r1_interval),
        torch.zeros((), device=device),
    )


def _adam(module: nn.Module, o: Adam, interval: int | None) -> torch.optim.Adam:
    lr, betas = losses.lazy_adam(o.lr, o.betas, interval)
    return torch.optim.Adam(module.parameters(), lr=lr, betas=betas, eps=o.eps, fused=True)


def train(
    state: State,
    t: Train,
    data: ImageSet,
    terms: list[GTerm],
    *,
    seed: int,
    conditional: bool,
    upkeep: Callable[[State], bool],
) -> bool:
    """Train until `t.total_kimg` thousand images were shown to D; False where `upkeep` asked to stop.

    `upkeep(state)` is called before every step: it reports, samples and saves. `terms` are
    added to G's loss. Under torch.distributed each process takes its share of the
    microbatches; gradients are those of one process with the same microbatches.
    """
    g, d, opt_g, opt_d = state.g, state.d, state.opt_g, state.opt_d
    gan = losses.ADVERSARIAL[t.loss]
    device = state.pl_mean.device
    rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    size, parts = t.microbatch, t.batch_size // t.microbatch
    if parts % world:
        raise ValueError(f"train.batch_gpu: {parts} microbatches do not divide among {world} processes")
    mine = range(rank, parts, world)
    taps = tuple(dict.fromkeys(tap for term in terms for tap in term.taps))
    total, lr_g, lr_d = round(t.total_kimg * 1000), opt_g.param_groups[0]["lr"], opt_d.param_groups[0]["lr"]

    def autocast() -> torch.autocast:
        dtype = torch.float16 if t.precision == "fp16" else torch.bfloat16
        return torch.autocast(device.type, dtype, enabled=t.precision != "fp32")

    def fake_inputs(scope: str, n: int) -> tuple[Tensor, Tensor | None, Streams]:
        """Latents, labels from the data's own distribution, and the streams of one forward pass of G."""
        draws = Streams(seed, scope, state.nimg, device)
        z = g.backbone.sample_z(n, draws("z"))
        if not conditional:
            return z, None, draws
        assert data.labels is not None
        picked = torch.randint(len(data.labels), (n,), generator=stream(seed, f"{scope}/labels", state.nimg))
        return z, torch.from_numpy(data.labels[picked.numpy()]).to(device), draws

    while state.nimg < total:
        stop = upkeep(state)
        if agree(stop, device) if world > 1 else stop:
            return False
        stats = Stats()
        if t.lr_decay == "linear":
            left = 1 - state.nimg / total
            opt_g.param_groups[0]["lr"], opt_d.param_groups[0]["lr"] = lr_g * left, lr_d * left

        # D: raise the scores of reals, lower those of fakes.
        d.requires_grad_(True)
        for k in range(t.d_steps):
            reals, labels = batch(data, seed, state.nimg + k * t.batch_size, t.batch_size, conditional)
            opt_d.zero_grad(set_to_none=True)
            for m in mine:
                x, y = to_device(reals, labels, slice(m * size, (m + 1) * size), device)
                z, y_fake, draws = fake_inputs(f"d{k}.{m}", size)
                with torch.no_grad(), autocast():
                    fakes = g(z, y_fake, draws=draws, mixing=t.style_mixing)
                with autocast():
                    real_logits, _ = d(x, y)
                    fake_logits, _ = d(fakes.images, y_fake)
                loss = gan.d_real(real_logits).mean() + gan.d_fake(fake_logits).mean()
                (loss / parts).backward()
                stats.add("loss/d", loss)
                stats.add("scores/real", real_logits)
                stats.add("scores/fake", fake_logits)
            _share_gradients(d, world)
            opt_d.step()

        # Lazy R1 (StyleGAN2, appendix B): its gradient every r1_interval steps, times the interval.
        step = state.nimg // (t.batch_size * t.d_steps)
        if t.r1_gamma and t.r1_interval and step % t.r1_interval == 0:
            opt_d.zero_grad(set_to_none=True)
            for m in mine:
                x, y = to_device(reals, labels, slice(m * size, (m + 1) * size), device)
                x.requires_grad_(True)
                penalty = losses.r1_penalty(x, d(x, y)[0]).mean()
                (penalty * (t.r1_gamma / 2 * t.r1_interval / parts)).backward()
                stats.add("loss/r1", penalty)
            _share_gradients(d, world)
            opt_d.step()

        # G: raise the scores of fakes, and whatever the arm's variants ask besides.
        d.requires_grad_(False)
        opt_g.zero_grad(set_to_none=True)
        for m in mine:
            z, y_fake, draws = fake_inputs(f"g.{m}", size)
            with autocast():
                fakes = g(z, y_fake, draws=draws, mixing=t.style_mixing)
                fake_logits, feats = d(fakes.images, y_fake, taps=taps)
            loss = gan.g(fake_logits).mean()
            stats.add("loss/g", loss)
            for term in terms:
                value, named = term(fake_logits, feats, fakes)
                loss = loss + value
                for name, part in named.items():
                    stats.add(f"loss/{name}", part)
            (loss / parts).backward()
        _share_gradients(g, world)
        opt_g.step()

        # Lazy path length regularisation (StyleGAN2, section 3.2).
        if t.pl_weight and t.pl_interval and step % t.pl_interval == 0:
            opt_g.zero_grad(set_to_none=True)
            for m in mine:
                z, y_fake, draws = fake_inputs(f"pl.{m}", max(1, size // t.pl_batch_shrink))
                fakes = g(z, y_fake, draws=draws, mixing=t.style_mixing)
                noise = torch.randn(fakes.images.shape, generator=draws("pl_noise"), device=device)
                penalty, _, pl_mean = losses.path_length(fakes.images, fakes.ws, state.pl_mean, noise, t.pl_decay)
                (penalty.mean() * (t.pl_weight * t.pl_interval / parts)).backward()
                state.pl_mean.copy_(pl_mean.detach())
                stats.add("loss/path_length", penalty.mean())
            _share_gradients(g, world)
            if world > 1:
                summed(state.pl_mean.div_(world))
            opt_g.step()

        state.stats.join(stats)
        state.nimg += t.batch_size * t.d_steps
        if state.g_ema is not None:
            assert t.ema_kimg is not None
            shown = t.batch_size * t.d_steps
            losses.ema_update(state.g_ema, g, losses.ema_beta(shown, state.nimg, t.ema_kimg, t.ema_rampup))
    return True


@lru_cache(maxsize=2)  # a batch may straddle two epochs
def order(seed: int, length: int, epoch: int) -> np.ndarray:
    """The order in which epoch `epoch` visits `length` items."""
    return torch.randperm(length, generator=stream(seed, "data", epoch)).numpy()


def batch(data: ImageSet, seed: int, start: int, n: int, conditional: bool) -> tuple[np.ndarray, np.ndarray | None]:
    """Real images start .. start + n of the endless sequence of shuffled epochs: uint8 [n, 3, R, R], labels.

    With `xflip` an epoch holds every image and its mirror, as in StyleGAN2.
    """
    count = len(data.images)
    length = count * 2 if data.xflip else count
    places = np.arange(start, start + n)
    items = np.array([order(seed, length, int(p) // length)[int(p) % length] for p in places])
    images = data.images[items % count]
    mirrored = items >= count
    images[mirrored] = images[mirrored, :, :, ::-1]
    return images, data.labels[items % count] if conditional and data.labels is not None else None


def to_device(
    images: np.ndarray, labels: np.ndarray | None, part: slice, device: torch.device
) -> tuple[Tensor, Tensor | None]:
    """uint8 images to float32 in [-1, 1] on the device, with their labels."""
    x = torch.from_numpy(images[part]).to(device).float().div_(127.5).sub_(1)
    return x, None if labels is None else torch.from_numpy(labels[part]).to(device)


def _share_gradients(module: nn.Module, world: int) -> None:
    """Sum gradients over processes; each loss is already divided by the number of all microbatches.

    A parameter that a phase leaves without gradient (D's last bias in R1) is without it on every rank.
    """
    if world == 1:
        return
    grads = [p.grad for p in module.parameters() if p.grad is not None]
    flat = torch.cat([grad.reshape(-1) for grad in grads])
    summed(flat)
    for grad, piece in zip(grads, flat.split([grad.numel() for grad in grads]), strict=True):
        grad.copy_(piece.view_as(grad))
