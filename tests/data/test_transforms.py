"""Image, boxes and masks stay together through every change; and they find their way back."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torchvision.transforms import v2

from lit_vision.data.augmentation import Augmentation
from lit_vision.data.geometry import Fit
from lit_vision.data.transforms import (
    Transform,
    Warped,
    pad_collate,
    restore_boxes,
    restore_mask,
    restore_scores,
    to_tensor,
)
from lit_vision.errors import UserError
from lit_vision.types import IGNORE_INDEX

STRONG = Augmentation(flip=0.5, flip_vertical=0.5, quarter_turns=True, rotate=45, scale=0.5, translate=0.2, shear=20)
GENTLE = Augmentation(flip=0.5, quarter_turns=True, scale=0.3, translate=0.1)


def disc(height: int = 200, width: int = 300, x: int = 120, y: int = 90, radius: int = 40) -> tuple[Any, Any, Any]:
    """White disc on black, its exact box, its mask (class 1)."""
    mask = np.zeros((height, width), np.uint8)
    cv2.circle(mask, (x, y), radius, 1, -1)
    ys, xs = np.nonzero(mask)
    box = np.array([[xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]], np.float32)
    return np.repeat(mask[:, :, None] * np.uint8(255), 3, axis=2), box, mask


def bounds(mask: np.ndarray) -> np.ndarray:
    ys, xs = np.nonzero(mask)
    return np.array([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1])


def iou(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / max(1, (a | b).sum()))


@pytest.mark.parametrize("fit", ["letterbox", "stretch", "crop", "native"])
@pytest.mark.parametrize("seed", range(12))
def test_pixels_mask_and_box_agree_whatever_happens(fit: Fit, seed: int) -> None:
    image, box, mask = disc()
    transform = Transform((160, 192), fit, STRONG)
    warped = transform(image, box, {"mask": (mask, IGNORE_INDEX)}, np.random.default_rng(seed))
    drawn = warped.image[0].numpy() > 180  # white is 255, padding 114
    labelled = warped.masks["mask"] == 1
    assert warped.image.shape == (3, 160, 192)
    assert warped.image.dtype == torch.uint8
    if labelled.sum() < 200:
        return  # moved out of sight
    assert iou(drawn, labelled) > 0.93
    assert warped.boxes is not None
    outer, inner = warped.boxes[0], bounds(labelled)
    assert (outer[:2] <= inner[:2] + 1).all()  # nothing of the disc lies outside its box
    assert (outer[2:] >= inner[2:] - 1).all()


@pytest.mark.parametrize("seed", range(12))
def test_boxes_stay_tight_where_rectangles_stay_rectangles(seed: int) -> None:
    image, mask = np.zeros((200, 300, 3), np.uint8), np.zeros((200, 300), np.uint8)
    box = np.array([[130, 80, 190, 121]], np.float32)
    mask[80:121, 130:190] = 1
    warped = Transform((240, 240), "letterbox", GENTLE)(
        image, box, {"mask": (mask, IGNORE_INDEX)}, np.random.default_rng(seed)
    )
    assert warped.boxes is not None
    assert np.abs(warped.boxes[0] - bounds(warped.masks["mask"] == 1)).max() <= 0.5 + 1 / 32  # a pixel counts by centre


def test_a_wrong_frame_would_be_noticed() -> None:
    image, box, mask = disc()
    warped = Transform((160, 160))(image, box, {"mask": (mask[:, ::-1].copy(), IGNORE_INDEX)})
    assert iou(warped.image[0].numpy() > 180, warped.masks["mask"] == 1) < 0.5


def test_evaluation_letterbox_by_numbers() -> None:
    image, box, mask = disc()  # 200 x 300 to 150 x 150: scale 0.5, 25 rows above
    warped = Transform((150, 150))(image, box, {"mask": (mask, IGNORE_INDEX), "instances": (mask.astype(np.int32), 0)})
    np.testing.assert_array_equal(warped.frame, np.array([[0.5, 0, 0], [0, 0.5, 25]], np.float32))
    assert warped.frame.dtype == np.float32
    np.testing.assert_array_equal(warped.boxes, box * 0.5 + [0, 25, 0, 25])
    assert (warped.image[:, :25] == 114).all()
    assert (warped.masks["mask"][:25] == IGNORE_INDEX).all()
    assert (warped.masks["mask"][125:] == IGNORE_INDEX).all()
    assert set(np.unique(warped.masks["mask"][25:125])) == {0, 1}
    assert (warped.masks["instances"][:25] == 0).all()
    assert warped.masks["instances"].dtype == np.int32


def test_native_is_the_whole_picture_in_evaluation_and_a_crop_in_training() -> None:
    image = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    transform = Transform((32, 40), "native", Augmentation(flip=0))
    whole = transform(image)
    np.testing.assert_array_equal(whole.image.permute(1, 2, 0), image)
    np.testing.assert_array_equal(whole.frame, [[1, 0, 0], [0, 1, 0]])
    places = set()
    for seed in range(20):
        crop = transform(image, rng=np.random.default_rng(seed))
        x, y = (int(-value) for value in crop.frame[:, 2])
        np.testing.assert_array_equal(crop.image.permute(1, 2, 0), image[y : y + 32, x : x + 40])
        places.add((x, y))
    assert len(places) > 15
    small = transform(image[:20, :20], rng=np.random.default_rng(0))
    np.testing.assert_array_equal(small.image[:, 6:26, 10:30].permute(1, 2, 0), image[:20, :20])
    assert (small.image[:, :6] == 114).all()


def test_same_seed_same_bits_and_another_seed_another_picture() -> None:
    image, box, mask = disc()
    colours = {"hue": 0.1, "saturation": 0.5, "brightness": 0.5, "contrast": 0.5}
    everything = Augmentation(rotate=30, blur=1, noise=10, erase=1, **colours)
    transform = Transform((100, 100), augmentation=everything, extra=[v2.RandomRotation(30)])
    global_state = torch.get_rng_state()

    def draw(seed: int) -> Warped:
        return transform(image, box, {"mask": (mask, 255)}, np.random.default_rng((seed, 1, 2)))

    first, again, other = draw(0), draw(0), draw(1)
    assert torch.equal(first.image, again.image)
    np.testing.assert_array_equal(first.boxes, again.boxes)
    np.testing.assert_array_equal(first.masks["mask"], again.masks["mask"])
    assert not torch.equal(first.image, other.image)
    assert torch.equal(torch.get_rng_state(), global_state)


def test_evaluation_draws_nothing() -> None:
    image, _, _ = disc()
    plain, rich = Transform((100, 100)), Transform((100, 100), augmentation=STRONG, extra=[v2.RandomHorizontalFlip(1)])
    assert torch.equal(plain(image).image, rich(image).image)
    assert torch.equal(plain(image, rng=np.random.default_rng(0)).image, plain(image).image)


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 7])
def test_any_number_of_channels(channels: int) -> None:
    image = np.random.default_rng(0).integers(0, 256, (40, 60, channels), dtype=np.uint8)
    strong = Augmentation(rotate=20, hue=0.1, saturation=0.3, brightness=0.3, contrast=0.3, blur=1, noise=5, erase=1)
    warped = Transform((32, 32), augmentation=strong)(image, rng=np.random.default_rng(0))
    assert warped.image.shape == (channels, 32, 32)
    assert warped.image.is_contiguous()


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5, 12, 200])
def test_planes_of_a_tensor_are_the_channels(channels: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 50, channels), dtype=np.uint8)
    for part in (pixels, pixels[3:30, 7:41]):
        np.testing.assert_array_equal(to_tensor(part).numpy(), part.transpose(2, 0, 1))


def test_no_boxes_are_ordinary() -> None:
    image, _, _ = disc()
    warped = Transform((64, 64), augmentation=STRONG, extra=[v2.RandomAffine(10)])(
        image, np.zeros((0, 4), np.float32), rng=np.random.default_rng(0)
    )
    assert warped.boxes is not None
    assert warped.keep is not None
    assert warped.boxes.shape == (0, 4)
    assert warped.keep.shape == (0,)
    assert Transform((64, 64))(image).boxes is None


def test_sizes_and_settings_are_checked() -> None:
    image, _, mask = disc()
    with pytest.raises(UserError, match=r"mask of \(200, 299\) belongs to an image of \(200, 300\)"):
        Transform((64, 64))(image, masks={"mask": (mask[:, 1:], 255)})
    with pytest.raises(UserError, match=r"fit is 'pad'; use one of letterbox, stretch, crop, native"):
        Transform((64, 64), "pad")  # type: ignore[arg-type]  # that is the point
    with pytest.raises(UserError, match="image_size"):
        Transform((0, 64))


# --- back to the original picture -----------------------------------------------------------------------------------
@pytest.mark.parametrize("fit", ["letterbox", "stretch", "native"])
@pytest.mark.parametrize("size", [(150, 150), (416, 320), (64, 64)])
def test_boxes_return(fit: Fit, size: tuple[int, int]) -> None:
    image, box, _ = disc()
    warped = Transform(size, fit)(image, box)
    assert warped.boxes is not None
    back = restore_boxes(torch.from_numpy(warped.boxes), torch.from_numpy(warped.frame), torch.tensor([200, 300]))
    np.testing.assert_allclose(back, box, atol=1e-3)
    far = restore_boxes(
        torch.tensor([[-1e4, -1e4, 1e4, 1e4]]), torch.from_numpy(warped.frame), torch.tensor([200, 300])
    )
    assert far.tolist() == [[0, 0, 300, 200]]


def test_boxes_return_from_a_mirrored_picture() -> None:
    image, box, _ = disc()
    transform = Transform((200, 300), "stretch", Augmentation(flip=1))
    warped = transform(image, box, rng=np.random.default_rng(0))
    assert warped.boxes is not None
    np.testing.assert_allclose(warped.boxes, [[300 - box[0, 2], box[0, 1], 300 - box[0, 0], box[0, 3]]])
    back = restore_boxes(torch.from_numpy(warped.boxes), torch.from_numpy(warped.frame), torch.tensor([200, 300]))
    np.testing.assert_allclose(back, box)


@pytest.mark.parametrize("fit", ["letterbox", "stretch", "native"])
def test_masks_return(fit: Fit) -> None:
    _, _, mask = disc()
    image = np.zeros((200, 300, 3), np.uint8)
    for dtype in (np.uint8, np.int32, np.int64):
        warped = Transform((320, 416), fit)(image, masks={"mask": (mask, IGNORE_INDEX)})
        back = restore_mask(warped.masks["mask"].astype(dtype), warped.frame, (200, 300))
        assert back.dtype == dtype
        np.testing.assert_array_equal(back, mask)  # enlarged and returned: every pixel is itself again


def test_what_a_crop_did_not_show_is_ignored() -> None:
    image = np.zeros((100, 200, 3), np.uint8)
    warped = Transform((100, 100), "crop")(image)
    back = restore_mask(np.ones((100, 100), np.uint8), warped.frame, (100, 200))
    assert (back[:, 50:150] == 1).all()
    assert (back[:, :50] == IGNORE_INDEX).all()
    assert (back[:, 150:] == IGNORE_INDEX).all()


def test_scores_return() -> None:
    ramp = np.tile(np.arange(300, dtype=np.float32), (200, 1))
    maps = np.stack([ramp + 1000 * k for k in range(6)])
    frame = Transform((400, 600), "stretch")(np.zeros((200, 300, 3), np.uint8)).frame
    large = np.stack([cv2.resize(plane, (600, 400)) for plane in maps])
    back = restore_scores(large, frame, (200, 300))
    assert back.shape == (6, 200, 300)
    np.testing.assert_allclose(back[:, :, 1:-1], maps[:, :, 1:-1], atol=1e-2)


def test_pictures_of_different_sizes_are_padded_to_a_multiple() -> None:
    images = [torch.full((3, 30, 50), 7, dtype=torch.uint8), torch.full((3, 40, 20), 9, dtype=torch.uint8)]
    batch = pad_collate(images, 32)
    assert batch.shape == (2, 3, 64, 64)
    assert batch.dtype == torch.uint8
    assert torch.equal(batch[0, :, :30, :50], images[0])
    assert torch.equal(batch[1, :, :40, :20], images[1])
    assert int((batch == 114).sum()) == 2 * 3 * 64 * 64 - 3 * 30 * 50 - 3 * 40 * 20
    assert pad_collate([torch.zeros(5, 7)], 4, 255).shape == (1, 8, 8)


@pytest.mark.parametrize("name", ["bus.jpg", "dog.jpg"])
def test_real_photographs_come_through(name: str) -> None:
    from lit_vision.data.decode import read_image

    path = Path(__file__).parents[3] / "shared/data/photos" / name
    if not path.exists():
        pytest.skip(f"{path} is not on this machine")
    image = read_image(path)
    warped = Transform((224, 224))(image)
    scale = 224 / max(image.shape[:2])
    side = [round(length * scale) for length in image.shape[:2]]
    y, x = ((224 - length) // 2 for length in side)
    expected = cv2.resize(image, side[::-1], interpolation=cv2.INTER_AREA)  # the picture averaged exactly
    found = warped.image[:, y : y + side[0], x : x + side[1]].permute(1, 2, 0).numpy()
    assert np.abs(found.astype(float) - expected).mean() < 4
