"""The metrics of one EfficientNet-Lite each: a file's own network, under its own name, at its own size."""

import pytest

from harness import plugins
from harness.evaluation.features import EFFICIENTNET_LITE0, EFFICIENTNET_LITE1, Extractor
from harness.metrics._efficientnet import sized

NETWORKS = {"efficientnet_lite0": EFFICIENTNET_LITE0, "efficientnet_lite1": EFFICIENTNET_LITE1}
METRICS = [name for name in plugins.names("harness.metrics") if "efficientnet" in name]


@pytest.mark.parametrize("name", METRICS)
def test_a_file_is_of_the_network_in_its_name(name: str) -> None:
    metric, network = plugins.find("harness.metrics", name), NETWORKS[name[3:]]
    assert metric.Options().size == network.size
    heading = metric.heading(f"{name}_96px_5k_full", {})
    assert heading is not None and heading["role"] == "distance"
    assert not any(metric.heading(f"{other}_5k_full", {}) for other in METRICS if other != name)
    if name.startswith("fd_"):
        assert (heading["label"], heading["features"]) == (f"FD-Lite{name[-1]} 96px_5k_full", 1280)


@pytest.mark.parametrize("network", NETWORKS.values())
def test_only_another_size_is_in_the_name(network: Extractor) -> None:
    assert sized("x_", network, network.size) == ("x_", network)
    name, other = sized("x_", network, 96)
    assert name == "x_96px_" and (other.name, other.size) == (network.name, 96)
