"""Scoring against a case computed by hand."""

import json
from pathlib import Path

import pytest
from coco_scores import Detection, read_coco_predictions, read_yolo_labels, score


@pytest.fixture
def truth(tmp_path: Path) -> Path:
    """Two cells of 100 x 100 in a.jpg, none in b.jpg; a class without any object; ids that are no positions."""
    boxes = [[0, 0, 100, 100], [200, 100, 100, 100]]
    rows = [
        {"id": k + 1, "image_id": 7, "category_id": 9, "bbox": box, "area": 10_000, "iscrowd": 0}
        for k, box in enumerate(boxes)
    ]
    images = [{"id": 7, "file_name": "a.jpg", "width": 400, "height": 200}]
    images += [{"id": 8, "file_name": "b.jpg", "width": 400, "height": 200}]
    content = {"images": images, "annotations": rows}
    content["categories"] = [{"id": 9, "name": "cell"}, {"id": 5, "name": "dust"}]
    file = tmp_path / "truth.json"
    file.write_text(json.dumps(content))
    return file


FOUND = [
    Detection("a", "cell", (0, 0, 100, 100), 0.9),  # exact
    Detection("b", "cell", (0, 0, 100, 100), 0.8),  # nothing is there
    Detection("a", "cell", (200, 100, 100, 82), 0.7),  # IoU 0.82: right at 0.50 to 0.80, seven of the ten
]
# Recall 0.5 at precision 1: 51 of the 101 points; recall 1 at 2/3: the other 50, where the third box is right.
AP_RIGHT, AP_WRONG = (51 + 50 * 2 / 3) / 101, 51 / 101


def test_scores_of_a_case_computed_by_hand(truth: Path) -> None:
    found = score(truth, FOUND)
    assert found["map_50"] == pytest.approx(AP_RIGHT, abs=1e-6)
    assert found["map"] == pytest.approx(0.7 * AP_RIGHT + 0.3 * AP_WRONG, abs=1e-6)


def test_a_wrong_class_counts_as_missed(truth: Path) -> None:
    named = [one._replace(label="dust") for one in FOUND]
    assert score(truth, named)["map_50"] == 0
    assert score(truth, [])["map"] == 0


@pytest.mark.parametrize("wrong", [FOUND[0]._replace(picture="c"), FOUND[0]._replace(label="cells")])
def test_detections_of_unknown_pictures_and_classes_are_refused(truth: Path, wrong: Detection) -> None:
    with pytest.raises(ValueError, match="not among the pictures and classes"):
        score(truth, [wrong])


def test_both_file_formats_give_the_same_detections(truth: Path, tmp_path: Path) -> None:
    labels = tmp_path / "labels"
    labels.mkdir()
    (labels / "a.txt").write_text("1 0.125 0.25 0.25 0.5 0.9\n1 0.625 0.705 0.25 0.41 0.7\n")
    (labels / "b.txt").write_text("1 0.125 0.25 0.25 0.5 0.8\n")
    text = read_yolo_labels(labels, truth, ["dust", "cell"])
    rows = [
        {"image_id": {"a": 1, "b": 2}[one.picture], "category_id": 2, "bbox": list(one.box), "score": one.score}
        for one in FOUND
    ]
    content = {"images": [{"id": 1, "file_name": "/x/a.jpg"}, {"id": 2, "file_name": "/x/b.jpg"}]}
    content |= {"categories": [{"id": 1, "name": "dust"}, {"id": 2, "name": "cell"}], "annotations": rows}
    (tmp_path / "predictions.json").write_text(json.dumps(content))
    coco = read_coco_predictions(tmp_path / "predictions.json")
    assert coco == FOUND
    assert [one.label for one in text] == ["cell"] * 3
    by_place = sorted(FOUND, key=lambda one: (one.picture, -one.score))
    for ours, theirs in zip(by_place, text, strict=True):
        assert theirs.picture == ours.picture
        assert theirs.box == pytest.approx(ours.box)
        assert theirs.score == ours.score
    assert score(truth, text)["map"] == pytest.approx(score(truth, coco)["map"], abs=1e-9)
