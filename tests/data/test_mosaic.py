"""Four pictures in one and two blended: pixels and boxes against those worked out by hand."""

from typing import Any

import numpy as np
import pytest

from lit_vision.data import mosaic
from lit_vision.data.augmentation import Augmentation
from lit_vision.data.geometry import Size, is_axis_aligned, outline
from lit_vision.data.mosaic import Picture, blend, compose, draw_mosaic
from lit_vision.data.transforms import FILL, Transform

STILL = Augmentation(flip=0.0)
SIZE = (100, 200)


def picture(height: int, width: int, boxes: Any = (), seed: int = 0, channels: int = 3, crowd: Any = None) -> Picture:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)
    array = np.array(boxes, np.float32).reshape(-1, 4)
    labels = np.full(len(array), seed, np.int64)
    return Picture(pixels, array, labels, np.zeros(len(array), bool) if crowd is None else np.array(crowd))


def four(*sizes: Size, boxes: Any = ((10, 5, 30, 20),), channels: int = 3) -> list[Picture]:
    return [picture(*size, boxes=boxes, seed=k, channels=channels) for k, size in enumerate(sizes)]


@pytest.fixture
def halves(monkeypatch: pytest.MonkeyPatch) -> None:
    """The four meet in the middle."""
    monkeypatch.setattr(mosaic, "SPLIT", (0.5, 0.5))


def native(augmentation: Augmentation = STILL, **settings: Any) -> Transform:
    return Transform(SIZE, "native", augmentation, **settings)


def paste(pictures: list[Picture], places: Any) -> np.ndarray:
    """Pixel by pixel, for frames that only shift by whole pixels."""
    canvas = np.full((*SIZE, pictures[0].pixels.shape[2]), FILL, np.uint8)
    for one, (frame, (rows, columns)) in zip(pictures, places, strict=True):
        dx, dy = int(frame[0, 2]), int(frame[1, 2])
        for y in range(rows.start, rows.stop):
            for x in range(columns.start, columns.stop):
                if 0 <= y - dy < one.pixels.shape[0] and 0 <= x - dx < one.pixels.shape[1]:
                    canvas[y, x] = one.pixels[y - dy, x - dx]
    return canvas


# --- where pictures lie -----------------------------------------------------------------------------------------
@pytest.mark.usefixtures("halves")
def test_small_pictures_touch_where_the_four_meet() -> None:
    """Four of 40 x 60 in quadrants of 50 x 100, which meet at (100, 50)."""
    made, _ = compose(four((40, 60), (40, 60), (40, 60), (40, 60)), native(), SIZE, np.random.default_rng(0))
    assert made.boxes.tolist() == [[50, 15, 70, 30], [110, 15, 130, 30], [50, 55, 70, 70], [110, 55, 130, 70]]
    assert made.boxes.dtype == np.float32
    assert made.labels.tolist() == [0, 1, 2, 3]
    assert (made.pixels[:10] == FILL).all()
    assert (made.pixels[90:] == FILL).all()
    assert (made.pixels[:, :40] == FILL).all()
    assert (made.pixels[:, 160:] == FILL).all()


@pytest.mark.parametrize("channels", [1, 3, 5])
@pytest.mark.parametrize("seed", range(3))
def test_pixels_are_those_of_a_naive_paste(seed: int, channels: int) -> None:
    pictures = four((90, 150), (40, 60), (200, 30), (130, 300), channels=channels)
    places = draw_mosaic([one.size for one in pictures], "native", SIZE, STILL, np.random.default_rng(seed))
    made, frame = compose(pictures, native(), SIZE, np.random.default_rng(seed))
    np.testing.assert_array_equal(made.pixels, paste(pictures, places))
    np.testing.assert_array_equal(frame, places[0][0])


def test_windows_divide_the_input_and_large_pictures_fill_theirs() -> None:
    rng, seen = np.random.default_rng(0), []
    for _ in range(200):
        places = draw_mosaic([(300, 400)] * 4, "native", SIZE, STILL, rng)
        covered = np.zeros(SIZE, int)
        for frame, (rows, columns) in places:
            covered[rows, columns] += 1
            x1, y1, x2, y2 = outline(frame, (300, 400))
            assert x1 <= columns.start <= columns.stop <= x2
            assert y1 <= rows.start <= rows.stop <= y2
        assert (covered == 1).all()
        seen.append((places[0][1][0].stop / SIZE[0], places[0][1][1].stop / SIZE[1]))
    low, high = np.min(seen, axis=0), np.max(seen, axis=0)
    assert ((low >= 0.2) & (low < 0.23) & (high > 0.77) & (high <= 0.8)).all()


def test_turns_zooms_and_slants_are_those_of_a_picture_alone() -> None:
    strong = Augmentation(flip=0.5, rotate=30, scale=0.5, shear=5)
    frames = [place[0] for place in draw_mosaic([(80, 90)] * 4, "letterbox", SIZE, strong, np.random.default_rng(1))]
    assert not any(is_axis_aligned(frame) for frame in frames)
    areas = {round(float(np.linalg.det(frame[:2, :2])), 6) for frame in frames}
    assert len(areas) == 4


def test_a_crop_shows_nothing_outside_of_itself() -> None:
    """Crops of a hundredth of the area: a quadrant shows a hundredth of the picture's 300 x 300 at most."""
    tiny = Augmentation(flip=0.0, crop_area=(0.01, 0.01), crop_ratio=(1, 1))
    for seed in range(20):
        frame, (rows, columns) = draw_mosaic([(300, 300)] * 4, "crop", (120, 120), tiny, np.random.default_rng(seed))[0]
        shown = (rows.stop * columns.stop) / np.linalg.det(frame[:2, :2])
        assert shown <= 900 + 1e-6
        x1, y1, x2, y2 = outline(frame, (300, 300))
        assert x1 <= 0.5
        assert y1 <= 0.5
        assert x2 >= columns.stop - 0.5
        assert y2 >= rows.stop - 0.5


@pytest.mark.parametrize("side", [40, 300])
def test_colours_change_by_one_draw_and_leave_the_padding_alone(side: int) -> None:
    grey = [Picture(np.full((side, side, 3), 100 + k, np.uint8), *_nothing()) for k in range(4)]
    plain, _ = compose(grey, native(), SIZE, np.random.default_rng(0))
    made, _ = compose(grey, native(Augmentation(flip=0, brightness=0.5)), SIZE, np.random.default_rng(0))
    assert (FILL in plain.pixels) == (side == 40)
    np.testing.assert_array_equal(plain.pixels == FILL, made.pixels == FILL)
    shown = plain.pixels != FILL
    gain = np.unique(np.round(made.pixels[shown] / plain.pixels[shown], 2))
    assert gain.max() - gain.min() <= 0.02
    assert abs(gain.mean() - 1) > 0.03


@pytest.mark.parametrize("seed", range(8))
def test_boxes_stay_on_their_objects_however_the_four_are_zoomed_and_mirrored(seed: int) -> None:
    """A white rectangle in each of four black pictures, some decoded at half size."""
    pictures = []
    for k, factor in enumerate((1, 2, 1, 2)):
        pixels = np.zeros((360 // factor, 480 // factor, 3), np.uint8)
        pixels[120 // factor : 240 // factor, 200 // factor : 300 // factor] = 255
        pictures.append(Picture(pixels, np.array([[200, 120, 300, 240]], np.float32), *_marks(1, k), factor))
    ranges = Augmentation(flip=0.5, flip_vertical=0.5, scale=(0.3, 2.0))
    transform = Transform((200, 240), "letterbox", ranges)
    made, _ = compose(pictures, transform, (200, 240), np.random.default_rng(seed))
    covered = np.zeros((200, 240), bool)
    for x1, y1, x2, y2 in made.boxes.tolist():
        area = made.pixels[round(y1) : round(y2), round(x1) : round(x2), 0]
        assert area[2:-2, 2:-2].min(initial=255) == 255
        covered[max(round(y1) - 2, 0) : round(y2) + 2, max(round(x1) - 2, 0) : round(x2) + 2] = True
    bright = (made.pixels[..., 0] > 200) & ~covered
    assert len(made.boxes) >= 1
    assert bright.sum() < 0.2 * 120 * 100  # rests that are too small to keep


def _nothing() -> tuple[Any, Any, Any]:
    return np.zeros((0, 4), np.float32), np.zeros(0, np.int64), np.zeros(0, bool)


# --- objects ----------------------------------------------------------------------------------------------------
@pytest.mark.usefixtures("halves")
def test_boxes_are_cut_to_their_quadrant_and_too_small_rests_go() -> None:
    """Pictures of 50 x 100 fill their quadrants exactly; what sticks out is cut."""
    boxes = [(90, 40, 120, 60), (0, 0, 100, 50), (99.5, 0, 110, 50), (95, 0, 120, 50), (94, 0, 124, 50)]
    alone = picture(50, 100, boxes)
    empty = [picture(50, 100, seed=k) for k in (1, 2, 3)]
    made, _ = compose([alone, *empty], native(), SIZE, np.random.default_rng(0))
    # 10 x 10 of 30 x 20 is a sixth and goes; half a pixel goes; 5 of 25 is a fifth and stays; 6 of 30 likewise
    assert made.boxes.tolist() == [[0, 0, 100, 50], [95, 0, 100, 50], [94, 0, 100, 50]]


@pytest.mark.usefixtures("halves")
def test_of_crowds_every_rest_stays() -> None:
    boxes = [(90, 40, 120, 60), (90, 40, 120, 60), (99.5, 0, 110, 50)]
    alone = picture(50, 100, boxes, crowd=[False, True, True])
    made, _ = compose([alone, *(picture(50, 100) for _ in range(3))], native(), SIZE, np.random.default_rng(0))
    assert made.boxes.tolist() == [[90, 40, 100, 50]]
    assert made.crowd.tolist() == [True]


def test_pictures_without_objects_make_a_mosaic_without() -> None:
    made, _ = compose(four((40, 60), (40, 60), (40, 60), (40, 60), boxes=()), native(), SIZE, np.random.default_rng(0))
    assert made.boxes.shape == (0, 4)
    assert (made.boxes.dtype, made.labels.dtype, made.crowd.dtype) == (np.float32, np.int64, np.bool_)


def test_boxes_below_a_pixel_go() -> None:
    """Letterboxed from 1000 to 100, objects of 9 pixels are smaller than one."""
    boxes = [(500, 500, 509, 540), (500, 500, 511, 540)]
    transform = Transform((100, 100), "letterbox", STILL)
    made, _ = compose([picture(1000, 1000, boxes)], transform, (100, 100), np.random.default_rng(0))
    np.testing.assert_allclose(made.boxes, [[50, 50, 51.1, 54]], rtol=1e-6)


def test_hundreds_of_objects_keep_their_classes_and_places() -> None:
    rng = np.random.default_rng(0)
    pictures = []
    for k in range(4):
        corner = rng.uniform(0, 180, (500, 2))
        boxes = np.concatenate([corner, corner + rng.uniform(4, 20, (500, 2))], axis=1).astype(np.float32)
        pictures.append(Picture(rng.integers(0, 256, (200, 200, 3), dtype=np.uint8), boxes, *_marks(500, k)))
    places = draw_mosaic([(200, 200)] * 4, "native", SIZE, STILL, np.random.default_rng(3))
    made, _ = compose(pictures, native(), SIZE, np.random.default_rng(3))
    expected = []
    for k, (frame, (rows, columns)) in enumerate(places):
        for x1, y1, x2, y2 in pictures[k].boxes + frame[[0, 1, 0, 1], 2]:
            cut = [max(x1, columns.start), max(y1, rows.start), min(x2, columns.stop), min(y2, rows.stop)]
            width, height = cut[2] - cut[0], cut[3] - cut[1]
            if min(width, height) >= 1 and width * height >= 0.2 * (x2 - x1) * (y2 - y1):
                expected.append([k, *cut])
    assert len(expected) > 300
    np.testing.assert_allclose(np.column_stack([made.labels, made.boxes]), expected, atol=1e-4)


def _marks(count: int, label: int) -> tuple[Any, Any]:
    return np.full(count, label, np.int64), np.zeros(count, bool)


def test_a_reduced_picture_lies_where_the_original_would() -> None:
    small = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    large = small.repeat(4, axis=0).repeat(4, axis=1)
    box = np.array([[40, 20, 80, 60]], np.float32)
    transform = Transform((20, 30), "letterbox", STILL)
    one, _ = compose([Picture(small, box, *_marks(1, 0), factor=4)], transform, (20, 30), np.random.default_rng(0))
    other, _ = compose([Picture(large, box, *_marks(1, 0))], transform, (20, 30), np.random.default_rng(0))
    np.testing.assert_array_equal(one.pixels, other.pixels)
    np.testing.assert_array_equal(one.pixels, small)
    assert one.boxes.tolist() == other.boxes.tolist() == [[10, 5, 20, 15]]


# --- blends -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("channels", [1, 3, 5])
def test_a_blend_shows_both_pictures_and_has_the_objects_of_both(channels: int) -> None:
    one, other = (picture(9, 7, [(k, 0, 5, 5)], seed=k, channels=channels) for k in (1, 2))
    share = float(np.random.default_rng(5).beta(32, 32))
    assert 0.3 < share < 0.7
    made = blend(one, other, np.random.default_rng(5))
    np.testing.assert_allclose(made.pixels, share * one.pixels + (1 - share) * other.pixels, atol=0.5001)
    assert made.pixels.dtype == np.uint8
    assert made.pixels.shape == (9, 7, channels)
    assert made.boxes.tolist() == [[1, 0, 5, 5], [2, 0, 5, 5]]
    assert made.labels.tolist() == [1, 2]


def test_shares_of_a_blend_lie_near_a_half() -> None:
    white, black = (Picture(np.full((1, 1, 3), value, np.uint8), *_nothing()) for value in (255, 0))
    rng = np.random.default_rng(0)
    shares = np.sort([blend(white, black, rng).pixels[0, 0, 0] / 255 for _ in range(400)])
    assert abs(shares.mean() - 0.5) < 0.02
    assert 0.25 < shares[0] < shares[-1] < 0.75
