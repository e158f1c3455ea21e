"""What every dataset promises; one suite over every file found in harness/datasets/."""

import dataclasses
import inspect
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from harness import plugins
from harness.data.imageset import ImageSet, Split
from harness.errors import UserError
from harness.experiment.schema import parse
from tests import cifar_files, idx_files
from tests.contract import names
from tests.image_files import pngs, write_zip

NAMES = names("harness.datasets")


def example(name: str, folder: Path) -> dict[str, Any]:
    """Options of a small set; a dataset that needs files has them written here."""
    if name == "cifar10":
        cifar_files.write_archive(folder / "cifar-10-python.tar.gz", 30)
        return {"path": str(folder / "cifar-10-python.tar.gz"), "expect_full": False}
    if name == "image_zip":
        files = pngs(25)
        return {
            "path": str(write_zip(folder / "a.zip", files, [[n, i % 4] for i, n in enumerate(files)])),
            "holdout": 5,
        }
    if name in ("fashion_mnist", "stacked_fashion_mnist"):
        more = {} if name == "fashion_mnist" else {"num_images": 60, "num_heldout": 20}
        return {"path": str(idx_files.write(folder / "idx")), "expect_full": False, **more}
    if name == "synthetic":
        return {"num_images": 60}
    return {}


@pytest.fixture(params=NAMES)
def dataset(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[plugins.Dataset, Any]:
    module = plugins.find("harness.datasets", request.param)
    return module, parse(module.Options, example(request.param, tmp_path), "dataset")


def loaded(dataset: tuple[plugins.Dataset, Any]) -> list[tuple[Split, ImageSet]]:
    module, options = dataset
    splits: list[Split] = ["train", "test"] if module.has_test(options) else ["train"]
    return [(split, module.load(options, split)) for split in splits]


def test_options_are_frozen_and_load_has_the_signature(dataset: tuple[plugins.Dataset, Any]) -> None:
    module, options = dataset
    assert module.__doc__ and module.load.__doc__
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(options, dataclasses.fields(options)[0].name, None)
    parameters = inspect.signature(module.load).parameters
    assert list(parameters) == ["options", "split"] and parameters["split"].default == "train"


def test_images_and_labels(dataset: tuple[plugins.Dataset, Any]) -> None:
    for _, data in loaded(dataset):
        n, channels, height, width = data.images.shape
        assert data.images.dtype == np.uint8 and channels == 3 and height == width == data.resolution
        assert n == len(data) > 0
        assert np.ptp(np.asarray(data.images)) > 0
        if data.labels is None:
            assert data.num_classes == 0
        else:
            assert data.labels.dtype == np.int64 and data.labels.shape == (n,)
            assert data.labels.min() >= 0 and data.labels.max() < data.num_classes
        if data.boxes is not None:
            x0, y0, x1, y1 = data.boxes.T
            assert (x0 >= 0).all() and (x0 < x1).all() and (x1 <= width).all()
            assert (y0 >= 0).all() and (y0 < y1).all() and (y1 <= height).all()


def test_one_channel_is_the_luma_of_three_and_data_of_its_own(dataset: tuple[plugins.Dataset, Any]) -> None:
    module, options = dataset
    if not hasattr(options, "channels"):
        pytest.skip("has three channels, always")
    three, one = module.load(options), module.load(dataclasses.replace(options, channels=1))
    luma = [np.asarray(Image.fromarray(x.transpose(1, 2, 0)).convert("L")) for x in np.asarray(three.images)]
    assert one.channels == 1 and np.array_equal(np.asarray(one.images)[:, 0], luma)
    assert one.fingerprint != three.fingerprint


def test_the_record_is_plain_and_names_what_matters(dataset: tuple[plugins.Dataset, Any]) -> None:
    module, _ = dataset
    for split, data in loaded(dataset):
        assert json.loads(json.dumps(data.about)) == data.about
        assert data.about["name"] == module.__name__.rsplit(".", 1)[1] and data.about["split"] == split
        assert data.about["count"] == len(data) and data.about["resolution"] == data.resolution
        assert data.about["num_classes"] == data.num_classes and data.about["xflip"] == data.xflip
        assert isinstance(data.about["filter"], str)


def test_loading_twice_is_the_same_and_splits_differ(dataset: tuple[plugins.Dataset, Any]) -> None:
    first, second = loaded(dataset), loaded(dataset)
    for (_, a), (_, b) in zip(first, second, strict=True):
        assert a.fingerprint == b.fingerprint and np.array_equal(a.images, b.images)
        assert len(a.fingerprint) == 32 and int(a.fingerprint, 16) >= 0
    assert len({data.fingerprint for _, data in first}) == len(first)


def test_a_split_that_is_not_there_is_one_line(dataset: tuple[plugins.Dataset, Any], tmp_path: Path) -> None:
    module, options = dataset
    if hasattr(options, "holdout"):
        options = dataclasses.replace(options, holdout=0)
    if module.has_test(options):
        pytest.skip("has a test split, always")
    with pytest.raises(UserError) as error:
        module.load(options, "test")
    assert "\n" not in str(error.value)
