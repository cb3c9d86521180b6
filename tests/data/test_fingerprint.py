"""A number for each picture's labels: the same wherever the data lie, another as soon as a label is."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lit_vision.data.fingerprint import fingerprints
from lit_vision.data.formats import read


@pytest.mark.parametrize("task", ["classification", "segmentation", "instances", "detection"])
def test_same_labels_same_numbers_wherever_they_lie(task: str, drawn: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(drawn / task, tmp_path / "elsewhere")
    here, there = read(drawn / task, "auto"), read(copy, "auto")
    found = fingerprints(here, range(len(here)))
    assert found.dtype == np.uint64
    assert np.array_equal(found, fingerprints(there, range(len(there))))
    assert len(set(found.tolist())) == (4 if task == "classification" else len(here))  # four classes, or all unlike
    assert found[3] == fingerprints(here, [3])[0]


def test_another_mask_in_the_same_file_is_another_number(drawn: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(drawn / "segmentation", tmp_path / "set")
    index = read(copy, "auto")
    before = fingerprints(index, range(3))
    assert index.masks is not None
    shutil.copy(copy / index.masks.text(1), copy / index.masks.text(0))
    after = fingerprints(index, range(3))
    assert after[0] == before[1]
    assert (after == before).tolist() == [False, True, True]


def test_a_moved_box_and_another_class_are_other_numbers(drawn: Path) -> None:
    index = read(drawn / "detection", "auto")
    assert index.boxes is not None
    first, boxes, labels = int(index.offsets[1]) - 1, index.boxes.copy(), index.labels.copy()
    boxes[first, 0] += 1
    labels[first] += 1
    before = fingerprints(index, range(4))
    for changed in (replace(index, boxes=boxes), replace(index, labels=labels)):
        assert (fingerprints(changed, range(4)) == before).tolist() == [False, True, True, True]
