"""Drawn images by property: what a scene hangs on, and where its object is."""

from typing import Any

import numpy as np
import pytest

from harness.datasets import synthetic


def test_a_scene_depends_on_nothing_but_seed_split_and_index() -> None:
    few, many = (synthetic.load(synthetic.Options(num_images=n)) for n in (70, 1100))
    assert np.array_equal(few.images, many.images[:70])
    again = synthetic.load(synthetic.Options(num_images=70))
    assert again.fingerprint == few.fingerprint != many.fingerprint
    others = [
        synthetic.load(synthetic.Options(num_images=70, seed=1)),
        synthetic.load(synthetic.Options(num_images=70), "test"),
    ]
    assert len({few.fingerprint, *(o.fingerprint for o in others)}) == 3


def test_a_scene_is_the_same_at_every_resolution() -> None:
    small, large = (synthetic.load(synthetic.Options(resolution=r, num_images=100)) for r in (32, 128))
    shrunk = large.images[:].reshape(100, 3, 32, 4, 32, 4).mean((3, 5))
    assert np.abs(shrunk - small.images).mean() < 2
    assert small.boxes is not None and large.boxes is not None
    assert np.abs(small.boxes - large.boxes / 4).max() <= 1.5


def test_boxes_enclose_the_object_and_nothing_else() -> None:
    """Against the same scenes drawn without an object: what changed is the object."""
    labels = np.arange(200) % 10
    draws = np.random.default_rng(0).random((200, synthetic._NUM_DRAWS))
    images, boxes = synthetic.draw(labels, draws, 64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(synthetic, "_DISTANCE", dict.fromkeys(synthetic.SHAPES, lambda x, y: 0 * x + 9))
        empty, _ = synthetic.draw(labels, draws, 64)
    changed = (images != empty).any(1)
    for label, mask, (x0, y0, x1, y1) in zip(labels, changed, boxes, strict=True):
        ys, xs = np.nonzero(mask)
        beyond = np.array([x0 - xs.min(), y0 - ys.min(), xs.max() + 1 - x1, ys.max() + 1 - y1])
        sharp = synthetic.SHAPES[label] in ("triangle", "star", "heart", "crescent", "hourglass")
        assert (beyond >= 0).all() and (beyond <= (4 if sharp else 2)).all()  # a thin tip covers no half pixel
    assert (boxes[:, :2] >= 0).all() and (boxes[:, 2:] <= 64).all()


def test_objects_stand_out_of_their_background() -> None:
    data = synthetic.load(synthetic.Options(num_images=500))
    draws = np.random.default_rng(0).random((500, synthetic._NUM_DRAWS))
    images, boxes = synthetic.draw(np.full(500, 1), draws, 64)  # squares: a box's middle is the object
    cx, cy = ((boxes[:, i] + boxes[:, i + 2]) / 2 for i in (0, 1))
    body = images[np.arange(500), :, cy.astype(int), cx.astype(int)].astype(float)
    corners = images[:, :, [0, 0, -1, -1], [0, -1, 0, -1]].mean(-1)
    assert np.quantile(np.abs(body - corners).max(1), 0.02) > 40
    assert np.bincount(data.labels).tolist() == [50] * 10  # type: ignore[arg-type]


def test_signed_distances_are_one_inside_the_unit_disc_and_no_steeper() -> None:
    """No shape leaves the disc that keeps it in the image; a slope over 1 would harden its edge."""
    axis = np.linspace(-1.3, 1.3, 521)
    x, y = np.meshgrid(axis, axis)
    step = axis[1] - axis[0]
    for name in synthetic.SHAPES:
        distance = synthetic._DISTANCE[name](x, y)
        assert (distance[np.hypot(x, y) > 1.02] > 0).all(), name
        assert max(np.abs(np.diff(distance, axis=i)).max() for i in (0, 1)) <= step * 1.01, name
        assert 0.15 < (distance < 0).mean() * 2.6**2 < 3, name


@pytest.mark.parametrize("raw", [{"resolution": 48}, {"resolution": 1024, "num_images": 10**6}])
def test_impossible_scenes_are_refused(raw: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"resolution: 48|num_images"):
        synthetic.Options(**raw)
