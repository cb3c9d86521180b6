import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pycocotools.mask as oracle
import pytest

from lit_vision.data.formats import coco
from lit_vision.data.index import NO_SEGMENT, POLYGONS, RLE
from lit_vision.data.rle import decode_rle
from lit_vision.errors import UserError

MASK = np.array([[0, 1, 1, 0], [0, 1, 0, 0], [1, 0, 0, 0]], np.uint8)
CATEGORIES = [{"id": 90, "name": "dog"}, {"id": 7, "name": "cat"}]


def annotation(**values: Any) -> dict[str, Any]:
    return {"id": 1, "image_id": 5, "category_id": 7, "bbox": [1, 0, 2, 2], "iscrowd": 0, "segmentation": []} | values


def make(root: Path, annotations: list[dict[str, Any]], name: str = "instances_train", **content: Any) -> Path:
    (root / "annotations").mkdir(exist_ok=True)
    (root / "images/train").mkdir(parents=True, exist_ok=True)
    for file in ("a.png", "b.png"):
        cv2.imwrite(str(root / "images/train" / file), np.zeros((3, 4, 3), np.uint8))
    images = [{"id": 9, "file_name": "b.png", "width": 4, "height": 3}]
    images.append({"id": 5, "file_name": "a.png", "width": 4, "height": 3})
    data = {"images": images, "annotations": annotations, "categories": CATEGORIES} | content
    (root / f"annotations/{name}.json").write_text(json.dumps(data))
    return root


def test_sparse_ids_become_labels_by_order_of_id(tmp_path: Path) -> None:
    rows = [annotation(id=1, category_id=90), annotation(id=2), annotation(id=3, image_id=9, iscrowd=1)]
    index = coco.read(make(tmp_path, rows))
    assert index.class_names == ("cat", "dog")
    assert index.files.texts() == ["images/train/b.png", "images/train/a.png"]
    assert index.offsets.tolist() == [0, 1, 3]
    assert index.labels.tolist() == [0, 1, 0]
    assert index.crowd is not None
    assert index.crowd.tolist() == [True, False, False]
    assert index.boxes is not None
    assert index.boxes.tolist() == [[1, 0, 3, 2]] * 3
    assert index.sizes.tolist() == [[3, 4], [3, 4]]
    assert index.splits.tolist() == [0, 0]


def test_images_without_annotations(tmp_path: Path) -> None:
    index = coco.read(make(tmp_path, []))
    assert index.offsets.tolist() == [0, 0, 0]
    assert index.problems == ()


def test_segmentations_equal_pycocotools(tmp_path: Path) -> None:
    compressed = oracle.encode(np.asfortranarray(MASK))
    plain = [2, 3, 1, 1, 5]  # down the columns of MASK: 0 0 1, 1 1 0, 1 0 0, 0 0 0
    polygon = [[0.5, 0.5, 3.0, 0.5, 3.0, 2.5], [0, 0, 1, 0, 1, 1]]
    rows = [
        annotation(id=1, segmentation={"size": [3, 4], "counts": compressed["counts"].decode()}),
        annotation(id=2, segmentation={"size": [3, 4], "counts": plain}),
        annotation(id=3, segmentation=polygon),
        annotation(id=4, segmentation=None),
    ]
    index = coco.read(make(tmp_path, rows))
    assert index.problems == ()
    assert index.segments is not None
    assert index.segment_kinds is not None
    assert index.segment_kinds.tolist() == [RLE, RLE, POLYGONS, NO_SEGMENT]
    assert index.segments.raw(0) == index.segments.raw(1) == compressed["counts"]
    assert (decode_rle(index.segments.raw(0), (3, 4)) == MASK).all()
    points = np.frombuffer(index.segments.raw(2), np.float32).reshape(-1, 2)
    assert np.isnan(points[3]).all()
    assert points[:3].ravel().tolist() == polygon[0]
    assert points[4:].ravel().tolist() == polygon[1]
    assert coco.read(tmp_path, outlines=False).segment_kinds.tolist() == [NO_SEGMENT] * 4  # type: ignore[union-attr]  # has objects


def test_missing_bbox_comes_from_the_outline(tmp_path: Path) -> None:
    counts = oracle.encode(np.asfortranarray(MASK))["counts"].decode()
    rows = [
        annotation(id=1, segmentation={"size": [3, 4], "counts": counts}),
        annotation(id=2, segmentation=[[1, 0.5, 3, 1, 2, 2]]),
    ]
    for row in rows:
        del row["bbox"]
    index = coco.read(make(tmp_path, rows))
    assert index.boxes is not None
    x, y, w, h = oracle.toBbox(oracle.encode(np.asfortranarray(MASK))).tolist()
    assert index.boxes[0].tolist() == [x, y, x + w, y + h] == [0, 0, 3, 3]
    assert index.boxes[1].tolist() == [1, 0.5, 3, 2]


def test_every_bad_annotation_is_named(tmp_path: Path) -> None:
    rows = [
        annotation(id=1, bbox=[1, 0, -2, 2]),
        annotation(id=2, bbox=[1, 0, float("nan"), 2]),
        annotation(id=3, bbox=[10, 0, 2, 2]),
        annotation(id=4, image_id=77),
        annotation(id=5, category_id=3),
        annotation(id=6, segmentation=[[1, 2, 3]]),
        annotation(id=7, segmentation={"size": [3, 4], "counts": [5, 5]}),
        annotation(id=8, segmentation={"size": [3, 4], "counts": "0"}),
        annotation(id=9, segmentation={"size": [4, 3], "counts": [12]}),
        annotation(id=10, category_id="cat"),
        annotation(id=11),
        annotation(id=11),
        annotation(id=12, bbox=None),
    ]
    index = coco.read(make(tmp_path, rows))
    assert len(index.labels) == 1
    file = "annotations/instances_train.json: "
    found = "\n".join(index.problems)
    for words in (
        f"{file}annotation 1 of a.png: its box [1.0, 0.0, -2.0, 2.0] (x, y, width, height) is inverted or empty",
        f"{file}annotations[1] is malformed",
        f"{file}annotation 3 of a.png: its box [10.0, 0.0, 2.0, 2.0] (x, y, width, height) lies wholly outside",
        f"{file}annotation 4 names image 77",
        f"{file}annotation 5 has category 3",
        f"{file}annotation 6 of a.png: its segmentation is malformed (a polygon has 3 numbers",
        f"{file}annotation 7 of a.png: its segmentation is malformed (the runs cover 10 pixels, the image has 12)",
        f"{file}annotation 8 of a.png: its run lengths are malformed",
        f"{file}annotation 9 of a.png: its segmentation is malformed (its mask is 3 x 4, its image 4 x 3)",
        f"{file}annotations[9] is malformed",
        f"{file}two annotations have the id 11",
        f"{file}annotation 12 of a.png: it has neither bbox nor segmentation",
    ):
        assert words in found
    assert len(index.problems) == 12


def test_boxes_that_stick_out_are_clipped_and_counted(tmp_path: Path) -> None:
    index = coco.read(make(tmp_path, [annotation(bbox=[-2, 1, 5, 4]), annotation(id=2)]))
    assert index.boxes is not None
    assert index.boxes[0].tolist() == [0, 1, 3, 3]
    assert index.notes == ("1 of 2 boxes stuck out of their images (at most by 2 px): clipped.",)


def test_same_image_id_twice(tmp_path: Path) -> None:
    images = [{"id": 1, "file_name": name, "width": 4, "height": 3} for name in ("a.png", "b.png")]
    index = coco.read(make(tmp_path, [], images=images))
    assert "the images a.png and b.png have the same id 1" in index.problems[0]


def test_images_that_are_nowhere(tmp_path: Path) -> None:
    images = [{"id": 1, "file_name": "gone.png", "width": 4, "height": 3}]
    with pytest.raises(UserError, match=r"instances_train.json names images that are not there, such as gone.png"):
        coco.read(make(tmp_path, [], images=images))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"images": [', "instances_train.json is not a COCO file"),
        ('{"annotations": [], "categories": []}', "instances_train.json is not a COCO file.*images"),
        ('{"images": [], "annotations": [], "categories": []}', "instances_train.json has no categories"),
    ],
)
def test_malformed_files(tmp_path: Path, text: str, words: str) -> None:
    make(tmp_path, [])
    (tmp_path / "annotations/instances_train.json").write_text(text)
    with pytest.raises(UserError, match=words):
        coco.read(tmp_path, annotations="annotations/instances_train.json")


def test_two_files_of_one_split_need_a_choice(tmp_path: Path) -> None:
    make(tmp_path, [])
    make(tmp_path, [annotation()], name="instances_train2017")
    with pytest.raises(UserError, match="hold the same split: set annotations"):
        coco.read(tmp_path)
    index = coco.read(tmp_path, annotations={"val": "annotations/instances_train2017.json"}, images="images/train")
    assert index.splits.tolist() == [1, 1]
    assert len(index.labels) == 1


def test_contradicting_categories(tmp_path: Path) -> None:
    make(tmp_path, [])
    make(tmp_path, [], name="instances_val", categories=[{"id": 7, "name": "bird"}])
    with pytest.raises(UserError, match=r"instances_val.json: category 7 is 'bird', but 'cat' in another split"):
        coco.read(tmp_path)


def test_classes_option_leaves_out_and_counts(tmp_path: Path) -> None:
    index = coco.read(make(tmp_path, [annotation(), annotation(id=2, category_id=90)]), classes=["dog"])
    assert index.labels.tolist() == [0]
    assert "1 objects of classes left out" in index.notes[0]
    with pytest.raises(UserError, match="did you mean 'dog'"):
        coco.read(tmp_path, classes=["dogs"])


@pytest.mark.parametrize("last", ["images", "annotations"])
def test_large_files_are_recognised_by_their_ends(tmp_path: Path, last: str) -> None:
    root = make(tmp_path, [annotation(id=k) for k in range(3000)])
    file = root / "annotations/instances_train.json"
    data = json.loads(file.read_text())
    data["categories"] += [{"id": 1000 + k, "name": "x" * 50 + str(k)} for k in range(2000)]
    data["images"] += [{"id": 1000 + k, "file_name": f"{k}.png", "width": 4, "height": 3} for k in range(2000)]
    data[last] = data.pop(last)
    file.write_text(json.dumps(data))
    assert coco.found(root) == "annotations/instances_train.json"


def test_many_boxes_stay_flat(tmp_path: Path) -> None:
    rows = [annotation(id=k, image_id=(5, 9)[k % 2], category_id=(7, 90)[k % 3 == 0]) for k in range(2000)]
    index = coco.read(make(tmp_path, rows))
    assert index.offsets.tolist() == [0, 1000, 2000]
    assert index.labels.dtype == np.int32
    arrays = (index.labels, index.boxes, index.crowd, index.segment_kinds)
    assert sum(array.nbytes for array in arrays if array is not None) == 2000 * (4 + 16 + 1 + 1)


@pytest.mark.parametrize(
    ("ring", "fault"), [([1, 0, 3e7, 0, 3, 2], "from 0 to 3e+07"), ([1, -1e300, 3, 0, 3, 2], "-1e+300")]
)
def test_polygons_far_outside_are_refused_before_they_fill_the_memory(
    tmp_path: Path, ring: list[float], fault: str
) -> None:
    index = coco.read(make(tmp_path, [annotation(segmentation=[ring])]))
    assert len(index.labels) == 0
    assert fault in index.problems[0]
    assert "far outside of its image" in index.problems[0]
    near = coco.read(make(tmp_path, [annotation(segmentation=[[-1, 0, 5, 0, 3, 2]])]))  # as rounding makes them
    assert near.problems == ()


def test_sizes_that_the_file_does_not_say_come_from_the_images(tmp_path: Path) -> None:
    images = [{"id": 5, "file_name": "a.png"}, {"id": 9, "file_name": "missing.png"}]
    rle = {"size": [3, 4], "counts": [2, 3, 1, 1, 5]}
    index = coco.read(make(tmp_path, [annotation(segmentation=rle)], images=images))
    assert index.problems == ()
    assert index.sizes.tolist() == [[3, 4], [0, 0]]
    assert index.segments is not None
    np.testing.assert_array_equal(decode_rle(index.segments.raw(0), (3, 4)), MASK)
