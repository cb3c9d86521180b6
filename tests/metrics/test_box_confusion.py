"""Confusion of detections: by hand."""

import numpy as np

from lit_vision.metrics.box_confusion import Boxes, box_confusion

HERE, THERE, ELSEWHERE = [0.0, 0, 10, 10], [20.0, 0, 30, 10], [40.0, 40, 50, 50]
NEAR = [0.0, 0, 10, 8]  # IoU 0.8 with HERE


def counted(
    found: list[tuple[int, list[float], int]],
    there: list[tuple[int, list[float], int]],
    crowd: list[bool] | None = None,
) -> list[list[int]]:
    """Of detections and objects (image, box, class), the surest first, of two classes."""

    def boxes(rows: list[tuple[int, list[float], int]]) -> Boxes:
        images, corners, labels = zip(*rows, strict=True) if rows else ((), (), ())
        shaped = np.array(corners, np.float32).reshape(-1, 4)
        return Boxes(np.array(images, np.int64), shaped, np.array(labels, np.int64))

    crowds = np.array(crowd or [False] * len(there), bool)
    counts: list[list[int]] = box_confusion(boxes(found), np.arange(len(found)), boxes(there), crowds, 2).tolist()
    return counts


def test_by_hand() -> None:
    found = [(0, HERE, 1), (0, THERE, 0), (0, ELSEWHERE, 1), (3, HERE, 0)]
    there = [(0, HERE, 0), (0, THERE, 0), (7, HERE, 1)]
    # one object taken for class 1, one right, one of image 7 missed; two detections where nothing is
    assert counted(found, there) == [[1, 1, 0], [0, 0, 1], [1, 1, 0]]
    assert counted([], there) == [[0, 0, 2], [0, 0, 1], [0, 0, 0]]
    assert counted(found, []) == [[0, 0, 0], [0, 0, 0], [2, 2, 0]]


def test_the_right_class_comes_first_whatever_the_scores() -> None:
    assert counted([(0, HERE, 1), (0, NEAR, 0)], [(0, HERE, 0)]) == [[1, 0, 0], [0, 0, 0], [0, 1, 0]]
    assert counted([(0, HERE, 0), (0, NEAR, 0)], [(0, HERE, 0)]) == [[1, 0, 0], [0, 0, 0], [1, 0, 0]]  # a double


def test_in_a_crowd_of_its_class_a_detection_counts_neither_way() -> None:
    whole = [0.0, 0, 30, 30]
    assert counted([(0, HERE, 0), (0, THERE, 0)], [(0, whole, 0)], [True]) == [[0, 0, 0]] * 3
    assert counted([(0, HERE, 1)], [(0, whole, 0)], [True]) == [[0, 0, 0], [0, 0, 0], [0, 1, 0]]
