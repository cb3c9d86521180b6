"""A picture written into a window: against one pixel at a time, and against the warp."""

import cv2
import numpy as np
import pytest

from lit_vision.data.geometry import Matrix, mirroring, rotation, scaling, shifted, warp_boxes
from lit_vision.data.paste import paste
from lit_vision.data.warp import FILL, warp_image
from lit_vision.types import UInt8Array

WINDOW = (slice(10, 70), slice(20, 100))
WHOLE = (slice(0, 80), slice(0, 110))


def smooth(height: int, width: int, channels: int = 3) -> UInt8Array:
    """Without fine detail, so that half a pixel changes little."""
    coarse = np.random.default_rng(0).integers(0, 256, (height // 20, width // 20, channels), dtype=np.uint8)
    bands = [cv2.resize(coarse[..., k], (width, height), interpolation=cv2.INTER_CUBIC) for k in range(channels)]
    return np.stack(bands, axis=2)


def canvas(channels: int = 3) -> UInt8Array:
    return np.full((80, 110, channels), FILL, np.uint8)


@pytest.mark.parametrize("channels", [1, 3, 4, 5])
@pytest.mark.parametrize(("across", "down"), [(False, False), (True, False), (False, True), (True, True)])
def test_whole_pixels_are_copied(across: bool, down: bool, channels: int) -> None:
    image = np.random.default_rng(1).integers(0, 256, (40, 50, channels), dtype=np.uint8)
    expected = image[:: -1 if down else 1, :: -1 if across else 1]
    frame = shifted(mirroring(across, down, (40, 50)), 30, -5)
    made = canvas(channels)
    drawn, seen = paste(image, frame, made, WINDOW)
    np.testing.assert_array_equal(drawn, frame)
    assert seen == (slice(10, 35), slice(30, 80))
    np.testing.assert_array_equal(made[10:35, 30:80], expected[15:40])
    made[10:35, 30:80] = FILL
    assert (made == FILL).all()


@pytest.mark.parametrize("zoom", [0.11, 0.19, 0.3, 0.45, 0.65, 0.97, 1.6])
@pytest.mark.parametrize("mirrored", [False, True])
def test_what_is_drawn_is_what_the_warp_would_draw_in_that_frame(zoom: float, mirrored: bool) -> None:
    """Of 400 x 600: the whole of it, or a part."""
    image = smooth(400, 600)
    frame = shifted(scaling(zoom, zoom * 1.1) @ mirroring(mirrored, False, (400, 600)), -13.3, -2.7)
    made = canvas()
    drawn, (rows, columns) = paste(image, frame, made, WINDOW)
    assert rows.stop - rows.start > 20
    expected = warp_image(image, drawn, (80, 110))
    difference = np.abs(made[rows, columns].astype(int) - expected[rows, columns])
    other = warp_image(image, shifted(drawn, 2, 0), (80, 110))
    wrong = np.abs(made[rows, columns].astype(int) - other[rows, columns])
    assert difference.mean() < min(2, wrong.mean() / 4)


@pytest.mark.parametrize("zoom", [0.11, 0.3, 0.65, 1.6, 30.0])
@pytest.mark.parametrize("size", [(400, 600), (401, 603), (7, 5), (1, 1)])
def test_the_frame_moves_by_no_more_than_a_group_of_pixels(size: tuple[int, int], zoom: float) -> None:
    frame = shifted(scaling(-zoom, zoom), 60.3 + zoom * size[1] / 2, 15.4)
    drawn, (rows, columns) = paste(np.zeros((*size, 3), np.uint8), frame, canvas(), WINDOW)
    box = [[0, 0, size[1], size[0]]]
    if rows.stop > rows.start:
        inside = np.array([columns.start, rows.start] * 2), np.array([columns.stop, rows.stop] * 2)
        moved, was = (np.clip(warp_boxes(np.array(box), one), *inside) for one in (drawn, frame))
        assert np.abs(moved - was).max() <= 1 + zoom
    else:
        np.testing.assert_array_equal(drawn, frame)


def test_a_turned_picture_is_warped() -> None:
    image = smooth(100, 160)
    frame: Matrix = shifted(rotation(20) @ scaling(0.5, 0.5), 40, 10)
    made = canvas()
    drawn, (rows, columns) = paste(image, frame, made, WHOLE)
    np.testing.assert_array_equal(drawn, frame)
    expected = warp_image(image, frame, (80, 110))[rows, columns]
    assert np.abs(made[rows, columns].astype(int) - expected).mean() < 0.1
    assert np.abs(made[rows, columns].astype(int) - expected[::-1]).mean() > 10


def test_a_picture_beside_the_window_is_not_seen() -> None:
    made = canvas()
    _, seen = paste(np.zeros((5, 5, 3), np.uint8), shifted(np.eye(3), 0, 20), made, WINDOW)
    assert seen == (slice(0, 0), slice(0, 0))
    assert (made == FILL).all()
