"""Object detection with YOLO: v3 as published, and what has come to it since."""

from collections.abc import Sequence
from typing import Any, Literal, cast

import torch
from pytorch_lightning.utilities import rank_zero_info
from torch import Tensor, nn

from lit_vision.errors import UserError
from lit_vision.losses.detection import DetectionLoss
from lit_vision.losses.detection_choice import choose_loss
from lit_vision.networks.darknet_weights import plain_backbone_args
from lit_vision.networks.licences import licence_of
from lit_vision.networks.preprocess import Preprocess
from lit_vision.networks.statistics import Statistics, statistics_for
from lit_vision.networks.yolo_choice import AnchorChoice, create_yolo, plain_architecture
from lit_vision.networks.yolo_network import AnchorNetwork, HeadKind, Neck, refuse_unfit
from lit_vision.ops.anchors import anchor_fit, cluster_anchors, deal_anchors, refine_anchors
from lit_vision.tasks.box_task import BoxTask
from lit_vision.tasks.starting import take_network
from lit_vision.types import DetectionBatch

USUAL_OBJECTNESS = 0.5  # of YOLO v3


class YOLODetector(BoxTask):
    """Finds objects: a box, a class and a score each.

    Args:
        class_names: K names; comes from the data on the command line.
        architecture: "yolov3" (the paper's, Darknet-53), "yolov3-tiny", "yolov3-spp" or the path of a Darknet .cfg;
            null: yolov3, unless `backbone` is given.
        backbone: a timm name, or csp_n, csp_s, csp_m, which are made for training from scratch: a neck and heads over
            it.
        pretrained: timm's weights for the backbone, from the Hugging Face hub.
        weights: a local file instead: Darknet's .weights for an `architecture` (whole, or its beginning as
            darknet53.conv.74, or a classifier's as darknet53.weights) or for `backbone: darknet53`, timm's for any
            `backbone`. A checkpoint of ours gives its backbone alone.
        start_from: a checkpoint of this task whose whole network is the first one, heads of other classes drawn anew;
            unlike --ckpt_path, a new run.
        backbone_args: arguments for timm's constructor; `slope` makes its activation a leaky ReLU of that slope.
        strides: pixels per cell of the scales over a `backbone`. Small pictures and objects need no 32.
        width: channels of the coarsest scale of the neck over a `backbone`; null: half of the backbone's there.
        neck: over a `backbone`: "v3" brings coarse features to finer scales, "pan" also fine ones back to coarser ones.
        head: over a `backbone`: "v3" has anchors and objectness, "anchor_free" neither, one box for each cell.
        head_args: {scale_x_y} of head v3, {reg_max, depth, depthwise, width} of anchor_free; see `networks.yolo.YOLO`
            and `networks.anchor_free.AnchorFreeYOLO`.
        in_channels: channels of the images.
        bn_eps: of all batch normalisation; null: 1e-5 for an `architecture`, the library's own for a `backbone`.
        anchors: "paper" (a .cfg's own), "auto" (clustered from the training boxes when `fit` starts), or your own list
            of [width, height] in pixels of the network input, as many for each scale; null: "paper" for head v3.
        loss: null: `YOLOLoss` for head v3, `AnchorFreeLoss` for anchor_free, with their defaults.
        objectness_threshold: a box whose objectness is not above it is no object; null: 0.5, the rule of YOLO v3.
            Without anchors, objectness is the best class's probability, and null: `score_threshold` decides alone.
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

    # benchmarks/precision.py: docs/detection.md has its table.
    bf16_shown = True

    def __init__(
        self,
        class_names: Sequence[str],
        architecture: str | None = None,
        backbone: str | None = None,
        pretrained: bool = False,
        weights: str | None = None,
        start_from: str | None = None,
        backbone_args: dict[str, Any] | None = None,
        strides: list[int] | None = None,
        width: int | None = None,
        in_channels: int = 3,
        neck: Neck = "v3",
        head: HeadKind = "v3",
        head_args: dict[str, Any] | None = None,
        bn_eps: float | None = None,
        anchors: AnchorChoice | None = None,
        loss: DetectionLoss | None = None,
        objectness_threshold: float | None = None,
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
        backbone_args = plain_backbone_args(backbone_args, weights if backbone else None)
        shape: dict[str, Any] = {"architecture": architecture, "backbone": backbone, "backbone_args": backbone_args}
        shape |= {
            "strides": [8, 16, 32] if strides is None else strides,
            "width": width,
            "in_channels": in_channels,
            "anchors": anchors,
        }
        shape |= {"neck": neck, "head": head, "head_args": head_args, "bn_eps": bn_eps}
        self.network = create_yolo(self.num_classes, **shape, pretrained=pretrained, weights=weights)
        self.licence = licence_of(self.backbones.values(), pretrained, weights)
        self.preprocess = self._preprocess(in_channels, pretrained, weights, mean, std)
        others = bool(getattr(self.network, "heads_read", False)) and anchors not in (None, "paper")
        if start_from is not None:
            others = self._take_network(anchors, start_from, pretrained, weights, mean, std, shape)
        if others:
            rank_zero_info("the heads that were read learnt with other anchors: leave model.anchors out to keep them")
        self.loss = choose_loss(loss, head, self.network)
        self.anchors, self.in_channels = anchors, in_channels
        follows = objectness_threshold is None and head == "anchor_free"
        if objectness_threshold is None:
            objectness_threshold = USUAL_OBJECTNESS if score_threshold == "auto" or not follows else score_threshold
        rule: dict[str, Any] = {"objectness_threshold": objectness_threshold, "score_threshold": score_threshold}
        rule |= {"nms_threshold": nms_threshold, "max_detections": max_detections}
        rule |= {"evaluation_threshold": evaluation_threshold, "tta_scales": tta_scales, "tta_flips": tta_flips}
        shape["architecture"] = plain_architecture(architecture, backbone)
        chosen = self.set_rule(**rule) | ({"objectness_threshold": None} if follows else {})
        self.save_hyperparameters({**shape, **chosen, **self._statistics()})

    def _take_network(self, anchors: AnchorChoice | None, *first: Any) -> bool:
        """Whether the heads are those of an earlier run, which learnt with other anchors; see `take_network`."""
        given = None if anchors is None else self.network.anchors.clone()
        whole = take_network(self, *first)
        if given is None or anchors == "auto":  # those are clustered when `fit` starts
            return whole and given is not None
        learnt = self.network.anchors.clone()
        self.network.anchors.copy_(given)
        return whole and not torch.equal(learnt, given)

    def _preprocess(
        self, in_channels: int, pretrained: bool, weights: str | None, mean: list[float] | None, std: list[float] | None
    ) -> Preprocess:
        """Without weights pixels are scaled to 0..1 and no more, as in Darknet."""
        usual: Statistics = ((0.0,) * in_channels, (1.0,) * in_channels)
        if pretrained or weights is not None:
            usual = statistics_for(self.network.backbone, in_channels, weights)
        return Preprocess(usual[0] if mean is None else mean, usual[1] if std is None else std)

    def _statistics(self) -> dict[str, Any]:
        return {"mean": list(self.preprocess.mean), "std": list(self.preprocess.std)}

    @property
    def backbones(self) -> dict[str, nn.Module]:
        """The part below the neck."""
        return {"network.backbone": self.network.backbone}

    def setup(self, stage: str) -> None:
        """As every task; checks the image size and clusters the anchors before the first step."""
        super().setup(stage)
        coarsest = self.network.coarsest
        if any(side % coarsest for side in self.data.get("image_size", [])):
            height, width = self.data["image_size"]
            raise UserError(f"data.image_size {height} x {width} must be a multiple of {coarsest} for this network")
        self._check_shapes(coarsest)
        if stage == "fit":
            self._refuse_lone_values(coarsest)
        if stage == "fit" and self.anchors == "auto":
            self._cluster_anchors()

    def _check_shapes(self, coarsest: int) -> None:
        """Whether the network takes what the data gives; what `stride` rounds to, and any size at all."""
        data, backbone = getattr(self.trainer, "datamodule", None), self.hparams.get("backbone")
        native = self.data.get("fit") == "native"
        shaped = native or getattr(data, "rect", False) or getattr(data, "training_sizes", [])
        stride = getattr(data, "padded_multiple", coarsest)
        if shaped and stride % coarsest:
            raise UserError(
                f"data.stride is {stride}, but with multi_scale, rect or fit: native this network needs a multiple of "
                f"{coarsest}: set data.stride: {coarsest}"
            )
        if backbone is not None and "image_size" in self.data and self.device_mesh is None and not self.compiled:
            height, width = self.data["image_size"]
            refuse_unfit(self.network, backbone, self.data["in_channels"], (height, width))

    def _refuse_lone_values(self, coarsest: int) -> None:
        """Batch normalisation learns nothing from one value per channel: of one picture whose coarsest map is 1 x 1."""
        data: Any = getattr(self.trainer, "datamodule", None)
        if not hasattr(data, "training_sizes") or not any(
            isinstance(m, nn.BatchNorm2d) for m in self.network.modules()
        ):
            return
        height, width = (data.training_sizes or [data.image_size])[0]  # the smallest
        batch = min(data.batch_size, -(-len(data.index.indices("train")) // self.trainer.world_size))
        if batch == 1 and max(height, width) <= coarsest:
            raise UserError(
                f"a training batch of one picture of {height} x {width} leaves batch normalisation one value per "
                f"channel at stride {coarsest}: set data.batch_size to 2 or more, or a larger data.image_size"
            )

    def _cluster_anchors(self) -> None:
        sizes_of = getattr(getattr(self.trainer, "datamodule", None), "training_box_sizes", None)
        if sizes_of is None:
            raise UserError("`anchors: auto` needs a DetectionDataModule: give `anchors: paper` or a list")
        own, sizes = cast(AnchorNetwork, self.network).anchors, sizes_of()
        counts = own.all(dim=-1).sum(dim=1).tolist()  # heads of a .cfg may have fewer than others
        anchors = refine_anchors(sizes, cluster_anchors(sizes, sum(counts))[0])
        fit = anchor_fit(sizes, anchors)
        own.copy_(deal_anchors(anchors.tolist(), counts))
        shown = ", ".join(f"{w:.0f}x{h:.0f}" for w, h in anchors.tolist())
        rank_zero_info(
            f"anchors clustered from the training boxes: {shown} (mean best IoU {fit.mean_iou:.3f}, "
            f"above 0.5 for {fit.recall:.1%} of the boxes)"
        )

    # --- steps --------------------------------------------------------------------------------------------------
    def forward(self, images: Tensor) -> list[Tensor]:
        """Images (B, C, H, W) uint8 to raw outputs (B, channels, H / stride, W / stride), coarsest first."""
        outputs: list[Tensor] = self.network(self.preprocess(images))
        return outputs

    def training_step(self, batch: DetectionBatch, batch_idx: int) -> Tensor:
        """The loss of a batch; its parts are logged beside it."""
        return self._loss(self(batch["image"]), batch, "train")

    def _loss(self, outputs: Sequence[Tensor], batch: DetectionBatch, stage: str) -> Tensor:
        size = len(batch["image"])
        terms = self.loss(outputs, self.network, batch["boxes"], batch["labels"], batch["crowd"])
        self.log_loss(stage, terms.total, size)
        named = terms._asdict().items()
        parts = {f"{stage}/{name}_loss": term.detach() for name, term in named if name != "total"}
        weight = self.weight(stage, size)
        self.log_dict(parts, on_step=False, on_epoch=True, batch_size=weight, sync_dist=stage != "train")
        total: Tensor = terms.total
        return total

    # --- checkpoints --------------------------------------------------------------------------------------------
    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """As every task; says where anchors are given in vain."""
        super().on_load_checkpoint(checkpoint)
        learnt = checkpoint.get("hyper_parameters", {}).get("anchors", self.anchors)
        if self.anchors is not None and self.anchors != learnt:
            rank_zero_info("model.anchors has no effect: the checkpoint brings the anchors that its heads learnt with")
