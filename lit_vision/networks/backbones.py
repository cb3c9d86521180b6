"""Backbones by name: any timm network as a classifier, or as a source of features at several strides.

A name that begins with "torchvision/" means one of torchvision's classifiers instead, see `torchvision_names`.

timm is imported inside the functions, since its import takes seconds. The network is used only for `pretrained=True`.
"""

import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import nn

from lit_vision.errors import UserError
from lit_vision.networks.darknet_file import is_darknet_file
from lit_vision.networks.darknet_weights import load_backbone
from lit_vision.networks.new_head import draw_new_head, last_layers
from lit_vision.networks.timm_names import pretrained_config
from lit_vision.networks.torchvision_names import (
    check_torchvision,
    create_torchvision,
    describe,
    is_torchvision,
    near_torchvision,
    refuse_torchvision,
)
from lit_vision.networks.weights import load_weights

_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_OF_FEATURES = ("features_only", "out_indices")
_UNEXPECTED = re.compile(r"unexpected keyword argument '(\w+)'")
_FIXED = re.compile(r"multiple values for (?:keyword )?argument '(\w+)'")


def backbone_names(pattern: str = "") -> list[str]:
    """timm's names and ours, which `create_classifier` and `create_features` know; `pattern` may be as "resnet*"."""
    import timm

    import lit_vision.networks.csp
    import lit_vision.networks.mobilenet  # noqa: F401  both imported for the names that they add to timm's

    names: list[str] = timm.list_models(pattern)
    return names


def check_backbone(name: str) -> None:
    """Raises a UserError with the nearest names if no backbone is called `name`; a tag of weights may follow a dot."""
    import timm

    if is_torchvision(name):
        check_torchvision(name)
        return
    known = backbone_names()
    architecture = name.partition(".")[0]
    if "/" not in name and timm.is_model(name):
        try:
            timm.get_pretrained_cfg(name)
        except RuntimeError as error:  # the name is right but its tag is not
            tags = [other.partition(".")[2] for other in timm.list_pretrained(f"{architecture}.*")]
            raise UserError(
                f"backbone {name!r}: {architecture} has weights tagged {', '.join(tags) or '-'}."
            ) from error
        return
    near = difflib.get_close_matches(architecture, known, n=3, cutoff=0.5)
    near = near_torchvision(architecture, cutoff=1.0) + near  # the very name, but torchvision's
    near = near or [other for other in known if other.startswith(architecture[:4])][:3]
    hint = f"; did you mean {', '.join(near)}?" if near else "; `timm.list_models()` lists them all."
    raise UserError(f"there is no backbone called {name!r}{hint}")


def create_classifier(
    name: str,
    num_classes: int,
    in_channels: int = 3,
    pretrained: bool = False,
    weights: str | None = None,
    **backbone_args: Any,
) -> nn.Module:
    """A network whose last layer gives `num_classes` logits: (B, in_channels, H, W) float -> (B, num_classes).

    Args:
        name: a timm name, as "resnet18" or, with the tag of certain weights, "resnet18.a1_in1k"; or one of
            torchvision's, as "torchvision/squeezenet1_0".
        num_classes: outputs of the last layer; 0 leaves it out.
        in_channels: channels of the image; the first convolution of given weights is adapted as timm does.
        pretrained: download the weights of `name`.
        weights: file of weights instead, see `load_weights`; a last layer of another size is newly drawn. Or Darknet's,
            see `darknet_weights.load_backbone`.
        backbone_args: the library's own of the network, as `drop_rate: 0.2`, `drop_path_rate`, `act_layer: relu6`; and
            `slope` of a leaky ReLU.

    Raises:
        UserError: for an unknown name or argument, or weights that cannot be had or do not fit.
    """
    args = {"num_classes": num_classes, "in_chans": in_channels, **backbone_args}
    return _create(name, pretrained, weights, args)


def create_features(
    name: str,
    in_channels: int = 3,
    pretrained: bool = False,
    weights: str | None = None,
    out_indices: Sequence[int] | None = None,
    **backbone_args: Any,
) -> nn.Module:
    """A timm network without its head: (B, in_channels, H, W) float -> list of feature maps (B, C_i, H / s_i, W / s_i).

    `feature_info.channels()` and `.reduction()` of the result give C_i and the strides s_i.

    Args:
        name: a timm name, as for `create_classifier`.
        in_channels: as for `create_classifier`.
        pretrained: as for `create_classifier`.
        weights: as for `create_classifier`; layers after the last feature are left out.
        out_indices: which features, 0 = finest; None = all. Most convolutional networks have 5, at strides 2 to 32.
        backbone_args: as for `create_classifier`.

    Raises:
        UserError: as `create_classifier`, and for networks that have no features or too few of them.
    """
    refuse_torchvision(name)
    args = {"in_chans": in_channels, "features_only": True, **backbone_args}
    if out_indices is not None:
        args["out_indices"] = tuple(out_indices)
    network = _create(name, pretrained, weights, args)
    _drop_unused_blocks(network)
    return network


def _drop_unused_blocks(network: Any) -> None:
    """Takes out blocks behind the last feature: timm runs them, and DDP stops at parameters without a gradient."""
    modules = [str(entry["module"]) for entry in network.feature_info.get_dicts(keys=["module"])]
    if isinstance(getattr(network, "blocks", None), nn.Sequential) and all(m.startswith("blocks.") for m in modules):
        last = max(int(module.split(".")[1]) for module in modules)
        del network.blocks[last + 1 :]
    if type(network).__name__ == "HighResolutionNetFeatures":  # its module is not imported before it is asked for
        _drop_unused_scales(network)


def _drop_unused_scales(network: Any) -> None:
    """HRNet makes the maps of all its scales at its end, whichever are asked for."""
    last = network.stage4[-1].fuse_layers
    for k in range(len(last)):
        if k + 1 not in network._out_idx:
            last[k] = nn.ModuleList([nn.Identity()])
            if network.incre_modules is not None:
                network.incre_modules[k] = nn.Identity()


def _create(name: str, pretrained: bool, weights: str | None, args: Mapping[str, Any]) -> nn.Module:
    check_backbone(name)
    if pretrained and weights is not None:
        raise UserError(f"{name} was given both pretrained: true and weights: {weights}; give one of them.")
    called, (name, args) = _called(name, args), timm_arguments(name, args)
    import timm

    create: Callable[..., nn.Module] = create_torchvision if is_torchvision(name) else timm.create_model
    try:
        network = create(name, pretrained=pretrained, **args)
    except UserError:
        raise
    except Exception as error:  # timm's builders and the hub's clients raise errors of every kind
        raise UserError(_explain(name, pretrained, args, error)) from error
    drawn = last_layers(network)
    if is_darknet_file(weights):
        load_backbone(network, weights)
    elif weights is not None:
        load_weights(network, weights, called)
    if pretrained or weights is not None:
        draw_new_head(network, None if pretrained else drawn)
    return network


def _called(name: str, args: Mapping[str, Any]) -> str:
    """A backbone with the arguments that a user gave it, as errors name it."""
    own = {key: value for key, value in args.items() if key not in ("num_classes", "in_chans", *_OF_FEATURES)}
    return f"{name} with {own}" if own else name


def timm_arguments(name: str, args: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """A backbone's name and arguments, as a YAML gives them, in the way that `timm.create_model` takes them."""
    return _widened(name, _with_layers(args))


def _widened(name: str, args: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """timm's mobilenetv1_100 fixes its width; the same network under our name takes `channel_multiplier`."""
    if name == "mobilenetv1_100" and "channel_multiplier" in args:
        return "mobilenetv1_025", {"pad_type": "", **args}
    return name, dict(args)


def _with_layers(args: Mapping[str, Any]) -> dict[str, Any]:
    """Layers named by strings, as a YAML gives them, become classes: some networks of timm take only those.

    A slope becomes a leaky ReLU of that slope. timm's own darknet53 has 0.01.
    """
    from timm.layers.create_act import get_act_layer
    from timm.layers.create_norm import get_norm_layer

    found = dict(args)
    if "slope" in found:
        slope = found.pop("slope")
        if isinstance(slope, bool) or not isinstance(slope, int | float):
            raise UserError(f"backbone_args: slope is {slope!r}; give a number, such as 0.1")
        found["act_layer"] = partial(nn.LeakyReLU, negative_slope=float(slope))
    for key, look_up in (("act_layer", get_act_layer), ("norm_layer", get_norm_layer)):
        if isinstance(found.get(key), str):
            try:
                found[key] = look_up(found[key])
            except (KeyError, AssertionError) as error:
                raise UserError(f"timm has no layer {found[key]!r} for {key}; give one as relu, silu, gelu.") from error
    return found


def _explain(name: str, pretrained: bool, args: Mapping[str, Any], error: Exception) -> str:
    reason = " ".join(str(error).split())[:300] or type(error).__name__
    if found := _UNEXPECTED.search(reason):
        return f"backbone {name} knows no argument {found[1]!r}; leave it out of the backbone's arguments."
    if found := _FIXED.search(reason):
        return f"backbone {name} fixes {found[1]!r} by its name; choose another name or leave the argument out."
    if pretrained and "No pretrained weights" in reason:
        return f"{name} has no pretrained weights to download; give weights: <file>."
    if pretrained and not isinstance(error, TypeError):
        source = weights_source(name) or name
        return f"weights of {name} ({source}) cannot be downloaded: {reason}; give weights: <file>."
    if args.get("features_only"):
        return f"backbone {name} cannot give these features ({reason}); choose other out_indices or another backbone."
    return f"backbone {name} cannot be built with {dict(args)}: {reason}."


def weights_source(backbone: str | nn.Module) -> str | None:
    """Where a backbone's weights come from: a name on the Hugging Face hub or an address; None without any."""
    config = _config(backbone)
    source: str | None = config.get("hf_hub_id") or config.get("url") or None
    if source == "timm/":
        tag = config.get("tag")
        source = f"timm/{config.get('architecture', backbone)}" + (f".{tag}" if tag else "")
    return source


def _config(backbone: str | nn.Module) -> dict[str, Any]:
    """The library's description of a backbone's pretrained weights; empty where it has none."""
    if isinstance(backbone, nn.Module):
        return pretrained_config(backbone)
    if is_torchvision(backbone):
        return describe(backbone)
    import timm

    check_backbone(backbone)
    config: Any = timm.get_pretrained_cfg(backbone)
    return dict(config.to_dict()) if config is not None else {}


@dataclass(frozen=True)
class Preprocessing:
    """What a backbone's weights expect of its input.

    Attributes:
        mean: per channel, of pixels scaled to 0..1.
        std: per channel, likewise.
        licence: of the pretrained weights, as the library states it; None where it states none.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    licence: str | None


def preprocessing_of(backbone: str | nn.Module, in_channels: int = 3) -> Preprocessing:
    """The input statistics that a backbone was trained with, by name or of a module that `create_classifier` made.

    With another number of channels than the weights have, the statistics repeat (R, G, B, R, ...), as the adapted
    first convolution does; one channel gets their average. Backbones that nobody describes get ImageNet's.
    """
    config = _config(backbone)
    mean, std = config.get("mean") or _IMAGENET_MEAN, config.get("std") or _IMAGENET_STD
    return Preprocessing(spread(mean, in_channels), spread(std, in_channels), config.get("license"))


def spread(values: Sequence[float], channels: int) -> tuple[float, ...]:
    """Values by channel for another number of channels: repeated, or for one their average."""
    if channels == 1:
        return (sum(values) / len(values),)
    return tuple(float(values[i % len(values)]) for i in range(channels))
