"""Object detection without a detector: a trained classifier on windows that slide over the picture."""

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NoReturn

import numpy as np
import torch
import torch.nn.functional as F
from pytorch_lightning.utilities import rank_zero_info
from torch import Tensor, nn
from torchmetrics import Metric

from lit_vision.data.geometry import visible_rectangle
from lit_vision.data.transforms import restore_boxes
from lit_vision.errors import UserError
from lit_vision.metrics.detection import MeanAveragePrecision
from lit_vision.ops.boxes import select_detections
from lit_vision.ops.windows import WindowGrid, vote_boxes, window_shapes, without_margin
from lit_vision.tasks.base import VisionTask
from lit_vision.tasks.detection_inference import true_boxes
from lit_vision.tasks.window_classifier import load_classifier, match_classes
from lit_vision.tasks.window_scores import Method, WindowScores
from lit_vision.types import Batch, DetectionBatch, DetectionPrediction, UInt8Array


class SlidingWindowDetector(VisionTask):
    """Finds objects with a classifier: every window of a picture is classified, the best ones are the detections.

    There is nothing to train: `test`, `validate` and `predict` take the classifier's checkpoint. A detection's box is
    its window, less the margin that the classifier's crops had about their objects. Windows slide over the picture as
    the data module gives it: the original with `data.fit: native`.

    Args:
        class_names: K names; comes from the data on the command line. The classifier's classes are found by name.
        classifier: checkpoint file of a TransferClassifier; on the command line also the folder of its run, or of all
            runs of its experiment (best.ckpt of the newest). In the detector's own checkpoints: its description.
        window_sizes: sides of the square windows: pixels, or up to 1 a share of the picture's shorter side.
        ratios: width by height of the windows, each with the area of the square one; null: [1].
        stride: from a window to the next: up to 1 a share of its sides, above 1 pixels. Rounded to what the network's
            features can be shared at, see docs/sliding_windows.md.
        background: the classifier's class that means "no object"; null: it has none, and `score_threshold` decides.
        score_threshold: a window's probability of a class is above it.
        nms_threshold: of two windows of a class whose IoU is above it, the lesser goes.
        vote: a detection's box is the mean of the windows whose IoU with it is at least this, weighted by their
            probabilities of its class; null: the best window itself.
        max_detections: most detections of an image.
        evaluation_threshold: takes the place of `score_threshold` for the metrics, which rank all candidates.
        method: "convolutional" runs the network over the whole picture once per window shape, "crops" over each window
            by itself; "auto" is the first where network and window allow it.
        rescore: share of the windows, those most like objects, that are computed by themselves after they were
            computed together, since that is more exact; the others are no candidates then. 0: none, and all are.
        in_channels: channels of the images; comes from the data on the command line.
        channels_last: memory format of the network.
        num_classes: only compared with the data, where you want to be sure.
    """

    monitor = "val/map"
    monitor_mode = "max"
    trains: ClassVar[bool] = False

    def __init__(
        self,
        class_names: Sequence[str],
        classifier: str | dict[str, Any],
        window_sizes: list[float],
        ratios: list[float] | None = None,
        stride: float = 0.25,
        background: str | None = None,
        score_threshold: float = 0.5,
        nms_threshold: float = 0.3,
        vote: float | None = None,
        max_detections: int = 100,
        evaluation_threshold: float = 0.005,
        method: Method = "auto",
        rescore: float = 0.2,
        in_channels: int = 3,
        channels_last: bool = True,
        num_classes: int | None = None,
    ) -> None:
        super().__init__(class_names, channels_last=channels_last, num_classes=num_classes)
        self.window_sizes, self.ratios, self.stride = window_sizes, ratios or [1.0], stride
        self.score_threshold, self.evaluation_threshold = score_threshold, evaluation_threshold
        self.nms_threshold, self.vote, self.max_detections = nms_threshold, vote, max_detections
        self.rescore = rescore
        self._check_numbers()
        trained, self.facts = load_classifier(classifier)
        self.licence = trained.licence
        self.multi_label, self.classifier_data = trained.multi_label, trained.data
        self.margin = float(trained.data.get("margin", 0.0))  # that its crops had about the objects
        if len(trained.preprocess.mean) != in_channels:
            raise UserError(
                f"the classifier takes {len(trained.preprocess.mean)} channels: set data.in_channels to that"
            )
        self.columns = match_classes(self.class_names, trained.class_names, background)
        self.scores = WindowScores(trained.network, trained.preprocess, trained.data, method)
        self._say_method(method)
        self.metrics = nn.ModuleDict(
            {stage: MeanAveragePrecision(self.class_names, max_detections) for stage in ("val", "test")}
        )
        names = ("window_sizes", "ratios", "stride", "score_threshold", "nms_threshold", "vote", "max_detections")
        settings = {name: getattr(self, name) for name in (*names, "evaluation_threshold", "rescore")}
        own = {"classifier": self.facts, "background": background, "method": method, "in_channels": in_channels}
        self.save_hyperparameters({**settings, **own, "channels_last": channels_last})

    def _check_numbers(self) -> None:
        if not self.window_sizes or min(self.window_sizes) <= 0:
            raise UserError(
                f"model.window_sizes is {self.window_sizes}: give at least one side, in pixels, or up to 1 as a share "
                "of the picture's shorter side"
            )
        if min(self.ratios) <= 0 or self.stride <= 0:
            raise UserError(f"model.ratios is {self.ratios} and model.stride {self.stride}: give numbers above 0")
        for name in ("score_threshold", "nms_threshold", "evaluation_threshold", "vote", "rescore"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise UserError(f"model.{name} is {value}; give a number from 0 to 1")
        if self.max_detections < 1:
            raise UserError(f"model.max_detections is {self.max_detections}; give a whole number from 1")

    def _say_method(self, method: Method) -> None:
        """Why windows are computed one by one, where they are.

        Raises:
            UserError: they cannot be computed together, and the user wants just that.
        """
        if method == "crops":
            return
        reason = self.scores.reason and f"{type(self.scores.network).__name__} {self.scores.reason}"
        if reason is None and max(self.window_sizes) > 1:
            sizes = [size for size in self.window_sizes if size > 1]
            alone = [window for window in _nominal(sizes, self.ratios) if self.scores.shared_size(window) is None]
            fit = self.classifier_data["fit"]
            if alone:
                height, width = alone[0]
                reason = f"fit {fit} of the classifier does not just scale windows of {width} x {height} pixels"
        if reason is not None and method == "convolutional":
            raise UserError(f"model.method is convolutional, but {reason}: set it to auto or crops")
        if reason is not None:
            rank_zero_info(f"windows are computed one by one where they cannot be together: {reason}")

    @property
    def backbones(self) -> dict[str, nn.Module]:
        """The classifier's network."""
        return {"scores.network": self.scores.network}

    def setup(self, stage: str) -> None:
        """As every task.

        Raises:
            UserError: it is to be trained, or the pictures' depth is not the classifier's.
        """
        if stage == "fit":
            self.training_step()
        super().setup(stage)
        depth, own = self.data.get("depth"), self.classifier_data.get("depth")
        if depth != own and None not in (depth, own):
            raise UserError(f"data.depth is {depth}, but the classifier was trained with {own}: set it to that")

    # --- windows ------------------------------------------------------------------------------------------------
    def forward(self, picture: UInt8Array) -> tuple[Tensor, Tensor]:
        """All windows of a picture (H, W, C): boxes (N, 4) of what each would show, and probabilities (N, K)."""
        size = (picture.shape[0], picture.shape[1])
        grids = self.scores.grids(size, self.window_sizes, self.ratios, self.stride)
        logits = [self.scores(picture, grid) for grid in grids]
        if self.rescore > 0:
            every = torch.cat(self._rescored(picture, grids, logits))
        else:
            every = self._probabilities(torch.cat(logits))
        boxes = torch.cat([without_margin(grid.boxes, self.margin) for grid in grids])
        return boxes.to(every.device), every

    def _probabilities(self, logits: Tensor) -> Tensor:
        """Logits (N, L) of the classifier's classes to probabilities (N, K) of the data's."""
        every = logits.float().sigmoid() if self.multi_label else logits.float().softmax(1)
        return torch.cat([every, every.new_zeros(len(every), 1)], dim=1)[:, self.columns]

    def _promise(self, logits: Tensor) -> Tensor:
        """(N,) the logarithm of each window's best probability: it tells apart what a sure classifier rounds to 0."""
        every = F.logsigmoid(logits.float()) if self.multi_label else logits.float().log_softmax(1)
        return every[:, [column for column in self.columns if column >= 0]].amax(1)

    def _rescored(self, picture: UInt8Array, grids: Sequence[WindowGrid], logits: Sequence[Tensor]) -> list[Tensor]:
        """The most promising of the windows that were computed together, now by themselves; the others get 0."""
        promise = self._promise(torch.cat(list(logits)))
        chosen = torch.zeros_like(promise, dtype=torch.bool)
        chosen[promise.topk(math.ceil(self.rescore * len(promise))).indices] = True
        exact = []
        for grid, own, best in zip(grids, logits, torch.split(chosen, [len(one) for one in logits]), strict=True):
            anew = self._probabilities(own)
            if self.scores.shares(grid):
                rows, anew = best.nonzero().flatten(), torch.zeros_like(anew)
                if len(rows):
                    anew[rows] = self._probabilities(self.scores.one_by_one(picture, grid.boxes[rows.cpu()]))
            exact.append(anew)
        return exact

    def _windows(self, batch: Batch, i: int) -> tuple[Tensor, Tensor]:
        """All windows of picture i of a batch: boxes (N, 4) in original pixels, probabilities (N, K)."""
        pixels = batch["image"][i].cpu().numpy().transpose(1, 2, 0)
        frame, size = batch["frame"][i], batch["size"][i]
        place = np.vstack([frame.double().cpu().numpy(), [0, 0, 1]])
        height, width = size.tolist()
        rows, columns = visible_rectangle(place, (height, width), (pixels.shape[0], pixels.shape[1]))
        boxes, probabilities = self(np.ascontiguousarray(pixels[rows, columns]))
        corner = torch.tensor([columns.start, rows.start], device=boxes.device).repeat(2)
        return restore_boxes(boxes + corner, frame, size), probabilities

    def _detections(self, boxes: Tensor, probabilities: Tensor, threshold: float) -> DetectionPrediction:
        certain = torch.ones(len(boxes), device=boxes.device)
        found = select_detections(
            boxes,
            certain,
            probabilities,
            objectness_threshold=0.0,
            score_threshold=threshold,
            nms_threshold=self.nms_threshold,
            max_detections=self.max_detections,
        )
        return found if self.vote is None else vote_boxes(found, boxes, probabilities, self.vote)

    # --- steps --------------------------------------------------------------------------------------------------
    def training_step(self, *_: Any) -> NoReturn:
        """Lightning asks for one before it comes to `setup`.

        Raises:
            UserError: always.
        """
        raise UserError("a SlidingWindowDetector has nothing to train: train its classifier, then run test")

    def _evaluate(self, batch: DetectionBatch, metrics: Metric, stage: str) -> Sequence[Mapping[str, object]]:
        """Metrics rank all candidates; the predictions given back, and the time, are those that a user would get."""
        started, count = time.perf_counter(), len(batch["index"])
        windows = [self._windows(batch, i) for i in range(count)]
        predictions = [self._detections(*own, self.score_threshold) for own in windows]
        _ = [one["scores"].tolist() for one in predictions]  # waits for the device
        seconds = time.perf_counter() - started
        candidates = [self._detections(*own, self.evaluation_threshold) for own in windows]
        metrics.update(batch["index"], candidates, true_boxes(batch), batch["labels"], batch["crowd"])
        means = {
            "ms_per_picture": 1000 * seconds / count,
            "windows_per_picture": sum(len(b) for b, _ in windows) / count,
        }
        self.log_dict(
            {f"{stage}/{name}": value for name, value in means.items()},
            on_step=False,
            on_epoch=True,
            batch_size=self.weight(stage, count),
            sync_dist=True,
        )
        return predictions

    def predict_step(self, batch: Batch, batch_idx: int) -> list[DetectionPrediction]:
        """Detections of each image in its original pixels."""
        pictures = range(len(batch["image"]))
        return [self._detections(*self._windows(batch, i), self.score_threshold) for i in pictures]


def _nominal(sizes: Sequence[float], ratios: Sequence[float]) -> list[tuple[int, int]]:
    """Shapes of windows on a picture that is large enough for all."""
    largest = round(max(sizes) * max(*ratios, *(1 / ratio for ratio in ratios))) + 1
    return window_shapes(sizes, ratios, (largest, largest)) if sizes else []
