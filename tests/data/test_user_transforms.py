"""torchvision v2 transforms of the user's own."""

import numpy as np
import pytest
import torch
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
    from torchvision import tv_tensors

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


def test_what_cannot_work_is_said() -> None:
    with pytest.raises(UserError, match=r"transforms: builtins\.function is no torchvision\.transforms\.v2 transform"):
        Transform((8, 8), extra=[lambda image: image])
    with pytest.raises(UserError, match=r"\(3, 40, 60\) torch\.uint8 into \(3, 20, 20\)"):
        apply(v2.Resize((20, 20)))
    with pytest.raises(UserError, match="leave out what resizes, converts or normalises"):
        apply(v2.ToDtype(torch.float32, scale=True))
