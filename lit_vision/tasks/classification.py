"""Classes of whole pictures: any network of timm, or classifier of torchvision, with its last layer replaced."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pytorch_lightning import Callback
from torch import Tensor, nn
from torchmetrics import Metric

from lit_vision.errors import UserError
from lit_vision.losses.classification import smooth_binary_cross_entropy, soft_cross_entropy
from lit_vision.metrics.classification import ClassificationMetrics, MultiLabelMetrics
from lit_vision.networks.backbones import create_classifier
from lit_vision.networks.darknet_weights import plain_backbone_args
from lit_vision.networks.head_split import HeadSplit
from lit_vision.networks.licences import licence_of
from lit_vision.networks.preprocess import Preprocess, interleave
from lit_vision.networks.statistics import statistics_for
from lit_vision.ops.mixing import Mixing
from lit_vision.tasks.base import VisionTask
from lit_vision.tasks.starting import take_network
from lit_vision.types import ClassificationBatch, ClassificationPrediction

ClassWeights = Literal["balanced"] | list[float] | None


class TransferClassifier(VisionTask):
    """Says what a picture shows: one class of K, or with `multi_label` any number of them.

    Args:
        class_names: K names; comes from the data on the command line.
        backbone: any timm network, as "resnet18" or "efficientnet_b5.sw_in12k_ft_in1k", or a classifier of torchvision,
            as "torchvision/squeezenet1_0".
        pretrained: download the backbone's weights.
        weights: file of weights instead: .safetensors, or .pth of plain tensors, or Darknet's for darknet53.
        start_from: a checkpoint of this task whose whole network is the first one, also of other classes; unlike
            --ckpt_path, a new run.
        backbone_args: the library's own arguments, as {drop_path_rate: 0.1}.
        in_channels: channels of the pictures; the first convolution of given weights is adapted.
        mean: of the pixels scaled to 0..1, by channel; null = as the backbone's weights expect.
        std: likewise.
        multi_label: pictures have several labels, or none; null = as the data says.
        label_smoothing: probability taken from the right class and spread over all; 0.1 is usual.
        mixup: alpha of mixup, 0 = off; 0.2 is usual. For training from scratch or long runs.
        cutmix: alpha of cutmix, 0 = off; 1.0 is usual. With both, each batch draws one.
        class_weights: factor on the loss by class, or "balanced" = inversely to the training split's counts. With
            `multi_label` the factor is on the loss of pictures that show the class.
        dropout: share of the last features left out in training; not every backbone has it.
        threshold: probability from which a class counts as present, with `multi_label`.
        cache_features: while no stage of the backbone is open, compute its output once for each picture and train the
            head from that; see docs/classification.md.
        cache_views: augmented views of each picture that are computed, and then take turns.
        training: what all tasks share: optimizer, scheduler, lr_decay, freeze, ... see `VisionTask`.
    """

    monitor = "val/accuracy"
    monitor_mode = "max"

    def __init__(
        self,
        class_names: Sequence[str],
        backbone: str = "resnet18",
        pretrained: bool = False,
        weights: str | None = None,
        start_from: str | None = None,
        backbone_args: dict[str, Any] | None = None,
        in_channels: int = 3,
        mean: list[float] | None = None,
        std: list[float] | None = None,
        multi_label: bool | None = None,
        label_smoothing: float = 0.0,
        mixup: float = 0.0,
        cutmix: float = 0.0,
        class_weights: ClassWeights = None,
        dropout: float = 0.0,
        threshold: float = 0.5,
        cache_features: bool = False,
        cache_views: int = 4,
        **training: Any,
    ) -> None:
        super().__init__(class_names, **training)
        _check_ranges(label_smoothing=label_smoothing, dropout=dropout, threshold=threshold)
        if mixup < 0 or cutmix < 0:
            raise UserError(f"model.mixup ({mixup}) and model.cutmix ({cutmix}) are 0 (off) or above.")
        args = {**({"drop_rate": dropout} if dropout else {}), **(plain_backbone_args(backbone_args, weights) or {})}
        self.network = create_classifier(backbone, self.num_classes, in_channels, pretrained, weights, **args)
        self.licence = licence_of(self.backbones.values(), pretrained, weights)
        expected = statistics_for(self.network, in_channels, weights)
        self.preprocess = Preprocess(expected[0] if mean is None else mean, expected[1] if std is None else std)
        if start_from is not None:
            built = {"backbone": backbone, "backbone_args": args}
            take_network(self, start_from, pretrained, weights, mean, std, built)
        if len(self.preprocess.mean) != in_channels:
            raise UserError(f"model.mean has {len(self.preprocess.mean)} values, but in_channels is {in_channels}.")
        self.label_smoothing, self.threshold = label_smoothing, threshold
        self.cache_features, self.cache_views = cache_features, cache_views
        self.parts: HeadSplit | None = None  # body and head, where features of the body are kept
        if cache_features:
            self._check_cache(mixup > 0 or cutmix > 0)
        self.mixing, self.class_weights = Mixing(mixup, cutmix), class_weights
        # Follows from the data; no buffer, since an average pairs the buffers before the data are known.
        self.class_weight: Tensor | None = None
        self.given_multi_label = multi_label
        self._set_multi_label(bool(multi_label))
        self.save_hyperparameters(
            {
                "backbone": backbone,
                "backbone_args": args,
                "in_channels": in_channels,
                "mean": list(self.preprocess.mean),
                "std": list(self.preprocess.std),
                "multi_label": multi_label,
                "threshold": threshold,
            }
        )

    @property
    def backbones(self) -> dict[str, nn.Module]:
        """The whole network; its classifier is in no stage and hence the head."""
        return {"network": self.network}

    def _check_cache(self, mixes: bool) -> None:
        if mixes:
            raise UserError("model.cache_features cannot mix pictures: leave out model.mixup and model.cutmix, or it.")
        if self.compiled:
            raise UserError("model.cache_features and model.compile exclude each other: leave one of them out.")
        if self.cache_views < 1:
            raise UserError(f"model.cache_views is {self.cache_views}, but each picture has at least one view.")

    def configure_callbacks(self) -> list[Callback]:
        """The cache of features, where it is asked for."""
        if not self.cache_features:
            return []
        from lit_vision.callbacks.feature_cache import FeatureCache  # knows the tasks: a circle at the top of the file

        return [FeatureCache(self.cache_views)]

    def _set_multi_label(self, multi_label: bool) -> None:
        self.multi_label = multi_label
        self.monitor = "val/map" if multi_label else "val/accuracy"
        self.metrics = nn.ModuleDict({"val": self._new_metrics(), "test": self._new_metrics()})

    def _new_metrics(self) -> Metric:
        if self.multi_label:
            return MultiLabelMetrics(self.class_names, self.threshold)
        return ClassificationMetrics(self.class_names)

    def adapt_to(self, datamodule: Any) -> None:
        """Takes from the data whether pictures have several labels, and with them metrics and monitored metric."""
        several = getattr(datamodule, "multi_label", None)
        if several is None or several == self.multi_label:
            return
        if self.given_multi_label is not None:
            raise UserError(
                f"model.multi_label is {str(self.multi_label).lower()}, but the pictures of the data have "
                f"{'any number of labels' if several else 'one label each'}: leave it out of the model's arguments."
            )
        self._set_multi_label(several)
        self.hparams["multi_label"] = several

    def setup(self, stage: str) -> None:
        """As for all tasks; then adapts to the data and works out the class weights."""
        super().setup(stage)
        datamodule = getattr(self.trainer, "datamodule", None)
        self.adapt_to(datamodule)
        weights = _class_weights(self.class_weights, self.class_names, getattr(datamodule, "class_counts", None))
        self.class_weight = weights

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W), uint8 or float from 0 to 255 -> logits (B, K)."""
        logits: Tensor = self.network(self.preprocess(images))
        return logits

    def training_step(self, batch: ClassificationBatch, batch_idx: int) -> Tensor:
        """Loss of a batch, mixed first where that is asked for."""
        targets = self._targets(batch["label"])
        if "features" in batch:
            logits = self._logits(batch)
        else:
            images, targets = self.mixing(batch["image"], targets)
            if self.channels_last:
                images = interleave(images)
            logits = self(images)
        loss = self.loss(logits, targets)
        self.log_loss("train", loss, len(targets))
        return loss

    def _logits(self, batch: ClassificationBatch) -> Tensor:
        """Logits (B, K) of a batch of pictures, or of their features in the place of them."""
        if "features" not in batch or self.parts is None:
            return self(batch["image"])  # type: ignore[no-any-return]  # Lightning annotates no __call__
        return self.parts.logits(batch["features"])

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy of logits (B, K) against probabilities (B, K); binary for each class with `multi_label`."""
        cross_entropy = smooth_binary_cross_entropy if self.multi_label else soft_cross_entropy
        weight = None if self.class_weight is None else self.class_weight.to(logits.device)
        return cross_entropy(logits, targets, weight, self.label_smoothing)

    def _targets(self, labels: Tensor) -> Tensor:
        """(B,) int64 or (B, K) float -> (B, K) float32."""
        return labels.float() if self.multi_label else F.one_hot(labels, self.num_classes).float()

    def _evaluate(self, batch: ClassificationBatch, metrics: Metric, stage: str) -> Sequence[Mapping[str, object]]:
        logits = self._logits(batch).float()
        self.log_loss(stage, self.loss(logits, self._targets(batch["label"])), len(logits))
        probabilities = self._probabilities(logits)
        metrics.update(probabilities, batch["label"])
        return [{"probabilities": row} for row in probabilities]

    def predict_step(self, batch: ClassificationBatch, batch_idx: int) -> list[ClassificationPrediction]:
        """Probabilities (K,) of each picture: of the classes with sum 1, or with `multi_label` each on its own."""
        return [{"probabilities": row} for row in self._probabilities(self(batch["image"]).float())]

    def _probabilities(self, logits: Tensor) -> Tensor:
        return logits.sigmoid() if self.multi_label else logits.softmax(1)


def _check_ranges(**shares: float) -> None:
    for name, value in shares.items():
        if not 0 <= value < 1:
            raise UserError(f"model.{name} is {value}, but it must be at least 0 and below 1.")


def _class_weights(wanted: ClassWeights, names: Sequence[str], counts: Sequence[int] | None) -> Tensor | None:
    """Factors on the loss, (K,); "balanced" = pictures / (K * pictures of the class), mean 1 over the pictures."""
    if wanted is None or (wanted == "balanced" and counts is not None and sum(counts) == 0):
        return None  # without training pictures (a test set alone) there is nothing to balance
    if isinstance(wanted, str):
        if wanted != "balanced":
            raise UserError(f"model.class_weights is {wanted!r}: give balanced, or one number for each class.")
        if counts is None:
            raise UserError("model.class_weights: balanced needs a ClassificationDataModule; give a list of numbers.")
        return torch.tensor([sum(counts) / (len(counts) * count) if count else 0.0 for count in counts])
    if len(wanted) != len(names):
        raise UserError(f"model.class_weights has {len(wanted)} numbers, but there are {len(names)} classes.")
    if not all(0 <= weight < math.inf for weight in wanted) or not any(wanted):
        raise UserError(f"model.class_weights is {list(wanted)}: give numbers from 0, not all 0.")
    return torch.tensor(wanted, dtype=torch.float32)
