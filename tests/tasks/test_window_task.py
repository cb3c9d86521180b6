"""SlidingWindowDetector: from a classifier's checkpoint to boxes in the original's pixels."""

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from quiet import quiet_trainer
from torch import Tensor, nn
from torch.optim import AdamW

from lit_vision.data.classification import ClassificationDataModule
from lit_vision.data.crops import ObjectCrops
from lit_vision.data.detection import DetectionDataModule
from lit_vision.errors import UserError
from lit_vision.networks.preprocess import Preprocess
from lit_vision.tasks import window_scores
from lit_vision.tasks.checkpoints import load_task
from lit_vision.tasks.classification import TransferClassifier
from lit_vision.tasks.detection import YOLODetector
from lit_vision.tasks.window_scores import WindowScores
from lit_vision.tasks.windows import SlidingWindowDetector

NAMES = ["bar", "disc"]
NARROW = {"channels": [8, 16, 24, 32], "stem_width": 8, "output_stride": 8, "zero_init_last": False}
WINDOWS: dict[str, Any] = {"window_sizes": [32], "stride": 0.25, "background": "background"}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """COCO data: 24 pictures to train and 6 to validate, 100 x 130 and 130 x 100, of 32-pixel objects on noise."""
    root = tmp_path_factory.mktemp("scenes")
    rng = np.random.default_rng(0)
    (root / "annotations").mkdir()
    for split, count in (("train", 24), ("val", 6)):
        (root / "images" / split).mkdir(parents=True)
        coco: dict[str, Any] = {"images": [], "annotations": [], "categories": []}
        coco["categories"] = [{"id": k + 1, "name": name} for k, name in enumerate(NAMES)]
        for i in range(count):
            height, width = ((100, 130), (130, 100))[i % 2]
            image = rng.integers(90, 130, (height, width, 3), dtype=np.uint8)
            for k, corner in enumerate([(4, 6), (60, 12), (12, 60)]):
                x, y = (int(value) for value in np.add(corner, rng.integers(0, 6, 2)))
                label = int((i + k) % 2)
                if label:
                    cv2.circle(image, (x + 16, y + 16), 15, (230, 60, 30), -1)
                else:
                    cv2.rectangle(image, (x, y), (x + 31, y + 31), (30, 60, 230), -1)
                row = {"id": len(coco["annotations"]) + 1, "image_id": i + 1, "category_id": label + 1, "iscrowd": 0}
                coco["annotations"].append({**row, "bbox": [x, y, 32, 32], "area": 1024})
            coco["images"].append({"id": i + 1, "file_name": f"{i}.png", "height": height, "width": width})
            cv2.imwrite(str(root / "images" / split / f"{i}.png"), image)
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(coco))
    return root


@pytest.fixture(scope="module")
def checkpoint(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier of the objects and the background, trained on their crops."""
    torch.manual_seed(0)
    data = ClassificationDataModule(
        str(root), ObjectCrops(background=6, jitter=0.12), image_size=32, fit="stretch", batch_size=24, num_workers=0,
        augmentation="none",
    )  # fmt: skip
    task = TransferClassifier(
        data.class_names, backbone="resnet10t", backbone_args=NARROW, optimizer=partial(AdamW, lr=5e-3)
    )
    run = quiet_trainer(max_epochs=12, check_val_every_n_epoch=12)
    run.fit(task, data)
    assert float(run.callback_metrics["val/accuracy"]) > 0.85
    path = tmp_path_factory.mktemp("classifier") / "best.ckpt"
    run.save_checkpoint(path)
    return path


def pictures(root: Path, **settings: Any) -> DetectionDataModule:
    return DetectionDataModule(str(root), **{"fit": "native", "batch_size": 2, "num_workers": 0, **settings})


def measured(task: SlidingWindowDetector, data: DetectionDataModule) -> dict[str, float]:
    (values,) = quiet_trainer().test(task, data, verbose=False)
    return {name: float(value) for name, value in values.items()}


def test_a_classifier_finds_objects_on_unseen_pictures(root: Path, checkpoint: Path) -> None:
    task = SlidingWindowDetector(NAMES, str(checkpoint), **WINDOWS)
    values = measured(task, pictures(root))
    assert values["test/map_50"] > 0.8
    assert {"test/map", "test/map_75", "test/ap/bar", "test/ap/disc", "test/ms_per_picture"} <= set(values)
    # ceil((130 - 32) / 8) + 1 by ceil((100 - 32) / 8) + 1
    assert values["test/windows_per_picture"] == 14 * 10

    task.columns = task.columns[::-1]  # the control: bars taken for discs
    assert measured(task, pictures(root))["test/map_50"] < 0.3


def test_the_metrics_count_as_many_detections_as_are_asked_for(checkpoint: Path) -> None:
    task = SlidingWindowDetector(NAMES, str(checkpoint), max_detections=300, **WINDOWS)
    assert [metric.max_detections for metric in task.metrics.values()] == [300, 300]


def test_votes_move_a_box_from_its_window_to_the_object(root: Path, checkpoint: Path) -> None:
    alone: dict[str, Any] = {**WINDOWS, "method": "crops"}
    plain = measured(SlidingWindowDetector(NAMES, str(checkpoint), **alone), pictures(root))
    voted = measured(SlidingWindowDetector(NAMES, str(checkpoint), **alone, vote=0.5), pictures(root))
    assert voted["test/map"] > plain["test/map"] + 0.1


def test_both_methods_see_the_same_windows_and_nearly_the_same_in_them(root: Path, checkpoint: Path) -> None:
    image = cv2.imread(str(root / "images" / "val" / "0.png"))[:, :, ::-1].copy()
    more = {**WINDOWS, "window_sizes": [24, 40, 0.5], "ratios": [1, 2]}
    found = {}
    for method in ("convolutional", "crops"):
        task = SlidingWindowDetector(NAMES, str(checkpoint), **more, method=method, rescore=0).eval()  # type: ignore[arg-type]
        with torch.inference_mode():
            found[method] = task(image)
    boxes, scores = zip(*found.values(), strict=True)
    assert torch.equal(*boxes)
    assert scores[0].shape == scores[1].shape
    both = torch.stack([one.flatten() for one in scores])
    assert float(torch.corrcoef(both)[0, 1]) > 0.6  # 32 pixels are nearly all border
    assert not torch.equal(*scores)  # at the border of a window the convolutions see the neighbours, or nothing


def test_the_most_promising_windows_are_computed_by_themselves(root: Path, checkpoint: Path) -> None:
    image = cv2.imread(str(root / "images" / "val" / "0.png"))[:, :, ::-1].copy()
    more = {**WINDOWS, "window_sizes": [24, 40]}

    def scored(**changes: Any) -> Tensor:
        with torch.inference_mode():
            scores = SlidingWindowDetector(NAMES, str(checkpoint), **more, **changes).eval()(image)[1]
        assert isinstance(scores, Tensor)
        return scores

    shared, exact, some = scored(rescore=0), scored(method="crops"), scored(rescore=0.1)
    count = int(np.ceil(0.1 * len(shared)))
    best = shared.amax(1).topk(count).indices
    torch.testing.assert_close(some[best], exact[best])
    assert int((some.amax(1) > 0).sum()) == count
    assert not torch.allclose(some[best], shared[best], atol=1e-3)
    torch.testing.assert_close(scored(rescore=1), exact)


@pytest.mark.parametrize("multi_label", [False, True])
def test_a_sure_classifier_computes_no_more_windows_by_themselves(
    multi_label: bool, root: Path, checkpoint: Path
) -> None:
    """Where nearly every probability is rounded to 0, all windows would be among the best."""
    image = cv2.imread(str(root / "images" / "val" / "0.png"))[:, :, ::-1].copy()
    task = SlidingWindowDetector(NAMES, str(checkpoint), **WINDOWS, rescore=0.1).eval()
    task.multi_label, plain = multi_label, task.scores.forward
    with torch.inference_mode():
        (grid,) = task.scores.grids((image.shape[0], image.shape[1]), [32], [1], WINDOWS["stride"])
        logits = plain(image, grid) - torch.tensor([1e3, 1e3, 0.0])  # "background" comes last
        task.scores.forward = lambda *_: logits  # type: ignore[method-assign]
        alone: list[int] = []
        one_by_one = task.scores.one_by_one
        task.scores.one_by_one = lambda picture, boxes: alone.append(len(boxes)) or one_by_one(picture, boxes)  # type: ignore[func-returns-value,method-assign]
        scores = task(image)[1]
    assert float(task._probabilities(logits).max()) == 0
    assert alone == [int(np.ceil(0.1 * len(logits)))]
    order = (logits if multi_label else logits - logits[:, 2:])[:, :2].amax(1)  # of the background beside them
    assert set(scores.amax(1).nonzero().flatten().tolist()) == set(order.topk(*alone).indices.tolist())


class Pixels(nn.Module):
    """A network whose features are those of single pixels: windows have no border. Weights are whole numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Conv2d(3, 4, 1), nn.Linear(4, 3)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randint(-2, 3, parameter.shape, generator=torch.Generator().manual_seed(1)))

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.body(images).relu().mean((2, 3)))  # type: ignore[no-any-return]


def exact(method: str, fit: str = "stretch", size: Sequence[int] = (16, 8)) -> WindowScores:
    data = {"image_size": list(size), "fit": fit}
    return WindowScores(Pixels().eval(), Preprocess([0.0] * 3, [1 / 255] * 3), data, method)  # type: ignore[arg-type]


@pytest.mark.parametrize("canvas", [window_scores.CANVAS, 1000])
@pytest.mark.parametrize("fit", ["stretch", "letterbox", "crop"])
def test_without_a_border_both_methods_are_equal_to_the_bit(
    fit: str, canvas: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where windows stick out, and where the picture goes through in strips."""
    monkeypatch.setattr(window_scores, "CANVAS", canvas)
    picture = np.random.default_rng(0).integers(0, 256, (53, 71, 3), dtype=np.uint8)
    together, alone = exact("auto", fit), exact("crops", fit)
    (grid,) = together.grids((53, 71), [128**0.5], [0.5], 5)
    assert grid == alone.grids((53, 71), [128**0.5], [0.5], 5)[0]
    assert (grid.window, grid.step, grid.count, grid.origin) == ((16, 8), (5, 5), (9, 14), (-1, -1))
    calls = []
    together.network.register_forward_hook(lambda *_: calls.append(1))
    scores = together(picture, grid)
    assert len(calls) == (1 if canvas > 1000 else 9)  # and not one for each of the windows
    assert torch.equal(scores, alone(picture, grid))
    assert scores.shape == (9 * 14, 3)
    assert scores.std() > 1


def test_windows_that_are_padded_or_cut_are_computed_one_by_one() -> None:
    assert exact("auto", "stretch").shared_size((30, 30)) == (16, 8)
    assert exact("auto", "letterbox").shared_size((30, 30)) is None
    assert exact("auto", "letterbox").shared_size((30, 15)) == (16, 8)
    native = exact("auto", "native", (32, 32))
    assert native.shared_size((64, 96)) == (64, 96)
    assert native.shared_size((60, 96)) is None  # padded to 64
    picture = np.random.default_rng(0).integers(0, 256, (96, 128, 3), dtype=np.uint8)
    (grid,) = native.grids((96, 128), [64], [1], 16)
    assert torch.equal(native(picture, grid), exact("crops", "native", (32, 32))(picture, grid))


def test_the_checkpoint_needs_no_other_file(root: Path, checkpoint: Path, tmp_path: Path) -> None:
    moved = tmp_path / "classifier.ckpt"
    moved.write_bytes(checkpoint.read_bytes())
    task = SlidingWindowDetector(NAMES, str(moved), **WINDOWS, vote=0.6)
    run = quiet_trainer()
    expected = [one for batch in run.predict(task, pictures(root)) or [] for one in batch]
    run.save_checkpoint(tmp_path / "detector.ckpt", weights_only=True)
    moved.unlink()
    loaded = load_task(tmp_path / "detector.ckpt")
    assert isinstance(loaded, SlidingWindowDetector)
    assert (loaded.vote, loaded.columns, loaded.scores.image_size) == (0.6, [0, 1], (32, 32))
    found = [one for batch in quiet_trainer().predict(loaded, pictures(root)) or [] for one in batch]
    assert len(found) == 6
    assert sum(len(one["boxes"]) for one in found) >= 9
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one["boxes"], other["boxes"])
        torch.testing.assert_close(one["scores"], other["scores"])


@pytest.mark.parametrize(("fit", "size"), [("native", 32), ("letterbox", 130), ("stretch", 115)])
def test_boxes_are_in_pixels_of_the_original(root: Path, checkpoint: Path, fit: str, size: int) -> None:
    data = pictures(root, fit=fit, image_size=size)
    assert measured(SlidingWindowDetector(NAMES, str(checkpoint), **WINDOWS), data)["test/map_50"] > 0.6
    for batch in quiet_trainer().predict(SlidingWindowDetector(NAMES, str(checkpoint), **WINDOWS), data) or []:
        for one in batch:
            assert bool((one["boxes"] >= 0).all() and (one["boxes"] <= 130).all())
            assert one["scores"].tolist() == sorted(one["scores"].tolist(), reverse=True)


def test_objects_are_as_large_as_in_the_file(root: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At 90 pixels an object of 32 x 32 has sides of 22.15: rounded, it would be small or medium by chance."""
    monkeypatch.setattr(SlidingWindowDetector, "log_dict", lambda *_, **__: None)
    task = SlidingWindowDetector(NAMES, str(checkpoint), **WINDOWS).eval()
    for batch in pictures(root, fit="letterbox", image_size=90).val_dataloader():
        task._evaluate(batch, task.metrics["val"], "val")  # type: ignore[arg-type]
    assert torch.cat(task.metrics["val"].truth_area).tolist() == [1024.0] * 18  # type: ignore[arg-type]


def test_a_box_is_the_window_without_the_margin_of_the_crops(root: Path, tmp_path: Path) -> None:
    data = ClassificationDataModule(str(root), ObjectCrops(margin=0.5), image_size=32, fit="stretch", num_workers=0)
    task = TransferClassifier(data.class_names, backbone="resnet10t", backbone_args=NARROW)
    run = quiet_trainer(max_epochs=1, limit_train_batches=1, limit_val_batches=0)
    run.fit(task, data)
    run.save_checkpoint(tmp_path / "margin.ckpt")
    detector = SlidingWindowDetector(NAMES, str(tmp_path / "margin.ckpt"), [64.0], background="background").eval()
    with torch.inference_mode():
        boxes, _ = detector(np.zeros((64, 64, 3), np.uint8))
    assert boxes.tolist() == [[16, 16, 48, 48]]


def test_letterbox_padding_has_no_windows(checkpoint: Path) -> None:
    task = SlidingWindowDetector(NAMES, str(checkpoint), **WINDOWS).eval()
    batch = {  # a picture of 40 x 80 in the middle of 64 x 96
        "image": torch.full((1, 3, 64, 96), 114, dtype=torch.uint8),
        "frame": torch.tensor([[[1.0, 0, 8], [0, 1.0, 12]]]),
        "size": torch.tensor([[40, 80]]),
    }
    with torch.inference_mode():
        boxes, _ = task._windows(batch, 0)  # type: ignore[arg-type]
    assert boxes[0].tolist() == [0, 0, 32, 32]
    assert boxes[-1].tolist() == [48, 8, 80, 40]
    assert len(boxes) == 2 * 7


def test_small_pictures_have_windows_of_their_own_size(checkpoint: Path) -> None:
    task = SlidingWindowDetector(NAMES, str(checkpoint), **{**WINDOWS, "window_sizes": [64, 200]}).eval()
    with torch.inference_mode():
        boxes, scores = task(np.zeros((20, 30, 3), np.uint8))
    assert boxes.tolist() == [[0, 0, 30, 20]]
    assert scores.shape == (1, 2)


def test_classes_are_matched_by_name(checkpoint: Path, caplog: pytest.LogCaptureFixture) -> None:
    task = SlidingWindowDetector(["ring", "disc"], str(checkpoint), **{**WINDOWS, "background": None}).eval()
    assert task.columns == [-1, 1]
    assert "the classifier does not know ring: never found" in caplog.text
    assert "the data has no bar, background" in caplog.text
    with torch.inference_mode():
        _, scores = task(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    assert scores[:, 0].tolist() == [0.0] * len(scores)
    assert float(scores[:, 1].max()) > 0


def test_several_labels_stand_each_on_its_own(tmp_path: Path) -> None:
    torch.manual_seed(0)
    task = TransferClassifier(NAMES, backbone="resnet10t", backbone_args=NARROW, multi_label=True)
    task.data = {"task": "classification", "image_size": [32, 32], "fit": "stretch", "in_channels": 3, "depth": "full"}
    run = quiet_trainer()
    run.strategy.connect(task)
    run.save_checkpoint(tmp_path / "several.ckpt", weights_only=True)
    detector = SlidingWindowDetector(NAMES, str(tmp_path / "several.ckpt"), [32.0]).eval()
    image = np.zeros((32, 32, 3), np.uint8)
    with torch.inference_mode():
        _, scores = detector(image)
        expected = task.eval()(torch.zeros(1, 3, 32, 32)).sigmoid()
    torch.testing.assert_close(scores, expected)


def test_faults_are_named(root: Path, checkpoint: Path, tmp_path: Path) -> None:
    def refused(match: str, names: Sequence[str] = NAMES, path: Path = checkpoint, **changes: Any) -> None:
        with pytest.raises(UserError, match=match):
            SlidingWindowDetector(names, str(path), **{**WINDOWS, **changes})

    refused(r"window_sizes is \[\]: give at least one side", window_sizes=[])
    refused("window_sizes is", window_sizes=[32, -1])
    refused("stride 0", stride=0)
    refused("nms_threshold is 2", nms_threshold=2)
    refused("max_detections is 0", max_detections=0)
    refused("'sky', no class of the classifier: the classifier knows bar, disc, background", background="sky")
    refused("'disc', a class of the data's objects", background="disc")
    refused("has none of them", names=["cat"], background=None)
    refused("takes 3 channels: set data.in_channels", in_channels=1)
    refused("does not exist", path=tmp_path / "none.ckpt")
    run, task = quiet_trainer(), YOLODetector(NAMES, architecture="yolov3-tiny")
    run.strategy.connect(task)
    run.save_checkpoint(tmp_path / "yolo.ckpt", weights_only=True)
    refused("is of a YOLODetector: give a checkpoint of a TransferClassifier", path=tmp_path / "yolo.ckpt")
    with pytest.raises(UserError, match="nothing to train"):
        quiet_trainer(max_epochs=1).fit(SlidingWindowDetector(NAMES, str(checkpoint), **WINDOWS), pictures(root))
    with pytest.raises(UserError, match=r"data\.depth is stretch, but the classifier was trained with full"):
        quiet_trainer().test(
            SlidingWindowDetector(NAMES, str(checkpoint), **WINDOWS), pictures(root, depth="stretch"), verbose=False
        )


def test_networks_of_another_kind_are_run_window_by_window(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    task = TransferClassifier(NAMES, backbone="test_vit")
    task.data = {"task": "classification", "image_size": [160, 160], "fit": "stretch", "in_channels": 3}
    run = quiet_trainer()
    run.strategy.connect(task)
    run.save_checkpoint(tmp_path / "vit.ckpt", weights_only=True)
    with pytest.raises(UserError, match="convolutional, but VisionTransformer looks at the whole picture"):
        SlidingWindowDetector(NAMES, str(tmp_path / "vit.ckpt"), [40.0], method="convolutional")
    detector = SlidingWindowDetector(NAMES, str(tmp_path / "vit.ckpt"), [40.0], stride=0.3).eval()
    assert "one by one where they cannot be together: VisionTransformer looks" in caplog.text
    with torch.inference_mode():
        boxes, scores = detector(np.zeros((40, 64, 3), np.uint8))
    assert boxes[:, 0].tolist() == [0, 12, 24]  # any whole pixel will do
    assert scores.shape == (3, 2)
