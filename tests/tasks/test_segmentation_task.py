"""SemanticSegmenter from pictures on disk to predictions in the original's pixels."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from quiet import quiet_trainer
from torch.optim import AdamW

from lit_vision.data.segmentation import SegmentationDataModule
from lit_vision.errors import UserError
from lit_vision.losses.segmentation import DiceLoss
from lit_vision.tasks.checkpoints import load_task
from lit_vision.tasks.segmentation import SemanticSegmenter

TINY: dict[str, Any] = {"encoder": "mobilenetv3_small_050", "decoder_args": {"decoder_channels": [24, 16, 16, 8, 8]}}
NAMES = ["ground", "red", "blue"]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight pictures of 48 x 64 with a red disc and a blue square; the last four rows are unknown."""
    root = tmp_path_factory.mktemp("squares")
    (root / "classes.json").write_text(json.dumps({"classes": NAMES}))
    rng = np.random.default_rng(0)
    for split, count in (("train", 6), ("val", 2)):
        for folder in ("images", "masks"):
            (root / folder / split).mkdir(parents=True)
        for i in range(count):
            image = rng.integers(90, 130, (48, 64, 3), dtype=np.uint8)
            mask = np.zeros((48, 64), np.uint8)
            y, x = rng.integers(12, 32), rng.integers(12, 22)
            cv2.circle(mask, (int(x), int(y)), 9, 1, -1)
            mask[y - 8 : y + 8, 36 + x // 4 : 54 + x // 4] = 2
            image[mask == 1], image[mask == 2] = (40, 40, 230), (230, 40, 40)  # OpenCV's BGR
            mask[44:] = 255
            cv2.imwrite(str(root / "images" / split / f"{i}.png"), image)
            cv2.imwrite(str(root / "masks" / split / f"{i}.png"), mask)
    return root


def data_module(root: Path, **settings: Any) -> SegmentationDataModule:
    common = {"image_size": 64, "batch_size": 3, "num_workers": 0, "augmentation": "none"}
    return SegmentationDataModule(str(root), **{**common, **settings})


def test_a_sample_is_letterboxed_with_unknown_padding(root: Path) -> None:
    data = data_module(root)
    sample = data.dataset("val")[0]
    assert sample["image"].shape == (3, 64, 64)
    assert sample["mask"].dtype == torch.int64
    padding = sample["mask"] == 255
    assert padding[:8].all()  # 48 x 64 in the middle of 64 x 64
    assert padding[52:].all()  # and the four rows that the file does not know
    assert not padding[8:52].any()
    assert set(sample["mask"][8:52].unique().tolist()) == {0, 1, 2}
    assert data.class_names == NAMES


def test_objects_become_classes_with_a_background(tmp_path: Path) -> None:
    labels = np.zeros((16, 16), np.uint16)
    labels[2:6, 2:6], labels[8:12, 8:12] = 1, 2
    for split in ("train", "val"):
        for folder, picture in (("images", np.zeros((16, 16, 3), np.uint8)), ("labels", labels)):
            (tmp_path / folder / split).mkdir(parents=True)
            cv2.imwrite(str(tmp_path / folder / split / f"{split}.png"), picture)
    data = data_module(tmp_path, image_size=16, check=False)
    assert len(data.class_names) == 2
    assert data.class_names[0] == "background"
    assert data.dataset("train")[0]["mask"].tolist() == (labels > 0).astype(int).tolist()


def test_learns_saves_loads_and_predicts(root: Path, tmp_path: Path) -> None:
    data = data_module(root)
    task = SemanticSegmenter(data.class_names, optimizer=partial(AdamW, lr=1e-2), **TINY)
    before = quiet_trainer().validate(task, data, verbose=False)[0]["val/miou"]
    fitted = quiet_trainer(max_steps=40, check_val_every_n_epoch=10**6)
    fitted.fit(task, data)
    after = quiet_trainer().validate(task, data, verbose=False)[0]
    assert before < 0.3
    assert after["val/miou"] > 0.8
    assert "val/iou/red" in after

    fitted.save_checkpoint(tmp_path / "last.ckpt")
    loaded = load_task(tmp_path / "last.ckpt")
    assert isinstance(loaded, SemanticSegmenter)
    batch = next(iter(data.val_dataloader()))
    with torch.no_grad():
        assert torch.equal(loaded(batch["image"]), task.eval()(batch["image"]))
        predictions = loaded.predict_step(batch, 0)
    truth = cv2.imread(str(root / "masks" / "val" / "0.png"), cv2.IMREAD_UNCHANGED)
    assert predictions[0]["mask"].shape == truth.shape == (48, 64)
    assert (predictions[0]["mask"].numpy() == truth)[truth != 255].mean() > 0.9
    assert 0 < predictions[0]["confidence"].min() <= predictions[0]["confidence"].max() <= 1


def test_predictions_are_in_the_original_frame_whatever_the_fit(root: Path) -> None:
    task = SemanticSegmenter(NAMES, **TINY).eval()
    for fit in ("letterbox", "stretch", "native", "crop"):
        batch = next(iter(data_module(root, fit=fit, image_size=(32, 64)).val_dataloader()))
        with torch.no_grad():
            predictions = task.predict_step(batch, 0)
        assert [tuple(p["mask"].shape) for p in predictions] == [(48, 64)] * 2


def test_native_prediction_is_the_network_s_own(root: Path) -> None:
    task = SemanticSegmenter(NAMES, **TINY).eval()
    batch = next(iter(data_module(root, fit="native").val_dataloader()))
    assert batch["image"].shape[-2:] == (64, 64)  # 48 rows padded to a multiple of 32
    with torch.no_grad():
        predictions, logits = task.predict_step(batch, 0), task(batch["image"])
    assert torch.equal(predictions[0]["mask"], logits[0, :, :48].argmax(0))


def test_padded_samples_are_not_counted(root: Path) -> None:
    task, data = SemanticSegmenter(NAMES, **TINY).eval(), data_module(root)
    task.log_loss = lambda *_: None  # type: ignore[method-assign]  # no trainer here
    batch = next(iter(data.val_dataloader()))
    with torch.no_grad():
        task.validation_step({**batch, "index": torch.tensor([0, -1])}, 0)
    assert int(task.metrics["val"].confusion.sum()) == 44 * 64


def test_the_encoder_is_found_under_its_name() -> None:
    task = SemanticSegmenter(NAMES, **TINY)
    ((prefix, backbone),) = task.backbones.items()
    assert task.get_submodule(prefix) is backbone


def test_a_loss_of_your_own_and_frozen_encoders(root: Path) -> None:
    task = SemanticSegmenter(NAMES, loss=DiceLoss(), freeze="backbone", **TINY)
    stem = next(task.network.backbone.parameters()).clone()
    quiet_trainer(max_steps=2, limit_val_batches=0).fit(task, data_module(root))
    assert isinstance(task.loss, DiceLoss)
    assert torch.equal(next(task.network.backbone.parameters()), stem)
    assert not any(p.requires_grad for p in task.network.backbone.parameters())


def test_one_class_is_refused() -> None:
    with pytest.raises(UserError, match="at least two classes, such as background and cell"):
        SemanticSegmenter(["cell"])
