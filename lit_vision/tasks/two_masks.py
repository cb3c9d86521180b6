"""Two networks over the same pictures, for pixels and borders: built, trained together or one after the other."""

from typing import Any, Literal, TypeAlias, cast

import torch
from pytorch_lightning.utilities import rank_zero_info
from torch import Tensor, nn

from lit_vision.errors import UserError
from lit_vision.losses.border import BorderLoss
from lit_vision.losses.segmentation import SegmentationLoss
from lit_vision.networks.licences import licence_of
from lit_vision.networks.preprocess import Preprocess
from lit_vision.networks.segmentation import Segmenter, create_segmenter
from lit_vision.networks.stages import Stages
from lit_vision.networks.statistics import statistics_for
from lit_vision.networks.two_masks import SecondDecoder, border_segmenter, both_logits, second_decoder
from lit_vision.tasks.base import VisionTask
from lit_vision.tasks.one_of_two import NETWORKS, check_start, hold, own_rates, take_weights
from lit_vision.types import InstanceBatch

Train: TypeAlias = Literal["both", "pixels", "border"]
Given: TypeAlias = tuple[str | None, list[float] | None, list[float] | None]  # weights, mean and std of an encoder
NOWHERE = -30.0  # logit of a border where no border network has been trained


class TwoMaskTask(VisionTask):
    """What InstanceSegmenter is before objects are made of its maps."""

    network: Segmenter  # pixels: background and classes
    border_network: Segmenter | SecondDecoder
    border_preprocess: Preprocess  # only where the encoder is not shared
    loss: SegmentationLoss
    border_loss: SegmentationLoss
    trained: Train = "both"
    asked: Train = "both"  # what `trained` is in a fit; a checkpoint of pixels alone changes it in a test
    shared_encoder: bool = False
    border_lr_factor: float = 1.0

    def _build(
        self,
        first: dict[str, Any],
        second: dict[str, Any],
        pretrained: bool,
        given: Given,
        border_given: Given,
    ) -> None:
        """Makes both networks, and holds the one that does not train."""
        self.asked = self.trained
        (weights, mean, std), (border_weights, border_mean, border_std) = given, border_given
        self.network = create_segmenter(classes=self.num_classes + 1, pretrained=pretrained, weights=weights, **first)
        alike = second["encoder"] == first["encoder"]
        if self.shared_encoder:
            if not alike or second["encoder_args"] != first["encoder_args"] or any(border_given):
                raise UserError(
                    "model.shared_encoder is true: leave border_encoder, its _args, border_weights, border_mean and "
                    "border_std out"
                )
            self.border_network = second_decoder(self.network, second, classes=1)
        else:
            own = border_weights is not None
            border_weights = border_weights or (weights if alike else None)
            self.border_network = border_segmenter(second, pretrained, border_weights, own)
        self.preprocess = _preprocess(self.network.backbone, first["in_channels"], weights, mean, std)
        if isinstance(self.border_network, Segmenter):
            second_encoder, channels = self.border_network.backbone, first["in_channels"]
            statistics = border_mean or mean, border_std or std
            self.border_preprocess = _preprocess(second_encoder, channels, border_weights, *statistics)
        self._filled = [pretrained or file is not None for file in (weights, border_weights)]
        encoders = [one.backbone for one in (self.network, self.border_network) if isinstance(one, Segmenter)]
        self.licence = licence_of(encoders, pretrained, weights, border_weights)
        if self.fixed is not None:
            hold(self.fixed)
        if self.start_from is not None:
            earlier = take_weights(self, self.start_from, self.fixed)
            self.licence = "; ".join(dict.fromkeys(one for one in (self.licence, earlier) if one)) or None

    def _statistics(self) -> dict[str, list[float]]:
        """Mean and standard deviation of what each encoder sees, as arguments."""
        both = (
            {"": self.preprocess} if self.shared_encoder else {"": self.preprocess, "border_": self.border_preprocess}
        )
        means = {f"{prefix}mean": list(one.mean) for prefix, one in both.items()}
        return means | {f"{prefix}std": list(one.std) for prefix, one in both.items()}

    @property
    def fixed(self) -> nn.Module | None:
        """The network that does not train."""
        return {"both": None, "pixels": self.border_network, "border": self.network}[self.trained]

    @property
    def backbones(self) -> dict[str, nn.Module]:
        """The encoders that train: both, or the one that both decoders share."""
        found: dict[str, nn.Module] = {}
        if self.trained != "border":
            found["network.network.encoder.model"] = self.network.backbone
        if self.trained != "pixels" and not self.shared_encoder:
            found["border_network.network.encoder.model"] = cast(Segmenter, self.border_network).backbone
        return found

    @property
    def untrained(self) -> list[str]:
        """Likewise, each by itself."""
        filled = dict(zip(NETWORKS, self._filled, strict=True))
        return [] if self.start_from else [name for name in self.backbones if not filled[name.split(".")[0]]]

    def setup(self, stage: str) -> None:
        """As all tasks; a border network alone needs pixels that were trained before."""
        if stage == "fit":
            self._use(self.asked)
            check_start(self.trained, self.start_from, self.trainer.ckpt_path)
            self.train(self.training)  # Lightning leaves each module in the mode that it is in
        super().setup(stage)

    def _use(self, trained: Train) -> None:
        self.trained = trained
        self.hparams["train"] = trained  # of a checkpoint that is saved from now on

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """As all tasks; outside of a fit a network for borders that was never trained is not used."""
        super().on_load_checkpoint(checkpoint)
        fitting = self._trainer is not None and self._trainer.state.fn == "fit"
        bare = not fitting and checkpoint["hyper_parameters"].get("train") == "pixels"
        self._use("pixels" if bare else self.asked)
        if self.trained != self.asked:
            rank_zero_info(
                f"model.train is {self.asked}, but the checkpoint is of a run with train: pixels: it is used as one, "
                "and objects are found without borders"
            )

    def train(self, mode: bool = True) -> "TwoMaskTask":
        """As usual, but a network that does not train stays in evaluation mode."""
        super().train(mode)
        if hasattr(self, "border_network") and self.fixed is not None:
            self.fixed.eval()
        return self

    def grouped(self, stages: Stages) -> list[dict[str, Any]]:
        """As all tasks, but the border network has its own learning rate where it is to have one."""
        return own_rates(super().grouped(stages), self.border_network, self.border_lr_factor)

    def forward(self, images: Tensor, pixels: bool = True, border: bool = True) -> tuple[Tensor, Tensor]:
        """Images (B, C, H, W) -> logits of background and classes (B, K + 1, H, W), and of the border (B, 1, H, W).

        Args:
            images: uint8, or floats from 0 to 255.
            pixels: false where the first network's logits are not needed; an empty tensor takes their place.
            border: likewise of the second's. Before it has been trained they say that there is none.
        """
        if self.shared_encoder and border and self.trained != "pixels":
            second = cast(SecondDecoder, self.border_network)
            return both_logits(self.network, second, self.preprocess(images), pixels)
        inner = self.network(self.preprocess(images)) if pixels else images.new_zeros(0, dtype=torch.float32)
        if border and self.trained != "pixels":
            return inner, self.border_network(self.border_preprocess(images))
        return inner, inner.new_full((len(images), 1, *images.shape[-2:]), NOWHERE)

    def _losses(self, pixels: Tensor, border: Tensor, batch: InstanceBatch) -> dict[str, Tensor]:
        """Loss of each network that trains."""
        losses: dict[str, Tensor] = {}
        if self.trained != "border":
            losses["pixel_loss"] = self.loss(pixels, batch["mask"])
        if self.trained != "pixels":
            given = [batch["border_weight"]] if "border_weight" in batch else []
            if given and not isinstance(self.border_loss, BorderLoss):
                kind = type(self.border_loss).__name__
                raise UserError(f"data.gap_weight needs border_loss BorderLoss, not {kind}: leave one of them out")
            losses["border_loss"] = self.border_loss(border, batch["border"], *given)
        return losses


def _preprocess(
    backbone: nn.Module, channels: int, weights: str | None, mean: list[float] | None, std: list[float] | None
) -> Preprocess:
    expected = statistics_for(backbone, channels, weights)
    return Preprocess(expected[0] if mean is None else mean, expected[1] if std is None else std)
