"""Narrow MobileNets, which timm can build but gives no name: mobilenetv1_025, _050 and _075.

Importing this module adds the names to timm's own list, so that `timm.create_model`, and segmentation decoders with
an encoder `tu-mobilenetv1_025`, know them. Padding is TensorFlow's ("same"), as in the weights that exist for them.

Howard et al. 2017, MobileNets: efficient convolutional neural networks for mobile vision applications,
https://arxiv.org/abs/1704.04861.
"""

from collections.abc import Callable
from typing import Any

from timm.models import generate_default_cfgs, register_model
from timm.models.efficientnet import _gen_mobilenet_v1
from torch import nn

_CONFIG = {
    "input_size": (3, 224, 224),
    "num_classes": 1000,
    "pool_size": (7, 7),
    "mean": (0.5, 0.5, 0.5),
    "std": (0.5, 0.5, 0.5),
    "first_conv": "conv_stem",
    "classifier": "classifier",
}

default_cfgs = generate_default_cfgs(
    {"mobilenetv1_025.untrained": _CONFIG, "mobilenetv1_050.untrained": _CONFIG, "mobilenetv1_075.untrained": _CONFIG}
)


def _build(variant: str, width: float, pretrained: bool, **args: Any) -> nn.Module:
    defaults = {"channel_multiplier": width, "pad_type": "same"}
    generate: Callable[..., nn.Module] = _gen_mobilenet_v1
    return generate(variant, pretrained=pretrained, **{**defaults, **args})


@register_model
def mobilenetv1_025(pretrained: bool = False, **args: Any) -> nn.Module:
    """MobileNet v1 of a quarter of the width: 0.47 million parameters with 1000 classes."""
    return _build("mobilenetv1_025", 0.25, pretrained, **args)


@register_model
def mobilenetv1_050(pretrained: bool = False, **args: Any) -> nn.Module:
    """MobileNet v1 of half the width: 1.3 million parameters with 1000 classes."""
    return _build("mobilenetv1_050", 0.5, pretrained, **args)


@register_model
def mobilenetv1_075(pretrained: bool = False, **args: Any) -> nn.Module:
    """MobileNet v1 of three quarters of the width: 2.6 million parameters with 1000 classes."""
    return _build("mobilenetv1_075", 0.75, pretrained, **args)
