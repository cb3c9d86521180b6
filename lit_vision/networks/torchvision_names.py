"""torchvision's classifiers by name: "torchvision/squeezenet1_0", or with the tag of certain weights after a dot.

What has to be known of a network - its last layer, its first convolution, the statistics of its input, whose weights -
is written on it in timm's words (`pretrained_cfg`). So stages, freezing, weights from files and licences treat both
libraries alike.
"""

import difflib
import math
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import nn

from lit_vision.errors import UserError
from lit_vision.networks.weights import place_weights

PREFIX = "torchvision/"

# Their weights were trained with these statistics; torchvision turns ImageNet's into them inside (`transform_input`).
_HALF = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
# Auxiliary heads give a tuple of logits in training; and without init_weights both warn of their future.
_PLAIN = {"aux_logits": False, "init_weights": True}
_AUXILIARY = {"googlenet": ("aux1", "aux2"), "inception_v3": ("AuxLogits",)}


def is_torchvision(name: str) -> bool:
    """Whether a backbone's name asks for torchvision."""
    return name.startswith(PREFIX)


def torchvision_names() -> list[str]:
    """Names of torchvision's classifiers of pictures, with the prefix."""
    from torchvision import models

    return [PREFIX + name for name in models.list_models(module=models)]


def check_torchvision(name: str) -> None:
    """Raises a UserError with the nearest names if torchvision has no classifier or no weights called so."""
    from torchvision import models

    architecture, tag = _parts(name)
    if PREFIX + architecture not in torchvision_names():
        if architecture in models.list_models():
            purpose = models.get_model_builder(architecture).__module__.split(".")[2].replace("_", " ")
            raise UserError(
                f"backbone {name!r} is one of torchvision's networks for {purpose}; give one that classifies whole "
                f"pictures, such as {near_torchvision(architecture)[0]}."
            )
        raise UserError(
            f"there is no backbone called {name!r}; did you mean {', '.join(near_torchvision(architecture))}?"
        )
    tags = list(models.get_model_weights(architecture).__members__)
    if tag and tag not in tags:
        raise UserError(f"backbone {name!r}: {PREFIX}{architecture} has weights tagged {', '.join(tags)}.")


def near_torchvision(architecture: str, cutoff: float = 0.0) -> list[str]:
    """Up to three of torchvision's classifiers whose names are most like `architecture`."""
    near = difflib.get_close_matches(
        architecture, [name.removeprefix(PREFIX) for name in torchvision_names()], 3, cutoff
    )
    return [PREFIX + name for name in near]


def refuse_torchvision(name: str) -> None:
    """Raises a UserError where features are needed and torchvision is named: timm alone gives them."""
    if is_torchvision(name):
        import timm

        own = _parts(name)[0]
        like = own if timm.is_model(own) else "resnet18"
        raise UserError(
            f"backbone {name!r} only classifies whole pictures; where features at several strides are needed give a "
            f"timm name, such as {like}."
        )


def _parts(name: str) -> tuple[str, str]:
    architecture, _, tag = name.removeprefix(PREFIX).partition(".")
    return architecture, tag


def _weights(name: str) -> Any:
    """torchvision's entry for the weights that a name means: those of its tag, else the best ones."""
    from torchvision import models

    architecture, tag = _parts(name)
    return models.get_model_weights(architecture)[tag or "DEFAULT"]


def describe(name: str) -> dict[str, Any]:
    """What torchvision says of a network's weights, under timm's keys.

    The licence is None for nearly all: that of torchvision is one of code, and of weights it says that terms of their
    own may go with them.
    """
    check_torchvision(name)
    weights = _weights(name)
    known = {"architecture": PREFIX + _parts(name)[0], "url": weights.url, "license": weights.meta.get("license")}
    if _parts(name)[0] in _AUXILIARY:
        return {**known, **_HALF}
    expected = weights.transforms()
    return {**known, "mean": tuple(expected.mean), "std": tuple(expected.std)}


def create_torchvision(
    name: str,
    pretrained: bool = False,
    num_classes: int = 1000,
    in_chans: int = 3,
    drop_rate: float | None = None,
    **args: Any,
) -> nn.Module:
    """One of torchvision's classifiers, called as `timm.create_model`.

    Args:
        name: with the prefix, and perhaps a tag.
        pretrained: download the weights by torchvision's own loader; the last layer is kept for 1000 classes only.
        num_classes: outputs of the last layer; 0 leaves it out.
        in_chans: channels of the image.
        drop_rate: share of the last features left out in training; None = torchvision's, which is not always 0.
        args: torchvision's own of this network.

    Raises:
        UserError: `drop_rate` is given, and the network has no dropout before its last layer.
    """
    network = _build(name, max(num_classes, 1), args)
    head, stem = _last_layer(network), _first_convolution(network)
    heads = (head, *_AUXILIARY.get(_parts(name)[0], ()))
    cast(Any, network).pretrained_cfg = {**describe(name), "classifier": heads, "first_conv": stem}
    if drop_rate is not None:
        _set_dropout(network, name, head, drop_rate)
    if in_chans != 3:
        _replace_stem(network, stem, in_chans)
    if num_classes == 0:
        network.set_submodule(head, nn.Identity())
    if pretrained:
        tensors = _weights(name).get_state_dict(progress=True, check_hash=True, weights_only=True)
        place_weights(network, tensors, _weights(name).url)
    return network


def _build(name: str, num_classes: int, args: Mapping[str, Any]) -> nn.Module:
    from torchvision import models

    architecture = _parts(name)[0]
    fixed = _PLAIN if architecture in _AUXILIARY else {}
    network: nn.Module = models.get_model(architecture, weights=None, num_classes=num_classes, **{**fixed, **args})
    return network


def _last_layer(network: nn.Module) -> str:
    """The last module with parameters of its own, as all of torchvision's classifiers are registered."""
    names: list[str] = [name for name, _ in network.named_parameters()]
    return names[-1].rpartition(".")[0]


def _first_convolution(network: nn.Module) -> str:
    names: list[str] = [name for name, module in network.named_modules() if isinstance(module, nn.Conv2d)]
    return names[0]


def _set_dropout(network: nn.Module, name: str, head: str, rate: float) -> None:
    around = network.get_submodule(head.rpartition(".")[0])
    layers = [child for child in around.children() if isinstance(child, nn.Dropout)]
    if not layers:
        raise UserError(f"backbone {name} has no dropout before its last layer; leave model.dropout (drop_rate) out.")
    for layer in layers:
        layer.p = rate


def _replace_stem(network: nn.Module, stem: str, channels: int) -> None:
    """A first convolution for other channels, newly drawn so that its outputs spread as before."""
    old = network.get_submodule(stem)
    assert isinstance(old, nn.Conv2d)
    size, stride, padding = cast(Any, (old.kernel_size, old.stride, old.padding))
    new = nn.Conv2d(channels, old.out_channels, size, stride, padding, bias=old.bias is not None)
    with torch.no_grad():
        new.weight.normal_(std=float(old.weight.std()) * math.sqrt(old.in_channels / channels))
        if new.bias is not None and old.bias is not None:
            new.bias.copy_(old.bias)
    network.set_submodule(stem, new)
