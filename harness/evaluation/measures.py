"""What a scoring is made of: metrics under one protocol each, the least that is computed, and kept, by itself.

A measure is known by a digest of all that decides its records but the networks and the code, so that two scorings
that both ask for it share them, and one that asks for more computes only that.
"""

from collections.abc import Iterator
from dataclasses import replace
from types import ModuleType
from typing import Any, cast

from harness import plugins
from harness.evaluation.evidence import Setting
from harness.evaluation.features import checksum
from harness.experiment import ids
from harness.experiment.spec import Plugin


def split(setting: Setting) -> dict[str, Plugin]:
    """{measure: its metric, with that one protocol}, in the order of `eval.metrics`. UserError where the data can't
    give what one needs."""
    return {_digest(one, setting): one for metric in setting.spec.metrics for one in _alone(metric)}


def _alone(metric: Plugin) -> Iterator[Plugin]:
    protocols = getattr(metric.options, "protocols", ())
    for protocol in protocols:
        yield Plugin(metric.name, replace(metric.options, protocols=(protocol,)))
    if not protocols:
        yield metric


def _digest(metric: Plugin, setting: Setting) -> str:
    module, spec = plugins.find("harness.metrics", metric.name), setting.spec
    needs = module.needs(metric.options, setting)
    samples = sorted({*needs.moments, *needs.features})
    options = {name: value for name, value in ids.differing(metric.options).items() if name != "protocols"}
    protocols = getattr(metric.options, "protocols", None)
    counts: list[Any] = [[spec.num_fakes, spec.num_reals]] if protocols is None else setting.comparisons(protocols)
    sources = {sample.source for sample in samples} - {"fakes"}
    images = {"data": setting.data, **{source: setting.reals(source) for source in sources}}
    if needs.scores:
        counts, images["heldout"] = [*counts, [spec.num_fakes, spec.num_reals]], setting.heldout
    averaged = {"statistics": ids.STATISTICS} if setting.weights_used == "ema" else {}
    machinery = {"scoring": ids.SCORING, **averaged}
    return ids.digest(
        {
            "metric": metric.name,
            "options": options,
            "epochs": ids.epochs({f"metric.{metric.name}": cast(ModuleType, module)}, **machinery),
            "counts": counts,
            "samples": [[s.source, s.count, s.layer, *vars(s.extractor).values()] for s in samples],
            "weights": sorted({checksum(s.extractor) or "" for s in samples}),
            "images": {name: found.fingerprint for name, found in images.items() if found is not None},
            "pass": [spec.batch_size, setting.seed, setting.conditional, setting.weights_used],
        }
    )
