"""Object detection with YOLO v3."""

from collections.abc import Mapping, Sequence
from typing import Any

from pytorch_lightning.utilities import rank_zero_info
from torch import Tensor, nn
from torchmetrics import Metric

from lit_vision.data.transforms import restore_boxes
from lit_vision.errors import UserError
from lit_vision.losses.yolo import YOLOLoss
from lit_vision.metrics.detection import MeanAveragePrecision
from lit_vision.networks.backbones import preprocessing_of
from lit_vision.networks.licences import licence_of
from lit_vision.networks.preprocess import Preprocess
from lit_vision.networks.yolo_choice import AnchorChoice, Architecture, create_yolo, darknet_slope
from lit_vision.ops.anchors import anchor_fit, arrange_anchors, cluster_anchors, refine_anchors
from lit_vision.ops.boxes import select_detections
from lit_vision.ops.grid import Decoded
from lit_vision.tasks.base import VisionTask
from lit_vision.types import Batch, DetectionBatch, DetectionPrediction


class YOLODetector(VisionTask):
    """Finds objects: a box, a class and a score each.

    Args:
        class_names: K names; comes from the data on the command line.
        architecture: "yolov3" (the paper's, Darknet-53) or "yolov3-tiny"; null: yolov3, unless `backbone` is given.
        backbone: a timm name: v3's neck and heads over it.
        pretrained: timm's weights for the backbone, from the Hugging Face hub.
        weights: a local file for the backbone instead.
        backbone_args: arguments for timm's constructor; for yolov3 only {slope: of the leaky ReLU}.
        strides: pixels per cell of the scales over a `backbone`. Small pictures and objects need no 32.
        width: channels of the coarsest scale of the neck over a `backbone`; null: half of the backbone's there.
        in_channels: channels of the images.
        anchors: "paper", "auto" (clustered from the training boxes when `fit` starts), or your own list of
            [width, height] in pixels of the network input, as many for each scale.
        loss: null: `YOLOLoss` with its defaults.
        objectness_threshold: a box whose objectness is not above it is no object (0.5: the rule of YOLO v3).
        score_threshold: a detection's objectness times class probability is above it.
        nms_threshold: of two boxes of a class whose IoU is above it, the lesser goes.
        max_detections: most detections of an image.
        evaluation_threshold: takes the place of the first two for the metrics, which rank all candidates: higher
            thresholds would cut off the recall and with it the mAP.
        mean: of the channels, in 0..1, as the backbone's weights expect; null: theirs, or 0 without weights.
        std: likewise; null: theirs, or 1.
        kwargs: see `VisionTask`.
    """

    monitor = "val/map"
    monitor_mode = "max"

    def __init__(
        self,
        class_names: Sequence[str],
        architecture: Architecture | None = None,
        backbone: str | None = None,
        pretrained: bool = False,
        weights: str | None = None,
        backbone_args: dict[str, Any] | None = None,
        strides: list[int] | None = None,
        width: int | None = None,
        in_channels: int = 3,
        anchors: AnchorChoice = "paper",
        loss: YOLOLoss | None = None,
        objectness_threshold: float = 0.5,
        score_threshold: float = 0.5,
        nms_threshold: float = 0.45,
        max_detections: int = 100,
        evaluation_threshold: float = 0.005,
        mean: list[float] | None = None,
        std: list[float] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(class_names, **kwargs)
        if backbone is None and architecture != "yolov3-tiny":
            backbone_args = {"slope": darknet_slope(pretrained, backbone_args)}
        shape: dict[str, Any] = {"architecture": architecture, "backbone": backbone, "backbone_args": backbone_args}
        shape |= {"strides": strides or [8, 16, 32], "width": width, "in_channels": in_channels, "anchors": anchors}
        self.network = create_yolo(self.num_classes, **shape, pretrained=pretrained, weights=weights)
        self.licence = licence_of(self.backbones.values(), pretrained, weights)
        self.preprocess = self._preprocess(in_channels, pretrained or weights is not None, mean, std)
        self.loss = loss or YOLOLoss()
        self.metrics = nn.ModuleDict({stage: MeanAveragePrecision(self.class_names) for stage in ("val", "test")})
        self.anchors, self.in_channels = anchors, in_channels
        self.objectness_threshold, self.score_threshold = objectness_threshold, score_threshold
        self.evaluation_threshold, self.nms_threshold = evaluation_threshold, nms_threshold
        self.max_detections = max_detections
        self._check_thresholds()
        self.save_hyperparameters({**shape, **self._thresholds(), **self._statistics()})

    def _preprocess(
        self, in_channels: int, pretrained: bool, mean: Sequence[float] | None, std: Sequence[float] | None
    ) -> Preprocess:
        """Darknet scales to 0..1 and no more; pretrained backbones expect their own statistics."""
        if pretrained:
            found = preprocessing_of(self.network.backbone, in_channels)
            return Preprocess(mean or found.mean, std or found.std)
        return Preprocess(mean or [0.0] * in_channels, std or [1.0] * in_channels)

    def _statistics(self) -> dict[str, Any]:
        return {"mean": list(self.preprocess.mean), "std": list(self.preprocess.std)}

    def _thresholds(self) -> dict[str, Any]:
        names = ("objectness_threshold", "score_threshold", "nms_threshold", "max_detections", "evaluation_threshold")
        return {name: getattr(self, name) for name in names}

    def _check_thresholds(self) -> None:
        for name, value in self._thresholds().items():
            if name == "max_detections" and value < 1:
                raise UserError(f"model.max_detections is {value}; give a whole number from 1")
            if name != "max_detections" and not 0 <= value <= 1:
                raise UserError(f"model.{name} is {value}; give a number from 0 to 1")

    @property
    def backbones(self) -> dict[str, nn.Module]:
        """The part below the neck."""
        return {"network.backbone": self.network.backbone}

    def setup(self, stage: str) -> None:
        """As every task; checks the image size and clusters the anchors before the first step."""
        super().setup(stage)
        coarsest = self.network.strides[0]
        if any(side % coarsest for side in self.data.get("image_size", [])):
            height, width = self.data["image_size"]
            raise UserError(f"data.image_size {height} x {width} must be a multiple of {coarsest} for this network")
        if stage == "fit" and self.anchors == "auto":
            self._cluster_anchors()

    def _cluster_anchors(self) -> None:
        sizes_of = getattr(getattr(self.trainer, "datamodule", None), "training_box_sizes", None)
        if sizes_of is None:
            raise UserError("`anchors: auto` needs a DetectionDataModule: give `anchors: paper` or a list")
        per_scale = self.network.anchors.shape[:2].numel()
        sizes = sizes_of()
        anchors = refine_anchors(sizes, cluster_anchors(sizes, per_scale)[0])
        fit = anchor_fit(sizes, anchors)
        self.network.anchors.copy_(arrange_anchors(anchors.tolist(), len(self.network.strides)))
        shown = ", ".join(f"{w:.0f}x{h:.0f}" for w, h in anchors.tolist())
        rank_zero_info(
            f"anchors clustered from the training boxes: {shown} (mean best IoU {fit.mean_iou:.3f}, "
            f"above 0.5 for {fit.recall:.1%} of the boxes)"
        )

    # --- steps --------------------------------------------------------------------------------------------------
    def forward(self, images: Tensor) -> list[Tensor]:
        """Images (B, C, H, W) uint8 to raw outputs (B, A * (5 + K), H / stride, W / stride), coarsest first."""
        outputs: list[Tensor] = self.network(self.preprocess(images))
        return outputs

    def training_step(self, batch: DetectionBatch, batch_idx: int) -> Tensor:
        """The loss of a batch; its three parts are logged beside it."""
        return self._loss(self(batch["image"]), batch, "train")

    def _loss(self, outputs: Sequence[Tensor], batch: DetectionBatch, stage: str) -> Tensor:
        size = len(batch["image"])
        network = self.network
        terms = self.loss(outputs, network.anchors, network.strides, batch["boxes"], batch["labels"], batch["crowd"])
        self.log_loss(stage, terms.total, size)
        parts = {f"{stage}/{name}_loss": getattr(terms, name).detach() for name in ("box", "objectness", "classes")}
        weight = self.weight(stage, size)
        self.log_dict(parts, on_step=False, on_epoch=True, batch_size=weight, sync_dist=stage != "train")
        total: Tensor = terms.total
        return total

    def _evaluate(self, batch: DetectionBatch, metrics: Metric, stage: str) -> Sequence[Mapping[str, object]]:
        """Metrics rank all candidates; the predictions given back are those that a user would get."""
        outputs = self(batch["image"])
        self._loss(outputs, batch, stage)
        decoded = self.network.decode(outputs)
        low = self.evaluation_threshold
        candidates = self._detections(decoded, batch, low, low)
        framed = zip(batch["boxes"], batch["frame"], batch["size"], strict=True)
        boxes = [restore_boxes(own, frame, size) for own, frame, size in framed]
        metrics.update(batch["index"], candidates, boxes, batch["labels"], batch["crowd"])
        return self._detections(decoded, batch, self.objectness_threshold, self.score_threshold)

    def predict_step(self, batch: Batch, batch_idx: int) -> list[DetectionPrediction]:
        """Detections of each image in its original pixels."""
        decoded = self.network.decode(self(batch["image"]))
        return self._detections(decoded, batch, self.objectness_threshold, self.score_threshold)

    def _detections(self, decoded: Decoded, batch: Batch, objectness: float, score: float) -> list[DetectionPrediction]:
        found = []
        for i, (boxes, chances, classes) in enumerate(zip(*decoded, strict=True)):
            one = select_detections(boxes, chances, classes, objectness, score, self.nms_threshold, self.max_detections)
            one["boxes"] = restore_boxes(one["boxes"], batch["frame"][i], batch["size"][i])
            found.append(one)
        return found
