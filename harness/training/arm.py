"""A trial's data, networks and hooks: what the loop is given."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from backbones import Discriminator, moments
from harness import plugins
from harness.data.imageset import ImageSet
from harness.errors import UserError
from harness.experiment.parse import check_variants
from harness.experiment.spec import Plugin, Trial
from harness.method.generator import SpatialGenerator
from harness.method.hooks import ArmHooks
from harness.rng import derive


def build(trial: Trial, data: ImageSet, device: torch.device) -> tuple[SpatialGenerator, Discriminator, ArmHooks]:
    """The arm's networks on `device` and what its variants do in the loop.

    The backbone's initial weights depend on the seed alone, so arms of one seed are paired.
    """
    backbone = plugins.find("backbones", trial.backbone.name)
    with seeded(derive(trial.seed, "init")):
        g, d = backbone.build(trial.backbone.options, data.resolution, classes(trial, data), data.channels)
    if trial.train.microbatch == 1 and any(isinstance(layer, nn.BatchNorm1d) for layer in g.modules()):
        raise UserError("train.batch_gpu: 1: one image has no batch statistics, which G's batch norm needs; 2 or more")
    trial = settled(trial, d)
    encoder, hooks = None, {}
    with seeded(derive(trial.seed, "init.encoder")):
        for variant in trial.variants:
            module = plugins.find("harness.variants", variant.name)
            if hasattr(module, "encoder"):
                encoder = module.encoder(g.sites, data.resolution, variant.options)
            if hasattr(module, "hooks"):
                hooks[variant.name] = module.hooks(variant.options, data.resolution)
    for name, tap in ((n, t) for n, h in hooks.items() for t in h.taps if t not in d.taps):
        raise UserError(
            f"variants.{name}{'.levels' if _leaves(name) else ''}: {tap}: the discriminator has no feature map of that "
            f"resolution; choose among {sorted(int(known) for known in d.taps if int(known) < d.resolution)}"
        )
    together = ArmHooks(hooks)
    if together.head and type(d).last_layer is Discriminator.last_layer:
        raise UserError(f"variants.{together.head}: acts in D's last layer, which {trial.backbone.name} does not name")
    for name in (name for name, own in hooks.items() if own.each_alone):
        for layer in [m for m in d.modules() if isinstance(m, _BatchNorm)] + moments(d):
            raise UserError(
                f"variants.{name}: refuses batch norm in D, here {type(layer).__name__} in {trial.backbone.name}: a "
                "logit must be of its image alone; choose a backbone without"
            )
    return SpatialGenerator(g, encoder).to(device), d.to(device), together


def settled(trial: Trial, d: Discriminator) -> Trial:
    """The trial with D's own levels where its variants' options leave theirs to the backbone: what its networks are
    made of. It goes by its id as it was written. UserError where something else that was written does not fit them."""
    variants = tuple(Plugin(v.name, _filled(v.options, _leaves(v.name), d.levels, v.name)) for v in trial.variants)
    if variants == trial.variants:
        return trial
    made = replace(trial, variants=variants)
    check_variants(made, f"with the backbone's own levels {list(d.levels)}")
    return made


def _leaves(variant: str) -> dict[str, Any]:
    """The options of a variant that may leave levels to the backbone, nested as they are."""
    return getattr(plugins.find("harness.variants", variant), "LEVELS", {})


def _filled(options: Any, leaves: dict[str, Any], levels: tuple[int, ...], place: str) -> Any:
    for name, below in leaves.items():
        value = getattr(options, name)
        value = _filled(value, below, levels, f"{place}.{name}") if below else levels if value is None else value
        try:
            options = replace(options, **{name: value})
        except ValueError as e:
            raise UserError(f"variants.{place}.{e}, here the backbone's own levels {list(levels)}") from None
    return options


def classes(trial: Trial, data: ImageSet) -> int:
    """Number of classes the networks are conditioned on; 0 for an unconditional trial."""
    return data.num_classes if trial.conditional else 0


def load_data(trial: Trial) -> tuple[ImageSet, ImageSet | None]:
    """The training images and, where the dataset has them, held-out ones; labels that are names of folders only for a
    trial that is conditional."""
    module = plugins.find("harness.datasets", trial.dataset.name)
    options = trial.dataset.options
    data = module.load(options)
    heldout = module.load(options, split="test") if module.has_test(options) else None
    if trial.conditional:
        return data, heldout
    return data.without_folders, heldout and heldout.without_folders


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """torch's global CPU generator seeded within, restored after."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
