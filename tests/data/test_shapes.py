import colorsys
import hashlib
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO
from skimage.measure import label as components
from skimage.measure import regionprops

from lit_vision.data.scenes import CLASSES, Scene, Shape, draw_scene, draw_single, tight_boxes
from lit_vision.data.shapes import draw_shapes
from lit_vision.errors import UserError
from lit_vision.types import Int32Array


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [draw_scene(np.random.default_rng(i), 128) for i in range(40)]


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_shapes(tmp_path_factory.mktemp("drawn") / "set", train=6, val=4, test=4, size=96, seed=3)


def test_boxes_are_those_of_scikit_image(scenes: list[Scene]) -> None:
    for scene in scenes:
        regions = regionprops(scene.instances)
        assert [region.label for region in regions] == list(range(1, len(scene.labels) + 1))
        expected = np.array([[r.bbox[1], r.bbox[0], r.bbox[3], r.bbox[2]] for r in regions], np.float32)
        np.testing.assert_array_equal(scene.boxes, expected)


def test_tight_boxes_of_a_known_map() -> None:
    instances = np.zeros((6, 8), np.int32)
    instances[5, 3] = 1
    instances[1:3, 4:8] = 2
    np.testing.assert_array_equal(tight_boxes(instances), [[3, 5, 4, 6], [4, 1, 8, 3]])
    assert tight_boxes(np.zeros((4, 4), np.int32)).shape == (0, 4)


def test_every_object_is_one_part_and_has_its_class_in_the_mask(scenes: list[Scene]) -> None:
    for scene in scenes:
        np.testing.assert_array_equal(scene.mask == 0, scene.instances == 0)
        for k, name in enumerate(scene.labels):
            inside = scene.instances == k + 1
            assert components(inside, connectivity=1).max() == 1
            assert set(scene.mask[inside].tolist()) == {int(name) + 1}


def test_area_of_shapes_is_that_of_geometry() -> None:
    expected = {"disc": np.pi, "square": 2.0, "triangle": 3 * np.sqrt(3) / 4, "star": 5 * 0.45 * np.sin(np.pi / 5)}
    for label, name in enumerate(CLASSES):
        shape = Shape(label, (50.3, 49.6), 30.0, 0.7)
        rows, columns = shape.window(100)
        covered = float(shape.coverage(rows, columns).sum())
        assert covered == pytest.approx(expected[name] * 900, rel=0.03)  # OpenCV fills the outline too
        assert (rows.start, rows.stop, columns.start, columns.stop) == (18, 81, 19, 82)


def test_shape_is_where_it_says() -> None:
    coverage = Shape(1, (20.0, 12.0), 5 * np.sqrt(2), np.pi / 4).coverage(slice(0, 40), slice(0, 40))
    np.testing.assert_array_equal(tight_boxes((coverage >= 0.5).astype(np.int32)), [[15, 7, 25, 17]])


def test_objects_touch_and_overlap_in_most_pictures(scenes: list[Scene]) -> None:
    def touching(instances: Int32Array) -> int:
        pairs = set()
        for a, b in ((instances[:, 1:], instances[:, :-1]), (instances[1:], instances[:-1])):
            meet = (a != b) & (a > 0) & (b > 0)
            pairs |= {tuple(sorted(pair)) for pair in zip(a[meet].tolist(), b[meet].tolist(), strict=True)}
        return len(pairs)

    counts = [touching(scene.instances) for scene in scenes]
    assert sum(count > 0 for count in counts) > 0.7 * len(scenes)
    assert sum(counts) > 1.5 * len(scenes)


def test_classes_are_balanced(scenes: list[Scene]) -> None:
    labels = np.concatenate([scene.labels for scene in scenes])
    shares = np.bincount(labels, minlength=len(CLASSES)) / len(labels)
    assert shares.min() > 0.2


def hue_guesses(scenes: list[Scene]) -> float:
    """Share of the shapes whose class a quarter of the colour circle tells."""
    means = np.array([s.image[s.instances == k + 1].mean(0) for s in scenes for k in range(len(s.labels))])
    labels = np.concatenate([scene.labels for scene in scenes])
    hues = np.array([colorsys.rgb_to_hsv(*mean)[0] for mean in means / 255])
    guesses = np.round(hues * len(CLASSES)).astype(int) % len(CLASSES)
    return float((guesses == labels).mean())


def test_colour_tells_the_class_in_scenes_and_not_in_pictures_to_classify(scenes: list[Scene]) -> None:
    singles = [draw_single(np.random.default_rng(seed), seed % len(CLASSES), 64) for seed in range(80)]
    assert hue_guesses(scenes) > 0.9
    assert 0.1 < hue_guesses(singles) < 0.4


def test_equal_generators_draw_equal_scenes_and_others_do_not() -> None:
    first, second, third = (draw_scene(np.random.default_rng(seed), 96) for seed in (5, 5, 6))
    np.testing.assert_array_equal(first.image, second.image)
    np.testing.assert_array_equal(first.instances, second.instances)
    assert (first.image != third.image).mean() > 0.5


@pytest.mark.parametrize("label", range(len(CLASSES)))
def test_single_is_dominated_by_its_class(label: int) -> None:
    for seed in range(10):
        scene = draw_single(np.random.default_rng(seed), label, 80)
        areas = np.bincount(scene.instances.ravel())[1:]
        assert scene.labels[0] == label
        assert areas[0] > 2 * areas[1:].max(initial=0)


def test_files_agree_with_each_other_and_pycocotools(drawn: Path, capsys: pytest.CaptureFixture[str]) -> None:
    coco = COCO(str(drawn / "detection/annotations/instances_train.json"))
    assert [c["name"] for c in coco.loadCats(coco.getCatIds())] == list(CLASSES)
    for image in coco.loadImgs(coco.getImgIds()):
        stem = Path(image["file_name"]).stem
        instances = cv2.imread(str(drawn / f"instances/labels/train/{stem}.png"), cv2.IMREAD_UNCHANGED)
        classes = cv2.imread(str(drawn / f"instances/classes/train/{stem}.png"), cv2.IMREAD_UNCHANGED)
        mask = cv2.imread(str(drawn / f"segmentation/masks/train/{stem}.png"), cv2.IMREAD_UNCHANGED)
        assert instances.dtype == np.uint16
        assert mask.dtype == np.uint8
        np.testing.assert_array_equal(classes, mask)
        annotations = coco.loadAnns(coco.getAnnIds(image["id"]))
        assert len(annotations) == instances.max()
        for k, annotation in enumerate(annotations):
            inside = coco.annToMask(annotation).astype(bool)
            np.testing.assert_array_equal(inside, instances == k + 1)
            np.testing.assert_array_equal(mask[inside], annotation["category_id"])
            assert annotation["area"] == inside.sum()
        for folder in ("instances", "detection"):
            picture = f"images/train/{stem}.jpg"
            assert (drawn / folder / picture).read_bytes() == (drawn / "segmentation" / picture).read_bytes()


def test_folders_by_class_are_balanced(drawn: Path) -> None:
    counts = {name: len(list((drawn / "classification/val" / name).glob("*.jpg"))) for name in CLASSES}
    assert counts == dict.fromkeys(CLASSES, 2)
    assert json.loads((drawn / "segmentation/classes.json").read_text())["classes"] == ["background", *CLASSES]


def test_same_bytes_on_every_run(drawn: Path, tmp_path: Path) -> None:
    again = draw_shapes(tmp_path / "again", train=6, val=4, test=4, size=96, seed=3)
    assert _digests(again) == _digests(drawn)
    other = draw_shapes(tmp_path / "other", train=6, val=4, test=4, size=96, seed=4)
    assert _digests(other) != _digests(drawn)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again", "other"]  # no temporary folder is left


def test_splits_share_no_picture(drawn: Path) -> None:
    digests = [hashlib.sha256(p.read_bytes()).hexdigest() for p in drawn.glob("segmentation/images/*/*.jpg")]
    assert len(set(digests)) == len(digests) == 14


def test_same_set_is_kept_and_anything_else_refused(drawn: Path, tmp_path: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in drawn.rglob("*")}
    assert draw_shapes(drawn, train=6, val=4, test=4, size=96, seed=3) == drawn
    assert {path: path.stat().st_mtime_ns for path in drawn.rglob("*")} == before
    with pytest.raises(UserError, match="is not the drawn data set"):
        draw_shapes(drawn, train=6, val=4, test=4, size=96, seed=4)
    (tmp_path / "mine.txt").write_text("kept")
    with pytest.raises(UserError, match="remove it or choose another folder"):
        draw_shapes(tmp_path)
    assert (tmp_path / "mine.txt").read_text() == "kept"


def test_interrupted_drawing_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("lit_vision.data.shapes._draw_singles", stop)
    with pytest.raises(KeyboardInterrupt):
        draw_shapes(tmp_path / "set", train=2, val=1, test=1, size=64)
    assert list(tmp_path.iterdir()) == []


def _digests(root: Path) -> dict[str, str]:
    files = [path for path in root.rglob("*") if path.is_file()]
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(files)}
