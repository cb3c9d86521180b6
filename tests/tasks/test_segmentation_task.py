"""SemanticSegmenter from pictures on disk to predictions in the original's pixels."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from quiet import quiet_trainer
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import AdamW

from lit_vision.callbacks.unfreezing import ProgressiveUnfreezing
from lit_vision.data.decode import read_image
from lit_vision.data.segmentation import SegmentationDataModule
from lit_vision.data.transforms import Transform
from lit_vision.errors import UserError
from lit_vision.losses.pixel_choice import BoundaryCrossEntropyLoss, OHEMCrossEntropyLoss
from lit_vision.losses.segmentation import CrossEntropyLoss, DiceLoss, FocalLoss, LovaszLoss, SumLoss, TverskyLoss
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
        seen = torch.ones(48, 64, dtype=torch.bool)
        if fit == "crop":  # which keeps the middle 32 rows
            seen[:8] = seen[40:] = False
        for prediction in predictions:
            assert torch.equal(prediction["mask"] != 255, seen)
            assert torch.equal(prediction["confidence"] > 0, seen)


def test_tiles_that_would_be_cropped_are_refused() -> None:
    task = with_neighbours(tile=32)
    task.data = {**task.data, "fit": "crop"}
    with pytest.raises(UserError, match=r"model\.tile is 32, but fit: crop would not see all of a tile"):
        task.predict_whole(np.zeros((40, 50, 3), np.uint8))
    for stage in ("fit", "test", "predict"):  # a training's predictions could not be made
        with pytest.raises(UserError, match=r"train with another fit, or leave model\.tile out$"):
            task.setup(stage)
    task.setup("validate")  # takes no notice of tiles
    task.data = {**task.data, "fit": "letterbox"}
    task.setup("fit")


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
    metrics = task.metrics["val"]
    assert metrics.confusion is None
    metrics.compute()
    metrics.reset()
    assert int(metrics.confusion.sum()) == 44 * 64  # of the last compute, for the picture of it


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


# --- class weights from the data --------------------------------------------------------------------------------
def test_automatic_class_weights_come_from_the_data_once_and_travel_in_the_checkpoint(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    data = data_module(root)
    masks = [cv2.imread(str(path), cv2.IMREAD_UNCHANGED) for path in (root / "masks" / "train").iterdir()]
    counts = np.bincount(np.stack(masks).ravel(), minlength=256)[:3]
    assert data.class_pixels == counts.tolist()
    expected = [1 / np.log(1.02 + count / counts.sum()) for count in counts]

    parts = [CrossEntropyLoss("auto"), DiceLoss(), FocalLoss(class_weights="auto")]
    task = SemanticSegmenter(NAMES, loss=SumLoss(parts), **TINY)
    fitted = quiet_trainer(max_steps=1, limit_val_batches=0)
    with caplog.at_level("INFO"):
        fitted.fit(task, data)
    assert "class weights from the pixels of the training split: ground" in capsys.readouterr().err + caplog.text
    for part in (parts[0], parts[2]):
        assert part.class_weights.tolist() == pytest.approx(expected)
    fitted.save_checkpoint(tmp_path / "last.ckpt")

    # The weights of a checkpoint are those it was trained with, whatever the data now say.
    again, other = SemanticSegmenter(NAMES, loss=CrossEntropyLoss("auto"), **TINY), data_module(root)
    other.__dict__["class_pixels"] = [1, 1, 1]
    quiet_trainer().test(again, other, ckpt_path=str(tmp_path / "last.ckpt"), verbose=False)
    assert again.loss.class_weights.tolist() == pytest.approx(expected)
    fresh = SemanticSegmenter(NAMES, loss=CrossEntropyLoss("auto"), **TINY)
    quiet_trainer().validate(fresh, other, verbose=False)
    assert fresh.loss.class_weights.tolist() == pytest.approx([1 / np.log(1.02 + 1 / 3)] * 3)


# --- tiles and views --------------------------------------------------------------------------------------------
class Neighbours(nn.Module):
    """Logits of a pixel from the 5 x 5 pixels round it, and so without any padding to a stride."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 3, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.second(self.first(images).relu())
        return logits


class Blocks(nn.Module):
    """Logits of a pixel from the block of 8 x 8 pixels that it lies in, as the coarse maps of encoders are made."""

    def __init__(self) -> None:
        super().__init__()
        self.coarse = nn.Conv2d(3, 3, 8, stride=8)

    def forward(self, images: Tensor) -> Tensor:
        return F.interpolate(self.coarse(images), scale_factor=8.0)


def with_neighbours(**settings: Any) -> SemanticSegmenter:
    task = SemanticSegmenter(NAMES, **settings, **TINY).eval()
    task.network = Neighbours()
    task.data = {"task": "segmentation", "image_size": [64, 64], "fit": "native", "in_channels": 3, "depth": "full"}
    return task


@pytest.mark.parametrize("size", [(200, 170), (64, 300), (40, 50), (96, 96)])
@pytest.mark.parametrize("network", [Neighbours, Blocks])
def test_tiles_give_the_whole_picture_s_result(network: type[nn.Module], size: tuple[int, int]) -> None:
    task = with_neighbours(tile=64, tile_overlap=0.25)  # 16 pixels shared: the 2 that a tile misses are not seen
    task.network = network()
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    with torch.inference_mode():
        tiled = task.predict_whole(image)
        pixels = torch.from_numpy(image).permute(2, 0, 1)[None]
        logits = task(F.pad(pixels, (0, -size[1] % 32, 0, -size[0] % 32), value=114))[0, :, : size[0], : size[1]]
    confidence, mask = logits.softmax(0).max(0)
    edge = 2 if network is Neighbours else 0  # at the far edges the padding is another one
    inside = slice(0, size[0] - edge), slice(0, size[1] - edge)
    assert torch.equal(tiled["mask"].long()[inside], mask[inside])
    assert torch.allclose(tiled["confidence"][inside], confidence[inside], atol=1e-6)
    assert tiled["mask"].shape == tiled["confidence"].shape == size
    assert len(set(mask.unique().tolist())) == 3


def test_a_tile_goes_through_the_checkpoint_s_own_transform() -> None:
    task = with_neighbours(tile=32, tile_overlap=0.0)
    task.data = {**task.data, "fit": "stretch", "image_size": [48, 64]}
    image = np.random.default_rng(0).integers(0, 256, (32, 64, 3), dtype=np.uint8)
    with torch.inference_mode():
        found = task.predict_whole(image)
        task.tile = None
        for x in (0, 32):
            warped = Transform((48, 64), "stretch")(image[:, x : x + 32])
            batch: Any = {"image": warped.image[None], "frame": torch.from_numpy(warped.frame)[None]}
            (alone,) = task.predict_step({**batch, "size": torch.tensor([[32, 32]])}, 0)
            assert torch.equal(found["mask"][:, x : x + 32].long(), alone["mask"])


def test_predictions_of_a_trainer_come_in_tiles_of_the_files(root: Path) -> None:
    task, data = with_neighbours(tile=32, tile_overlap=0.5), data_module(root)
    found = [one for batch in quiet_trainer().predict(task, datamodule=data) or [] for one in batch]
    pictures = [read_image(data.index.path(i)) for i in data.index.indices("val").tolist()]
    assert len(found) == len(pictures) > 0
    for one, image in zip(found, pictures, strict=True):
        assert torch.equal(one["mask"], task.predict_whole(image)["mask"])
    with pytest.raises(UserError, match="cut from the files of a data module"):
        quiet_trainer().predict(task, data.predict_dataloader())


def test_tiles_in_evaluation_count_as_the_whole_picture_does(root: Path) -> None:
    data = data_module(root, fit="native", batch_size=2)
    values = []
    for tile in (None, 32):
        torch.manual_seed(0)
        task = with_neighbours(tile=tile, tile_overlap=0.5, loss=CrossEntropyLoss(), boundary_metrics="always")
        values.append(quiet_trainer().validate(task, data, verbose=False)[0])
    assert values[0].keys() == values[1].keys()
    assert {"val/boundary_iou", "val/boundary_f1", "val/ece", "val/iou/red"} <= values[0].keys()
    for key, value in values[0].items():
        assert values[1][key] == pytest.approx(value, abs=2e-3), key  # all but the loss differs at the lower edge alone
    assert 0.0 < values[0]["val/miou"] < 1.0


def test_a_test_prepares_pictures_as_its_own_data_do_not_as_the_checkpoint_s(
    root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    torch.manual_seed(0)
    trained = SemanticSegmenter(NAMES, **TINY)
    trainer = quiet_trainer(max_epochs=0)
    trainer.fit(trained, data_module(root, fit="native"))
    trainer.save_checkpoint(tmp_path / "native.ckpt")
    assert load_task(tmp_path / "native.ckpt").data["fit"] == "native"
    found = []
    for tile in (None, 32):
        tester = quiet_trainer()
        tested, data = SemanticSegmenter(NAMES, tile=tile, **TINY), data_module(root, image_size=32)
        with caplog.at_level("INFO"):
            found.append(tester.test(tested, data, ckpt_path=tmp_path / "native.ckpt", verbose=False)[0])
        assert tested.data == data.preprocessing
        assert ("model.tile 32 is for predict" in caplog.text) == (tile is not None)
        assert "data.image_size is 32 x 32 (64 x 64 in the checkpoint), data.fit is letterbox (native" in caplog.text
    assert found[0] == found[1]


@pytest.mark.parametrize("fit", ["letterbox", "native"])
def test_validate_says_what_it_leaves_out(root: Path, caplog: pytest.LogCaptureFixture, fit: Any) -> None:
    task = SemanticSegmenter(NAMES, tile=32, tta_scales=[1.0, 1.5], **TINY)
    with caplog.at_level("INFO"):
        quiet_trainer(max_epochs=1, limit_train_batches=1).fit(task, data_module(root, fit=fit))
        assert "model.tta" not in caplog.text
        assert "model.tile" not in caplog.text
        quiet_trainer().validate(task, data_module(root, fit=fit), verbose=False)
    assert "validate takes no notice of model.tta_scales: test and predict do" in caplog.messages
    whole = (
        "model.tile 32 is for predict: validate sees whole pictures, as fit: letterbox makes them; with fit: native it"
    )
    assert (f"{whole} would see tiles" in caplog.messages) == (fit == "letterbox")


def test_views_are_averaged_in_test_and_prediction_not_in_validation(root: Path) -> None:
    data = data_module(root)
    task = SemanticSegmenter(NAMES, tta_flips=["horizontal"], tta_scales=[1.0, 0.75], **TINY).eval()
    batch = next(iter(data.val_dataloader()))
    with torch.no_grad():
        plain, mean = task(batch["image"]).softmax(1), task.probabilities(batch["image"])
        assert not torch.allclose(plain, mean, atol=1e-4)
        flipped = task(batch["image"].flip(-1)).softmax(1).flip(-1)
        task.tta_scales = [1.0]
        assert torch.allclose(task.probabilities(batch["image"]), (plain + flipped) / 2, atol=1e-6)
        assert torch.equal(task._evaluated_logits(batch["image"], "val"), task(batch["image"]))
        logits = task._evaluated_logits(batch["image"], "test")
        assert torch.allclose(logits.softmax(1), (plain + flipped) / 2, atol=1e-6)
    assert load_views(task) == ([1.0, 0.75], ["horizontal"])
    with pytest.raises(UserError, match="tta_flips is"):
        SemanticSegmenter(NAMES, tta_flips=["round"], **TINY)


def load_views(task: SemanticSegmenter) -> tuple[list[float], list[str]]:
    """What a task built from the hyper-parameters averages over."""
    again = SemanticSegmenter(**dict(task.hparams))
    return again.tta_scales, again.tta_flips


def test_views_and_tiles_together_are_the_mean_of_mirrored_tiles() -> None:
    task = with_neighbours(tile=48, tta_flips=["vertical"])
    image = np.random.default_rng(1).integers(0, 256, (48, 48, 3), dtype=np.uint8)
    pixels = torch.full((1, 3, 64, 64), 114, dtype=torch.uint8)
    pixels[0, :, :48, :48] = torch.from_numpy(image).permute(2, 0, 1)
    with torch.inference_mode():
        expected = (task(pixels).softmax(1) + task(pixels.flip(-2)).softmax(1).flip(-2)) / 2
        found = task.predict_whole(image)
    assert torch.equal(found["mask"].long(), expected[0, :, :48, :48].argmax(0))


def test_an_unknown_stage_of_outlines_is_refused() -> None:
    with pytest.raises(UserError, match=r"model\.boundary_metrics is 'tets': give one of test, always, never"):
        SemanticSegmenter(NAMES, boundary_metrics="tets", **TINY)


def test_tiles_without_a_checkpoint_s_facts_are_refused() -> None:
    with pytest.raises(UserError, match=r"tiles need model\.tile"):
        SemanticSegmenter(NAMES, tile=64, **TINY).predict_whole(np.zeros((8, 8, 3), np.uint8))


# --- faults -----------------------------------------------------------------------------------------------------
def test_a_batch_of_unknown_pixels_costs_nothing_and_changes_no_metric(root: Path) -> None:
    batch = next(iter(data_module(root).val_dataloader()))
    batch["mask"] = torch.full_like(batch["mask"], 255)
    losses = [CrossEntropyLoss(), DiceLoss(), FocalLoss(), LovaszLoss(), TverskyLoss()]
    losses += [OHEMCrossEntropyLoss(), BoundaryCrossEntropyLoss()]
    task = SemanticSegmenter(NAMES, loss=SumLoss(losses), **TINY)
    task.log_loss = lambda *_: None  # type: ignore[method-assign]  # no trainer here
    loss = task.training_step(batch, 0)
    loss.backward()
    assert float(loss) == 0.0
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in task.parameters())
    with torch.no_grad():
        task.test_step(batch, 0)
    values = task.metrics["test"].compute()
    assert {key: float(value) for key, value in values.items() if float(value) != 0} == {}


def test_the_decoder_always_trains_while_the_encoder_opens_stage_by_stage(root: Path, tmp_path: Path) -> None:
    task = SemanticSegmenter(NAMES, grad_checkpointing=True, **TINY)
    before = {name: p.clone() for name, p in task.named_parameters()}
    unfreezing, open_at = ProgressiveUnfreezing([2, 4], "step", max_stages=2), []

    class Watch(pl.Callback):
        def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
            named = dict(pl_module.named_parameters())
            moved = {name for name, p in named.items() if not torch.equal(p, before[name])}
            inside = {name for name in moved if name.startswith("network.network.encoder.")}
            open_at.append((len(moved - inside), len(inside)))

    own: dict[str, Any] = {"callbacks": [unfreezing, Watch()], "default_root_dir": tmp_path}
    quiet_trainer(max_steps=6, limit_val_batches=0, **own).fit(task, data_module(root))
    outside = {name for name in before if not name.startswith("network.network.encoder.")}
    assert outside
    assert all(decoder == len(outside) for decoder, _ in open_at)
    encoder = [inside for _, inside in open_at]
    assert encoder[0] == encoder[1] == 0
    assert 0 < encoder[2] < encoder[-1]
