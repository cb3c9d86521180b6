"""Two networks: shared encoder, one after the other, rates of their own, unfreezing; and thresholds that are found."""

import logging
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pairs import NAMES, TINY, data_module, perfect
from quiet import quiet_trainer
from torch.optim import AdamW

from lit_vision.callbacks.unfreezing import ProgressiveUnfreezing
from lit_vision.data.decode import read_size
from lit_vision.data.transforms import Transform
from lit_vision.errors import UserError
from lit_vision.losses.border import BorderLoss
from lit_vision.losses.segmentation import DiceLoss
from lit_vision.networks.stages import divide
from lit_vision.ops.separation import Separation
from lit_vision.tasks.checkpoints import load_task
from lit_vision.tasks.instances import InstanceSegmenter

FAST = partial(AdamW, lr=1e-2)


def weights_of(task: InstanceSegmenter, name: str) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in task.get_submodule(name).state_dict().items()}


def unchanged(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(before[key], after[key]) for key in before)


def fit(task: InstanceSegmenter, root: Path, steps: int = 2, **settings: Any) -> Any:
    trainer = quiet_trainer(max_steps=steps, check_val_every_n_epoch=10**6, limit_val_batches=0, **settings)
    trainer.fit(task, data_module(root))
    return trainer


# --- shared encoder -------------------------------------------------------------------------------------------------
def test_a_shared_encoder_is_there_once_and_learns_from_both(root: Path) -> None:
    both, shared = InstanceSegmenter(NAMES, **TINY), InstanceSegmenter(NAMES, shared_encoder=True, **TINY)
    encoder = sum(p.numel() for p in shared.network.backbone.parameters())
    count = [sum(p.numel() for p in task.parameters()) for task in (both, shared)]
    assert count[0] - count[1] == encoder
    assert list(shared.backbones) == ["network.network.encoder.model"]
    batch = next(iter(data_module(root).train_dataloader()))
    pixels, border = shared(batch["image"])
    assert pixels.shape == (3, 3, 64, 64)
    assert border.shape == (3, 1, 64, 64)
    first = next(shared.network.backbone.parameters())
    gradients = [torch.autograd.grad(one.square().mean(), first, retain_graph=True)[0] for one in (pixels, border)]
    assert min(float(one.abs().sum()) for one in gradients) > 0


def test_sizes_that_are_no_multiple_of_the_stride() -> None:
    task = InstanceSegmenter(NAMES, shared_encoder=True, **TINY).eval()
    pixels, border = task(torch.zeros(1, 3, 37, 50, dtype=torch.uint8))
    assert pixels.shape[-2:] == border.shape[-2:] == (37, 50)
    alone = task.network(task.preprocess(torch.zeros(1, 3, 37, 50, dtype=torch.uint8)))
    torch.testing.assert_close(pixels, alone)


def test_a_shared_encoder_with_another_one_is_refused() -> None:
    with pytest.raises(UserError, match="shared_encoder is true: leave border_encoder"):
        InstanceSegmenter(NAMES, shared_encoder=True, border_encoder="resnet10t", **TINY)
    with pytest.raises(UserError, match="decoder 'dpt' needs an encoder of its own"):
        InstanceSegmenter(NAMES, shared_encoder=True, border_decoder="dpt", **TINY)


@pytest.mark.parametrize("decoder", ["pspnet", "deeplabv3", "deeplabv3plus"])
def test_a_decoder_that_wants_other_maps_shares_no_encoder(decoder: str) -> None:
    with pytest.raises(UserError, match=rf"decoder '{decoder}' takes other maps than the first one: down to 1/\d+ "):
        InstanceSegmenter(NAMES, encoder="resnet10t", border_decoder=decoder, shared_encoder=True)


@pytest.mark.parametrize("decoder", ["fpn", "segformer", "upernet"])
def test_other_decoders_share_an_encoder(decoder: str) -> None:
    task = InstanceSegmenter(NAMES, encoder="resnet10t", border_decoder=decoder, shared_encoder=True).eval()
    pixels, border = task(torch.zeros(1, 3, 64, 96, dtype=torch.uint8))
    assert (pixels.shape[1:], border.shape[1:]) == ((3, 64, 96), (1, 64, 96))


def test_a_shared_encoder_s_pictures_are_as_large_as_either_decoder_needs() -> None:
    task = InstanceSegmenter(
        NAMES, encoder="resnet10t", decoder="deeplabv3plus", border_decoder="pan", shared_encoder=True
    )
    assert task.eval()(torch.zeros(1, 3, 64, 64, dtype=torch.uint8))[1].shape == (1, 1, 64, 64)


def test_a_shared_encoder_comes_back_from_a_checkpoint(root: Path, tmp_path: Path) -> None:
    task = InstanceSegmenter(NAMES, shared_encoder=True, border_decoder="fpn", optimizer=FAST, **TINY)
    fit(task, root).save_checkpoint(tmp_path / "s.ckpt")
    loaded, images = load_task(tmp_path / "s.ckpt"), torch.zeros(1, 3, 64, 64, dtype=torch.uint8)
    for one, other in zip(loaded(images), task.eval()(images), strict=True):
        assert torch.equal(one, other)


# --- one after the other --------------------------------------------------------------------------------------------
@pytest.mark.parametrize("shared", [False, True])
def test_one_network_after_the_other(root: Path, tmp_path: Path, shared: bool) -> None:
    settings: dict[str, Any] = {"shared_encoder": shared, "optimizer": FAST, **TINY}
    first = InstanceSegmenter(NAMES, train="pixels", **settings)
    assert first.monitor == "val/pixel_iou"
    pixels, border = weights_of(first, "network"), weights_of(first, "border_network")
    first.licence = "cc-by-4.0 (x)"
    fit(first, root).save_checkpoint(tmp_path / "first.ckpt")
    assert not unchanged(pixels, weights_of(first, "network"))
    assert unchanged(border, weights_of(first, "border_network"))  # running statistics, too
    assert float(first.eval()(torch.zeros(1, 3, 64, 64, dtype=torch.uint8))[1].max()) == -30

    second = InstanceSegmenter(NAMES, train="border", start_from=str(tmp_path / "first.ckpt"), **settings)
    pixels, border = weights_of(second, "network"), weights_of(second, "border_network")
    assert unchanged(pixels, weights_of(first, "network"))
    assert second.licence == "cc-by-4.0 (x)"  # it goes with the weights
    fit(second, root).save_checkpoint(tmp_path / "second.ckpt")
    assert unchanged(pixels, weights_of(second, "network"))
    assert not unchanged(border, weights_of(second, "border_network"))
    assert list(second.backbones) == ([] if shared else ["border_network.network.encoder.model"])

    whole = load_task(tmp_path / "second.ckpt")  # needs no first.ckpt any more
    images = torch.zeros(1, 3, 64, 64, dtype=torch.uint8)
    assert torch.equal(whole(images)[0], second.eval()(images)[0])
    assert float(whole(images)[1].max()) > -30


def test_pixels_alone_give_objects_without_borders(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = InstanceSegmenter(NAMES, train="pixels", **TINY)
    batch = next(iter(data_module(root).val_dataloader()))
    monkeypatch.setattr(task.network, "forward", lambda images: perfect(batch)[0])
    assert [int(p["instances"].max()) for p in task.predict_step(batch, 0)] == [2, 2]
    assert {one.border_threshold for one in task.search.choices} == {0.3}
    assert task.tuning.searched == ["pixel_threshold", "min_area"]  # what a run says that it has found


def test_a_border_alone_needs_pixels(root: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"train is border: give model.start_from"):
        fit(InstanceSegmenter(NAMES, train="border", **TINY), root)
    with pytest.raises(UserError, match="train is 'pixel': give one of both, pixels, border"):
        InstanceSegmenter(NAMES, train="pixel", **TINY)  # type: ignore[arg-type]
    first = InstanceSegmenter(NAMES, optimizer=FAST, **TINY)
    fit(first, root, steps=1).save_checkpoint(tmp_path / "a.ckpt")
    with pytest.raises(UserError, match="has other networks"):
        InstanceSegmenter(NAMES, train="border", start_from=str(tmp_path / "a.ckpt"), encoder="resnet10t")
    with pytest.raises(
        UserError, match=r"a.ckpt knows the classes \(red, blue\), but the data has \(cell\), and with train: border"
    ):
        InstanceSegmenter(["cell"], train="border", start_from=str(tmp_path / "a.ckpt"), **TINY)
    other = InstanceSegmenter(NAMES, train="border", start_from=str(tmp_path / "a.ckpt"), border_decoder="fpn", **TINY)
    assert unchanged(weights_of(first, "network"), weights_of(other, "network"))


def test_weights_that_do_not_fit_the_border_are_said_of_it(tmp_path: Path) -> None:
    file, narrow = (
        tmp_path / "encoder.pth",
        {"encoder": "mobilenetv1_100", "encoder_args": {"channel_multiplier": 0.25}},
    )
    torch.save(InstanceSegmenter(NAMES, **narrow).network.backbone.state_dict(), file)
    with pytest.raises(UserError) as caught:
        InstanceSegmenter(NAMES, weights=str(file), border_encoder_args={"channel_multiplier": 0.5}, **narrow)
    begin, _, end = str(caught.value).partition(" 135 have another shape (")
    said = (
        f"the border network, encoder mobilenetv1_100 with {{'channel_multiplier': 0.5}}: weights: {file} does not fit"
    )
    assert begin == f"{said} mobilenetv1_025:"
    assert end.endswith(
        "...); model.weights are taken for it, too: give model.border_weights, or other border_encoder_args"
    )
    with pytest.raises(UserError, match=r"^the border network, encoder resnet10t with \{\}: weights: .*encoder\.pth "):
        InstanceSegmenter(NAMES, border_encoder="resnet10t", border_weights=str(file), **TINY)


def test_decoder_args_of_the_border_are_called_so() -> None:
    with pytest.raises(UserError) as caught:
        InstanceSegmenter(NAMES, border_decoder_args={"activation": "sigmoid"}, **TINY)
    assert str(caught.value) == "model.border_decoder_args has activation: leave it out, losses and metrics take logits"


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, ["network", "border_network"]),
        ({"weights": "encoder.pth"}, []),
        ({"weights": "encoder.pth", "border_encoder": "resnet10t"}, ["border_network"]),
        ({"border_weights": "encoder.pth"}, ["network"]),
        ({"train": "pixels"}, ["network"]),
        ({"start_from": "a.ckpt"}, []),
        ({"shared_encoder": True}, ["network"]),
    ],
)
def test_encoders_with_random_weights_are_known(
    settings: dict[str, Any], expected: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    first = InstanceSegmenter(NAMES, **TINY)
    torch.save(first.network.backbone.state_dict(), "encoder.pth")
    trainer = quiet_trainer()
    trainer.strategy.connect(first)
    trainer.save_checkpoint("a.ckpt")
    task = InstanceSegmenter(NAMES, **TINY, **settings)
    assert task.untrained == [f"{name}.network.encoder.model" for name in expected]


def test_closed_stages_of_random_weights_are_remarked_on(
    root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings: dict[str, Any] = {"callbacks": [ProgressiveUnfreezing(at=[1], unit="step")], "default_root_dir": tmp_path}
    with caplog.at_level(logging.INFO):
        trainer = fit(InstanceSegmenter(NAMES, shared_encoder=True, **TINY), root, steps=1, **settings)
    said = (
        "unfreezing: network.network.encoder.model begins with random weights, without pretrained, weights or "
        "start_from, and closed stages keep them: give weights, or leave ProgressiveUnfreezing out"
    )
    assert [one.getMessage() for one in caplog.records if "random weights" in one.getMessage()] == [said]
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    caplog.clear()
    with caplog.at_level(logging.INFO):
        again = quiet_trainer(max_steps=2, limit_val_batches=0, **settings)
        task = InstanceSegmenter(NAMES, shared_encoder=True, **TINY)
        again.fit(task, data_module(root), ckpt_path=tmp_path / "a.ckpt", weights_only=True)
    assert "random weights" not in caplog.text


# --- rates, losses, stages ------------------------------------------------------------------------------------------
@pytest.mark.parametrize("shared", [False, True])
def test_the_border_network_has_a_rate_of_its_own(shared: bool) -> None:
    task = InstanceSegmenter(NAMES, border_lr_factor=0.1, shared_encoder=shared, lr_decay=0.5, **TINY)
    groups = task.grouped(divide(task.backbones, module=task))
    own = {id(p) for p in task.border_network.parameters()}
    seen: list[int] = []
    for group in groups:
        inside = {id(p) in own for p in group["params"]}
        assert len(inside) == 1
        assert group["name"].startswith("border_network") == inside.pop()
        seen += [id(p) for p in group["params"]]
    assert sorted(seen) == sorted(id(p) for p in task.parameters())
    scales = {group["name"]: group["lr_scale"] for group in groups}
    assert scales["head/decay"] == 1
    assert scales["border_network/head/decay"] == 0.1
    if not shared:
        assert scales["border_network.network.encoder.model/stage0/decay"] == pytest.approx(0.05)
    plain = InstanceSegmenter(NAMES, **TINY)
    assert not any("border_network/" in g["name"] for g in plain.grouped(divide(plain.backbones, module=plain)))


@pytest.mark.parametrize(
    "settings",
    [{}, {"border_encoder": "resnet10t"}, {"shared_encoder": True}, {"train": "pixels"}],
    ids=["alike", "different", "shared", "pixels"],
)
def test_stages_open_whatever_the_networks(root: Path, tmp_path: Path, settings: dict[str, Any]) -> None:
    task = InstanceSegmenter(NAMES, optimizer=FAST, **TINY, **settings)
    stages = divide(task.backbones, max_stages=2, module=task)
    before = {name: p.detach().clone() for name, p in task.named_parameters()}
    thaw = ProgressiveUnfreezing(at=[1], unit="step", max_stages=2)
    fit(task, root, steps=2, callbacks=[thaw], default_root_dir=tmp_path)
    moved = {name for name, p in task.named_parameters() if not torch.equal(before[name], p)}
    for prefix in task.backbones:
        opened = [name for name in stages.names[0] if name.startswith(prefix)]
        closed = [name for name in stages.names[1] if name.startswith(prefix)]
        assert opened
        assert set(opened) & moved
        assert not set(closed) & moved
    border = {name for name in moved if name.startswith("border_network")}
    assert bool(border) == (settings.get("train") != "pixels")


def test_gap_weights_reach_the_loss_and_want_one_that_takes_them(root: Path) -> None:
    batch = next(iter(data_module(root, gap_weight=10).val_dataloader()))
    assert batch["border_weight"].shape == (2, 64, 64)
    assert 5 < float(batch["border_weight"].max()) <= 11
    task = InstanceSegmenter(NAMES, **TINY)
    _, border = task(batch["image"])
    found = task._losses(torch.zeros(2, 3, 64, 64), border, batch)["border_loss"]
    assert torch.equal(found, BorderLoss(5.0)(border, batch["border"], batch["border_weight"]))
    assert not torch.equal(found, BorderLoss(5.0)(border, batch["border"]))
    other = InstanceSegmenter(NAMES, border_loss=DiceLoss(), **TINY)
    with pytest.raises(UserError, match="gap_weight needs border_loss BorderLoss, not DiceLoss"):
        other._losses(torch.zeros(2, 3, 64, 64), border, batch)


# --- thresholds -----------------------------------------------------------------------------------------------------
def faint(batch: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Good pixels, and a border that is right but never surer than 0.2."""
    pixels, border = perfect(batch)
    return pixels, torch.where(border > 0, -1.4, -10.0)


def test_thresholds_are_found_logged_kept_and_counted_with(
    root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    task, data = InstanceSegmenter(NAMES, optimizer=FAST, **TINY), data_module(root, batch_size=2)
    batch = next(iter(data.val_dataloader()))
    real = task.forward
    monkeypatch.setattr(task, "forward", lambda images, **_: real(images, **_) if task.training else faint(batch))
    trainer = quiet_trainer(max_epochs=1, limit_train_batches=1)
    trainer.fit(task, data)
    assert task.separation == replace(Separation(), border_threshold=0.1)  # of equal ones the nearest to the start
    values = trainer.callback_metrics
    assert float(values["val/border_threshold"]) == pytest.approx(0.1)
    assert float(values["val/loss"]) == pytest.approx(float(values["val/pixel_loss"] + values["val/border_loss"]))
    assert float(values["val/ap"]) > 0.9  # counted with what was found: at 0.3 the pair is one object
    assert values["val/pixel_iou"] == 1
    again = quiet_trainer().validate(task, data, verbose=False)[0]  # counts at once, with what was found
    assert {name: again[name] for name in again if "loss" not in name} == {
        name: pytest.approx(float(values[name])) for name in again if "loss" not in name
    }
    trainer.save_checkpoint(tmp_path / "t.ckpt")
    assert load_task(tmp_path / "t.ckpt").separation.border_threshold == 0.1
    assert load_task(tmp_path / "t.ckpt", border_threshold=0.6).separation.border_threshold == 0.6
    checkpoint = torch.load(tmp_path / "t.ckpt", weights_only=True)
    for given, expected in ((None, 0.1), (0.45, 0.45)):  # as `lit-vision test` does it: arguments of the YAML
        again = InstanceSegmenter(NAMES, border_threshold=given, **TINY)
        again.on_load_checkpoint(checkpoint)
        assert again.separation.border_threshold == expected


def test_what_is_set_is_not_sought(root: Path) -> None:
    task = InstanceSegmenter(NAMES, pixel_threshold=0.5, border_threshold=0.25, min_area=3, optimizer=FAST, **TINY)
    trainer = quiet_trainer(max_epochs=1, limit_train_batches=1)
    trainer.fit(task, data_module(root))
    assert task.separation == Separation(0.5, 0.25, 3)
    assert "val/border_threshold" not in trainer.callback_metrics
    assert "val/ap" in trainer.callback_metrics


def test_checkpoints_from_before_say_true_and_false() -> None:
    assert InstanceSegmenter(NAMES, regrow=True, **TINY).separation.regrow == "nearest"
    assert InstanceSegmenter(NAMES, regrow=False, **TINY).separation.regrow == "none"


# --- views and tiles ------------------------------------------------------------------------------------------------
def test_views_are_averaged_in_prediction_and_test_only(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = InstanceSegmenter(NAMES, tta_scales=[1.0, 0.5], tta_flips=["horizontal"], **TINY).eval()
    seen: list[tuple[int, ...]] = []
    real = task.network.forward
    monkeypatch.setattr(task.network, "forward", lambda images: seen.append(images.shape[-2:]) or real(images))
    monkeypatch.setattr(task, "log_loss", lambda *_: None)
    batch = next(iter(data_module(root).val_dataloader()))
    with torch.no_grad():
        task.predict_step(batch, 0)
        assert seen == [(64, 64), (64, 64), (32, 32), (32, 32)]
        seen.clear()
        task.validation_step(batch, 0)
        assert seen == [(64, 64)]
        task.test_step(batch, 0)
    assert len(seen) == 1 + 1 + 4
    with pytest.raises(UserError, match=r"model.tta_flips is \['left'\]"):
        InstanceSegmenter(NAMES, tta_flips=["left"], **TINY)  # type: ignore[list-item]


class ByColour:
    """A network of the pixels' own colours: red is class 1, blue class 2, white the border of two objects."""

    def __call__(self, images: torch.Tensor, **_: Any) -> tuple[torch.Tensor, torch.Tensor]:
        red, green, blue = images.float().unbind(1)
        white = torch.minimum(torch.minimum(red, green), blue) > 128
        red_class, blue_class = (red > 128).float(), ((blue > 128) & (red < 128)).float()
        pixels = torch.stack([torch.full_like(red, 0.5), red_class, blue_class], 1) * 20
        return pixels, (white.float() * 20 - 10)[:, None]


def slide(height: int = 230, width: int = 310) -> tuple[np.ndarray, np.ndarray]:
    """A picture much larger than a tile: pairs of touching squares everywhere, and a bar across all tiles."""
    image, truth = np.zeros((height, width, 3), np.uint8), np.zeros((height, width), np.int32)
    for y in range(20, height - 20, 30):
        for x in range(4, width - 30, 40):
            for left, color in ((x, (200, 0, 0)), (x + 12, (0, 0, 200))):
                truth[y : y + 14, left : left + 12] = truth.max() + 1
                image[y : y + 14, left : left + 12] = color
            image[y : y + 14, x + 12 : x + 14] = (255, 255, 255)
    truth[3:9, 5 : width - 5], image[3:9, 5 : width - 5] = truth.max() + 1, (200, 0, 0)
    return image, truth


@pytest.mark.parametrize("size", [(230, 310), (40, 50)])
def test_tiles_give_what_the_whole_picture_gives(size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    image, truth = slide(*size)
    task = InstanceSegmenter(NAMES, tile=64, tile_overlap=0.25, pixel_threshold=0.5, border_threshold=0.3, **TINY)
    task.data = {"task": "instances", "image_size": [64, 64], "fit": "native", "in_channels": 3, "depth": "full"}
    monkeypatch.setattr(task, "forward", ByColour())
    found = task.predict_whole(image)
    instances = found["instances"].numpy()
    assert instances.shape == size
    assert instances.max() == len(found["labels"]) == len(found["scores"]) == truth.max()
    for k in range(1, truth.max() + 1):  # the bar among them, which no tile sees whole
        match = np.bincount(instances[truth == k]).argmax()
        assert ((instances == match) & (truth == k)).sum() / ((instances == match) | (truth == k)).sum() > 0.9
    task.tile = None
    whole = Transform(size, "native")(image)
    batch = {"image": whole.image[None], "frame": torch.as_tensor(whole.frame)[None], "size": torch.tensor([size])}
    at_once = task.predict_step(batch, 0)[0]  # type: ignore[arg-type]
    assert np.array_equal(at_once["instances"].numpy(), instances)
    assert torch.equal(at_once["labels"], found["labels"])


def test_tiles_are_scaled_as_the_checkpoint_says(monkeypatch: pytest.MonkeyPatch) -> None:
    image, truth = slide()
    task = InstanceSegmenter(NAMES, tile=128, min_area=10, **TINY)
    task.data = {"task": "instances", "image_size": [64, 64], "fit": "stretch", "in_channels": 3, "depth": "full"}
    monkeypatch.setattr(task, "forward", ByColour())
    assert len(task.predict_whole(image)["labels"]) == truth.max()
    task.separation = replace(task.separation, min_area=60)  # of the network's pixels: 240 of the picture's
    assert len(task.predict_whole(image)["labels"]) < truth.max()


def test_predictions_of_a_trainer_come_in_tiles_of_the_files(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task, data = InstanceSegmenter(NAMES, tile=32, **TINY), data_module(root)
    seen: list[tuple[int, ...]] = []
    monkeypatch.setattr(InstanceSegmenter, "predict_whole", lambda _, image: seen.append(image.shape) or {})
    quiet_trainer().predict(task, datamodule=data)
    sizes = [read_size(data.index.path(i)) for i in data.index.indices("val").tolist()]
    assert seen == [(*size, 3) for size in sizes]


@pytest.mark.parametrize("tile", [None, 64])
def test_predictions_need_no_switch_of_gradients(tile: int | None) -> None:
    task = InstanceSegmenter(NAMES, tile=tile, **TINY).eval()
    task.data = {"task": "instances", "image_size": [64, 64], "fit": "stretch", "in_channels": 3, "depth": "full"}
    whole = Transform((64, 64), "stretch")(np.zeros((80, 90, 3), np.uint8))
    batch = {"image": whole.image[None], "frame": torch.as_tensor(whole.frame)[None], "size": torch.tensor([[80, 90]])}
    found = task.predict_whole(np.zeros((80, 90, 3), np.uint8)) if tile else task.predict_step(batch, 0)[0]  # type: ignore[arg-type]
    assert found["instances"].shape == (80, 90)


# --- pictures of every kind -----------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", ["nothing", "one", "many", "edge"])
def test_faults_of_pictures(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    image = np.zeros((30, 40, 3), np.uint8)
    if kind == "one":
        image[:] = (200, 0, 0)
    if kind == "many":
        image[::2, ::2] = (0, 0, 200)
    if kind == "edge":
        image[:8, :9] = image[-8:, -9:] = (200, 0, 0)
    task = InstanceSegmenter(NAMES, min_area=1, **TINY)
    monkeypatch.setattr(task, "forward", ByColour())
    whole = Transform((30, 40), "native")(image)
    batch = {"image": whole.image[None], "frame": torch.as_tensor(whole.frame)[None], "size": torch.tensor([[30, 40]])}
    found = task.predict_step(batch, 0)[0]  # type: ignore[arg-type]
    count = {"nothing": 0, "one": 1, "many": 15 * 20, "edge": 2}[kind]
    assert int(found["instances"].max()) == len(found["labels"]) == len(found["scores"]) == count
    assert found["labels"].tolist() == [int(kind == "many")] * count
    assert (found["instances"] > 0).numpy().sum() == (image.max(-1) > 0).sum()
