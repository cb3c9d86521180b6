"""Every object on its own: one network for the pixels of objects, one for the pixels between touching objects."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torchmetrics import Metric

from lit_vision.data.geometry import visible_rectangle
from lit_vision.data.restore import restore_scores
from lit_vision.errors import UserError
from lit_vision.losses.segmentation import CrossEntropyLoss, DiceLoss, SegmentationLoss, SumLoss
from lit_vision.metrics.instances import InstanceMetrics
from lit_vision.networks.backbones import preprocessing_of
from lit_vision.networks.licences import licence_of
from lit_vision.networks.preprocess import Preprocess
from lit_vision.networks.segmentation import create_segmenter
from lit_vision.ops.instances import Separation
from lit_vision.tasks.base import VisionTask
from lit_vision.types import IGNORE_INDEX, FloatArray, InstanceBatch, InstancePrediction


class InstanceSegmenter(VisionTask):
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
        loss: of the pixels; null = cross entropy + Dice.
        border_loss: of the border; null = cross entropy + Dice, in which a border pixel weighs `border_pixel_weight`.
        border_pixel_weight: a gap in a border merges two objects, a border too broad costs little: hence more than 1.
        pixel_threshold: foreground probability from which a pixel lies in an object.
        border_threshold: border probability from which a pixel is cut out; worth tuning on the validation split.
        min_area: pixels of the network's input; smaller parts are dropped.
        regrow: give the cut-out pixels back.
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
        loss: SegmentationLoss | None = None,
        border_loss: SegmentationLoss | None = None,
        border_pixel_weight: float = 5.0,
        pixel_threshold: float = 0.5,
        border_threshold: float = 0.3,
        min_area: float = 20,
        regrow: bool = True,
        **training: Any,
    ) -> None:
        super().__init__(class_names, **training)
        _check(pixel_threshold=pixel_threshold, border_threshold=border_threshold)
        first = _network(decoder, encoder, in_channels, encoder_args, decoder_args)
        second = _network(border_decoder, border_encoder, in_channels, border_encoder_args, border_decoder_args, first)
        if second["encoder"] == encoder:
            border_weights = border_weights or weights
        self.network = create_segmenter(classes=self.num_classes + 1, pretrained=pretrained, weights=weights, **first)
        self.border_network = create_segmenter(classes=1, pretrained=pretrained, weights=border_weights, **second)
        self.licence = licence_of(self.backbones.values(), pretrained, weights, border_weights)
        self.preprocess = _preprocess(self.network.backbone, in_channels, mean, std)
        self.border_preprocess = _preprocess(self.border_network.backbone, in_channels, mean, std)
        self.loss = loss or SumLoss([CrossEntropyLoss(), DiceLoss()])
        self.border_loss = border_loss or SumLoss([CrossEntropyLoss([1.0, border_pixel_weight]), DiceLoss()])
        self.separation = Separation(pixel_threshold, border_threshold, min_area, regrow)
        self.metrics = nn.ModuleDict({stage: InstanceMetrics(self.num_classes) for stage in ("val", "test")})
        border = {f"border_{key}": value for key, value in second.items() if key != "in_channels"}
        self.save_hyperparameters({**first, **border, **asdict(self.separation), "mean": mean, "std": std})

    @property
    def backbones(self) -> dict[str, nn.Module]:
        """Both encoders."""
        return {
            "network.network.encoder.model": self.network.backbone,
            "border_network.network.encoder.model": self.border_network.backbone,
        }

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Images (B, C, H, W) -> logits of background and classes (B, K + 1, H, W), and of the border (B, 1, H, W)."""
        pixels: Tensor = self.network(self.preprocess(images))
        border: Tensor = self.border_network(self.border_preprocess(images))
        return pixels, border

    def training_step(self, batch: InstanceBatch, batch_idx: int) -> Tensor:
        """Sum of both networks' losses."""
        pixels, border = self(batch["image"])
        loss = self._loss(pixels, border, batch)
        self.log_loss("train", loss, len(batch["image"]))
        return loss

    def _loss(self, pixels: Tensor, border: Tensor, batch: InstanceBatch) -> Tensor:
        loss: Tensor = self.loss(pixels, batch["mask"]) + self.border_loss(border, batch["border"])
        return loss

    def _evaluate(self, batch: InstanceBatch, metrics: Metric, stage: str) -> Sequence[Mapping[str, Any]]:
        pixels, border = self(batch["image"])
        self.log_loss(stage, self._loss(pixels, border, batch), len(batch["image"]))
        predictions = []
        for i, maps in enumerate(_probabilities(pixels, border)):
            prediction = _prediction(self.separation, self._visible(maps, batch, i))
            there = (batch["instances"][i], batch["labels"][i], batch["mask"][i] == IGNORE_INDEX)
            given = (prediction["instances"], prediction["labels"], prediction["scores"])
            metrics.update(int(batch["index"][i]), *given, *there)
            predictions.append(prediction)
        return predictions

    def predict_step(self, batch: InstanceBatch, batch_idx: int) -> list[InstancePrediction]:
        """Objects of each picture in its original pixels: both maps are brought back before they are separated."""
        predictions = []
        frames, sizes = batch["frame"].cpu().numpy(), batch["size"].tolist()
        for maps, frame, size in zip(_probabilities(*self(batch["image"])), frames, sizes, strict=True):
            area = self.separation.min_area / abs(np.linalg.det(frame[:, :2]))
            restored = restore_scores(maps, frame, tuple(size))
            predictions.append(_prediction(replace(self.separation, min_area=area), restored))
        return predictions

    def _visible(self, maps: FloatArray, batch: InstanceBatch, i: int) -> FloatArray:
        """The maps of image i with background in the padding, which no prediction for people contains either."""
        frame = np.vstack([batch["frame"][i].cpu().numpy(), [0, 0, 1]])
        size = (int(batch["size"][i][0]), int(batch["size"][i][1]))
        rows, columns = visible_rectangle(frame, size, (maps.shape[1], maps.shape[2]))
        shown = np.zeros_like(maps)
        shown[0] = 1
        shown[:, rows, columns] = maps[:, rows, columns]
        return shown


def _probabilities(pixels: Tensor, border: Tensor) -> FloatArray:
    """(B, K + 2, H, W): background, classes, border."""
    maps: FloatArray = torch.cat([pixels.float().softmax(1), border.float().sigmoid()], 1).cpu().numpy()
    return maps


def _prediction(separation: Separation, maps: FloatArray) -> InstancePrediction:
    instances, labels, scores = separation(maps[:-1], maps[-1])
    return {
        "instances": torch.from_numpy(instances),
        "labels": torch.from_numpy(labels),
        "scores": torch.from_numpy(scores),
    }


def _network(
    decoder: str | None,
    encoder: str | None,
    in_channels: int,
    encoder_args: dict[str, Any] | None,
    decoder_args: dict[str, Any] | None,
    model: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Arguments of `create_segmenter`; what is not said is as in `model`, if the names are the same."""
    model = model or {}
    made = {"decoder": decoder or model["decoder"], "encoder": encoder or model["encoder"]}
    same_encoder, same_decoder = (made[key] == model.get(key) for key in ("encoder", "decoder"))
    made["encoder_args"] = encoder_args or (model["encoder_args"] if same_encoder else None)
    made["decoder_args"] = decoder_args or (model["decoder_args"] if same_decoder else None)
    return {**made, "in_channels": in_channels}


def _preprocess(backbone: nn.Module, channels: int, mean: list[float] | None, std: list[float] | None) -> Preprocess:
    expected = preprocessing_of(backbone, channels)
    return Preprocess(mean or expected.mean, std or expected.std)


def _check(**thresholds: float) -> None:
    for name, value in thresholds.items():
        if not 0 <= value < 1:
            raise UserError(f"model.{name} is {value}, but it must be at least 0 and below 1")
