"""Ranges and draws."""

from typing import cast

import numpy as np
import pytest

from lit_vision.data import geometry
from lit_vision.data.augmentation import DEFAULTS, Augmentation
from lit_vision.data.colour import change_colors
from lit_vision.errors import UserError

OFF = {"flip": 0.0}


@pytest.mark.parametrize("fit", ["letterbox", "stretch", "crop"])
def test_everything_off_is_the_frame_of_evaluation(fit: geometry.Fit) -> None:
    frame = Augmentation(**OFF).draw_frame(fit, (123, 77), (64, 96), np.random.default_rng(0))
    np.testing.assert_allclose(frame, geometry.fit_frame(fit, (123, 77), (64, 96)), atol=1e-9)
    assert geometry.is_axis_aligned(frame)


def test_everything_off_changes_no_pixel() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (9, 9, 3), dtype=np.uint8)
    np.testing.assert_array_equal(change_colors(pixels, Augmentation(**OFF), np.random.default_rng(0)), pixels)


def test_flip_happens_as_often_as_asked() -> None:
    rng, augmentation = np.random.default_rng(0), Augmentation(flip=0.25)
    frames = [augmentation.draw_frame("native", (10, 10), (10, 10), rng) for _ in range(2000)]
    assert 0.22 < np.mean([frame[0, 0] < 0 for frame in frames]) < 0.28


def test_zoom_is_as_often_out_as_in_and_within_range() -> None:
    rng, augmentation = np.random.default_rng(0), Augmentation(flip=0, scale=1.0)
    assert augmentation.scale_range == (0.5, 2.0)
    zooms = [augmentation.draw_frame("native", (10, 10), (10, 10), rng)[0, 0] for _ in range(2000)]
    assert 0.5 <= min(zooms) < 0.52
    assert 1.95 < max(zooms) <= 2
    assert 0.47 < np.mean(np.array(zooms) < 1) < 0.53


def test_angles_and_shifts_stay_within_range() -> None:
    rng, augmentation = np.random.default_rng(0), Augmentation(flip=0, rotate=30, translate=0.1)
    frames = np.array([augmentation.draw_frame("native", (100, 200), (100, 200), rng) for _ in range(500)])
    angles = np.rad2deg(np.arctan2(frames[:, 1, 0], frames[:, 0, 0]))
    assert 29 < np.abs(angles).max() <= 30
    shifts = frames @ [100, 50, 1] - [100, 50, 1]  # the centre turns on the spot
    assert 19 < np.abs(shifts[:, 0]).max() <= 20
    assert 9 < np.abs(shifts[:, 1]).max() <= 10


def test_quarter_turns_all_occur_and_fit() -> None:
    rng, augmentation = np.random.default_rng(0), Augmentation(flip=0, quarter_turns=True)
    seen = {
        tuple(augmentation.draw_frame("stretch", (30, 60), (30, 60), rng).round(9)[:2].reshape(-1)) for _ in range(99)
    }
    upright, upside_down = (1, 0, 0, 0, 1, 0), (-1, 0, 60, 0, -1, 30)
    right, left = (0, -2, 60, 0.5, 0, 0), (0, 2, 0, -0.5, 0, 30)
    assert seen == {upright, upside_down, right, left}


def test_random_crops_lie_inside_and_have_the_area_asked() -> None:
    rng, augmentation = np.random.default_rng(0), Augmentation(flip=0, crop_area=(0.25, 0.5))
    areas = []
    for _ in range(300):
        back = np.linalg.inv(augmentation.draw_frame("crop", (300, 300), (64, 64), rng))
        box = geometry.warp_boxes(np.array([[0, 0, 64, 64]]), back)[0]
        assert (box >= -1e-6).all()
        assert (box <= 300 + 1e-6).all()
        areas.append((box[2] - box[0]) * (box[3] - box[1]) / 90000)
    assert 0.25 <= min(areas) < 0.26
    assert 0.49 < max(areas) <= 0.5 + 1e-9


class Highest:
    """A generator that always draws the upper end."""

    def uniform(self, low: float, high: float, size: int | None = None) -> object:
        return high if size is None else np.full(size, high)

    def random(self) -> float:
        return 1.0


def test_colours_by_numbers() -> None:
    pixels = np.array([[[0, 100, 255]]], np.uint8)

    highest = cast(np.random.Generator, Highest())
    brighter = change_colors(pixels, Augmentation(brightness=0.5), highest)
    assert brighter.tolist() == [[[0, 150, 255]]]
    stronger = change_colors(pixels, Augmentation(contrast=1), highest)
    assert stronger.tolist() == [[[0, round((100 - 127.5) * 2 + 127.5), 255]]]  # 72.5 rounds to 72
    turned = change_colors(np.array([[[255, 0, 0]]], np.uint8), Augmentation(hue=1 / 3), highest)
    assert turned.tolist() == [[[0, 255, 0]]]  # red, a third of the circle on: green
    grey = change_colors(np.array([[[200, 100, 100]]], np.uint8), Augmentation(saturation=1), highest)
    assert np.abs(grey - [[[200, 0, 0]]]).max() <= 1  # twice the saturation of one half, in 8 bits


def test_rgb_shares_a_draw_and_bands_do_not() -> None:
    augmentation = Augmentation(brightness=0.5)
    grey = change_colors(np.full((2, 2, 3), 100, np.uint8), augmentation, np.random.default_rng(0))
    assert len(np.unique(grey)) == 1
    bands = change_colors(np.full((2, 2, 5), 100, np.uint8), augmentation, np.random.default_rng(0))
    assert len(np.unique(bands[0, 0])) == 5
    assert (bands == bands[0, 0]).all()


def test_noise_is_normal() -> None:
    flat = np.full((200, 200, 3), 128, np.uint8)
    sigmas = []
    for seed in range(20):
        noisy = change_colors(flat, Augmentation(noise=20), np.random.default_rng(seed)).astype(float) - 128
        assert abs(noisy.mean()) < 0.5
        sigmas.append(noisy.std())
        assert abs((np.abs(noisy) <= noisy.std() + 0.5).mean() - 0.683) < 0.12
    assert max(sigmas) < 20.5
    assert min(sigmas) < 5


def test_erase_covers_the_area_asked() -> None:
    white = np.full((100, 100, 3), 255, np.uint8)
    for seed in range(20):
        covered = change_colors(white, Augmentation(erase=1), np.random.default_rng(seed)) == 114
        assert 0.015 < covered.mean() < 0.21
    assert (white == 255).all()  # the caller's pixels are not written to


@pytest.mark.parametrize("task", list(DEFAULTS))
def test_defaults_are_valid(task: str) -> None:
    assert Augmentation.for_task(task) == Augmentation(**DEFAULTS[task])  # type: ignore[arg-type]  # names from the table


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"flip": 1.5}, r"augmentation\.flip is 1\.5; give a number from 0 to 1"),
        ({"rotate": "ten"}, r"augmentation\.rotate is 'ten'"),
        ({"hue": float("nan")}, r"augmentation\.hue is nan"),
        ({"scale": (1.5, 0.5)}, r"augmentation\.scale is \(1\.5, 0\.5\); give \[smallest, largest\]"),
        ({"scale": -0.5}, r"augmentation\.scale"),
        ({"crop_area": (0, 1)}, r"augmentation\.crop_area is \(0, 1\); .* within 0\.0001 to 1"),
        ({"blur_sigma": 3}, r"augmentation\.blur_sigma is 3"),
    ],
)
def test_values_out_of_range_are_named(values: dict[str, object], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        Augmentation(**values)  # type: ignore[arg-type]  # that is the point


def test_lists_from_yaml_are_taken() -> None:
    assert Augmentation(scale=[0.5, 2]).scale_range == [0.5, 2]  # type: ignore[arg-type]  # YAML has no tuples


def test_an_unknown_task_is_named() -> None:
    with pytest.raises(UserError, match="no augmentation defaults for task 'pose'; use one of classification"):
        Augmentation.for_task("pose")  # type: ignore[arg-type]  # that is the point


@pytest.mark.parametrize("crop_area", [None, (0.1, 0.5)])
def test_a_focus_stays_inside_whatever_is_drawn_after_the_crop(crop_area: tuple[float, float] | None) -> None:
    rng = np.random.default_rng(0)
    settings = {**DEFAULTS["segmentation"], "translate": 0.4, "shear": 20.0, "crop_area": crop_area}
    augmentation, size, image_size = Augmentation(**settings), (90, 200), (64, 48)
    for focus in [(0.5, 0.5), (199.5, 40.5), (100.5, 89.5), (60.5, 45.5)] * 100:
        x, y = (augmentation.draw_frame("native", size, image_size, rng, focus) @ [*focus, 1])[:2]
        assert 0 <= x <= 48
        assert 0 <= y <= 64


def test_zoom_leaves_a_focus_at_the_edge_where_the_crop_has_it() -> None:
    augmentation = Augmentation(flip=0, scale=(1.5, 1.5))
    frame = augmentation.draw_frame("native", (100, 100), (40, 40), np.random.default_rng(0), (2.5, 50.5))
    np.testing.assert_allclose(frame, [[1.5, 0, -1.25], [0, 1.5, -55.25], [0, 0, 1]])  # (2.5, 50.5) -> (2.5, 20.5)
