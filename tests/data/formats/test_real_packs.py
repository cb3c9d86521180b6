"""The same boxes of real data sets in three encodings."""

from pathlib import Path

import numpy as np
import pytest

from lit_vision.data.formats import read
from lit_vision.data.index import Index
from lit_vision.data.rasterise import rasterise

PACKS = Path(__file__).parents[4] / "shared" / "data"
Rows = dict[str, list[tuple[str, tuple[float, ...]]]]


def pack(name: str) -> Path:
    if not (PACKS / name).is_dir():
        pytest.skip(f"the real pack {PACKS / name} is not on this machine")
    return PACKS / name


def rows(index: Index) -> Rows:
    assert index.boxes is not None
    assert index.problems == ()
    result: Rows = {}
    for i in range(len(index)):
        span = index.span(i)
        names = [index.class_names[label] for label in index.labels[span]]
        boxes = [tuple(box) for box in index.boxes[span].tolist()]
        result[f"{index.splits[i]} {Path(index.files.text(i)).name}"] = sorted(zip(names, boxes, strict=True))
    return result


@pytest.mark.parametrize(("name", "count"), [("det_bccd", 3941), ("det_coco128", 929)])
def test_three_encodings_are_one(name: str, count: int) -> None:
    root = pack(name)
    coco, voc, yolo = (rows(read(path, kind)) for path, kind in ((root, "coco"), (root / "voc", "voc"), (root, "yolo")))
    assert sum(len(items) for items in coco.values()) == count
    assert voc == coco
    assert yolo.keys() == coco.keys()
    for key, items in coco.items():
        assert [kind for kind, _ in yolo[key]] == [kind for kind, _ in items]
        np.testing.assert_allclose([box for _, box in yolo[key]], [box for _, box in items], atol=1e-4)


def test_run_lengths_and_label_maps_are_the_same_objects() -> None:
    root = pack("inst_dsb2018")
    coco, maps = read(root, "coco"), read(root, "labelmaps")
    place = {coco.files.text(i): i for i in range(len(coco))}
    for i in range(0, len(maps), 40):
        k = place[maps.files.text(i)]
        size = (int(coco.sizes[k, 0]), int(coco.sizes[k, 1]))
        assert (rasterise(maps, i, size)[0] == rasterise(coco, k, size)[0]).all()
