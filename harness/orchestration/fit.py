"""How much of a cluster one trial takes: as the experiment says, or measured by training a few of its steps.

Processes that train one trial together each hold the whole networks and one microbatch, so further GPUs make a
trial faster, never smaller. Hence `auto`: trials that fill a part of a GPU share it; one that fills a GPU takes
several only where GPUs would otherwise stand idle.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from harness.errors import UserError
from harness.experiment.spec import Run, Trial
from harness.orchestration.schedule import Share

STEPS = 3  # the first has every lazy regularisation in it, the second makes Adam's moments
FRACTIONS = (0.125, 0.25, 0.5)  # they fill a GPU without a rest, in any mixture
MARGIN = 1.2  # over the peak of those steps: other steps, fragmentation
OVERHEAD = 1536 * 2**20  # bytes: the CUDA context of a process, and the feature network that scores it


class Memory(NamedTuple):
    """Bytes: what training took of a GPU at most, and what that GPU has."""

    used: int
    has: int


Measure = Callable[[Mapping[str, Trial]], Mapping[str, Memory | None]]


def gpus(memory: Memory | None, parts: int, spare: int) -> float:
    """GPUs for a trial of `memory` (None: unknown, so a whole one): a fraction, or whole ones.

    `parts`: microbatches of a step, which several GPUs divide evenly among them; `spare`: GPUs there are for each
    trial when all run at once.
    """
    if memory is not None:
        need = memory.used * MARGIN + OVERHEAD
        for fraction in FRACTIONS:
            if need <= fraction * memory.has:
                return fraction
    return float(max(n for n in range(1, max(1, spare) + 1) if parts % n == 0))


def shares(trials: Mapping[str, Trial], run: Run, have: float, measure: Measure) -> dict[str, Share]:
    """What each of `trials`, by id, reserves on a cluster of `have` GPUs. With `gpus: auto` one trial of each kind
    is given to `measure`. Raises UserError for a request that makes no sense on any cluster."""
    want, on_cpu = run.resources, run.device == "cpu"
    if want.gpus != "auto":
        each = dict.fromkeys(trials, want.gpus)
    elif not have or on_cpu or want.processes > 1:
        each = dict.fromkeys(trials, 0.0 if not have or on_cpu else float(want.processes))
    else:
        kinds = {id: kind(t) for id, t in trials.items()}
        memory = measure({kinds[id]: t for id, t in trials.items()})
        spare = int(have // max(1, len(trials)))
        each = {id: gpus(memory.get(kinds[id]), parts(t), spare) for id, t in trials.items()}
    out = {id: Share(n, want.cpus, max(want.processes, int(n))) for id, n in each.items()}
    for id, share in out.items():
        _check(share, trials[id], on_cpu)
    return out


def check(trials: Iterable[Trial], run: Run) -> None:
    """Raise UserError for a request that makes no sense on any cluster, as far as it is known before one is there."""
    want = run.resources
    asked = 0.0 if want.gpus == "auto" else want.gpus
    for trial in trials:
        _check(Share(asked, want.cpus, max(want.processes, int(asked))), trial, run.device == "cpu")


def _check(share: Share, trial: Trial, on_cpu: bool) -> None:
    n = share.processes
    if share.gpus > 1 and share.gpus % 1:
        raise UserError(f"run.resources.gpus: {share.gpus:g}: must be whole, or a fraction below 1")
    if n > 1 and 0 < share.gpus < n and not on_cpu:
        raise UserError(
            f"run.resources: {n} processes on {share.gpus:g} GPUs: each needs one of its own; set gpus={n}, or gpus=0"
        )
    if parts(trial) % n:
        raise UserError(
            f"run.resources: {n} processes cannot divide the {parts(trial)} microbatches of a step evenly; "
            f"set train.batch_gpu so that batch_size {trial.train.batch_size} holds a multiple of {n} of them"
        )


def parts(trial: Trial) -> int:
    """Microbatches of one step."""
    return trial.train.batch_size // trial.train.microbatch


def kind(trial: Trial) -> str:
    """Equal for trials that take the same memory: backbone, resolution, batch, variants, precision, what is kept."""
    from harness.orchestration import speeds

    shape = speeds.shape(trial)
    files = repr(trial.dataset) if shape["resolution"] is None else ""  # only the files know the size of their images
    t = trial.train
    more = [t.ema_kimg is not None, t.style_mixing > 0, t.pl_batch_shrink if t.pl_weight else None]
    return json.dumps([shape, files, more], sort_keys=True, default=str)


def measure(config: dict[str, Any], run_options: dict[str, Any]) -> Memory | None:
    """Train `STEPS` steps of the trial `config` in this process, which should end then: memory of CUDA stays with
    it. None where it sees no GPU."""
    import torch

    from harness.experiment.parse import parse_trial
    from harness.experiment.schema import parse
    from harness.training.arm import build, load_data
    from harness.training.state import new_state
    from harness.training.train import train
    from harness.trial import run as trials

    trial = parse_trial(config, "trial")
    device = trials.prepare_device(parse(Run, run_options, "run"), trial)
    if device.type != "cuda":
        return None
    data, _ = load_data(trial)
    g, d, hooks = build(trial, data, device)
    enough = STEPS * trial.train.batch_size * trial.train.d_steps

    train(
        new_state(g, d, trial.train), trial.train, data, hooks, seed=0, conditional=trial.conditional,
        upkeep=lambda state: state.nimg >= enough,
    )  # fmt: skip
    return Memory(torch.cuda.max_memory_reserved(device), torch.cuda.get_device_properties(device).total_memory)
