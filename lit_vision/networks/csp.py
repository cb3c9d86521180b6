"""Small backbones to be trained from scratch: csp_n, csp_s and csp_m.

Five halvings, each a 3x3 convolution of stride 2 followed by a cross-stage-partial block (CSPNet, Wang et al. 2019,
https://arxiv.org/abs/1911.11929), and spatial pyramid pooling at the end. Importing this module adds the names to
timm's own list, so every task knows them: a classifier trained on your own crops gives `weights` for a detector.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import Any, cast

from timm.layers.classifier import ClassifierHead
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn

from lit_vision.networks.csp_layers import Activation, ConvUnit, CSPBlock, PyramidPool

_CONFIG = {
    "input_size": (3, 224, 224),
    "num_classes": 1000,
    "pool_size": (7, 7),
    "mean": (0.485, 0.456, 0.406),
    "std": (0.229, 0.224, 0.225),
    "first_conv": "stem.0",
    "classifier": "head.fc",
}
default_cfgs = generate_default_cfgs({f"csp_{size}.untrained": _CONFIG for size in "nsm"})

# Channels of the five strides 2 to 32, and blocks of the last four.
WIDTHS = {"n": (16, 32, 64, 128, 256), "s": (32, 64, 128, 256, 512), "m": (48, 96, 192, 384, 576)}
DEPTHS = {"n": (1, 2, 2, 1), "s": (1, 2, 2, 1), "m": (2, 4, 4, 2)}


class CSPNet(nn.Module):
    """Images (B, in_chans, H, W) to logits (B, num_classes); timm's `features_only` gives the five features.

    Args:
        widths: channels at strides 2, 4, 8, 16, 32.
        depths: blocks at strides 4, 8, 16, 32.
        in_chans: channels of the images.
        num_classes: of the classifier; 0 leaves it out.
        global_pool: timm's pooling before it.
        drop_rate: dropout before it.
        act_layer: makes the activations.
    """

    def __init__(
        self,
        widths: tuple[int, ...],
        depths: tuple[int, ...],
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
        act_layer: Activation = nn.SiLU,
    ) -> None:
        super().__init__()
        self.num_classes, self.num_features = num_classes, widths[-1]
        self.head_hidden_size = widths[-1]
        self.stem = ConvUnit(in_chans, widths[0], 3, stride=2, act_layer=act_layer)
        self.feature_info = [{"num_chs": widths[0], "reduction": 2, "module": "stem"}]
        for i, ((before, width), depth) in enumerate(zip(pairwise(widths), depths, strict=True), start=1):
            last = [PyramidPool(width, width, act_layer)] if i == len(depths) else []
            down = ConvUnit(before, width, 3, stride=2, act_layer=act_layer)
            block = CSPBlock(width, width, depth, act_layer=act_layer)
            self.add_module(f"stage{i}", nn.Sequential(down, block, *last))
            self.feature_info.append({"num_chs": width, "reduction": 2 ** (i + 1), "module": f"stage{i}"})
        self.head = ClassifierHead(widths[-1], num_classes, pool_type=global_pool, drop_rate=drop_rate)

    def forward_features(self, images: Tensor) -> Tensor:
        """(B, in_chans, H, W) to (B, widths[-1], H / 32, W / 32)."""
        x = images
        for entry in self.feature_info:
            x = self.get_submodule(str(entry["module"]))(x)
        return x

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """The last feature to logits, or to what the last layer sees."""
        return cast(Tensor, self.head(x, pre_logits=pre_logits))

    def forward(self, images: Tensor) -> Tensor:
        """Images to logits."""
        return self.forward_head(self.forward_features(images))

    def get_classifier(self) -> nn.Module:
        """The last layer."""
        return cast(nn.Module, self.head.fc)

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """A new last layer."""
        self.num_classes = num_classes
        self.head.reset(num_classes, global_pool)


def _build(size: str, pretrained: bool, **args: Any) -> nn.Module:
    build: Callable[..., nn.Module] = build_model_with_cfg
    return build(CSPNet, f"csp_{size}", pretrained, widths=WIDTHS[size], depths=DEPTHS[size], **args)


@register_model
def csp_n(pretrained: bool = False, **args: Any) -> nn.Module:
    """The smallest: 1.06 million parameters without a classifier."""
    return _build("n", pretrained, **args)


@register_model
def csp_s(pretrained: bool = False, **args: Any) -> nn.Module:
    """Twice the width: 4.2 million."""
    return _build("s", pretrained, **args)


@register_model
def csp_m(pretrained: bool = False, **args: Any) -> nn.Module:
    """Three times the width of csp_n and twice its depth: 9.0 million."""
    return _build("m", pretrained, **args)
