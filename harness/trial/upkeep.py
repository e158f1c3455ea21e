"""What happens between steps: ticks of losses and scores, sample grids, distances, checkpoints, stopping."""

import resource
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from backbones import Discriminator
from harness import plugins
from harness.data.batches import batch, to_device
from harness.data.imageset import ImageSet
from harness.errors import Diverged
from harness.evaluation.scores import quick_di, score_summary
from harness.experiment.parse import to_plain
from harness.experiment.spec import Trial
from harness.method.generator import SpatialGenerator
from harness.pictures import gallery
from harness.pictures.figures import save_grid
from harness.rng import Streams
from harness.store import checkpoint
from harness.store.journal import Journal
from harness.training.state import State, crosses
from harness.trial import scoring

GRID = 64  # images in a sample grid
SCORED = 256  # reals and fakes scored at a snapshot


class Upkeep:
    """Called before every step; True asks the loop to stop.

    The order is report, sample, measure, save: a checkpoint never commits a state that was not
    reported, and a resumed trial never reports twice.
    """

    def __init__(
        self,
        trial: Trial,
        data: ImageSet,
        folder: Path,
        journal: Journal,
        live: Any,
        checkpoint_s: float,
        resumed: dict[str, Any] | None,
        world: list[int] | None = None,
    ) -> None:
        self.trial, self.data, self.folder, self.journal, self.live = trial, data, folder, journal, live
        self.checkpoint_s, self.world = checkpoint_s, world
        self.seen = resumed["nimg"] if resumed else -1  # nimg of the last call
        self.watch = scoring.Watch(trial, data, folder, resumed)
        self.train_s = resumed["train_s"] if resumed else 0.0
        self.complete = bool(resumed and resumed["complete"])
        self._saved = self._tick = self._clock = time.monotonic()
        self._tick_nimg = max(self.seen, 0)

    def __call__(self, state: State) -> bool:
        now = time.monotonic()
        self.train_s += now - self._clock
        if self._crossed(state.nimg, self.trial.train.tick_kimg):
            self.report(state)
        if self._crossed(state.nimg, self.trial.train.snapshot_kimg):
            self.sample(state)
        during = self.trial.eval.during
        if during and state.nimg and self._crossed(state.nimg, during.kimg):
            self.measure(state)
        self.seen = state.nimg
        self.live.update(nimg=state.nimg)
        stop = self.live.control.stop()
        if stop or now - self._saved > self.checkpoint_s:
            self.save(state, complete=False)
        self._clock = time.monotonic()
        return stop

    def finish(self, state: State) -> None:
        """Report, sample and save the trained state, once."""
        if self.complete:
            return
        self.train_s += time.monotonic() - self._clock
        self.report(state)
        self.sample(state)
        if self.trial.eval.during:
            self.measure(state)
        self.seen = state.nimg
        self.live.update(force=True, nimg=state.nimg)
        self.save(state, complete=True)

    def report(self, state: State) -> None:
        """Write means of losses and quantiles of scores since the last tick; raise Diverged if any is not finite."""
        if not state.stats.values:
            return
        stacked = self.finite(state)
        values = {name: per_step.mean().item() for name, per_step in stacked.items() if name.startswith("loss/")}
        summary = score_summary(stacked["scores/real"].numpy(), stacked["scores/fake"].numpy())
        values |= {f"scores/{k}": v for k, v in summary.items()}
        state.stats.clear()
        now = time.monotonic()
        rate = (state.nimg - self._tick_nimg) / max(now - self._tick, 1e-9)
        self._tick, self._tick_nimg = now, state.nimg
        values["system/images_per_s"] = rate
        self.journal.metrics(state.nimg, values)
        self.live.update(images_per_s=rate)
        for text in plugins.told(self.trial.variants, values):
            self.live.warn(text)

    def finite(self, state: State) -> dict[str, Tensor]:
        """The values of every step since the last tick, on the host; Diverged names the earliest that is not finite."""
        stacked = {name: v.float().cpu() for name, v in state.stats.stacked().items()}
        if name := earliest_bad(stacked, state.stats.places):
            self.journal.commit()
            raise Diverged(
                f"{name} is not finite, the first of all values between nimg {self._tick_nimg} and {state.nimg}"
            )
        for name, scale in state.scales.items():
            if scale.is_enabled() and scale.get_scale() < 1:
                self.journal.commit()
                raise Diverged(f"gradients of {name.upper()}'s loss are not finite in float16, at whatever scale")
        return stacked

    @torch.no_grad()
    def sample(self, state: State) -> None:
        """Draw the grid of fixed latents, labels and heatmaps, and score a few fakes and reals."""
        self.finite(state)
        chosen, weights = scoring.chosen(self.trial, state, self.data, self.live.update)
        g, d = chosen.eval(), state.d.eval()
        fakes = self._fakes(g, "grid", GRID, state.pl_mean.device)
        path = self.folder / "samples" / f"{state.nimg:09d}.png"
        save_grid(fakes[0], path)
        self.journal.image(state.nimg, f"samples/{path.name}")
        gallery.note_attention(gallery.trained(self.trial, g, d, self.data, weights, state.nimg), self.folder)
        values = quick_di(*self._scores(g, d, state.pl_mean.device))
        self.journal.metrics(state.nimg, {f"eval/{k}": v for k, v in values.items()})
        self._show({k: values[k] for k in ("di", "di_calibrated")})
        g.train(weights == "raw")
        d.train()

    def measure(self, state: State) -> None:
        """The distance to the data that the trial asks for while it trains."""
        self.finite(state)
        records = self.watch.measure(state, lambda done, total: self.live.update())
        self.journal.metrics(state.nimg, {f"eval/{k}": r["value"] for k, r in records.items()})
        self._show({k: r["value"] for k, r in records.items() if r["role"] != "other"})

    def _show(self, values: dict[str, float]) -> None:
        """Let the driver's display have the latest of these scores."""
        self.live.update(latest={**self.live.now["latest"], **values})

    def _scores(self, g: SpatialGenerator, d: Discriminator, device: torch.device) -> tuple[np.ndarray, np.ndarray]:
        """Raw scores of `SCORED` reals and fakes, the same ones at every snapshot, in batches as in evaluation."""
        size = self.trial.eval.batch_size
        real, fake = [], []
        for i in range(max(1, SCORED // size)):
            reals, labels = batch(self.data, self.trial.seed, i * size, size, self.trial.conditional)
            real.append(d(*to_device(reals, labels, slice(None), device))[0])
            fake.append(d(*self._fakes(g, f"scored/{i}", size, device))[0])
        return torch.cat(real).cpu().numpy(), torch.cat(fake).cpu().numpy()

    def _fakes(self, g: SpatialGenerator, scope: str, n: int, device: torch.device) -> tuple[Tensor, Tensor | None]:
        """n fakes of fixed latents and heatmaps, their labels counting through the classes."""
        draws = Streams(self.trial.seed, f"snapshot/{scope}", 0, device)
        labels = torch.arange(n, device=device) % self.data.num_classes if self.trial.conditional else None
        return g(g.backbone.sample_z(n, draws("z")), labels, draws=draws).images, labels

    def save(self, state: State, *, complete: bool) -> None:
        """Make the journal durable, then the checkpoint that commits it."""
        self.live.fence()
        meta = {
            "nimg": state.nimg,
            "journal_offset": self.journal.commit(),
            "journal_digest": self.journal.digest(),
            "fingerprint": self.data.fingerprint,
            "train_s": self.train_s,
            "complete": complete,
            "world": self.world,
            "best": self.watch.best,
            "scored_by": scoring.scored_by(self.trial),
            "config": to_plain(self.trial),
        }
        checkpoint.save(self.folder / "checkpoints", state.tensors(), meta)
        self.watch.committed()
        self._saved = time.monotonic()

    def costs(self) -> dict[str, float]:
        """Seconds of training, over all attempts, and the peak of this process's memory."""
        if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
            peak = torch.cuda.max_memory_allocated() / 2**20
        else:
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        rate = max(self.seen, 0) / self.train_s if self.train_s else 0.0
        return {"train_s": self.train_s, "images_per_s": rate, "peak_memory_mib": peak}

    def _crossed(self, nimg: int, kimg: float | None) -> bool:
        if kimg is None:
            return False
        return crosses(self.seen, nimg, kimg) if self.seen >= 0 else nimg == 0


def earliest_bad(stacked: dict[str, Tensor], places: dict[str, list[int]]) -> str | None:
    """Which of the values {name: [steps, ...]}, made in the order of `places`, was the first not to be finite."""
    found = {}
    for name, values in stacked.items():
        at = (~values.isfinite()).reshape(len(values), -1).any(1).nonzero()
        if len(at):
            found[places[name][int(at[0])]] = name
    return found[min(found)] if found else None
