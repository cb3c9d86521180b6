"""A class for every pixel."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from lit_vision.data.restore import restore_scores
from lit_vision.errors import UserError
from lit_vision.losses.segmentation import CrossEntropyLoss, DiceLoss, SegmentationLoss, SumLoss
from lit_vision.metrics.segmentation import SegmentationMetrics
from lit_vision.networks.backbones import preprocessing_of
from lit_vision.networks.licences import licence_of
from lit_vision.networks.preprocess import Preprocess
from lit_vision.networks.segmentation import create_segmenter
from lit_vision.tasks.base import VisionTask
from lit_vision.types import SegmentationBatch, SegmentationPrediction


class SemanticSegmenter(VisionTask):
    """Classifies every pixel with an encoder-decoder network.

    Args:
        class_names: K names, index = class in the mask; comes from the data on the command line.
        decoder: "unet" (skip connections, sharp outlines), "deeplabv3plus" (wide context), or another of
            `networks.segmentation.DECODERS`.
        encoder: any timm network with a feature pyramid, as "resnet34" or "resnest269e".
        pretrained: download the encoder's weights.
        weights: file of the encoder's weights instead: .safetensors, or .pth of plain tensors.
        encoder_args: timm's own arguments, as {drop_path_rate: 0.1}.
        decoder_args: arguments of segmentation_models_pytorch, as {decoder_channels: [128, 64, 32, 16, 8]}.
        in_channels: channels of the pictures; the first convolution of given weights is adapted.
        mean: of the pixels scaled to 0..1, by channel; null = as the encoder's weights expect.
        std: likewise.
        loss: null = cross entropy + Dice; else one of losses/segmentation.py, or a SumLoss of several.
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
        encoder_args: dict[str, Any] | None = None,
        decoder_args: dict[str, Any] | None = None,
        in_channels: int = 3,
        mean: list[float] | None = None,
        std: list[float] | None = None,
        loss: SegmentationLoss | None = None,
        **training: Any,
    ) -> None:
        super().__init__(class_names, **training)
        if self.num_classes < 2:
            raise UserError(f"a segmentation has at least two classes, such as background and {self.class_names[0]}")
        built: dict[str, Any] = {"decoder": decoder, "encoder": encoder, "in_channels": in_channels}
        built |= {"encoder_args": encoder_args, "decoder_args": decoder_args}
        self.network = create_segmenter(classes=self.num_classes, pretrained=pretrained, weights=weights, **built)
        self.licence = licence_of(self.backbones.values(), pretrained, weights)
        expected = preprocessing_of(self.network.backbone, in_channels)
        self.preprocess = Preprocess(mean or expected.mean, std or expected.std)
        self.loss = loss or SumLoss([CrossEntropyLoss(), DiceLoss()])
        self.metrics = nn.ModuleDict({stage: SegmentationMetrics(self.class_names) for stage in ("val", "test")})
        statistics = {"mean": list(self.preprocess.mean), "std": list(self.preprocess.std)}
        self.save_hyperparameters({**built, **statistics})

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

    def _evaluate(self, batch: SegmentationBatch, metrics: Metric, stage: str) -> Sequence[Mapping[str, Any]]:
        logits = self(batch["image"]).float()  # (B, K, H, W)
        self.log_loss(stage, self.loss(logits, batch["mask"]), len(logits))
        metrics.update(logits.argmax(1), batch["mask"])
        return [_most_likely(probabilities) for probabilities in logits.softmax(1)]

    def predict_step(self, batch: SegmentationBatch, batch_idx: int) -> list[SegmentationPrediction]:
        """Mask and confidence of each picture, in its original pixels.

        The probabilities are brought back before the class is chosen, so that outlines are as smooth as the original.
        """
        probabilities = self(batch["image"]).float().softmax(1)
        return [
            _most_likely(
                torch.from_numpy(restore_scores(maps.cpu().numpy(), frame.cpu().numpy(), tuple(size.tolist())))
            )
            for maps, frame, size in zip(probabilities, batch["frame"], batch["size"], strict=True)
        ]


def _most_likely(probabilities: Tensor) -> SegmentationPrediction:
    """(K, H, W) probabilities to the class and its probability."""
    confidence, mask = probabilities.max(0)
    return {"mask": mask, "confidence": confidence}
