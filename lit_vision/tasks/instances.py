"""Every object on its own: one network for the pixels of objects, one for the pixels between touching objects."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Any, cast, get_args

import numpy as np
import torch
from torch import Tensor, nn
from torchmetrics import Metric

import lit_vision.losses.pixel_choice  # noqa: F401  losses that experiments name by their short names
from lit_vision.errors import UserError
from lit_vision.losses.border import BorderLoss
from lit_vision.losses.segmentation import CrossEntropyLoss, DiceLoss, SegmentationLoss, SumLoss, check_loss
from lit_vision.metrics.instances import InstanceMetrics
from lit_vision.metrics.maps import MapIoU
from lit_vision.networks.two_masks import second_arguments
from lit_vision.ops.averaging import Flip, check_views, mean_over_views
from lit_vision.ops.instances import Regrow
from lit_vision.ops.separation import Separation
from lit_vision.tasks.instance_maps import (
    as_prediction,
    filled_maps,
    restored_maps,
    visible_maps,
)
from lit_vision.tasks.own_frames import maps_in_own_frames
from lit_vision.tasks.tile_maps import (
    originals,
    say_unused_tile,
    say_unused_views,
    tested_in_tiles,
    tile_transform,
    tiled_maps,
)
from lit_vision.tasks.tuning import Tuning, say_found
from lit_vision.tasks.two_masks import Train, TwoMaskTask
from lit_vision.types import IGNORE_INDEX, FloatArray, InstanceBatch, InstancePrediction, UInt8Array

SINGLE_VIEW: dict[str, Any] = {"scales": [1.0], "flips": []}


class InstanceSegmenter(TwoMaskTask):
    """Finds and outlines every object, touching ones included.

    The first network says for each pixel background or which class, the second whether objects touch there. Objects
    are the connected parts of mask one minus mask two; the pixels lost to the border are given back to the nearest
    object, and its pixels vote for its class.

    Args:
        class_names: K names; comes from the data on the command line.
        decoder: of the first network, see `SemanticSegmenter`.
        encoder: of the first network: any timm network with a feature pyramid.
        border_decoder: of the second network; null = the first one's.
        border_encoder: of the second network; null = the first one's.
        shared_encoder: both decoders take the features of the first encoder: about half the cost.
        pretrained: download the weights of both encoders.
        weights: file of the first encoder's weights instead.
        border_weights: file of the second encoder's; null = the first one's where the encoders are the same.
        encoder_args: timm's own arguments, of the first and where it is the same the second encoder.
        border_encoder_args: of the second.
        decoder_args: arguments of segmentation_models_pytorch; likewise for the decoders.
        border_decoder_args: of the second.
        in_channels: channels of the pictures.
        mean: of the pixels scaled to 0..1, by channel; null = as each encoder's weights expect.
        std: likewise.
        border_mean: of the border network's pixels; null = `mean`, or else as its weights expect.
        border_std: likewise.
        train: "both" networks at once, or one after the other: "pixels" alone in a first run, whose checkpoint gives
            objects without a border; then "border" alone in a second one with `start_from`.
        start_from: a checkpoint of this task, of other classes too, whose weights are the first ones; unlike
            --ckpt_path, a new run.
        loss: of the pixels; null = cross entropy + Dice.
        border_loss: of the border; null = BorderLoss with `border_pixel_weight`.
        border_pixel_weight: a gap in a border merges two objects, a border too broad costs little: hence more than 1;
            null = 5.
        border_lr_factor: factor on the learning rate of the border network.
        pixel_threshold: foreground probability from which a pixel lies in an object; null = found on the validation
            split with the next two, together, after each validation; 0.5 before the first.
        border_threshold: border probability from which a pixel is cut out; null = found, 0.3 before the first.
        min_area: pixels of the network's input; smaller parts are dropped; null = found, 20 before the first.
        regrow: how the cut-out pixels are given back: to the "nearest" object, by "watershed", or "none".
        fill_holes: give holes inside one object to it.
        tta_scales: in test and prediction both maps are the mean over pictures scaled by these factors; null = [1.0].
        tta_flips: likewise over mirrored ones: "horizontal" (left to right), "vertical".
        training: what all tasks share: optimizer, scheduler, lr_decay, freeze, ... see `VisionTask`.
    """

    monitor = "val/ap"
    monitor_mode = "max"

    def __init__(
        self,
        class_names: Sequence[str],
        decoder: str = "unet",
        encoder: str = "resnet34",
        border_decoder: str | None = None,
        border_encoder: str | None = None,
        shared_encoder: bool = False,
        pretrained: bool = False,
        weights: str | None = None,
        border_weights: str | None = None,
        encoder_args: dict[str, Any] | None = None,
        border_encoder_args: dict[str, Any] | None = None,
        decoder_args: dict[str, Any] | None = None,
        border_decoder_args: dict[str, Any] | None = None,
        in_channels: int = 3,
        mean: list[float] | None = None,
        std: list[float] | None = None,
        border_mean: list[float] | None = None,
        border_std: list[float] | None = None,
        train: Train = "both",
        start_from: str | None = None,
        loss: SegmentationLoss | None = None,
        border_loss: SegmentationLoss | None = None,
        border_pixel_weight: float | None = None,
        border_lr_factor: float = 1.0,
        pixel_threshold: float | None = None,
        border_threshold: float | None = None,
        min_area: float | None = None,
        regrow: Regrow | bool = "nearest",
        fill_holes: bool = True,
        tta_scales: list[float] | None = None,
        tta_flips: list[Flip] | None = None,
        **training: Any,
    ) -> None:
        super().__init__(class_names, **training)
        if train not in get_args(Train):
            raise UserError(f"model.train is {train!r}: give one of {', '.join(get_args(Train))}")
        self.trained, self.start_from, self.shared_encoder = train, start_from, shared_encoder
        if border_lr_factor < 0:
            raise UserError(f"model.border_lr_factor is {border_lr_factor}: give 0 or more; 1 = as the other network")
        self.border_lr_factor = border_lr_factor
        self.views: dict[str, Any] = {"scales": [1.0] if tta_scales is None else tta_scales, "flips": tta_flips or []}
        check_views(**self.views)
        self.tuning = Tuning(pixel_threshold, border_threshold, min_area, regrow, fill_holes, train != "pixels")
        self.separation, self.search = self.tuning.start, self.tuning.search
        first: dict[str, Any] = {"decoder": decoder, "encoder": encoder, "in_channels": in_channels}
        first |= {"encoder_args": encoder_args, "decoder_args": decoder_args}
        asked: dict[str, Any] = {"decoder": border_decoder, "encoder": border_encoder}
        asked |= {"decoder_args": border_decoder_args, "encoder_args": border_encoder_args}
        second = second_arguments(first, **asked)
        self._build(first, second, pretrained, (weights, mean, std), (border_weights, border_mean, border_std))
        self.loss = loss or SumLoss([CrossEntropyLoss(), DiceLoss()])
        if border_loss is not None and border_pixel_weight is not None:
            raise UserError("model.border_pixel_weight is of the default border_loss: set it there, or leave one out")
        self.border_loss = border_loss or BorderLoss(5.0 if border_pixel_weight is None else border_pixel_weight)
        for name in ("loss", "border_loss"):
            check_loss(name, getattr(self, name), automatic=False)
        named = self.class_names if self.num_classes > 1 else None  # of one class it would be the same once more
        self.metrics = nn.ModuleDict({stage: InstanceMetrics(self.num_classes, named) for stage in ("val", "test")})
        self.map_metrics = nn.ModuleDict({stage: MapIoU() for stage in ("val", "test")})
        if train == "pixels":
            self.monitor = "val/pixel_iou"
        border = {f"border_{key}": value for key, value in second.items() if key != "in_channels"}
        chosen: dict[str, Any] = {"shared_encoder": shared_encoder, "train": train, **self._statistics()}
        chosen |= {"tta_scales": self.views["scales"], "tta_flips": self.views["flips"]}
        self.save_hyperparameters({**first, **border, **asdict(self.separation), **chosen})

    # --- training -----------------------------------------------------------------------------------------------
    def training_step(self, batch: InstanceBatch, batch_idx: int) -> Tensor:
        """Sum of the losses of the networks that train."""
        pixels, border = self(batch["image"], pixels=self.trained != "border", border=self.trained != "pixels")
        loss = torch.stack(list(self._losses(pixels, border, batch).values())).sum()
        self.log_loss("train", loss, len(batch["image"]))
        return loss

    def _probabilities(self, images: Tensor) -> Tensor:
        """(B, K + 2, H, W): background, classes, border."""
        pixels, border = self(images)
        return torch.cat([pixels.float().softmax(1), border.float().sigmoid()], 1)

    # --- evaluation ---------------------------------------------------------------------------------------------
    def _evaluate(self, batch: InstanceBatch, metrics: Metric, stage: str) -> Sequence[Mapping[str, Any]]:
        pixels, border, maps = self._evaluated_maps(batch, averaged=stage == "test")
        losses = self._losses(pixels, border, batch)
        self.log_loss(stage, torch.stack(list(losses.values())).sum(), len(batch["image"]))
        if len(losses) > 1:
            each = {f"{stage}/{name}": loss.detach() for name, loss in losses.items()}
            self.log_dict(each, batch_size=self.weight(stage, len(batch["image"])), sync_dist=True)
        cast(MapIoU, self.map_metrics[stage]).update(1 - maps[:, 0], maps[:, -1], batch["mask"], batch["border"])
        predictions = []
        for i, found in enumerate(maps.cpu().numpy()):
            shown = visible_maps(found, batch, i)
            prediction = as_prediction(self.separation, shown, self.num_classes)
            if not self.tuning.keep(batch, i, shown):
                there = (batch["instances"][i], batch["labels"][i], batch["mask"][i] == IGNORE_INDEX)
                given = (prediction["instances"], prediction["labels"], prediction["scores"])
                metrics.update(int(batch["index"][i]), *given, *there)
            predictions.append(prediction)
        return cast(Sequence[Mapping[str, Any]], predictions)

    def _evaluated_maps(self, batch: InstanceBatch, averaged: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Logits of the pixels and of the border, and their maps (B, K + 2, H, W), see `_probabilities`.

        With `tile`, pictures at their own scale are seen in tiles, as in the prediction; the losses are then those of
        the blended maps.
        """
        views = self.views if averaged else SINGLE_VIEW
        if tested_in_tiles(self):
            maps = torch.stack([self._in_tiles(batch, i, views) for i in range(len(batch["size"]))])
            return maps[:, :-1].clamp_min(1e-12).log(), maps[:, -1:].logit(1e-6), maps
        logits = maps_in_own_frames(self, batch, lambda images: torch.cat(self(images), 1))
        pixels, border = logits[:, :-1], logits[:, -1:]
        if views != SINGLE_VIEW:
            averaged_maps = partial(mean_over_views, self._probabilities, **views)
            return pixels, border, maps_in_own_frames(self, batch, averaged_maps)
        return pixels, border, torch.cat([pixels.float().softmax(1), border.float().sigmoid()], 1)

    def _in_tiles(self, batch: InstanceBatch, i: int, views: dict[str, Any]) -> Tensor:
        """Maps (K + 2, H, W) of picture i in the frame of the batch; its padding is background."""
        height, width = batch["size"][i].tolist()
        image = batch["image"][i, :, :height, :width].permute(1, 2, 0).cpu().numpy()
        maps = torch.zeros((self.num_classes + 2, *batch["mask"].shape[1:]), device=self.device)
        maps[0] = 1
        for top, band in tiled_maps(self, image, partial(mean_over_views, self._probabilities, **views)):
            maps[:, top : top + band.shape[1], :width] = band.to(self.device)
        return maps

    def on_test_start(self) -> None:
        """Says where tiles are not used."""
        say_unused_tile(self)

    def on_validation_start(self) -> None:
        """Says what `validate` leaves out."""
        say_unused_tile(self)
        say_unused_views(self, **self.views)

    def on_validation_epoch_start(self) -> None:
        """Keeps the maps of a validation in a training, for the thresholds that are to be found."""
        if self.trainer.state.fn == "fit" and not self.trainer.sanity_checking:
            self.tuning.begin()

    def on_validation_epoch_end(self) -> None:
        """Thresholds for these weights, then the metrics with them."""
        found = self.tuning.finish(cast(InstanceMetrics, self.metrics["val"]), self.log_dict)
        if found is not None:
            self._adopt(found)
        super().on_validation_epoch_end()

    def _adopt(self, separation: Separation) -> None:
        self.separation = separation
        self.hparams.update(asdict(separation))

    def on_fit_end(self) -> None:
        """Says what was found."""
        if self.tuning.done:
            say_found(self.separation, self.tuning.searched)

    def _log_metrics(self, stage: str) -> None:
        metric = cast(MapIoU, self.map_metrics[stage])
        self.log_dict({f"{stage}/{name}": value for name, value in metric.compute().items()})
        metric.reset()
        super()._log_metrics(stage)

    # --- prediction ---------------------------------------------------------------------------------------------
    def predict_step(self, batch: InstanceBatch, batch_idx: int) -> list[InstancePrediction]:
        """Objects of each picture in its original pixels: both maps are brought back before they are separated.

        With `tile` the pictures are read once more, from their files.
        """
        if self.tile is not None:
            return [self.predict_whole(image) for image in originals(self, batch)]
        averaged = partial(mean_over_views, self._probabilities, **self.views)
        maps = maps_in_own_frames(self, batch, averaged).detach().cpu().numpy()
        frames, sizes = batch["frame"].cpu().numpy(), batch["size"].tolist()
        predictions = []
        for one, frame, size in zip(maps, frames, sizes, strict=True):
            restored = restored_maps(one, frame, (int(size[0]), int(size[1])))
            predictions.append(as_prediction(self._at_scale(frame), restored, self.num_classes))
        return predictions

    def predict_whole(self, image: UInt8Array) -> InstancePrediction:
        """Objects of a picture (H, W, C) uint8 of any size: maps from overlapping tiles, separated once as a whole.

        Nothing is stitched, so an object that many tiles share is as good as any other. The memory is about 25 bytes a
        pixel of the picture, whatever the number of classes, and that of one row of tiles.
        """
        views = partial(mean_over_views, self._probabilities, **self.views)
        whole = filled_maps((image.shape[0], image.shape[1]), tiled_maps(self, image, views))
        frame = tile_transform(self.data)(image[: self.tile, : self.tile]).frame
        return as_prediction(self._at_scale(np.asarray(frame)), whole, self.num_classes)

    def _at_scale(self, frame: FloatArray) -> Separation:
        """The separation for the original's pixels: `min_area` is of the network's."""
        return replace(self.separation, min_area=self.separation.min_area / abs(np.linalg.det(frame[:, :2])))

    # --- checkpoints --------------------------------------------------------------------------------------------
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds the thresholds in force."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["lit_vision"]["separation"] = asdict(self.separation)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Takes over the thresholds that were found and that this experiment does not set."""
        super().on_load_checkpoint(checkpoint)
        self._adopt(self.tuning.adopted(checkpoint["lit_vision"].get("separation", {})))
