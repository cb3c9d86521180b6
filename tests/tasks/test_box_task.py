"""From the network's outputs to boxes: tiles, views, thresholds, the folded copy."""

import json
import shutil
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import pytest
import torch
from quiet import quiet_trainer
from scipy import ndimage
from tiny import command, write_experiment
from torch import Tensor, nn

from lit_vision.data.detection import DetectionDataModule
from lit_vision.errors import UserError
from lit_vision.metrics.detection import MeanAveragePrecision
from lit_vision.ops.grid import Decoded
from lit_vision.predict import load_for_prediction, predict_images
from lit_vision.tasks.checkpoints import load_task
from lit_vision.tasks.detection import YOLODetector
from lit_vision.types import UInt8Array

NAMES = ["dim", "bright"]
SMALL: dict[str, Any] = {"backbone": "lcnet_050", "strides": [8], "width": 32, "anchors": "auto"}


class Finder(nn.Module):
    """In place of a network: boxes round what is not dark, of the class of its brightness; surer of larger things."""

    coarsest = 32
    shown: ClassVar[list[tuple[int, ...]]] = []  # what copies were shown, too

    def forward(self, images: Tensor) -> list[Tensor]:
        self.shown.append(tuple(images.shape))
        return [images.clone()]

    def decode_above(self, outputs: list[Tensor], threshold: float) -> list[Decoded]:
        return [self.find(image.float().mean(0).numpy()) for image in outputs[0]]

    @staticmethod
    def find(grey: Any) -> Decoded:
        regions, _ = ndimage.label((grey > 0.25) & (np.abs(grey - 114 / 255) > 0.02))  # 114 is the padding
        rows = []
        for k, where in enumerate(ndimage.find_objects(regions), start=1):
            y, x = where
            level = float(np.median(grey[where][regions[where] == k]))
            area = (y.stop - y.start) * (x.stop - x.start)
            if min(y.stop - y.start, x.stop - x.start) > 1:  # else a pixel of a blurred edge
                rows.append([x.start, y.start, x.stop, y.stop, 0.6 + min(area / 1e4, 0.3), level < 0.8, level >= 0.8])
        found = torch.tensor(rows, dtype=torch.float32).view(-1, 7)
        return Decoded(found[:, :4], found[:, 4], found[:, 5:])


def detector(fit: str = "letterbox", image_size: int = 128, **settings: Any) -> YOLODetector:
    task = YOLODetector(NAMES, **SMALL, **settings).eval()
    task.network = Finder()
    Finder.shown.clear()
    task.data = {"task": "detection", "image_size": [image_size, image_size], "fit": fit}
    return task


def scene(height: int, width: int, seed: int = 0) -> tuple[UInt8Array, Tensor, Tensor]:
    """Rectangles of two brightnesses on black, some beyond a tile's border, none near another."""
    rng = np.random.default_rng(seed)
    image, boxes, labels = np.zeros((height, width, 3), np.uint8), [], []
    for x in range(4, width - 50, 60):
        for y in range(4, height - 50, 60):
            w, h = rng.integers(16, 46, 2).tolist()
            label = int(rng.integers(2))
            image[y : y + h, x : x + w] = (180, 255)[label]
            boxes.append([x, y, x + w, y + h])
            labels.append(label)
    return image, torch.tensor(boxes).float(), torch.tensor(labels)


def assert_found(prediction: Any, boxes: Tensor, labels: Tensor, pixels: float) -> None:
    """Each object once, and nothing else."""
    assert len(prediction["boxes"]) == len(boxes)
    distance = (prediction["boxes"][:, None] - boxes[None]).abs().amax(2)
    nearest = distance.argmin(1)
    assert sorted(nearest.tolist()) == list(range(len(boxes)))
    assert float(distance.amin(1).max()) <= pixels
    assert torch.equal(prediction["labels"], labels[nearest])
    assert prediction["scores"].tolist() == sorted(prediction["scores"].tolist(), reverse=True)


@torch.inference_mode()
@pytest.mark.parametrize(
    ("fit", "tile", "overlap", "shape"),
    [
        ("letterbox", 256, 0.25, (8, 3, 128, 128)),
        ("stretch", 300, 0.2, (8, 3, 128, 128)),
        ("native", 200, 0.3, (8, 3, 224, 224)),  # padded to whole cells of the network
        ("letterbox", 2000, 0.25, (1, 3, 128, 128)),  # larger than the picture
    ],
)
def test_tiles_find_every_object_once_and_whole(fit: str, tile: int, overlap: float, shape: tuple[int, ...]) -> None:
    task = detector(fit, tile=tile, tile_overlap=overlap, image_size=1024 if tile == 2000 else 128, max_detections=500)
    image, boxes, labels = scene(700, 900)
    assert_found(task.predict_whole(image), boxes, labels, pixels=0.0 if fit == "native" else 4.0)
    batches = Finder.shown[2:]  # the first two are of one picture, to fold the network
    assert batches[0] == (shape if tile != 2000 else (1, 3, 1024, 1024))
    assert max(one[0] for one in batches) <= 8  # whatever the picture


@torch.inference_mode()
@pytest.mark.parametrize(("height", "width"), [(60, 90), (60, 700), (1, 1)])
def test_pictures_smaller_than_a_tile(height: int, width: int) -> None:
    task = detector(tile=256)
    image = np.zeros((height, width, 3), np.uint8)
    image[10:40, 20:60] = 255
    found = task.predict_whole(image)
    if height == 1:
        assert len(found["boxes"]) == 0
    else:
        assert_found(found, torch.tensor([[20.0, 10.0, 60.0, 40.0]]), torch.tensor([1]), pixels=3.0)


@torch.inference_mode()
def test_an_object_longer_than_a_tile_comes_out_once() -> None:
    image = np.zeros((300, 1000, 3), np.uint8)
    image[100:160, 50:950] = 255
    found = detector(tile=256).predict_whole(image)
    assert_found(found, torch.tensor([[50.0, 100.0, 950.0, 160.0]]), torch.tensor([1]), pixels=3.0)


def as_batch(image: UInt8Array, task: YOLODetector) -> Any:
    size = image.shape[:2]
    frame = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    picture = torch.from_numpy(image).permute(2, 0, 1)
    return {"image": picture[None], "index": torch.tensor([0]), "frame": frame[None], "size": torch.tensor([size])}


@torch.inference_mode()
@pytest.mark.parametrize("flips", [[], ["horizontal"], ["horizontal", "vertical"]])
def test_views_agree_on_one_box_per_object(flips: list[Any]) -> None:
    image, boxes, labels = scene(320, 448)
    task = detector(tta_scales=[0.8, 1.0, 1.25], tta_flips=flips)
    (found,) = task.predict_step(as_batch(image, task), 0)
    assert_found(found, boxes, labels, pixels=3.0)
    assert [one[2:] for one in Finder.shown[2 :: 1 + len(flips)]] == [(256, 352), (320, 448), (384, 576)]
    assert len(Finder.shown) == 2 + 3 * (1 + len(flips))


@torch.inference_mode()
def test_views_are_seen_in_tiles_too() -> None:
    image, boxes, labels = scene(500, 500)
    task = detector(tta_flips=["vertical"], tile=256)
    assert_found(task.predict_whole(image), boxes, labels, pixels=4.0)
    assert len(Finder.shown) == 2 + 2 * 2  # nine tiles in two batches


# --- thresholds -------------------------------------------------------------------------------------------------
@torch.inference_mode()
@torch.inference_mode()
def test_pictures_at_their_own_scale_are_padded_for_networks_of_long_strides() -> None:
    image, boxes, labels = scene(96, 160)
    task = detector("native")
    task.network.coarsest = 64
    assert_found(task.predict_step(as_batch(image, task), 0)[0], boxes, labels, 0.0)
    assert set(Finder.shown) == {(1, 3, 128, 192)}


def test_validate_says_which_views_it_leaves_out(drawn: Path, caplog: pytest.LogCaptureFixture) -> None:
    settings: dict[str, Any] = {"image_size": 64, "num_workers": 0, "missing_classes": "note"}
    data = DetectionDataModule(str(drawn / "detection"), **settings)
    task = YOLODetector(data.class_names, **SMALL, tta_flips=["horizontal"], tile=32)
    with caplog.at_level("INFO"):
        quiet_trainer(max_epochs=1, limit_train_batches=1, limit_val_batches=1).fit(task, data)
        quiet_trainer(limit_test_batches=1).test(task, data, verbose=False)
        assert "takes no notice" not in caplog.text
        quiet_trainer(limit_val_batches=1).validate(task, data, verbose=False)
    assert "validate takes no notice of model.tta_flips and model.tile: test and predict do" in caplog.messages


def test_auto_takes_the_thresholds_of_the_classes() -> None:
    image, _, labels = scene(320, 448)
    task = detector(score_threshold="auto", objectness_threshold=0.9)
    with pytest.raises(UserError, match="before a validation had found the thresholds"):
        task.predict_step(as_batch(image, task), 0)
    task.class_thresholds = [0.99, 0.1]
    (found,) = task.predict_step(as_batch(image, task), 0)
    assert len(found["labels"]) == int((labels == 1).sum())  # although no objectness is above 0.9
    assert set(found["labels"].tolist()) == {1}
    with pytest.raises(UserError, match=r"model.score_threshold is 2.0; give a number from 0 to 1, or auto"):
        detector(score_threshold=2.0)


@pytest.fixture(scope="module")
def fitted(drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Two epochs of the command line."""
    folder = tmp_path_factory.mktemp("fitted")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("LIT_VISION_RUN_DIR", raising=False)
        model = {"evaluation_threshold": 0.0001, "objectness_threshold": 0.0001, "score_threshold": 0.001}
        experiment = write_experiment(folder / "boxes.yaml", "detection", drawn, max_epochs=2, model=model)
        done = command("fit", experiment)
        return experiment, done, (done.folder.checkpoints / "last.ckpt").absolute()


def test_thresholds_of_the_validation_travel_and_are_written(fitted: Any, workspace: Path, drawn: Path) -> None:
    experiment, done, file = fitted
    thresholds = load_task(file).class_thresholds
    assert thresholds == done.model.class_thresholds
    assert thresholds is not None
    assert len(thresholds) == done.model.num_classes
    written = json.loads((file.parent.parent / "thresholds.json").read_text())
    assert list(written["classes"]) == done.model.class_names
    shown = [row["threshold"] for row in written["classes"].values()]
    assert shown == pytest.approx(thresholds, abs=1e-6)
    assert "val/f1" in done.metrics
    assert not [name for name in done.metrics if "threshold" in name]

    again = command("validate", experiment, "--ckpt_path", str(file))
    assert json.loads((again.folder.path / "validate" / "thresholds.json").read_text())["classes"] == written["classes"]
    tested = command("test", experiment, "--ckpt_path", str(file))
    assert tested.model.metrics["test"].thresholds == thresholds
    assert "test/f1" in tested.metrics
    for run, stage in ((file.parent.parent, "val"), (again.folder.path, "val"), (tested.folder.path, "test")):
        pictures = {path.name for path in (run / "pictures").iterdir()}
        assert {f"confusion_{stage}.png", f"precision_recall_{stage}.png"} <= pictures
    counts = tested.model.metrics["test"].confusion
    assert counts.shape == (len(written["classes"]) + 1,) * 2
    assert counts[:-1].sum() > 0  # the objects

    task = load_for_prediction(file, "auto", {})
    assert (task.score_threshold, task.objectness_threshold) == ("auto", 0.0001)  # type: ignore[attr-defined]
    picture = next((drawn / "detection").rglob("*.jpg"))
    out = predict_images(file, picture, workspace / "out", threshold="auto")
    found = json.loads((out / "predictions.json").read_text())["annotations"]
    names = {row["id"]: row["name"] for row in json.loads((out / "predictions.json").read_text())["categories"]}
    for one in found:
        assert one["score"] > written["classes"][names[one["category_id"]]]["threshold"] - 1e-5
    assert load_for_prediction(file, 0.4, {}).score_threshold == 0.4  # type: ignore[attr-defined]
    both: Any = load_for_prediction(file, 0.2, {"objectness_threshold": 0.9})
    assert (both.score_threshold, both.objectness_threshold) == (0.2, 0.9)  # what is given stays


def test_the_batches_before_a_training_give_no_thresholds(drawn: Path) -> None:
    data = DetectionDataModule(str(drawn / "detection"), image_size=64, batch_size=4, num_workers=0)
    task = YOLODetector(data.class_names, **{**SMALL, "evaluation_threshold": 0.0})
    settings: dict[str, Any] = {"max_epochs": 1, "limit_train_batches": 1, "num_sanity_val_steps": 1}
    quiet_trainer(**settings, check_val_every_n_epoch=2).fit(task, data)
    assert cast(MeanAveragePrecision, task.metrics["val"]).points is not None
    assert task.class_thresholds is None
    quiet_trainer(**settings).fit(task, data)
    assert task.class_thresholds is not None


def test_auto_without_a_validation_leaves_no_results_behind(workspace: Path, drawn: Path) -> None:
    task = YOLODetector(NAMES, **SMALL)
    task.data = {"task": "detection", "image_size": [64, 64], "fit": "letterbox", "in_channels": 3, "depth": "full"}
    trainer = quiet_trainer()
    trainer.strategy.connect(task)
    trainer.save_checkpoint(workspace / "unvalidated.ckpt")
    with pytest.raises(UserError, match="before a validation had found the thresholds"):
        predict_images(workspace / "unvalidated.ckpt", drawn, workspace / "nothing", threshold="auto")
    assert not (workspace / "nothing").exists()


def test_auto_is_for_detectors_only(workspace: Path, drawn: Path) -> None:
    experiment = write_experiment(workspace / "masks.yaml", "instances", drawn)
    file = command("fit", experiment).folder.checkpoints / "last.ckpt"
    with pytest.raises(UserError, match="--threshold auto has no meaning for this InstanceSegmenter"):
        predict_images(file, drawn, workspace / "out", threshold="auto")


# --- evaluation -------------------------------------------------------------------------------------------------
def test_one_tile_that_holds_the_picture_gives_the_metrics_of_the_whole(fitted: Any, workspace: Path) -> None:
    experiment, file = fitted[0], str(fitted[2])
    whole = command("test", experiment, "--ckpt_path", file).metrics
    tiled = command("test", experiment, "--ckpt_path", file, "--model.tile", "64").metrics
    assert {name for name in whole if "loss" not in name} == set(tiled)
    both = [{name: one[name] for name in tiled if name != "test/ms_per_picture"} for one in (whole, tiled)]
    assert both[1] == pytest.approx(both[0], abs=1e-6)
    small = command("test", experiment, "--ckpt_path", file, "--model.tile", "40").metrics
    assert small["test/f1"] != whole["test/f1"]


def test_a_test_of_the_folded_network_measures_what_a_validation_of_the_plain_one_does(
    fitted: Any, workspace: Path
) -> None:
    """And its predictions are the same."""
    experiment, file = fitted[0], str(fitted[2])
    options = ("--ckpt_path", file, "--data.root", str(same_splits(workspace, fitted[1].datamodule.root)))
    validated, tested = command("validate", experiment, *options), command("test", experiment, *options)
    assert tested.model._inference._copy is not None
    assert validated.model._inference._copy is None
    assert 0 < tested.metrics["test/ms_per_picture"] < 10_000
    measured = {k: v for k, v in tested.metrics.items() if k not in ("test/f1", "test/ms_per_picture")}
    expected = {name: validated.metrics[name.replace("test/", "val/")] for name in measured}
    # Scores of a network that is hardly trained are nearly equal: rounding exchanges some of them.
    assert measured == pytest.approx(expected, rel=1e-4, abs=1e-3)
    assert measured["test/map"] > -1


def same_splits(folder: Path, root: Path) -> Path:
    """The data set with the pictures of its validation to be tested."""
    shutil.copytree(root, folder / "same")
    for name in ("images/test", "annotations/instances_test.json"):
        place = folder / "same" / name
        shutil.rmtree(place) if place.is_dir() else place.unlink()
        source = folder / "same" / name.replace("test", "val")
        shutil.copytree(source, place) if source.is_dir() else shutil.copy(source, place)
    return folder / "same"


def test_predictions_in_bf16_are_rounded_ones(fitted: Any, workspace: Path, drawn: Path) -> None:
    file, picture = fitted[2], next((drawn / "detection").rglob("*.jpg"))
    scores = {}
    for precision in ("32", "bf16"):
        out = predict_images(file, picture, workspace / precision, threshold=0.001, precision=precision)
        scores[precision] = [row["score"] for row in json.loads((out / "predictions.json").read_text())["annotations"]]
    assert len(scores["32"]) > 0
    assert max(scores["bf16"]) == pytest.approx(max(scores["32"]), rel=0.1)
    assert scores["bf16"] != scores["32"]
    with pytest.raises(UserError, match="--precision is half"):
        predict_images(file, picture, workspace / "out", precision="half")


def test_what_is_given_empty_is_not_taken_for_left_out() -> None:
    with pytest.raises(UserError, match="mean has 0 values and std 3"):
        YOLODetector(["a"], **SMALL, mean=[])
    with pytest.raises(UserError, match=r"tiles need model\.tile"):
        YOLODetector(["a"], **SMALL).predict_whole(np.zeros((8, 8, 3), np.uint8))
