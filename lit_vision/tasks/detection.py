"""Object detection with YOLO v3."""

from collections.abc import Sequence
from typing import Any, Literal

from pytorch_lightning.utilities import rank_zero_info
from torch import Tensor, nn

from lit_vision.errors import UserError
from lit_vision.losses.yolo import YOLOLoss
from lit_vision.networks.backbones import preprocessing_of
from lit_vision.networks.licences import licence_of
from lit_vision.networks.preprocess import Preprocess
from lit_vision.networks.yolo_choice import AnchorChoice, Architecture, create_yolo, darknet_slope
from lit_vision.ops.anchors import arrange_anchors, cluster_anchors
from lit_vision.tasks.box_task import BoxTask
from lit_vision.types import DetectionBatch


class YOLODetector(BoxTask):
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
        score_threshold: a detection's objectness times class probability is above it; "auto": above the threshold of
            its class that gave the best F1 in the validation, and the objectness filter no longer cuts these off.
        nms_threshold: of two boxes of a class whose IoU is above it, the lesser goes.
        max_detections: most detections of an image.
        evaluation_threshold: takes the place of the first two for the metrics, which rank all candidates: higher
            thresholds would cut off the recall and with it the mAP.
        tta_scales: factors on the network's input at which `test` and `predict` look at each picture, such as
            [0.8, 1.0, 1.25]; NMS chooses among the boxes of all.
        tta_flips: "horizontal" and "vertical": each scale is looked at mirrored, too.
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
        score_threshold: float | Literal["auto"] = 0.5,
        nms_threshold: float = 0.45,
        max_detections: int = 100,
        evaluation_threshold: float = 0.005,
        tta_scales: list[float] | None = None,
        tta_flips: list[Literal["horizontal", "vertical"]] | None = None,
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
        self.anchors, self.in_channels = anchors, in_channels
        rule: dict[str, Any] = {"objectness_threshold": objectness_threshold, "score_threshold": score_threshold}
        rule |= {"nms_threshold": nms_threshold, "max_detections": max_detections}
        rule |= {"evaluation_threshold": evaluation_threshold, "tta_scales": tta_scales, "tta_flips": tta_flips}
        self.save_hyperparameters({**shape, **self.set_rule(**rule), **self._statistics()})

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
        anchors, overlap = cluster_anchors(sizes_of(), per_scale)
        self.network.anchors.copy_(arrange_anchors(anchors.tolist(), len(self.network.strides)))
        shown = ", ".join(f"{w:.0f}x{h:.0f}" for w, h in anchors.tolist())
        rank_zero_info(f"anchors clustered from the training boxes: {shown} (mean best IoU {overlap:.3f})")

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
