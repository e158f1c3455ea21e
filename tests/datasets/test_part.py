"""A share of a set to train on: the same for every arm and seed, smaller ones within larger ones, a data set of its own
to ids and fingerprints, and no less to measure against."""

import dataclasses
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness import plugins
from harness.data import part
from harness.data.imageset import ImageSet
from harness.datasets import cifar10, fashion_mnist, image_zip
from harness.errors import UserError
from harness.experiment import ids
from harness.experiment.parse import plugin
from harness.experiment.spec import Plugin
from tests import cifar_files, idx_files, tiny
from tests.image_files import one_line, pngs, write_zip


def _cifar10(folder: Path) -> cifar10.Options:
    path = folder / "cifar-10-python.tar.gz"
    cifar_files.write_archive(path, 8)
    return cifar10.Options(path, expect_full=False)


def _image_zip(folder: Path) -> image_zip.Options:
    return image_zip.Options(write_zip(folder / "a.zip", pngs(50)), holdout=10)


MAKE: dict[str, Callable[[Path], Any]] = {
    "cifar10": _cifar10,
    "fashion_mnist": lambda folder: fashion_mnist.Options(idx_files.write(folder), expect_full=False),
    "image_zip": _image_zip,
}  # each with 40 images to train on


def test_every_set_that_can_be_cut_short_has_a_share() -> None:
    names = {n: {f.name for f in dataclasses.fields(plugins.find("harness.datasets", n).Options)} for n in _datasets()}
    assert {n for n, fields in names.items() if "max_images" in fields} == set(MAKE)
    assert {n for n, fields in names.items() if "fraction" in fields} == set(MAKE)
    assert all({"max_images", "fraction"} <= set(plugins.find("harness.datasets", n).PART) for n in MAKE)  # type: ignore[attr-defined]


def _datasets() -> list[str]:
    return list(plugins.names("harness.datasets"))


def pixels(data: ImageSet) -> list[bytes]:
    return [image.tobytes() for image in data.images]


@pytest.mark.parametrize("name", MAKE)
def test_shares_lie_within_each_other_and_leave_the_rest_whole(name: str, tmp_path: Path) -> None:
    options, module = MAKE[name](tmp_path), plugins.find("harness.datasets", name)
    sets = {f: module.load(replace(options, fraction=f)) for f in (1.0, 0.5, 0.1, 0.001)}
    assert [len(data) for data in sets.values()] == [40, 20, 4, 1]
    found = [pixels(data) for data in sets.values()]
    for larger, smaller in zip(found, found[1:], strict=False):
        assert [image for image in larger if image in smaller] == smaller  # in the order of the set
    assert found[1] not in (found[0][:20], found[0][20:])  # sets are often sorted
    assert len({data.fingerprint for data in sets.values()}) == 4
    assert sets[1.0].part_of is None and all(pixels(data.whole) == found[0] for data in sets.values())
    assert pixels(module.load(replace(options, fraction=0.1))) == found[2]
    tests = [module.load(replace(options, fraction=f), "test") for f in (1.0, 0.1)]
    assert tests[0].fingerprint == tests[1].fingerprint


@pytest.mark.parametrize("name", MAKE)
def test_a_share_is_part_of_the_id_and_keeps_the_reference(name: str, tmp_path: Path) -> None:
    options = MAKE[name](tmp_path)

    def trial(**change: Any) -> Any:
        dataset = Plugin(name, replace(options, **change))
        return replace(tiny.trial(eval={"metrics": {"fid": {}}}), dataset=dataset, data="x")

    assert trial(fraction=1.0).id == trial().id
    assert len({trial(fraction=f).id for f in (1.0, 0.2, 0.1)}) == 3
    assert ids.reals(trial(fraction=0.1)) == ids.reals(trial(max_images=4)) == "x"


@pytest.mark.parametrize("name", MAKE)
def test_a_share_and_a_number_together_are_one_line(name: str, tmp_path: Path) -> None:
    raw = {"name": name, "path": str(tmp_path), "max_images": 5}
    for value, words in ((0.5, "max_images: 5; keep one"), (0, "> 0"), (1.5, "<= 1"), ("a tenth", "a tenth")):
        with pytest.raises(UserError) as error:
            plugin("harness.datasets", raw | {"fraction": value}, "here: dataset")
        one_line(error, "dataset", "fraction", words)
    assert plugin("harness.datasets", raw | {"fraction": 1}, "here").options.fraction == 1


def test_a_share_is_rounded_to_the_nearest_and_never_empty() -> None:
    assert [part.size(50_000, f) for f in (1, 0.2, 0.1, 1e-9)] == [50_000, 10_000, 5_000, 1]
    assert [part.size(5, f) for f in (0.1, 0.3, 0.5, 0.7)] == [1, 2, 3, 4]
    assert part.rows("a", 7, 1).tolist() == list(range(7))
    assert part.rows("cifar10", 40, 0.1).tolist() == [0, 2, 11, 21]  # for ever: results hang on it
