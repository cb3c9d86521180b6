import hashlib
import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from lit_vision.data.convert import convert, convert_by_words, with_objects
from lit_vision.data.formats import coco, options_of_words, read, voc, yolo
from lit_vision.data.formats.output import unique_names
from lit_vision.data.index import NO_SEGMENT, POLYGONS, RLE, Index, Packed
from lit_vision.data.rasterise import rasterise
from lit_vision.data.rle import encode_rle, join_rings
from lit_vision.errors import DataError, UserError

SIZE = (40, 60)
PARTS = ("train", "train", "train", "val", "val", "test")


def draw(root: Path, outlines: bool, whole: bool = False, names: int = 6) -> Index:
    """Six images in three splits with 0 to 5 objects: boxes, polygons of one or two rings, run lengths, crowds."""
    rng = np.random.default_rng(0)
    files, boxes, segments, kinds, crowd, counts = [], [], [], [], [], []
    for i in range(6):
        files.append(f"deep/{PARTS[i]}/{i % names}.png")
        (root / files[-1]).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(root / files[-1]), rng.integers(0, 256, (*SIZE, 3), np.uint8))
        counts.append(i)
        for k in range(i):
            x1, y1, w, h = rng.uniform((0, 0, 2, 2), 20)
            box = np.array([x1, y1, x1 + w, y1 + h], np.float32)
            box = np.round(box) if whole else box
            mask = np.zeros(SIZE, np.bool_)
            mask[int(y1) : int(y1 + h), int(x1) : int(x1 + w)] = True
            ring = box[[0, 1, 2, 1, 2, 3]].reshape(3, 2)
            choice = (NO_SEGMENT, POLYGONS, POLYGONS, RLE, RLE)[k] if outlines else NO_SEGMENT
            raw = {NO_SEGMENT: b"", RLE: encode_rle(mask)}.get(choice, join_rings([ring] * k).tobytes())
            boxes.append(box)
            segments.append(raw)
            kinds.append(choice)
            crowd.append(outlines and k == 4)
    return Index(
        root=root,
        format="drawn",
        class_names=("red cell", "Übrige", "c"),
        files=Packed.pack(files),
        sizes=np.array([SIZE] * 6, np.int32),
        splits=np.array([0, 0, 0, 1, 1, 2], np.int8),
        offsets=np.cumsum([0, *counts]).astype(np.int64),
        labels=np.arange(15, dtype=np.int32) % 3,
        boxes=np.array(boxes, np.float32),
        crowd=np.array(crowd),
        segments=Packed.pack(segments),
        segment_kinds=np.array(kinds, np.uint8),
    )


def require_same(a: Index, b: Index) -> None:
    assert b.problems == ()
    assert b.class_names == a.class_names
    for name in ("sizes", "splits", "offsets", "labels", "boxes", "crowd", "segment_kinds"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), name)
    assert a.segments is not None
    assert b.segments is not None
    assert [b.segments.raw(k) for k in range(len(b.segments))] == [a.segments.raw(k) for k in range(len(a.segments))]
    for i in range(len(a)):
        assert a.path(i).read_bytes() == b.path(i).read_bytes()


def test_coco_round_trip_is_exact(tmp_path: Path) -> None:
    drawn = draw(tmp_path / "in", outlines=True)
    assert coco.write(drawn, tmp_path / "out") == []
    first = read(tmp_path / "out")
    require_same(drawn, first)
    coco.write(first, tmp_path / "again")
    require_same(first, read(tmp_path / "again"))


def test_coco_areas_equal_pycocotools(tmp_path: Path) -> None:
    from pycocotools.coco import COCO

    coco.write(draw(tmp_path / "in", outlines=True), tmp_path / "out")
    data = COCO(str(tmp_path / "out/annotations/instances_test.json"))
    for row in data.anns.values():
        if row["segmentation"]:
            assert row["area"] == data.annToMask(row).sum()


@pytest.mark.parametrize("whole", [True, False])
def test_voc_round_trip_is_exact(tmp_path: Path, whole: bool) -> None:
    drawn = draw(tmp_path / "in", outlines=False, whole=whole)
    drawn = replace(drawn, crowd=np.arange(15) % 4 == 1)
    notes = voc.write(drawn, tmp_path / "out")
    first = read(tmp_path / "out", classes=list(drawn.class_names))
    require_same(drawn, first)
    assert any("4 of them are marked difficult" in note for note in notes)
    assert any("15 boxes lie between pixels" in note for note in notes) != whole
    voc.write(first, tmp_path / "again")
    require_same(first, read(tmp_path / "again", classes=list(drawn.class_names)))


def test_yolo_round_trip_is_exact(tmp_path: Path) -> None:
    drawn = draw(tmp_path / "in", outlines=False)
    assert yolo.write(drawn, tmp_path / "out") == []
    require_same(drawn, read(tmp_path / "out"))


def test_yolo_keeps_polygons_and_tells_what_it_cannot_hold(tmp_path: Path) -> None:
    drawn = draw(tmp_path / "in", outlines=True)
    notes = yolo.write(replace(drawn, splits=np.array([0, 0, 0, 1, 1, -1], np.int8)), tmp_path / "out")
    assert notes == [
        "YOLO labels have no crowds: 1 crowd regions were left out.",
        "A YOLO polygon is one ring: of 3 objects in several parts only the largest part was kept.",
        "YOLO needs a split for every image: 1 images without one were put into train.",
    ]
    first = read(tmp_path / "out")
    assert len(first.labels) == 14
    yolo.write(first, tmp_path / "again")
    require_same(first, read(tmp_path / "again"))


def test_yolo_counts_the_objects_whose_holes_are_filled(tmp_path: Path) -> None:
    for folder in ("images", "labels"):
        (tmp_path / "in" / folder).mkdir(parents=True)
    labels = np.zeros(SIZE, np.uint8)
    labels[2:20, 3:20], labels[5:9, 5:9], labels[30:35, 30:35] = 1, 0, 2
    cv2.imwrite(str(tmp_path / "in/labels/a.png"), labels)
    cv2.imwrite(str(tmp_path / "in/images/a.png"), np.zeros((*SIZE, 3), np.uint8))
    notes = convert(tmp_path / "in", tmp_path / "yolo", "yolo")
    assert "A YOLO polygon has no holes: those of 1 objects were filled." in notes
    again = rasterise(read(tmp_path / "yolo"), 0, SIZE)[0]
    assert again[6, 6] == again[3, 4] == 1
    assert not any("holes" in note for note in convert(tmp_path / "in", tmp_path / "coco", "coco"))
    assert (rasterise(read(tmp_path / "coco"), 0, SIZE)[0] == labels).all()


def test_yolo_fractions_stay_within_the_image(tmp_path: Path) -> None:
    """Ultralytics' reader drops images with others."""
    drawn = draw(tmp_path / "in", outlines=False)
    near, far = [[-0.5, 2], [60.25, 2], [30, 20]], [[-30, 10], [30, 10], [30, 20]]
    outlines = [join_rings([np.array(ring, np.float32)]).tobytes() for ring in (near, far)]
    assert drawn.segment_kinds is not None
    kinds = np.array([POLYGONS, POLYGONS, *drawn.segment_kinds[2:]], np.uint8)
    boxes = np.array([[0, 0, 1, 1]] * 2 + [[-5, 3, 70, 41]] * 13, np.float32)
    index = replace(drawn, boxes=boxes, segment_kinds=kinds, segments=Packed.pack([*outlines, *[b""] * 13]))
    yolo.write(index, tmp_path / "out")
    for path in (tmp_path / "out/labels").rglob("*.txt"):
        for line in path.read_text().splitlines():
            assert all(0 <= float(word) <= 1 for word in line.split()[1:])
    again = read(tmp_path / "out")
    assert again.boxes is not None
    assert again.boxes[-1].tolist() == [0, 3, 60, 40]
    seen = [rasterise(which, i, SIZE)[0] for which in (index, again) for i in (1, 2)]
    assert (seen[0] == seen[2]).mean() > 0.99  # a corner moved by half a pixel
    assert (seen[1] == seen[3]).all()  # cut off along its pixels


def test_voc_counts_the_outlines_it_leaves_out(tmp_path: Path) -> None:
    notes = voc.write(draw(tmp_path / "in", outlines=True), tmp_path / "out")
    assert "VOC holds boxes alone: 10 outlines were left out." in notes


def test_same_stems_get_names_of_their_own(tmp_path: Path) -> None:
    voc.write(draw(tmp_path / "in", outlines=False, names=4), tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out/JPEGImages").iterdir()) == [
        "2.png",
        "3.png",
        "deep_test_1.png",
        "deep_train_0.png",
        "deep_train_1.png",
        "deep_val_0.png",
    ]


def test_names_never_meet_whatever_the_folders_are_called(tmp_path: Path) -> None:
    files = ["a_b.png", "a/b.png", "c/b.png", "a_b_0.png", "A_B_2.jpg", "c_b.jpg", "../c/b.png"]
    index = replace(draw(tmp_path / "in", outlines=False), files=Packed.pack(files))
    names = unique_names(index)
    assert len({Path(name).stem.lower() for name in names}) == len(files)
    assert [Path(name).suffix for name in names] == [Path(file).suffix for file in files]
    assert names[0] == "a_b.png"


def test_label_maps_become_objects(tmp_path: Path) -> None:
    root = tmp_path / "in"
    for folder in ("images", "labels"):
        (root / folder / "train").mkdir(parents=True)
    labels = np.zeros(SIZE, np.uint16)
    labels[2:5, 3:9], labels[5:8, 3:4] = 700, 9
    cv2.imwrite(str(root / "labels/train/a.png"), labels)
    cv2.imwrite(str(root / "images/train/a.png"), np.zeros((*SIZE, 3), np.uint8))
    notes = convert(root, tmp_path / "out", "coco", "labelmaps", options={"classes": ["cell"]})
    assert notes == []
    index = read(tmp_path / "out")
    assert index.boxes is not None
    assert index.boxes.tolist() == [[3, 5, 4, 8], [3, 2, 9, 5]]
    assert (rasterise(index, 0, SIZE)[0] == (labels == 9) + 2 * (labels == 700)).all()
    convert(root, tmp_path / "yolo", "yolo", "labelmaps")
    again = read(tmp_path / "yolo")
    assert (rasterise(again, 0, SIZE)[0] == (labels == 9) + 2 * (labels == 700)).all()


def test_object_files_become_objects(tmp_path: Path) -> None:
    for folder in ("images", "masks"):
        (tmp_path / "in/x" / folder).mkdir(parents=True)
    mask = np.zeros(SIZE, np.uint8)
    mask[1:3, 2:7] = 255
    cv2.imwrite(str(tmp_path / "in/x/images/a.png"), np.zeros((*SIZE, 3), np.uint8))
    cv2.imwrite(str(tmp_path / "in/x/masks/1.png"), mask)
    index = with_objects(read(tmp_path / "in"))
    assert index.boxes is not None
    assert index.boxes.tolist() == [[2, 1, 7, 3]]
    assert (rasterise(index, 0, SIZE)[0] == mask // 255).all()


def test_source_is_never_touched_and_links_are_links(tmp_path: Path) -> None:
    coco.write(draw(tmp_path / "drawn", outlines=True), tmp_path / "in")
    files = [path for path in sorted((tmp_path / "in").rglob("*")) if path.is_file()]
    before = [(path, hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns) for path in files]
    for to in ("coco", "voc", "yolo"):
        notes = convert(tmp_path / "in", tmp_path / to, to, link=to == "voc")  # type: ignore[arg-type]  # is a Target
        assert notes[0].startswith("Recognised")
    assert [(path, hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns) for path in files] == before
    assert sorted(path for path in (tmp_path / "in").rglob("*") if path.is_file()) == files
    assert all(path.is_symlink() for path in (tmp_path / "voc/JPEGImages").iterdir())
    assert not any(path.is_symlink() for path in (tmp_path / "coco/images/train").iterdir())


def test_options_of_a_command_line_become_what_the_reader_takes(tmp_path: Path) -> None:
    drawn = draw(tmp_path / "drawn", outlines=False)
    voc.write(drawn, tmp_path / "in")
    words = {"classes": "Übrige,red cell", "difficult": "keep", "one_based": "no"}
    notes = convert_by_words(tmp_path / "in", tmp_path / "out", "coco", "auto", words, True)
    assert any("5 objects of classes left out" in note for note in notes)
    index = read(tmp_path / "out")
    assert index.class_names == ("Übrige", "red cell")
    assert index.boxes is not None
    assert drawn.boxes is not None
    np.testing.assert_allclose(index.boxes[0], np.minimum(drawn.boxes[0] + 1, (60, 40, 60, 40)))  # read as from 0
    assert (tmp_path / "out/images/train").is_dir()
    assert all(path.is_symlink() for path in (tmp_path / "out/images").rglob("*.png"))


@pytest.mark.parametrize(
    ("format", "words", "options"),
    [
        (
            "coco",
            {"annotations": "{train: a.json}", "images": "a, b"},
            {"annotations": {"train": "a.json"}, "images": "a, b"},
        ),
        ("coco", {"classes": "no", "outlines": "false"}, {"classes": ["no"], "outlines": False}),
        ("coco", {"classes": "[a, 'b,c']", "images": "2017"}, {"classes": ["a", "b,c"], "images": "2017"}),
        ("csv", {"delimiter": "|", "separator": ";"}, {"delimiter": "|", "separator": ";"}),
        ("masks", {"colors": "[[1, 2, 3]]", "ignore_index": "0"}, {"colors": [[1, 2, 3]], "ignore_index": 0}),
        ("yolo", {"clases": "a"}, {"clases": "a"}),  # refused by `read`, with the nearest name
        ("voc", {"one_based": "maybe"}, {"one_based": "maybe"}),  # likewise
    ],
)
def test_words_are_yaml_or_text_or_lists(format: str, words: dict[str, str], options: dict[str, object]) -> None:
    assert options_of_words(format, words) == options


def test_what_cannot_be_converted(tmp_path: Path) -> None:
    drawn = draw(tmp_path / "drawn", outlines=False)
    coco.write(drawn, tmp_path / "in")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/x").write_text("")
    with pytest.raises(UserError, match="full is not empty"):
        convert(tmp_path / "in", tmp_path / "full", "voc")
    with pytest.raises(UserError, match="lies in the data set"):
        convert(tmp_path / "in", tmp_path / "in/out", "voc")
    with pytest.raises(UserError, match="no format 'yoloo' to write: did you mean 'yolo'"):
        convert(tmp_path / "in", tmp_path / "out", "yoloo")  # type: ignore[arg-type]  # wrong on purpose
    with pytest.raises(UserError, match="labels of whole images"):
        with_objects(replace(drawn, segments=None, boxes=None))
    with pytest.raises(UserError, match="class masks"):
        with_objects(replace(drawn, mask_kind="classes"))
    file = tmp_path / "in/annotations/instances_val.json"
    data = json.loads(file.read_text())
    data["annotations"][0]["bbox"][2] = -1
    file.write_text(json.dumps(data))
    with pytest.raises(DataError, match=r"instances_val.json: annotation"):
        convert(tmp_path / "in", tmp_path / "out", "yolo")
    assert not (tmp_path / "out").exists()
