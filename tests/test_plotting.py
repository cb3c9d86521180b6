from pathlib import Path

import cv2
import numpy as np
import pytest

from lit_vision import plotting
from lit_vision.charts import confusion_matrix, curves
from lit_vision.plotting import (
    as_rgb,
    color_of,
    draw_boxes,
    draw_instances,
    draw_label,
    draw_mask,
    enlarge,
    grid,
    palette,
    reduced,
    write_picture,
)
from lit_vision.types import UInt8Array

BLACK = np.zeros((400, 400, 3), np.uint8)


def test_first_ninety_colours_differ_clearly() -> None:
    lab = cv2.cvtColor(palette()[None, :90].astype(np.float32) / 255, cv2.COLOR_RGB2LAB)[0]
    distances = np.linalg.norm(lab[:, None] - lab[None], axis=2) + 1000 * np.eye(90)
    assert palette().shape == (256, 3)
    assert distances.min() > 12  # just noticeable: 2.3
    assert (np.linalg.norm(lab[:10, None] - lab[None, :10], axis=2) + 1000 * np.eye(10)).min() > 45


@pytest.mark.parametrize("bands", [1, 2, 3, 4, 5])
def test_any_number_of_bands(bands: int) -> None:
    image = np.random.default_rng(0).integers(0, 256, (350, 330, bands), np.uint8)
    rgb = as_rgb(image)
    expected = image[:, :, :3] if bands >= 3 else np.dstack([image[:, :, 0]] * 3)
    np.testing.assert_array_equal(rgb, expected)
    drawn = draw_boxes(image, [[10, 10, 300, 300]], [0], ["cell"])
    assert drawn.shape == (350, 330, 3)
    assert drawn.dtype == np.uint8


def test_small_pictures_are_enlarged_exactly_and_large_ones_are_not() -> None:
    image = np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8)
    large = enlarge(image)
    assert large.shape == (250, 350, 3)
    np.testing.assert_array_equal(large[2::5, 2::5], image)
    assert enlarge(BLACK).shape == (400, 400, 3)


def test_box_covers_its_own_pixels_and_the_input_is_unchanged() -> None:
    image = BLACK.copy()
    drawn = draw_boxes(image, [[100, 120, 200, 260]], [3], ["a", "b", "c", "d"])
    assert not image.any()
    colored = (drawn == color_of(3)).all(2)
    colored[:120] = False  # the tag lies above the box
    rows, columns = np.nonzero(colored)
    assert (columns.min(), rows.min(), columns.max(), rows.max()) == (100, 120, 199, 259)
    assert not drawn[140:240, 120:180].any()


def test_surest_box_is_drawn_last() -> None:
    boxes = [[100, 100, 200, 200], [100, 100, 200, 200]]
    drawn = draw_boxes(BLACK, boxes, [0, 1], ["a", "b"], scores=[0.9, 0.2])
    assert tuple(drawn[199, 150]) == color_of(0)
    assert tuple(draw_boxes(BLACK, boxes, [0, 1], ["a", "b"], scores=[0.2, 0.9])[199, 150]) == color_of(1)


def test_no_boxes_leave_the_picture_as_it_is() -> None:
    np.testing.assert_array_equal(draw_boxes(BLACK, np.zeros((0, 4)), [], ["a"]), BLACK)


def test_boxes_far_outside_and_not_finite_sizes_do_no_harm() -> None:
    assert draw_boxes(BLACK, [[-1e9, -5, 1e9, 20]], [0], ["a"]).shape == BLACK.shape


def test_mask_mixes_colours_hides_background_and_darkens_ignored() -> None:
    image = np.full((400, 400, 3), 200, np.uint8)
    mask = np.zeros((400, 400), np.int64)
    mask[200:300] = 1
    mask[300:] = 255
    drawn = draw_mask(image, mask, ["background", "road"], opacity=0.5)
    assert tuple(drawn[150, 200]) == (200, 200, 200)
    assert drawn[250, 200].tolist() == np.round(0.5 * 200 + 0.5 * palette()[1].astype(np.float32)).tolist()
    assert tuple(drawn[350, 200]) == (100, 100, 100)
    assert tuple(drawn[1, 1]) == color_of(1)  # the legend


def test_touching_instances_are_outlined_apart() -> None:
    instances = np.zeros((400, 400), np.int32)
    instances[100:200, 100:200] = 1
    instances[100:200, 200:300] = 2
    drawn = draw_instances(BLACK, instances)
    assert (drawn[100:200, 199] == 255).all()
    left, right = drawn[150, 150].tolist(), drawn[150, 250].tolist()
    assert left == np.round(0.55 * palette()[0].astype(np.float32)).tolist()
    assert right == np.round(0.55 * palette()[1].astype(np.float32)).tolist()
    assert not drawn[:99].any()


def test_several_classes_are_named_and_one_is_not() -> None:
    instances = np.zeros((400, 400), np.int32)
    instances[100:300, 100:300] = 1
    plain = draw_instances(BLACK, instances, [0], ["cell"])
    named = draw_instances(BLACK, instances, [1], ["cell", "other"])
    changed = np.argwhere((plain != named).any(2))
    assert 150 < changed[:, 0].min() < 200 < changed[:, 0].max() < 250
    assert 150 < changed[:, 1].min() < 200 < changed[:, 1].max() < 250


def test_unknown_pixels_beside_objects_are_darkened_and_bear_no_name() -> None:
    instances = np.zeros((60, 60), np.int32)
    instances[5:25, 5:25], instances[35:55, 5:55] = 1, -1
    white = np.full((60, 60, 3), 255, np.uint8)
    drawn = draw_instances(white, instances, [1], ["cell", "other"])
    factor = len(drawn) // 60
    assert drawn[45 * factor, 30 * factor].tolist() == [115, 115, 115]  # 45 % of white
    assert drawn[30 * factor, 58 * factor].tolist() == [255, 255, 255]


def test_label_stays_inside_a_tiny_picture() -> None:
    drawn = draw_label(np.zeros((8, 8, 1), np.uint8), ["a very long name of a class 0.99", "Größe"], (0, 120, 0))
    assert drawn.shape == (320, 320, 3)
    assert tuple(drawn[0, 0]) == (0, 120, 0)


def test_grid_places_row_by_row() -> None:
    pictures: list[UInt8Array] = [np.full((10, 20, 3), i, np.uint8) for i in (10, 20, 30)]
    canvas = grid(pictures, columns=2, gap=4)
    assert canvas.shape == (24, 44, 3)
    assert [canvas[5, 5, 0], canvas[5, 30, 0], canvas[20, 5, 0], canvas[20, 30, 0]] == [10, 20, 30, 255]
    assert grid(pictures[:1], columns=4).shape == (10, 20, 3)


def test_picture_is_written_as_rgb(tmp_path: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    path = write_picture(tmp_path / "new" / "x.png", picture)
    np.testing.assert_array_equal(cv2.imread(str(path))[:, :, ::-1], picture)


def test_pictures_beyond_jpegs_limit_are_thinned_out(tmp_path: Path) -> None:
    wide = np.tile(np.arange(70_000, dtype=np.uint32)[None, :, None] // 300, (4, 1, 3)).astype(np.uint8)
    path = write_picture(tmp_path / "wide.jpg", wide)
    again = cv2.imread(str(path))
    assert again.shape == (2, 35_000, 3)
    assert np.abs(again[0, ::1000, 0].astype(int) - wide[0, ::2000, 0]).max() <= 3
    assert cv2.imread(str(write_picture(tmp_path / "wide.png", wide))).shape == wide.shape


def test_colours_are_mixed_alike_in_all_rows() -> None:
    """Large pictures are coloured some rows at a time."""
    image = np.full((1300, 4, 3), 100, np.uint8)
    drawn = draw_mask(image, np.ones((1300, 4), np.uint8), ["background", "thing"])
    expected = np.round(0.5 * 100 + 0.5 * np.array(color_of(1)))
    assert (np.abs(drawn[200:].astype(int) - expected) <= 1).all()
    assert (image == 100).all()


def test_charts_are_pictures() -> None:
    matrix = confusion_matrix([[9, 1], [0, 5]], ["cat", "dog"])
    assert matrix.dtype == np.uint8
    assert matrix.shape[2] == 3
    swapped = confusion_matrix([[1, 9], [5, 0]], ["cat", "dog"])
    assert (matrix != swapped).any()
    pixels, scaled = (confusion_matrix(np.array([[9, 1], [0, 5]]) * 20_000 * k, ["cat", "dog"]) for k in (1, 7))
    np.testing.assert_array_equal(pixels, scaled)  # percent, whatever the number of pixels
    assert curves({"loss": ([0, 1, 2], [1.0, float("nan"), 0.2])}).shape == (400, 700, 3)


def test_accents_are_left_out_and_unknown_letters_become_question_marks(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    monkeypatch.setattr(plotting.cv2, "putText", lambda canvas, text, *_: written.append(text))
    draw_label(BLACK, ["Übrige Größe é", "细胞 a??b", ""])
    assert written == ["Ubrige Gro?e e", "?? a??b", ""]


def test_names_of_classes_are_no_formulas_and_hundreds_are_left_out() -> None:
    assert confusion_matrix([[1, 0], [0, 1]], ["$_$", "b"]).shape[2] == 3
    few, many = (confusion_matrix(np.eye(count), ["long name"] * count) for count in (60, 61))
    assert few.shape == many.shape == (1200, 1200, 3)
    inked = [(picture.max(2) < 100).sum() for picture in (few, many)]
    assert inked[0] > 2 * inked[1]


def test_crowds_are_no_objects_with_a_name() -> None:
    instances = np.zeros((400, 400), np.int32)
    instances[100:300, 100:300] = 1
    crowd = instances.copy()
    crowd[350:, 350:] = -1
    drawn = draw_instances(BLACK, crowd, [1], ["cell", "other"])
    assert (drawn[:340, :340] == draw_instances(BLACK, instances, [1], ["cell", "other"])[:340, :340]).all()
    assert (drawn[370, 370] == 0).all()


@pytest.mark.parametrize(("size", "kept"), [((2048, 30), (2048, 30)), ((2049, 31), (1024, 15)), ((1, 9000), (1, 1800))])
def test_large_drawings_are_averaged_down(size: tuple[int, int], kept: tuple[int, int]) -> None:
    picture = np.full((*size, 3), 90, np.uint8)
    picture[:, 1::2] = 110
    small = reduced(picture)
    assert small.shape == (*kept, 3)
    assert abs(small.mean() - picture.mean()) < 2
