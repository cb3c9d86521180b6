"""torchvision v2 transforms of the user's own."""

import random
from typing import ClassVar

import numpy as np
import pytest
import torch
from torchvision import tv_tensors
from torchvision.transforms import v2

from lit_vision.data.transforms import Transform, Warped
from lit_vision.errors import UserError
from lit_vision.types import IGNORE_INDEX

IMAGE = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
BOXES = np.array([[5, 10, 25, 30]], np.float32)
MASK = np.zeros((40, 60), np.uint8)
MASK[10:30, 5:25] = 1


def apply(*extra: v2.Transform) -> Warped:
    transform = Transform((40, 60), "stretch", extra=extra)
    masks = {"mask": (MASK, IGNORE_INDEX), "instances": (MASK.astype(np.int32) * 70000, 0)}
    return transform(IMAGE, BOXES, masks, np.random.default_rng(0))


def test_mirroring_moves_everything_alike() -> None:
    warped = apply(v2.RandomHorizontalFlip(p=1))
    np.testing.assert_array_equal(warped.image.permute(1, 2, 0), IMAGE[:, ::-1])
    np.testing.assert_array_equal(warped.masks["mask"], MASK[:, ::-1])
    np.testing.assert_array_equal(warped.masks["instances"], MASK[:, ::-1].astype(np.int32) * 70000)
    np.testing.assert_array_equal(warped.boxes, [[35, 10, 55, 30]])
    assert warped.masks["mask"].dtype == np.uint8
    assert type(warped.image) is torch.Tensor


def test_what_a_transform_uncovers_is_ignored() -> None:
    warped = apply(v2.RandomAffine(0, translate=(0.5, 0.5)))
    uncovered = (warped.image == 0).all(0).numpy()
    assert uncovered.sum() > 100
    ignored = warped.masks["mask"] == IGNORE_INDEX
    assert (ignored == uncovered).mean() > 0.99
    assert (warped.masks["instances"][ignored] == 0).all()
    assert set(np.unique(warped.masks["mask"])) <= {0, 1, IGNORE_INDEX}


def test_a_fill_of_the_users_own_does_not_become_a_class() -> None:
    warped = apply(v2.RandomAffine(0, translate=(0.5, 0.5), fill={tv_tensors.Mask: 255, tv_tensors.Image: 0}))
    assert set(np.unique(warped.masks["mask"])) <= {0, 1, IGNORE_INDEX}


def test_boxes_pushed_out_are_not_kept() -> None:
    class PushLeft(v2.Transform):
        def transform(self, value: object, params: dict[str, object]) -> object:
            return v2.functional.affine(value, angle=0.0, translate=[-30, 0], scale=1.0, shear=[0.0, 0.0])

    warped = apply(PushLeft())
    assert warped.keep is not None
    assert warped.keep.tolist() == [False]


def test_colours_alone_leave_labels() -> None:
    warped = apply(v2.ColorJitter(brightness=(2, 2)))
    np.testing.assert_array_equal(warped.image.permute(1, 2, 0), np.minimum(IMAGE.astype(int) * 2, 255))
    np.testing.assert_array_equal(warped.boxes, BOXES)
    np.testing.assert_array_equal(warped.masks["mask"], MASK)


def draw() -> tuple[float, float, float]:
    """A number from each of the generators that a transform can use."""
    return float(torch.rand(1)), random.random(), float(np.random.rand())  # noqa: NPY002  users' transforms may


def states() -> tuple[object, ...]:
    return torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002  as above


class Noise(v2.Transform):
    drawn: ClassVar[list[tuple[float, float, float]]] = []

    def transform(self, value: object, params: dict[str, object]) -> object:
        if isinstance(value, tv_tensors.Image):
            self.drawn.append(draw())
        return value


def test_randomness_of_any_kind_comes_from_the_sample_and_touches_nothing_else() -> None:
    Noise.drawn = []
    before = states()
    apply(Noise(), Noise())
    assert states() == before
    draw()
    assert states() != before
    apply(Noise(), Noise())
    first, second, *again = Noise.drawn
    assert again == [first, second]
    assert len({*first, *second}) == 6  # the negative control: they are drawn, not constant
    before = states()
    with pytest.raises(ZeroDivisionError):
        apply(Noise(), v2.Lambda(lambda value: 1 / 0))
    assert states() == before


def test_what_cannot_work_is_said() -> None:
    with pytest.raises(UserError, match=r"transforms: builtins\.function is no torchvision\.transforms\.v2 transform"):
        Transform((8, 8), extra=[lambda image: image])
    with pytest.raises(UserError, match=r"\(3, 40, 60\) torch\.uint8 into \(3, 20, 20\)"):
        apply(v2.Resize((20, 20)))
    with pytest.raises(UserError, match="leave out what resizes, converts or normalises"):
        apply(v2.ToDtype(torch.float32, scale=True))
