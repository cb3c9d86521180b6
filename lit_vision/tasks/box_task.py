"""What follows a detector's network: its evaluation, its predictions, and the thresholds that the validation finds."""

import time
from collections.abc import Mapping, Sequence
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import Metric

from lit_vision.data.dataset import NATIVE_MULTIPLE
from lit_vision.data.warp import FILL
from lit_vision.errors import UserError
from lit_vision.metrics.detection import MeanAveragePrecision
from lit_vision.networks.fusion import InferenceCopy
from lit_vision.networks.preprocess import interleave
from lit_vision.ops.box_views import View, views
from lit_vision.ops.grid import Decoded
from lit_vision.tasks.base import VisionTask
from lit_vision.tasks.detection_inference import Rule, detect, detect_in_tiles, see, true_boxes
from lit_vision.tasks.own_frames import Group, own_frames, part_of
from lit_vision.tasks.tile_maps import originals, say_unused_views, tile_of
from lit_vision.types import Batch, DetectionBatch, DetectionPrediction, UInt8Array

USUAL_SCORE = 0.5  # of the pictures, where thresholds are to come from the validation and there has been none


class BoxTask(VisionTask):
    """A task whose network gives boxes with objectness and class probabilities.

    A subclass builds `network` (see `networks.yolo_network.DetectionNetwork`), calls `set_rule` in `__init__`, and
    writes `forward` and `_loss`.

    Attributes:
        class_thresholds: K score thresholds, of the best F1 in the last validation; None before it. They travel in the
            checkpoint.
    """

    network: Any

    def set_rule(
        self,
        objectness_threshold: float,
        score_threshold: float | Literal["auto"],
        nms_threshold: float,
        max_detections: int,
        evaluation_threshold: float,
        tta_scales: Sequence[float] | None,
        tta_flips: Sequence[str] | None,
    ) -> dict[str, Any]:
        """Sets and checks which boxes are detections, and how `test` and `predict` look; gives it as plain values."""
        self.objectness_threshold, self.score_threshold = objectness_threshold, score_threshold
        self.evaluation_threshold, self.nms_threshold = evaluation_threshold, nms_threshold
        self.max_detections = max_detections
        chosen = {"objectness_threshold": objectness_threshold, "score_threshold": score_threshold}
        chosen |= {"nms_threshold": nms_threshold, "evaluation_threshold": evaluation_threshold}
        for name, value in chosen.items():
            if (name, value) != ("score_threshold", "auto") and not 0 <= cast(float, value) <= 1:
                also = ", or auto" if name == "score_threshold" else ""
                raise UserError(f"model.{name} is {value}; give a number from 0 to 1{also}")
        if max_detections < 1:
            raise UserError(f"model.max_detections is {max_detections}; give a whole number from 1")
        looks: dict[str, Any] = {"tta_scales": list(tta_scales or [1.0]), "tta_flips": list(tta_flips or [])}
        self.looks = (looks["tta_scales"], looks["tta_flips"])
        self.views = views(*self.looks)
        self.class_thresholds: list[float] | None = None
        self._inference = InferenceCopy()
        metrics = {stage: MeanAveragePrecision(self.class_names, max_detections) for stage in ("val", "test")}
        self.metrics = nn.ModuleDict(metrics)
        return {**chosen, "max_detections": max_detections, **looks}

    def _loss(self, outputs: Sequence[Tensor], batch: DetectionBatch, stage: str) -> Tensor:
        """The loss of a batch, logged."""
        raise NotImplementedError

    # --- evaluation ---------------------------------------------------------------------------------------------
    def on_validation_start(self) -> None:
        """Says what `validate` leaves out."""
        say_unused_views(self, *self.looks, tile=self.tile)

    def test_step(self, batch: Batch, batch_idx: int) -> Any:
        """As every task; the copy for inference is made before the clock of the first pictures runs."""
        if batch_idx == 0 and isinstance(batch["image"], Tensor):
            self._infer(batch["image"][:1])
        return super().test_step(batch, batch_idx)

    def _evaluate(self, batch: DetectionBatch, metrics: Metric, stage: str) -> Sequence[Mapping[str, object]]:
        """Metrics rank all candidates; the predictions given back are those that a user would get."""
        groups = own_frames(self, batch, self._multiple)
        if len(groups) > 1:
            parts = [self._evaluate(part_of(batch, *group), metrics, stage) for group in groups]
            return _in_order(groups, parts)
        if stage == "test" and self.tile is not None:
            started = time.perf_counter()
            # The loss belongs to whole pictures as the network has learnt them: in tiles there is none.
            pairs = [self._in_tiles(image, [self._candidates(), self._rule()]) for image in originals(self, batch)]
            candidates, predictions = ([pair[k] for pair in pairs] for k in (0, 1))
            self._log_time(started, predictions)
        else:
            candidates, predictions = self._candidates_and_predictions(batch, stage)
        metrics.update(batch["index"], candidates, true_boxes(batch), batch["labels"], batch["crowd"])
        return predictions

    def _candidates_and_predictions(
        self, batch: DetectionBatch, stage: str
    ) -> tuple[list[DetectionPrediction], list[DetectionPrediction]]:
        images, started = batch["image"], time.perf_counter()
        outputs = self._infer(images) if stage == "test" else self(images)
        wide, narrow = self._candidates(), self._rule()
        lowest, chosen = min(wide.objectness, narrow.objectness), self.views if stage == "test" else [View()]
        found = see(self.network, self._infer, images, chosen, lowest, known=outputs)
        predictions = self._detections(found, batch, narrow)
        if stage == "test":
            self._log_time(started, predictions)
        self._loss(outputs, batch, stage)
        return self._detections(found, batch, wide), predictions

    def _log_time(self, started: float, predictions: Sequence[DetectionPrediction]) -> None:
        """What a user waits for a picture, once it is decoded and on the device."""
        _ = [one["scores"].tolist() for one in predictions]  # waits for the device
        count, milliseconds = len(predictions), 1000 * (time.perf_counter() - started)
        weight = self.weight("test", count)
        self.log(
            "test/ms_per_picture", milliseconds / count, on_step=False, on_epoch=True, batch_size=weight, sync_dist=True
        )

    # --- prediction ---------------------------------------------------------------------------------------------
    def predict_step(self, batch: Batch, batch_idx: int) -> list[DetectionPrediction]:
        """Detections of each image in its original pixels."""
        rule = self._rule(strictly=True)
        if self.tile is not None:
            return [self._in_tiles(image, [rule])[0] for image in originals(self, batch)]
        groups = own_frames(self, batch, self._multiple)
        parts = [part_of(batch, *group) for group in groups] if len(groups) > 1 else [batch]
        found = [self._detections(self._find(one["image"], rule.objectness), one, rule) for one in parts]
        return _in_order(groups, found)

    @property
    def _multiple(self) -> int:
        """Of which the sides of pictures at their own scale are multiples."""
        data = getattr(self._trainer, "datamodule", None)
        return int(getattr(data, "padded_multiple", NATIVE_MULTIPLE))

    def predict_whole(self, image: UInt8Array) -> DetectionPrediction:
        """Detections of one picture (H, W, C) uint8 in its own pixels, found in tiles; `tile` must be set."""
        return self._in_tiles(image, [self._rule(strictly=True)])[0]

    def _in_tiles(self, image: UInt8Array, rules: Sequence[Rule]) -> list[DetectionPrediction]:
        return detect_in_tiles(image, tile_of(self), self.tile_overlap, self.data, self._find, rules, self.device)

    def _find(self, images: Tensor, threshold: float) -> list[Decoded]:
        down, right = (-side % self.network.coarsest for side in images.shape[-2:])
        if down or right:  # pictures at their own scale come padded for strides up to 32, and some networks have more
            images = F.pad(images, (0, right, 0, down), value=FILL)
        return see(self.network, self._infer, images, self.views, threshold)

    def _infer(self, images: Tensor) -> list[Tensor]:
        """As `forward`, by the copy with everything folded that can be; not where gradients are wanted."""
        if self.training or self.compiled or self.device_mesh is not None or torch.is_grad_enabled():
            outputs: list[Tensor] = self(images)
            return outputs
        if self.channels_last:
            images = interleave(images)
        return self._inference(self.network, self.preprocess(images))

    def _detections(self, found: Sequence[Decoded], batch: Batch, rule: Rule) -> list[DetectionPrediction]:
        return detect(found, batch["frame"], batch["size"], rule)

    # --- which boxes --------------------------------------------------------------------------------------------
    def _candidates(self) -> Rule:
        low = self.evaluation_threshold
        return Rule(low, low, self.nms_threshold, self.max_detections)

    def _rule(self, strictly: bool = False) -> Rule:
        """The user's own; `strictly`: thresholds that are to come from the validation must be known."""
        if strictly:
            self.check_thresholds()
        objectness, score = self.objectness_threshold, self.score_threshold
        if score != "auto":
            return Rule(objectness, score, self.nms_threshold, self.max_detections)
        chosen = torch.tensor(self.class_thresholds or [USUAL_SCORE] * self.num_classes, device=self.device)
        return Rule(min(objectness, float(chosen.min())), chosen, self.nms_threshold, self.max_detections)

    # --- thresholds of the classes ------------------------------------------------------------------------------
    def check_thresholds(self) -> None:
        """Whether predictions can be made.

        Raises:
            UserError: the thresholds are to come from the validation, and there has been none.
        """
        if self.score_threshold == "auto" and self.class_thresholds is None:
            raise UserError(
                "score_threshold is auto, but this checkpoint was written before a validation had found the "
                "thresholds: give a number (--threshold 0.4)"
            )

    def on_validation_epoch_end(self) -> None:
        """As every task; keeps the thresholds of the best F1, but for those of the batches before a training."""
        super().on_validation_epoch_end()
        points = cast(MeanAveragePrecision, self.metrics["val"]).points
        if points is not None and not self.trainer.sanity_checking:
            self.class_thresholds = points.thresholds.tolist()

    def on_test_epoch_start(self) -> None:
        """F1 is measured at the thresholds that the validation found."""
        cast(MeanAveragePrecision, self.metrics["test"]).thresholds = self.class_thresholds

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """As every task; with the thresholds of the classes."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["lit_vision"]["class_thresholds"] = self.class_thresholds

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """As every task; with the thresholds of the classes."""
        super().on_load_checkpoint(checkpoint)
        self.class_thresholds = checkpoint["lit_vision"].get("class_thresholds")


def _in_order(groups: Sequence[Group], parts: Sequence[Sequence[Any]]) -> list[Any]:
    """What was found for the groups of a batch, in the order of the batch."""
    found = {
        i: one for (places, _), part in zip(groups, parts, strict=True) for i, one in zip(places, part, strict=True)
    }
    return [found[i] for i in range(len(found))]
