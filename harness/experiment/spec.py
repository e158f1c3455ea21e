"""What an experiment is made of: frozen, typed, checked. `harness.experiment.files` reads it from YAML."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from harness.experiment import ids
from harness.method.schedules import Schedule, Scheduled


@dataclass(frozen=True)
class Adam:
    """Adam's options; `lr` per image batch, as the recipes print it. It and the second beta may move."""

    lr: Annotated[Schedule, ">= 0"] | Annotated[float, "> 0"] = 2e-4
    betas: tuple[Annotated[float, ">= 0, < 1"], Annotated[Scheduled, ">= 0, < 1"]] = (0.5, 0.999)
    eps: Annotated[float, "> 0"] = 1e-8


@dataclass(frozen=True)
class Train:
    """One training. Progress is counted in real images shown to D (`kimg` = 1000 of them)."""

    total_kimg: Annotated[float, "> 0, <= 1000000000"] = 6400.0
    batch_size: Annotated[int, ">= 1"] = 64
    batch_gpu: Annotated[int, ">= 1"] | None = None  # images per forward pass; None: the batch
    loss: Literal["logistic", "hinge"] = "logistic"
    d_steps: Annotated[int, ">= 1"] = 1  # n_dis: steps of D for each step of G
    g: Adam = field(default_factory=Adam)
    d: Adam = field(default_factory=Adam)
    lr_decay: Literal["none", "linear"] = "none"  # linear: to 0 at total_kimg
    r1_gamma: Annotated[Scheduled, ">= 0"] = 0.0
    r1_interval: Annotated[int, ">= 1"] | None = None  # lazy R1; also sets Adam's lazy correction
    pl_weight: Annotated[float, ">= 0"] = 0.0
    pl_interval: Annotated[int, ">= 1"] | None = None  # lazy path length; also sets Adam's correction
    pl_decay: Annotated[float, "> 0, <= 1"] = 0.01
    pl_batch_shrink: Annotated[int, ">= 1"] = 2
    style_mixing: Annotated[float, ">= 0, <= 1"] = 0.0
    ema_kimg: Annotated[Schedule, ">= 0"] | Annotated[float, "> 0"] | None = None  # half-life; None: no EMA
    ema_rampup: Annotated[float, "> 0"] | None = None
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"  # autocast of G and D; R1, path length, GradCAM: fp32
    tf32: bool = False
    tick_kimg: Annotated[float, "> 0"] = 4.0  # losses and score quantiles are reported per tick
    snapshot_kimg: Annotated[float, "> 0"] | None = None  # sample grid and DI; None: at the end only

    def __post_init__(self) -> None:
        if self.batch_gpu is not None and self.batch_size % self.batch_gpu:
            raise ValueError(f"batch_gpu: {self.batch_gpu}: must divide batch_size {self.batch_size}")
        for name, adam in (("g", self.g), ("d", self.d)):
            if self.lr_decay != "none" and isinstance(adam.lr, Schedule):
                raise ValueError(f"lr_decay: {self.lr_decay}: {name}.lr moves by itself, {adam.lr}; keep one of them")
        if self.r1_gamma and self.r1_interval is None:
            raise ValueError("r1_interval: missing; R1 needs its interval in steps (1: every step, 16: lazy)")
        if self.pl_weight and self.pl_interval is None:
            raise ValueError("pl_interval: missing; path length needs its interval in steps (4 is usual)")

    @property
    def microbatch(self) -> int:
        """Images per forward pass of one process."""
        return self.batch_gpu or self.batch_size


@dataclass(frozen=True)
class Plugin:
    """A plugin's name with its parsed options."""

    name: str
    options: Any


@dataclass(frozen=True)
class During:
    """A distance measured while a trial trains, cheaply, under the name that says so (`fid5k_full`). The best snapshot
    by it is kept and scored at the end beside the last one."""

    kimg: Annotated[float, "> 0"]  # how often
    num_fakes: Annotated[int, ">= 2"] = 5000  # against `eval.num_reals`
    metric: str | None = None  # one of `eval.metrics` that compares images with the data; None: the first of them


@dataclass(frozen=True)
class Eval:
    """The one evaluation pass at the end of a trial."""

    metrics: tuple[Plugin, ...]
    num_fakes: Annotated[int, ">= 2"] = 50_000
    num_reals: Annotated[int, ">= 2"] | None = None  # None: all of them
    batch_size: Annotated[int, ">= 1"] = 64
    weights: Literal["auto", "ema", "raw"] = "auto"  # auto: EMA where the trial keeps one
    during: During | None = None  # None: nothing but DI, at snapshots

    @property
    def distances(self) -> dict[str, Plugin]:
        """The metrics whose records are named by how many fakes meet how many reals."""
        return {m.name: m for m in self.metrics if hasattr(m.options, "protocols")}

    @property
    def while_training(self) -> "Eval | None":
        """The short pass that `during` asks for: its metric with one protocol, that of its count."""
        if self.during is None:
            return None
        metric = self.distances[self.during.metric or next(iter(self.distances))]
        once = Plugin(metric.name, replace(metric.options, protocols=()))
        return replace(self, metrics=(once,), num_fakes=self.during.num_fakes, during=None)


@dataclass(frozen=True)
class Trial:
    """All that decides the numbers of one training, and how it is scored.

    `data` identifies its images by their content (`identity` of the dataset); it is empty where nobody has looked.
    """

    dataset: Plugin
    backbone: Plugin
    conditional: bool
    variants: tuple[Plugin, ...]
    train: Train
    eval: Eval
    seed: int
    data: str = ""
    known_as: str | None = field(default=None, compare=False)  # the id that its results go by, where it is another

    @cached_property
    def id(self) -> str:
        """12 hex digits of what decides the trained weights (see `harness.experiment.ids`): not `eval`, and no path."""
        return self.known_as or ids.digest(ids.of_trial(self))

    @property
    def scoring(self) -> dict[str, Any]:
        """What decides its scores once it is trained."""
        return ids.of_scoring(self.eval, ids.own_statistics(self), reals=ids.reals(self))

    @property
    def plugins(self) -> tuple[tuple[str, str], ...]:
        """(package, name) of all that it is made of."""
        parts = {
            "harness.datasets": (self.dataset,), "backbones": (self.backbone,),
            "harness.variants": self.variants, "harness.metrics": self.eval.metrics,
        }  # fmt: skip
        return tuple((package, p.name) for package, chosen in parts.items() for p in chosen)

    def variant(self, name: str) -> Any:
        """The options of variant `name`, or None where the arm has no such variant."""
        return next((v.options for v in self.variants if v.name == name), None)


@dataclass(frozen=True)
class Resources:
    """What one trial is given. `cpus` is also its thread count. Several whole GPUs train it in as many
    processes; `processes` asks for them on a CPU."""

    gpus: Annotated[float, ">= 0"] | Literal["auto"] = "auto"
    cpus: Annotated[int, ">= 1, <= 4096"] = 1
    processes: Annotated[int, ">= 1, <= 4096"] = 1

    @property
    def world(self) -> int:
        """Processes that train one trial together."""
        return max(self.processes, int(self.gpus) if self.gpus != "auto" else 1)


@dataclass(frozen=True)
class Run:
    """How trials are run; decides no number, so not part of a trial's id."""

    resources: Resources = field(default_factory=Resources)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    checkpoint_s: Annotated[float, ">= 0"] = 120.0
    retries: Annotated[int, ">= 0"] = 2
    timeout_s: Annotated[float, "> 0"] | None = None
    hang_s: Annotated[float, "> 0"] = 1800.0
    patience_s: Annotated[float, "> 0"] = 600.0  # of the processes of one trial with one another, inside of a step
    not_possible: Literal["refuse", "mark"] = "refuse"  # mark: a cell that can't be is left out, with its reason


@dataclass(frozen=True)
class Table:
    """A query over trials: rows are arms, columns are settings, a cell holds one trial a seed."""

    name: str
    title: str
    paper: str | None  # key in experiments/paper.yaml whose figures stand beside ours
    labels: dict[str, str]
    arms: tuple[str, ...]
    settings: tuple[str, ...]
    cells: dict[tuple[str, str], tuple[Trial, ...]]  # (setting, arm) -> by seed
    changes: dict[str, dict[str, Any]] = field(default_factory=dict)  # arm -> what its `set` changes, by dotted key
    unnamed: tuple[str, ...] = ()  # arms beside the paper's figures whose variants' profile nobody names
    not_possible: dict[tuple[str, str], str] = field(default_factory=dict)  # (setting, arm) -> why it has no trials


@dataclass(frozen=True)
class Experiment:
    name: str
    path: Path
    tables: tuple[Table, ...]
    run: Run
    plugins: tuple[Path, ...] = ()  # folders of plugins from outside

    def without(self, reasons: Mapping[str, str]) -> "Experiment":
        """Every cell with a trial among `reasons` {id: why it can't be} marked, and without trials."""

        def marked(table: Table) -> Table:
            found = {
                place: why
                for place, cell in table.cells.items()
                for t in cell
                if (why := reasons.get(t.id)) is not None
            }
            cells = {place: () if place in found else cell for place, cell in table.cells.items()}
            return replace(table, cells=cells, not_possible={**table.not_possible, **found})

        return replace(self, tables=tuple(map(marked, self.tables))) if reasons else self


# ── plugins ──────────────────────────────────────────────────────────────────
