"""A class for every pixel."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Literal

import torch
from pytorch_lightning.utilities import rank_zero_info
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import Metric

import lit_vision.losses.pixel_choice  # noqa: F401  losses that experiments name by their short names
from lit_vision.data.geometry import visible_rectangle
from lit_vision.data.restore import seen_part
from lit_vision.errors import UserError
from lit_vision.losses.segmentation import (
    CrossEntropyLoss,
    DiceLoss,
    SegmentationLoss,
    SumLoss,
    check_loss,
    inverse_log_weights,
)
from lit_vision.metrics.segmentation import SegmentationMetrics
from lit_vision.networks.licences import licence_of
from lit_vision.networks.preprocess import Preprocess
from lit_vision.networks.segmentation import create_segmenter
from lit_vision.networks.statistics import statistics_for
from lit_vision.ops.averaging import Flip, check_views, mean_over_views
from lit_vision.tasks.base import VisionTask
from lit_vision.tasks.own_frames import maps_in_own_frames
from lit_vision.tasks.starting import take_network
from lit_vision.tasks.tile_maps import (
    originals,
    restored,
    say_unused_tile,
    say_unused_views,
    tested_in_tiles,
    tiled_maps,
)
from lit_vision.types import IGNORE_INDEX, SegmentationBatch, SegmentationPrediction, UInt8Array

OUTLINED = {"test": ("test",), "always": ("val", "test"), "never": ()}  # stages in which outlines are compared


class SemanticSegmenter(VisionTask):
    """Classifies every pixel with an encoder-decoder network.

    Args:
        class_names: K names, index = class in the mask; comes from the data on the command line.
        decoder: "unet" (skip connections, sharp outlines), "deeplabv3plus" (wide context), or another of
            `networks.segmentation.DECODERS`.
        encoder: any timm network with a feature pyramid, as "resnet34" or "resnest269e".
        pretrained: download the encoder's weights.
        weights: file of the encoder's weights instead: .safetensors, or .pth of plain tensors.
        start_from: a checkpoint of this task whose whole network is the first one, also of other classes; unlike
            --ckpt_path, a new run.
        encoder_args: timm's own arguments, as {drop_path_rate: 0.1}.
        decoder_args: arguments of segmentation_models_pytorch, as {decoder_channels: [128, 64, 32, 16, 8]}.
        in_channels: channels of the pictures; the first convolution of given weights is adapted.
        mean: of the pixels scaled to 0..1, by channel; null = as the encoder's weights expect.
        std: likewise.
        loss: null = cross entropy + Dice; else one of losses/, see docs/segmentation.md, or a SumLoss of several.
        grad_checkpointing: the encoder's blocks keep no activations and compute them once more in the backward pass:
            a third more time for far less memory.
        boundary_metrics: in which evaluations outlines are compared, too: "test", "always" or "never".
        tta_scales: in test and prediction the probabilities are the mean over pictures scaled by these factors.
        tta_flips: likewise over mirrored ones: "horizontal" (left to right), "vertical".
        training: what all tasks share: optimizer, scheduler, lr_decay, freeze, ... see `VisionTask`.
    """

    monitor = "val/miou"
    monitor_mode = "max"

    def __init__(
        self,
        class_names: Sequence[str],
        decoder: str = "unet",
        encoder: str = "resnet34",
        pretrained: bool = False,
        weights: str | None = None,
        start_from: str | None = None,
        encoder_args: dict[str, Any] | None = None,
        decoder_args: dict[str, Any] | None = None,
        in_channels: int = 3,
        mean: list[float] | None = None,
        std: list[float] | None = None,
        loss: SegmentationLoss | None = None,
        grad_checkpointing: bool = False,
        boundary_metrics: Literal["test", "always", "never"] = "test",
        tta_scales: list[float] | None = None,
        tta_flips: list[Flip] | None = None,
        **training: Any,
    ) -> None:
        super().__init__(class_names, **training)
        if self.num_classes < 2:
            raise UserError(f"a segmentation has at least two classes, such as background and {self.class_names[0]}")
        built: dict[str, Any] = {"decoder": decoder, "encoder": encoder, "in_channels": in_channels}
        built |= {"encoder_args": encoder_args, "decoder_args": decoder_args}
        self.tta_scales, self.tta_flips = [1.0] if tta_scales is None else tta_scales, tta_flips or []
        check_views(self.tta_scales, self.tta_flips)
        fresh: dict[str, Any] = {"pretrained": pretrained, "weights": weights, "grad_checkpointing": grad_checkpointing}
        self.network = create_segmenter(classes=self.num_classes, **built, **fresh)
        self.licence = licence_of(self.backbones.values(), pretrained, weights)
        expected = statistics_for(self.network.backbone, in_channels, weights)
        self.preprocess = Preprocess(expected[0] if mean is None else mean, expected[1] if std is None else std)
        if start_from is not None:
            take_network(self, start_from, pretrained, weights, mean, std, built)
        self.loss = loss or SumLoss([CrossEntropyLoss(), DiceLoss()])
        check_loss("loss", self.loss, automatic=True)
        if boundary_metrics not in OUTLINED:
            raise UserError(f"model.boundary_metrics is {boundary_metrics!r}: give one of {', '.join(OUTLINED)}")
        self.metrics = nn.ModuleDict(
            {
                stage: SegmentationMetrics(self.class_names, boundaries=stage in OUTLINED[boundary_metrics])
                for stage in ("val", "test")
            }
        )
        statistics = {"mean": list(self.preprocess.mean), "std": list(self.preprocess.std)}
        views = {"tta_scales": self.tta_scales, "tta_flips": self.tta_flips}
        self.save_hyperparameters({**built, **statistics, **views, "boundary_metrics": boundary_metrics})

    @property
    def backbones(self) -> dict[str, nn.Module]:
        """The encoder."""
        return {"network.network.encoder.model": self.network.backbone}

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W), uint8 or float from 0 to 255 -> logits (B, K, H, W)."""
        logits: Tensor = self.network(self.preprocess(images))
        return logits

    def training_step(self, batch: SegmentationBatch, batch_idx: int) -> Tensor:
        """Loss of a batch."""
        loss: Tensor = self.loss(self(batch["image"]), batch["mask"])
        self.log_loss("train", loss, len(batch["image"]))
        return loss

    # --- class weights: auto ------------------------------------------------------------------------------------
    @property
    def _automatic(self) -> list[CrossEntropyLoss]:
        return [part for part in self.loss.modules() if isinstance(part, CrossEntropyLoss) and part.automatic]

    def on_fit_start(self) -> None:
        """Works out `class_weights: auto`, unless a checkpoint brought them."""
        self._weigh_classes()

    def on_validation_start(self) -> None:
        """As `on_fit_start`, for a loss that is only evaluated; says what `validate` leaves out."""
        self._weigh_classes()
        say_unused_tile(self)
        say_unused_views(self, self.tta_scales, self.tta_flips)

    def on_test_start(self) -> None:
        """As `on_validation_start`."""
        self._weigh_classes()
        say_unused_tile(self)

    def _weigh_classes(self) -> None:
        missing = [loss for loss in self._automatic if loss.class_weights is None]
        if not missing:
            return
        pixels = getattr(getattr(self.trainer, "datamodule", None), "class_pixels", None)
        if pixels is None:
            raise UserError("class_weights: auto needs a SegmentationDataModule; give one number for each class")
        weights = inverse_log_weights(pixels)
        shown = ", ".join(f"{name} {weight:.2f}" for name, weight in zip(self.class_names, weights, strict=True))
        rank_zero_info(f"class weights from the pixels of the training split: {shown}")
        for loss in missing:
            loss.class_weights = torch.tensor(weights)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds the class weights that were worked out."""
        super().on_save_checkpoint(checkpoint)
        found = [loss.class_weights.tolist() for loss in self._automatic if loss.class_weights is not None]
        checkpoint["lit_vision"]["class_weights"] = found[0] if found else None

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Takes them up again."""
        super().on_load_checkpoint(checkpoint)
        weights = checkpoint["lit_vision"].get("class_weights")
        for loss in self._automatic if weights is not None else []:
            loss.class_weights = torch.tensor(weights)

    # --- evaluation ---------------------------------------------------------------------------------------------
    def _evaluate(self, batch: SegmentationBatch, metrics: Metric, stage: str) -> Sequence[Mapping[str, Any]]:
        parts = _parts(batch)
        if tested_in_tiles(self):
            predictions, losses = zip(*(self._in_tiles(batch, i, stage) for i in range(len(parts))), strict=True)
            loss, masks = torch.stack(losses).mean(), torch.stack([one["mask"] for one in predictions])
            confidence = torch.stack([one["confidence"] for one in predictions])
        else:
            seen = partial(self._evaluated_logits, stage=stage)
            logits = maps_in_own_frames(self, batch, seen)
            loss = self.loss(logits, batch["mask"])
            confidence, masks = logits.softmax(1).max(1)
        self.log_loss(stage, loss, len(masks))
        metrics.update(masks, batch["mask"], confidence, parts)
        return [{"mask": mask, "confidence": sure} for mask, sure in zip(masks, confidence, strict=True)]

    def _evaluated_logits(self, images: Tensor, stage: str) -> Tensor:
        """(B, K, H, W) float32; in the test logarithms of the mean probabilities, where views are averaged."""
        if stage == "test" and not self._is_single:
            return self.probabilities(images).clamp_min(1e-12).log()
        logits: Tensor = self(images).float()
        return logits

    @property
    def _is_single(self) -> bool:
        return self.tta_scales == [1.0] and not self.tta_flips

    def _in_tiles(self, batch: SegmentationBatch, i: int, stage: str) -> tuple[SegmentationPrediction, Tensor]:
        """Prediction in the frame of the batch, and loss (mean over bands of rows), of picture i at its own scale."""
        height, width = batch["size"][i].tolist()
        image = batch["image"][i, :, :height, :width].permute(1, 2, 0).cpu().numpy()
        found, total = _Filled((height, width)), torch.zeros((), device=self.device)
        for top, probabilities in self._blended(image, averaged=stage == "test"):
            found.put(top, probabilities)
            moved = probabilities[None].to(self.device)
            truth = batch["mask"][i : i + 1, top : top + moved.shape[2], :width]
            total += self.loss(moved.clamp_min(1e-12).log(), truth) * (moved.shape[2] / height)
        below, right = batch["mask"].shape[1] - height, batch["mask"].shape[2] - width
        mask, confidence = (F.pad(one.to(self.device), (0, right, 0, below)) for one in (found.mask, found.confidence))
        return {"mask": mask.long(), "confidence": confidence}, total

    # --- prediction ---------------------------------------------------------------------------------------------
    def probabilities(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) to probabilities (B, K, H, W) float32, the mean over `tta_scales` and `tta_flips`."""
        return mean_over_views(self._single, images, self.tta_scales, self.tta_flips)

    def _single(self, images: Tensor) -> Tensor:
        logits: Tensor = self(images)
        return logits.float().softmax(1)

    def predict_step(self, batch: SegmentationBatch, batch_idx: int) -> list[SegmentationPrediction]:
        """Mask and confidence of each picture, in its original pixels.

        The probabilities are brought back before the class is chosen, so that outlines are as smooth as the original.
        Where the network saw nothing (`fit: crop`) the mask is 255 and the confidence 0. With `tile` the pictures are
        read once more, from their files.
        """
        if self.tile is not None:
            return [self.predict_whole(image) for image in originals(self, batch)]
        probabilities = maps_in_own_frames(self, batch, self.probabilities)
        framed = zip(probabilities, batch["frame"], batch["size"].tolist(), strict=True)
        return [_in_original(maps, frame, (height, width)) for maps, frame, (height, width) in framed]

    def predict_whole(self, image: UInt8Array) -> SegmentationPrediction:
        """Mask (uint8) and confidence of a picture (H, W, C) uint8 of any size, from overlapping tiles.

        Beside the result, a byte and a float for each pixel, the memory is that of one row of tiles.
        """
        found = _Filled((image.shape[0], image.shape[1]))
        for top, probabilities in self._blended(image):
            found.put(top, probabilities)
        return {"mask": found.mask, "confidence": found.confidence}

    def _blended(self, image: UInt8Array, averaged: bool = True) -> Iterator[tuple[int, Tensor]]:
        """Bands of probabilities (K, rows, W) of a picture (H, W, C)."""
        return tiled_maps(self, image, self.probabilities if averaged else self._single)


class _Filled:
    """Mask and confidence of a picture, filled band by band."""

    def __init__(self, size: tuple[int, int]) -> None:
        self.mask, self.confidence = torch.zeros(size, dtype=torch.uint8), torch.zeros(size)

    def put(self, top: int, probabilities: Tensor) -> None:
        """(K, rows, W) probabilities of the rows from `top` on."""
        rows = slice(top, top + probabilities.shape[1])
        self.confidence[rows], self.mask[rows] = probabilities.max(0)


def _parts(batch: SegmentationBatch) -> list[tuple[slice, slice]]:
    """Rows and columns of each picture of a batch, without the padding."""
    height, width = batch["mask"].shape[1:]
    framed = zip(batch["frame"].double().cpu().numpy(), batch["size"].tolist(), strict=True)
    return [visible_rectangle(frame, tuple(size), (height, width)) for frame, size in framed]


def _in_original(maps: Tensor, frame: Tensor, size: tuple[int, int]) -> SegmentationPrediction:
    confidence, mask = restored(maps, frame, size).max(0)
    unseen = torch.ones(size, dtype=torch.bool)
    unseen[seen_part(frame.cpu().numpy(), size, (maps.shape[1], maps.shape[2]))] = False
    mask[unseen], confidence[unseen] = IGNORE_INDEX, 0
    return {"mask": mask, "confidence": confidence}
