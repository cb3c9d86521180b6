import csv
import json
import re
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from lit_vision import object_files
from lit_vision.__main__ import main
from lit_vision.data.decode import read_label_map
from lit_vision.data.pictures import CollatePictures, PictureFiles, find_images, relative_paths
from lit_vision.data.scenes import CLASSES, draw_scene
from lit_vision.data.transforms import Transform
from lit_vision.errors import DataError, UserError
from lit_vision.predict import _writing, load_for_prediction, predict_images
from lit_vision.tasks.base import VisionTask
from lit_vision.tasks.classification import TransferClassifier
from lit_vision.tasks.detection import YOLODetector
from lit_vision.tasks.instances import InstanceSegmenter
from lit_vision.tasks.segmentation import SemanticSegmenter

SMALL: dict[str, Any] = {"encoder": "lcnet_050", "decoder_args": {"decoder_channels": [16, 16, 8, 8, 8]}}


def save(task: VisionTask, kind: str, path: Path, fit: str = "letterbox", in_channels: int = 3) -> Path:
    """A checkpoint as `fit` writes it, without a fit."""
    task.data = {"task": kind, "image_size": [64, 64], "fit": fit, "in_channels": in_channels, "depth": "full"}
    checkpoint: dict[str, Any] = {"state_dict": task.state_dict(), "hyper_parameters": dict(task.hparams)}
    task.on_save_checkpoint(checkpoint)
    torch.save(checkpoint, path)
    return path


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eleven pictures of different sizes in two folders, with equal names, a text and a damaged file among them."""
    root = tmp_path_factory.mktemp("pictures")
    for i, name in enumerate(["a/p10.jpg", "a/p9.jpg", "b/p9.png", "b/p9.jpg", "p1.png"]):
        (root / name).parent.mkdir(exist_ok=True)
        scene = draw_scene(np.random.default_rng(i), 64 + 16 * i)
        cv2.imwrite(str(root / name), scene.image[: 64 + 8 * i, :, ::-1])
    (root / "notes.txt").write_text("not a picture")
    return root


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    task = TransferClassifier(CLASSES, backbone="lcnet_050")
    return save(task, "classification", tmp_path_factory.mktemp("ckpt") / "best.ckpt")


def rows_of(path: Path) -> list[list[str]]:
    with path.open(newline="") as file:
        return list(csv.reader(file))


def test_folder_in_natural_order_whatever_the_batch_and_workers(
    pictures: Path, classifier: Path, tmp_path: Path
) -> None:
    first = predict_images(classifier, pictures, tmp_path / "one", batch_size=1)
    second = predict_images(classifier, str(pictures), tmp_path / "two", batch_size=3, num_workers=1)
    rows = rows_of(first / "predictions.csv")
    names = [str(Path(row[0]).relative_to(pictures)) for row in rows[1:]]
    assert names == ["a/p9.jpg", "a/p10.jpg", "b/p9.jpg", "b/p9.png", "p1.png"]
    again = rows_of(second / "predictions.csv")
    np.testing.assert_allclose(
        np.array([row[3:] for row in rows[1:]], float), np.array([row[3:] for row in again[1:]], float), atol=2e-5
    )
    written = sorted(str(p.relative_to(first / "pictures")) for p in first.rglob("*.jpg"))
    assert written == ["a/p10.jpg", "a/p9.jpg", "b/p9.jpg.jpg", "b/p9.png.jpg", "p1.jpg"]


def test_probabilities_are_those_of_the_task(pictures: Path, classifier: Path, tmp_path: Path) -> None:
    predict_images(classifier, pictures / "p1.png", tmp_path / "out")
    torch.manual_seed(0)
    task = TransferClassifier(CLASSES, backbone="lcnet_050").eval()
    image = cv2.imread(str(pictures / "p1.png"))[:, :, ::-1]
    with torch.no_grad():
        expected = task(Transform((64, 64), "letterbox")(np.ascontiguousarray(image)).image[None]).softmax(1)[0]
    (row,) = rows_of(tmp_path / "out" / "predictions.csv")[1:]
    np.testing.assert_allclose(np.array(row[3:], float), expected.numpy(), atol=1e-5)
    assert row[1] == CLASSES[int(expected.argmax())]


def test_unreadable_pictures_are_listed_and_the_others_done(classifier: Path, pictures: Path, tmp_path: Path) -> None:
    whole = (pictures / "p1.png").read_bytes()
    for name, content in (("1.png", whole), ("2.png", whole[: len(whole) // 2]), ("3.png", b""), ("4.png", whole)):
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError) as caught:
        predict_images(classifier, str(tmp_path / "*.png"), tmp_path / "out", batch_size=4)
    assert len(caught.value.problems) == 2
    assert "2.png" in caught.value.problems[0]
    assert "3.png" in caught.value.problems[1]
    assert [Path(row[0]).name for row in rows_of(tmp_path / "out" / "predictions.csv")[1:]] == ["1.png", "4.png"]


@pytest.mark.parametrize("tile", [None, 64])
def test_pictures_of_other_bands_have_to_be_converted(tile: int | None, pictures: Path, tmp_path: Path) -> None:
    task = SemanticSegmenter(["a", "b"], in_channels=4, **SMALL)
    ckpt = save(task, "segmentation", tmp_path / "four.ckpt", in_channels=4)
    with pytest.raises(DataError) as caught:
        predict_images(ckpt, pictures / "p1.png", tmp_path / "out", tile=tile)
    said = f"{pictures / 'p1.png'}: has 3 bands, but the checkpoint takes 4: convert the file"
    assert caught.value.problems == (said,)


def test_a_picture_with_more_objects_than_16_bits_can_number_gets_32(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def predict_step(task: InstanceSegmenter, batch: dict[str, Any], _: int) -> list[dict[str, torch.Tensor]]:
        made = []
        for number, size in zip(batch["index"].tolist(), batch["size"].tolist(), strict=True):
            instances = torch.zeros(size, dtype=torch.int32)
            instances[0, : 3 - number] = torch.arange(1, 4 - number, dtype=torch.int32)
            made.append(
                {"instances": instances, "labels": torch.zeros(3 - number).long(), "scores": torch.ones(3 - number)}
            )
        return made

    monkeypatch.setattr(InstanceSegmenter, "predict_step", predict_step)
    monkeypatch.setattr(object_files, "MOST_OBJECTS", 2)
    path = save(InstanceSegmenter(CLASSES, **SMALL), "instances", tmp_path / "i.ckpt")
    predict_images(path, pictures / "a", tmp_path / "out")  # 3 objects, then 2
    names = {file.name for file in (tmp_path / "out" / "labels").iterdir()}
    assert names == {"p9.tif", "p10.png"}
    many = read_label_map(tmp_path / "out" / "labels" / "p9.tif")
    assert np.unique(many).tolist() == [0, 1, 2, 3]
    kept = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert [Path(image["file_name"]).name for image in kept["images"]] == ["p9.jpg", "p10.jpg"]
    assert [row[2] for row in rows_of(tmp_path / "out" / "objects.csv")[1:]] == ["1", "2", "3", "1", "2"]


def test_output_with_files_is_kept_unless_told(classifier: Path, pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="holds files already"):
        predict_images(classifier, pictures / "p1.png", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
    predict_images(classifier, pictures / "p1.png", tmp_path, overwrite=True)
    assert (tmp_path / "mine.txt").read_text() == "mine"
    assert len(rows_of(tmp_path / "predictions.csv")) == 2


def test_results_in_the_folder_of_the_pictures_are_not_predicted_again(pictures: Path, tmp_path: Path) -> None:
    for folder in ("in", "in/out/pictures"):
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        (tmp_path / folder / "x.png").write_bytes((pictures / "p1.png").read_bytes())
    paths = find_images(tmp_path / "in", tmp_path / "in" / "out")
    assert paths == [tmp_path / "in" / "x.png"]
    assert relative_paths(paths) == ["x.png"]


def test_home_spaces_letters_and_brackets_in_paths(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = tmp_path / "my photos [1] ü"
    folder.mkdir()
    (folder / "Bild 1 é.png").write_bytes((pictures / "p1.png").read_bytes())
    assert find_images("~/my photos [1] ü", tmp_path / "out") == [folder / "Bild 1 é.png"]
    assert find_images("~/*/*.png", tmp_path / "out") == [folder / "Bild 1 é.png"]
    assert find_images(str(folder / "Bild 1 é.png"), tmp_path / "out") == [folder / "Bild 1 é.png"]


def test_native_pictures_are_padded_to_whole_cells_of_the_network(pictures: Path) -> None:
    data = {"image_size": [64, 64], "in_channels": 3, "depth": "full"}
    for fit, size in (("native", (96, 96)), ("letterbox", (64, 64))):
        files = PictureFiles([pictures / "a/p9.jpg", pictures / "nowhere.jpg"], {**data, "fit": fit})  # 72 x 80, none
        batch, problems = CollatePictures(fit)([files[0], files[1]])
        assert batch is not None
        assert batch["image"].shape == (1, 3, *size)
        assert batch["size"].tolist() == [list(cv2.imread(str(pictures / "a/p9.jpg")).shape[:2])]
        assert [problem is None for problem in problems] == [True, False]


def test_list_keeps_its_order(pictures: Path, tmp_path: Path) -> None:
    wanted = [pictures / "p1.png", pictures / "a" / "p9.jpg"]
    assert find_images(wanted, tmp_path) == wanted


def test_licence_of_the_weights_travels_in_the_checkpoint_and_is_told_once(
    pictures: Path,
    classifier: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    weights = tmp_path / "w.safetensors"
    save_file(TransferClassifier(CLASSES, backbone="lcnet_050").network.state_dict(), weights, {"license": "mit"})
    task = TransferClassifier(CLASSES, backbone="lcnet_050", weights=str(weights))
    path = save(task, "classification", tmp_path / "best.ckpt")
    assert load_for_prediction(path, None, {}).licence == "mit (w.safetensors)"
    with caplog.at_level("INFO"):
        predict_images(path, pictures, tmp_path / "out", batch_size=2)
        predict_images(classifier, pictures, tmp_path / "random", batch_size=2)  # random weights have none
    said = capsys.readouterr().out + capsys.readouterr().err + caplog.text
    assert said.count("licence of the pretrained weights behind this checkpoint: mit (w.safetensors)") == 1
    assert said.count("licence of the pretrained") == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": "nowhere/*.jpg"}, "no picture is there"),
        ({"batch_size": 0}, "--batch_size is 0"),
        ({"num_workers": -1}, "--num_workers -1"),
        ({"device": "cuda:77"}, "--device cuda:77 is not available here"),
        ({"device": "fast"}, "--device fast is not available here"),
        ({"threshold": 0.3}, "--threshold has no meaning for this TransferClassifier"),
        ({"nms": 0.3}, "nms is not an argument of TransferClassifier"),
    ],
)
def test_wrong_arguments_are_one_sentence(
    classifier: Path, pictures: Path, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        predict_images(**{"ckpt_path": classifier, "images": pictures, "output": tmp_path / "out", **change})
    assert not (tmp_path / "out").exists()


def test_masks_have_the_size_of_the_originals(pictures: Path, tmp_path: Path) -> None:
    for fit in ("letterbox", "native"):
        task = SemanticSegmenter(["background", *CLASSES], **SMALL)
        path = save(task, "segmentation", tmp_path / f"{fit}.ckpt", fit=fit)
        out = predict_images(path, pictures, tmp_path / fit, batch_size=3)
        for name in ("a/p9", "a/p10", "b/p9.jpg", "b/p9.png", "p1"):
            mask = cv2.imread(str(out / "masks" / f"{name}.png"), cv2.IMREAD_UNCHANGED)
            file = next(p for p in pictures.rglob("*") if str(p.relative_to(pictures)).startswith(name))
            assert mask.shape[:2] == cv2.imread(str(file)).shape[:2]


def test_label_maps_and_objects_agree(pictures: Path, tmp_path: Path) -> None:
    task = InstanceSegmenter(CLASSES, **SMALL, border_threshold=0.9)
    out = predict_images(save(task, "instances", tmp_path / "i.ckpt"), pictures / "a", tmp_path / "out", threshold=0.2)
    coco = json.loads((out / "predictions.json").read_text())
    assert [Path(image["file_name"]).name for image in coco["images"]] == ["p9.jpg", "p10.jpg"]
    for image in coco["images"]:
        labels = cv2.imread(str(out / "labels" / f"{Path(image['file_name']).stem}.png"), cv2.IMREAD_UNCHANGED)
        found = [one for one in coco["annotations"] if one["image_id"] == image["id"]]
        assert labels.shape == (image["height"], image["width"])
        assert [one["area"] for one in found] == np.bincount(labels.ravel(), minlength=1)[1:].tolist()


@pytest.mark.parametrize("threshold", [1.5, -0.1])
def test_a_threshold_that_is_no_share_is_named_as_it_was_given(tmp_path: Path, threshold: float) -> None:
    task = YOLODetector(CLASSES, backbone="csp_n", neck="pan", head="anchor_free")
    path = save(task, "detection", tmp_path / "d.ckpt")
    with pytest.raises(UserError, match=rf"^--threshold is {threshold}; give a number from 0 to 1$"):
        predict_images(path, tmp_path, tmp_path / "out", threshold=threshold)


def test_threshold_of_the_detector_comes_from_the_user(pictures: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    task = YOLODetector(CLASSES, backbone="lcnet_050", strides=[8, 16], anchors="auto")
    path = save(task, "detection", tmp_path / "d.ckpt")
    few = predict_images(path, pictures / "a", tmp_path / "few")
    many = predict_images(path, pictures / "a", tmp_path / "many", threshold=0.001)
    scores = [[float(row[2]) for row in rows_of(out / "predictions.csv")[1:]] for out in (few, many)]
    assert len(scores[1]) > 0
    assert min(scores[1]) >= 0.001
    assert scores[0] == []  # untrained: nothing reaches the checkpoint's own 0.5
    for row in rows_of(many / "predictions.csv")[1:]:
        size = cv2.imread(row[0]).shape
        x1, y1, x2, y2 = map(float, row[3:])
        assert 0 <= x1 <= x2 <= size[1]
        assert 0 <= y1 <= y2 <= size[0]


def test_instances_in_tiles_have_all_files_and_the_originals_size(pictures: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    task = InstanceSegmenter(CLASSES, shared_encoder=True, min_area=1, pixel_threshold=0.2, **SMALL)
    path = save(task, "instances", tmp_path / "i.ckpt", fit="native")
    predict_images(path, pictures / "a", tmp_path / "out", tile=48, tta_flips=["horizontal"])
    for name in ("p9", "p10"):
        size = cv2.imread(str(pictures / "a" / f"{name}.jpg")).shape[:2]
        labels = read_label_map(tmp_path / "out" / "labels" / f"{name}.png")
        rows = [row for row in rows_of(tmp_path / "out" / "objects.csv")[1:] if Path(row[0]).stem == name]
        assert labels.shape == size
        assert [int(row[2]) for row in rows] == list(range(1, labels.max() + 1))
        assert [int(row[4]) for row in rows] == np.bincount(labels.ravel())[1:].tolist()
    kept = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert len(kept["annotations"]) == len(rows_of(tmp_path / "out" / "objects.csv")) - 1 > 0


def test_an_output_that_cannot_be_written_is_one_sentence(classifier: Path, pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    output = tmp_path / "file" / "output"
    said = re.escape(f"--output {output} cannot be written: Not a directory ({output}): name another folder")
    with pytest.raises(UserError, match=f"^{said}$"):
        predict_images(classifier, pictures, output, device="cpu")


def test_tiles_that_crop_would_cut_are_refused_before_anything_is_written(pictures: Path, tmp_path: Path) -> None:
    path = save(SemanticSegmenter(["background", "disc"], **SMALL), "segmentation", tmp_path / "best.ckpt", "crop")
    with pytest.raises(UserError, match=r"^model\.tile is 64, but fit: crop would not see all of a tile"):
        predict_images(path, pictures, tmp_path / "out", device="cpu", tile=64)
    assert not (tmp_path / "out").exists()


def test_whole_pictures_are_seen_with_a_checkpoint_made_for_tiles(pictures: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    task = SemanticSegmenter(["background", "disc"], tile=32, **SMALL)
    path, masks = save(task, "segmentation", tmp_path / "tiles.ckpt"), {}
    for name, words in (("tiles", []), ("whole", ["--tile", "0"])):
        where = ["--images", str(pictures / "p1.png"), "--output", str(tmp_path / name), "--device", "cpu"]
        assert main(["predict", "--ckpt_path", str(path), *where, *words]) == 0
        (mask,) = (tmp_path / name / "masks").glob("*.png")
        masks[name] = cv2.imread(str(mask), cv2.IMREAD_UNCHANGED)
    plain = SemanticSegmenter(["background", "disc"], **SMALL)
    plain.load_state_dict(task.state_dict())
    predict_images(save(plain, "segmentation", tmp_path / "plain.ckpt"), pictures / "p1.png", tmp_path / "plain")
    (mask,) = (tmp_path / "plain" / "masks").glob("*.png")
    assert (masks["whole"] == cv2.imread(str(mask), cv2.IMREAD_UNCHANGED)).all()
    assert (masks["whole"] != masks["tiles"]).any()  # negative control


def test_an_error_of_another_file_is_not_laid_to_the_output(tmp_path: Path) -> None:
    output = tmp_path / "out"
    own = [(output / "a.csv", UserError), (tmp_path, UserError), (None, UserError)]
    for file, kind in [(tmp_path / "shm", OSError), *own]:
        with pytest.raises(kind), _writing(output):
            raise OSError(28, "No space left on device", None if file is None else str(file))
