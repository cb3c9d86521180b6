"""Slices of a backbone that freeze, thaw and get their learning rate together. Stage 0 is nearest the head.

Stages come from timm's own grouping where the network has one (`group_matcher`), else from the modules that give its
features ("everything up to and including this one"), else from its children in the order of registration.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from lit_vision.networks.timm_names import config_of, flat


def stages(backbone: nn.Module) -> list[list[str]]:
    """Names of a backbone's parameters by stage, stage 0 nearest the head; the classifier is in none.

    Every other parameter is in exactly one stage, under its name in `backbone.named_parameters()`. One that is used in
    several places belongs to the stage nearest the head, or with the head to none. A stage never consists of
    normalisation alone: such layers join the layers before them.
    """
    inner, prefix = _unwrapped(backbone)
    names = [name for name, _ in inner.named_parameters(remove_duplicate=False)]
    rank = _by_group_matcher(inner) or _by_features(inner) or _by_children(names)
    head = {name for name in names if _in_head(name, config_of(inner).heads)}
    slices = _distinct(inner, rank, head)
    return [[prefix + name for name in names] for names in reversed(_with_norms(slices, inner))]


def _unwrapped(backbone: nn.Module) -> tuple[nn.Module, str]:
    """The module that has several children or a grouping of its own, below encoders that only wrap it."""
    prefix = ""
    while not (hasattr(backbone, "group_matcher") or _own_features(backbone)):
        children = list(backbone.named_children())
        if len(children) != 1 or next(backbone.parameters(recurse=False), None) is not None:
            break
        prefix, backbone = f"{prefix}{children[0][0]}.", children[0][1]
    return backbone, prefix


def _own_features(backbone: nn.Module) -> bool:
    return bool(_feature_modules(backbone) & {flat(name) for name, _ in backbone.named_modules()})


def _feature_modules(backbone: nn.Module) -> set[str]:
    info = getattr(backbone, "feature_info", None)
    entries = getattr(info, "info", info) or []
    return {flat(entry["module"]) for entry in entries if isinstance(entry, Mapping) and entry.get("module")}


def _by_group_matcher(backbone: nn.Module) -> dict[str, int] | None:
    """Rank of each parameter, 0 nearest the image, as timm groups them."""
    if not hasattr(backbone, "group_matcher"):
        return None
    from timm.models._manipulate import group_with_matcher

    find_matcher: Any = backbone.group_matcher
    named = ((name, name) for name, _ in backbone.named_parameters(remove_duplicate=False))
    groups: Mapping[int, list[str]] = group_with_matcher(named, find_matcher(coarse=True))
    return {name: rank for rank, group in groups.items() for name in group}


def _by_features(backbone: nn.Module) -> dict[str, int] | None:
    """Features cut the registration order, parameters or not; what follows the last cut is a slice of its own."""
    cuts = _feature_modules(backbone)
    ranks: dict[str, int] = {}
    rank, inside = 0, ""
    for name, module in backbone.named_modules(remove_duplicate=False):
        here = flat(name)
        if inside and not (here + "_").startswith(inside + "_"):
            rank, inside = rank + 1, ""
        if here in cuts and not inside:
            inside = here
        for parameter, _ in module.named_parameters(recurse=False, remove_duplicate=False):
            ranks[f"{name}.{parameter}" if name else parameter] = rank
    return ranks if rank or inside else None


def _by_children(names: Iterable[str]) -> dict[str, int]:
    """One slice for each child; parameters of the module itself (tokens, positions) belong to the first."""
    ranks: dict[str, int] = {}
    order: dict[str, int] = {}
    for name in names:
        child, dot, _ = name.partition(".")
        ranks[name] = order.setdefault(child, len(order)) if dot else 0
    return ranks


def _in_head(name: str, heads: Iterable[str]) -> bool:
    return any(name.startswith(head + ".") for head in heads)


def _distinct(backbone: nn.Module, ranks: Mapping[str, int], head: set[str]) -> list[list[str]]:
    """Names by rank without the head, each parameter once, at the highest rank of its names."""
    first: dict[int, str] = {}
    highest: dict[int, float] = {}
    for name, parameter in backbone.named_parameters(remove_duplicate=False):
        rank = float("inf") if name in head else ranks[name]
        first.setdefault(id(parameter), name)
        highest[id(parameter)] = max(rank, highest.get(id(parameter), rank))
    slices: dict[float, list[str]] = {}
    for key, name in first.items():
        slices.setdefault(highest[key], []).append(name)
    slices.pop(float("inf"), None)
    return [slices[rank] for rank in sorted(slices)]


def _with_norms(slices: list[list[str]], backbone: nn.Module) -> list[list[str]]:
    """Slices of scales and biases only join the slice before them; the first one joins the second."""
    parameters: dict[str, Tensor] = dict(backbone.named_parameters())
    joined: list[list[str]] = []
    for names in slices:
        weights = any(parameters[name].ndim > 1 for name in names)
        if joined and not (weights and any(parameters[name].ndim > 1 for name in joined[-1])):
            joined[-1] = joined[-1] + names
        else:
            joined.append(list(names))
    return joined
