"""Whether a metric measures with a pretrained network that an arm was trained with. D has then taught G that network's
features, and the metric praises them whatever the images look like (Kynkäänniemi et al. 2023,
https://arxiv.org/abs/2203.06026; projected GANs are the known case)."""

from collections.abc import Iterable, Mapping
from typing import Any

from harness import plugins
from harness.experiment.spec import Trial


def uses(trial: Trial) -> dict[str, str]:
    """{pretrained network: who says that it trains with it}, of the trial's backbone and variants."""
    parts = [("backbones", "backbone", trial.backbone), *(("harness.variants", "variant", v) for v in trial.variants)]
    found: dict[str, str] = {}
    for shelf, kind, plugin in parts:
        module: Any = plugins.find(shelf, plugin.name) if plugin.name in plugins.names(shelf) else None
        if hasattr(module, "uses"):
            found |= dict.fromkeys(module.uses(plugin.options), f"{kind} {plugin.name}")
    return found


def shared(trial: Trial, protocol: Mapping[str, Any]) -> str | None:
    """The network that both the trial and a metric's record use, and who of the trial does; None where none is."""
    measured = str(protocol.get("extractor", ""))
    return next((f"{measured}, as {who} does" for name, who in uses(trial).items() if same(name, measured)), None)


def same(name: str, extractor: str) -> bool:
    """Whether a network's name is an extractor's or the front part of it, in whole words: `inception`, or
    `efficientnet_lite0`."""
    words, theirs = _words(name), _words(extractor)
    return bool(words) and theirs[: len(words)] == words


def note(metric: str, whose: Iterable[str], network: str) -> str:
    """The line below a table: `whose` are the arms."""
    return (
        f"{metric} measures with {network} in {', '.join(whose)}: it favours what was trained with it; compare by a "
        "metric on another network"
    )


def _words(name: str) -> list[str]:
    return [word for word in name.lower().replace("_", "-").split("-") if word]
