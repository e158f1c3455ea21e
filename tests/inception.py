"""An Inception weights file of the published layout with random numbers: what offline tests use."""

from pathlib import Path

import torch
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3


class _Layout(FeatureExtractorInceptionV3):
    """The network with torch's own initial weights: the file it would load is ignored."""

    def load_state_dict(self, *_, **__):
        return None


def random_weights(path: Path, seed: int = 0) -> Path:
    """Write a state dict to `path` whose features stay of order 1 through all layers."""
    torch.manual_seed(seed)
    torch.save({}, path)
    network = _Layout("inception-v3-compat", ["2048"], str(path))
    for name, value in network.state_dict().items():
        if name.endswith("conv.weight"):
            value.normal_(0, (2 / value[0].numel()) ** 0.5)
        elif name.endswith("fc.weight"):
            value.normal_(0, 0.05)
    torch.save(network.state_dict(), path)
    return path
