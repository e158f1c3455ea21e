"""All that changes while a trial trains, and what a checkpoint keeps of it."""

import copy
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.amp import GradScaler

from backbones import Discriminator
from harness.experiment.spec import Adam, Train
from harness.method import losses
from harness.method.generator import SpatialGenerator
from harness.method.hooks import Memory
from harness.method.schedules import at
from harness.store.checkpoint import pack_optimizer, unpack_optimizer
from harness.training.ranks import interleaved

SCALE = 2.0**12  # of losses in fp16 at first; torch's own 2^16 costs small networks their first steps


class Stats:
    """Per-step values since the last report: {name: equal-shaped tensors}, left on the device so
    that no step waits for the host. `places` numbers them in the order in which they were added."""

    def __init__(self) -> None:
        self.values: dict[str, list[Tensor]] = {}
        self.places: dict[str, list[int]] = {}

    def add(self, name: str, value: Tensor) -> None:
        self.places.setdefault(name, []).append(sum(map(len, self.values.values())))
        self.values.setdefault(name, []).append(value.detach())

    def join(self, step: "Stats") -> dict[str, list[Tensor]]:
        """Append the values of a step: those of every process, as one alone would have made them. Returns them."""
        first, world = sum(map(len, self.values.values())), dist.get_world_size() if dist.is_initialized() else 1
        joined = {name: interleaved(values) for name, values in step.values.items()}
        for name, values in joined.items():
            self.values.setdefault(name, []).extend(values)
            places = [first + place * world + rank for place in step.places[name] for rank in range(world)]
            self.places.setdefault(name, []).extend(places)
        return joined

    def mark(self) -> dict[str, int]:
        """How many values there are of each name, for `back`."""
        return {name: len(values) for name, values in self.values.items()}

    def back(self, mark: dict[str, int]) -> None:
        """Forget what was added since `mark`."""
        for held in (self.values, self.places):
            for name in list(held):
                if name in mark:
                    del held[name][mark[name] :]
                else:
                    del held[name]

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
    memory: dict[str, Memory] = field(default_factory=dict)  # by variant
    scales: dict[str, GradScaler] = field(
        default_factory=dict
    )  # of the loss of "g" and of "d", in fp16; else no scaling
    settled: int | None = None  # nimg at which the statistics of `g_ema` became its own; a step makes them G's

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
        out |= {f"memory/{name}/{k}": v for name, memory in self.memory.items() for k, v in memory.items()}
        for name, scale in self.scales.items():
            out |= {f"scale/{name}/{k}": torch.tensor(v) for k, v in scale.state_dict().items()}
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
            elif key.startswith("memory/"):
                _, name, own = key.split("/", 2)
                self.memory.setdefault(name, {})[own] = value.to(device, copy=True)
        for name, scale in self.scales.items():
            if f"scale/{name}/scale" in tensors:
                scale.load_state_dict({k: tensors[f"scale/{name}/{k}"].item() for k in scale.state_dict()})
        self.nimg, self.settled = nimg, None


def crosses(before: int, after: int, kimg: float) -> bool:
    """Whether a multiple of `kimg` thousand images lies above `before` and not above `after`."""
    every = kimg * 1000
    return int(after // every) > int(before // every)


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
        scales={n: GradScaler(device.type, init_scale=SCALE, enabled=t.precision == "fp16") for n in ("g", "d")},
    )


def _adam(module: nn.Module, o: Adam, interval: int | None) -> torch.optim.Adam:
    return torch.optim.Adam(module.parameters(), eps=o.eps, fused=True, **paced(o, interval, 0))


def paced(o: Adam, interval: int | None, nimg: int, left: float = 1.0) -> dict[str, Any]:
    """Adam's `lr` and `betas` in the step that begins after `nimg` images; `left`: what `lr_decay` leaves of lr."""
    lr, betas = losses.lazy_adam(at(o.lr, nimg), (o.betas[0], at(o.betas[1], nimg)), interval)
    return {"lr": lr * left, "betas": betas}
