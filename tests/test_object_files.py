"""Label maps and measures of objects, against scipy and by hand."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from scipy import ndimage

from lit_vision.data.decode import read_label_map
from lit_vision.object_files import LabelMapKind, measured, write_label_map


def test_measures_by_hand() -> None:
    instances = np.zeros((6, 8), np.int32)
    instances[5, 3], instances[0:2, 6:8], instances[2, 0] = 1, 3, 3  # object 2 has no pixel, object 3 two parts
    measures = measured(instances, 3)
    assert measures.areas.tolist() == [1, 0, 5]
    assert measures.boxes.tolist() == [[3, 5, 1, 1], [0, 0, 0, 0], [0, 0, 8, 3]]
    np.testing.assert_allclose(measures.centroids, [[3.5, 5.5], [0, 0], [(4 * 7 + 0.5) / 5, (4 * 1 + 2.5) / 5]])


def test_measures_equal_those_of_scipy() -> None:
    rng = np.random.default_rng(0)
    instances = np.repeat(np.repeat(rng.integers(0, 30, (12, 9)), 4, 0), 5, 1).astype(np.int32)
    instances[:, -1] = instances[:, 0]  # an object at both edges is not one run
    count = int(instances.max())
    measures = measured(instances, count)
    centres = ndimage.center_of_mass(instances > 0, instances, range(1, count + 1))
    np.testing.assert_allclose(measures.centroids[:, ::-1], np.array(centres) + 0.5)
    assert measures.areas.tolist() == np.bincount(instances.ravel())[1:].tolist()
    for box, place in zip(measures.boxes.tolist(), ndimage.find_objects(instances), strict=True):
        y, x = place
        assert box == [x.start, y.start, x.stop - x.start, y.stop - y.start]


def test_seventy_thousand_objects_are_kept_in_32_bits(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    instances = np.zeros((400, 400), np.int32)
    instances.ravel()[:70_000] = np.arange(1, 70_001)
    with caplog.at_level("INFO"):
        file = write_label_map(tmp_path / "slide.v2", instances)
    assert file.name == "slide.v2.tif"
    assert "70,000 objects are more than 16 bits can number" in caplog.text
    assert np.array_equal(read_label_map(file), instances)


@pytest.mark.parametrize(("kind", "name"), [("png", "b.c.png"), ("tiff", "b.c.tif")])
def test_few_objects_are_16_bits(kind: LabelMapKind, name: str, tmp_path: Path) -> None:
    instances = np.array([[0, 65_535], [300, 1]], np.int32)
    file = write_label_map(tmp_path / "a" / "b.c", instances, kind)
    assert file.name == name
    assert np.array_equal(read_label_map(file), instances)
    read = cv2.imread(str(file), cv2.IMREAD_UNCHANGED)
    assert read.dtype == np.uint16
    assert np.array_equal(read, instances)
