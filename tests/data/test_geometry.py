"""Frames by numbers worked out on paper, and the warp against numpy's own turns."""

import cv2
import numpy as np
import pytest

from lit_vision.data import geometry
from lit_vision.data.warp import warp_image, warp_labels

PICTURE = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("fit", "expected"),
    [
        # 100 x 200 (height, width) to 80 x 80: scale 0.4, 40 rows of picture, 20 of padding above
        ("letterbox", [[0.4, 0, 0], [0, 0.4, 20], [0, 0, 1]]),
        ("stretch", [[0.4, 0, 0], [0, 0.8, 0], [0, 0, 1]]),
        # scale 0.8, 160 columns, of which 40 fall away on the left
        ("crop", [[0.8, 0, -40], [0, 0.8, 0], [0, 0, 1]]),
        ("native", [[1, 0, 0], [0, 1, 0], [0, 0, 1]]),
    ],
)
def test_fits(fit: geometry.Fit, expected: list[list[float]]) -> None:
    np.testing.assert_allclose(geometry.fit_frame(fit, (100, 200), (80, 80)), expected, atol=1e-12)


def test_odd_padding_goes_right_and_below() -> None:
    frame = geometry.fit_frame("letterbox", (10, 20), (21, 20))  # 11 rows of padding: 5 above, 6 below
    np.testing.assert_array_equal(frame, [[1, 0, 0], [0, 1, 5], [0, 0, 1]])


def test_scaled_sides_are_whole_pixels() -> None:
    frame = geometry.fit_frame("letterbox", (333, 500), (100, 100))  # 66.6 rows become 67, 16 above
    np.testing.assert_allclose(frame @ [0, 0, 1], [0, 16, 1])
    np.testing.assert_allclose(frame @ [500, 333, 1], [100, 83, 1])


def test_identity_mirror_and_turns_are_bit_exact() -> None:
    height, width = PICTURE.shape[:2]
    mirror = geometry.mirroring(True, False, (height, width))
    np.testing.assert_array_equal(warp_image(PICTURE, np.eye(3), (6, 9)), PICTURE)
    np.testing.assert_array_equal(warp_image(PICTURE, mirror, (6, 9)), PICTURE[:, ::-1])
    upside_down = geometry.mirroring(False, True, (height, width))
    np.testing.assert_array_equal(warp_image(PICTURE, upside_down, (6, 9)), PICTURE[::-1])
    for quarters in range(4):
        frame, size = geometry.turning(quarters, (height, width))
        expected = np.rot90(PICTURE, -quarters)
        np.testing.assert_array_equal(warp_image(PICTURE, frame, size), expected)
        np.testing.assert_array_equal(warp_labels(PICTURE[:, :, 0].copy(), frame, size, 255), expected[:, :, 0])


def test_rotation_is_clockwise_and_equals_the_exact_turn() -> None:
    exact, _ = geometry.turning(1, (8, 8))
    np.testing.assert_allclose(geometry.about_centre(geometry.rotation(90), (8, 8)), exact, atol=1e-12)
    assert geometry.is_axis_aligned(geometry.rotation(90))
    assert not geometry.is_axis_aligned(geometry.rotation(1))


def test_shear_by_45_degrees() -> None:
    np.testing.assert_allclose(geometry.shearing(45, 0) @ [2, 3, 1], [5, 3, 1])
    np.testing.assert_allclose(geometry.shearing(0, 45) @ [2, 3, 1], [2, 5, 1])


def test_letterbox_pads_with_grey_and_does_not_blend_with_it() -> None:
    white = np.full((50, 100, 3), 255, np.uint8)
    for side in (64, 100, 173, 400):
        frame = geometry.fit_frame("letterbox", (50, 100), (side, side))
        pixels = warp_image(white, frame, (side, side))
        rows, _ = geometry.visible_rectangle(frame, (50, 100), (side, side))
        assert rows == slice((side - round(side / 2)) // 2, (side - round(side / 2)) // 2 + round(side / 2))
        assert (pixels[rows] == 255).all()
        assert (np.delete(pixels, np.r_[rows], axis=0) == 114).all()


def test_enlarging_twice_is_bilinear_about_pixel_centres() -> None:
    row = np.array([[0, 100]], np.uint8)[:, :, None]
    # centres of the four new pixels lie at 0.25, 0.75, 1.25, 1.75 of the old edges: -0.25, 0.25, 0.75, 1.25 of centres
    assert warp_image(row, geometry.scaling(2, 1), (1, 4))[0, :, 0].tolist() == [0, 25, 75, 100]
    assert warp_labels(row[:, :, 0], geometry.scaling(2, 1), (1, 4), 255).tolist() == [[0, 0, 100, 100]]


def test_shrinking_a_lot_averages() -> None:
    checks = np.indices((96, 96)).sum(axis=0) % 2 * 255  # 127.5 at any distance
    image = checks.astype(np.uint8)[:, :, None]
    small = warp_image(image, geometry.scaling(1 / 4, 1 / 4), (24, 24))
    assert np.abs(small.astype(float) - 127.5).max() <= 1
    aliased = cv2.warpAffine(image, np.array([[0.25, 0, 0], [0, 0.25, 0]]), (24, 24))
    assert aliased.std() > 50 or abs(aliased.mean() - 127.5) > 50  # negative control: plain bilinear shows a pattern


def test_shrinking_keeps_places() -> None:
    image = np.zeros((400, 600, 3), np.uint8)
    image[100:200, 300:500] = 255
    frame = geometry.fit_frame("letterbox", (400, 600), (60, 60))  # scale 0.1, 10 rows above
    ys, xs = np.nonzero(warp_image(image, frame, (60, 60), fill=0)[:, :, 0] > 127)
    assert (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1) == (30, 20, 50, 30)


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5, 13])
def test_any_number_of_channels_is_warped_alike(channels: int) -> None:
    image = np.random.default_rng(1).integers(0, 256, (70, 90, channels), dtype=np.uint8)
    frame = geometry.about_centre(geometry.rotation(20) @ geometry.scaling(0.4, 0.4), (64, 64))
    together = warp_image(image, frame, (64, 64))
    assert together.shape == (64, 64, channels)
    for channel in range(channels):
        alone = warp_image(image[:, :, channel : channel + 1], frame, (64, 64))
        difference = np.abs(together[:, :, channel].astype(int) - alone[:, :, 0])
        assert difference.max() <= 1  # OpenCV rounds a little differently for two channels


def test_only_what_is_needed_is_read_and_the_rest_is_the_same() -> None:
    image = np.random.default_rng(2).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    frame = geometry.translation(-200, -100) @ geometry.rotation(10)
    whole = warp_image(image, frame, (300, 400))
    np.testing.assert_array_equal(warp_image(image, frame, (50, 60)), whole[:50, :60])


def test_pictures_wider_than_opencv_warps() -> None:
    image = np.zeros((4, 40000, 1), np.uint8)  # its limit is 32767
    image[:, 39990:] = 200
    pixels = warp_image(image, geometry.translation(-39980, 0), (4, 20))[0, :, 0]
    assert pixels.tolist() == [0] * 10 + [200] * 10


def test_a_picture_moved_out_of_sight() -> None:
    frame = geometry.translation(1000, 0)
    assert (warp_image(PICTURE, frame, (5, 5)) == 114).all()
    assert (warp_labels(PICTURE[:, :, 0], frame, (5, 5), 255) == 255).all()


def test_label_maps_keep_large_numbers() -> None:
    labels = np.array([[0, 2**31 - 1], [16777217, 5]], np.int32)
    warped = warp_labels(labels, geometry.translation(1, 0), (2, 3), 0)
    assert warped.dtype == np.int32
    assert warped.tolist() == [[0, 0, 2**31 - 1], [0, 16777217, 5]]


def test_boxes_of_turned_corners() -> None:
    frame, _ = geometry.turning(1, (10, 20))  # x' = 10 - y, y' = x
    np.testing.assert_allclose(geometry.warp_boxes(np.array([[2, 3, 6, 9]]), frame), [[1, 2, 7, 6]])
    square = geometry.warp_boxes(np.array([[-1, -1, 1, 1]]), geometry.rotation(45))
    np.testing.assert_allclose(square, [[-(2**0.5), -(2**0.5), 2**0.5, 2**0.5]])
    assert geometry.warp_boxes(np.zeros((0, 4)), frame).shape == (0, 4)


def test_boxes_are_kept_by_what_is_left() -> None:
    boxes = np.array([[-10, 0, 10, 10], [-90, 0, 10, 10], [5, 5, 6.5, 5.5], [-9, -9, -1, -1], [95, 2, 105, 8]], float)
    clipped, keep = geometry.clip_boxes(boxes, (50, 100), 0.2, 1)
    assert clipped.dtype == np.float32
    assert clipped.tolist()[0] == [0, 0, 10, 10]
    assert clipped.tolist()[4] == [95, 2, 100, 8]
    assert keep.tolist() == [True, False, False, False, True]  # half, a tenth, too low, outside, half


def test_each_box_under_a_frame_of_its_own() -> None:
    rng = np.random.default_rng(0)
    boxes = np.sort(rng.uniform(0, 50, (7, 2, 2)), axis=1).reshape(7, 4)
    frames = [geometry.shifted(geometry.rotation(20 * k) @ geometry.shearing(5, k), k, -k) for k in range(7)]
    together = geometry.warp_boxes(boxes, np.stack(frames))
    for k, (box, frame) in enumerate(zip(boxes, frames, strict=True)):
        corners = frame[:2] @ [[*box[[0, 2, 2, 0]]], [*box[[1, 1, 3, 3]]], [1] * 4]
        np.testing.assert_allclose(together[k], [*corners.min(axis=1), *corners.max(axis=1)])
        np.testing.assert_allclose(geometry.warp_boxes(box[None], frame)[0], together[k])


def test_boxes_are_cut_each_to_its_own_window() -> None:
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 10], [4, 4, 6, 6.0]])
    windows = np.array([[5, 0, 20, 20], [0, 0, 20, 9], [0, 0, 4.5, 20]])
    cut, keep = geometry.cut_boxes(boxes, windows, 0.2, 1)
    assert cut.tolist() == [[5, 0, 10, 10], [0, 0, 10, 9], [4, 4, 4.5, 6]]
    assert keep.tolist() == [True, True, False]
