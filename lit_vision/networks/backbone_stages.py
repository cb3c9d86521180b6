"""How one network falls into stages as it is built. Stage 0 is nearest the head.

Stages come from timm's own grouping where the network has one (`group_matcher`), else from the modules that give its
features ("everything up to and including this one"), else from its children in the order of registration; where those
are few, the largest list of layers among them counts by its layers.
"""

from collections.abc import Collection, Mapping
from typing import Any

from torch import Tensor, nn

from lit_vision.networks.timm_names import config_of, flat, pretrained_config

HEADS = ("fc", "classifier", "head", "heads", "aux_classifier", "AuxLogits", "aux1", "aux2")  # of torchvision
FEW = 4  # of fewer children, one is divided


def stages(backbone: nn.Module) -> list[list[str]]:
    """Names of a backbone's parameters by stage, stage 0 nearest the head; the classifier is in none.

    Every other parameter is in exactly one stage, under its name in `backbone.named_parameters()`. One that is used in
    several places belongs to the stage nearest the head, or with the head to none. A stage never consists of
    normalisation alone: such layers join the layers before them.
    """
    inner, prefix = _unwrapped(backbone)
    heads = tuple(f"{head}." for head in (config_of(inner).heads if pretrained_config(inner) else HEADS))
    head = {name for name, _ in inner.named_parameters(remove_duplicate=False) if name.startswith(heads)}
    rank = _by_group_matcher(inner) or _by_features(inner) or _by_children(inner, head)
    slices = _distinct(inner, rank, head)
    return [[prefix + name for name in names] for names in reversed(_with_norms(slices, inner))]


def _unwrapped(backbone: nn.Module) -> tuple[nn.Module, str]:
    """The module that has several children or a grouping of its own, below encoders and `torch.compile` around it."""
    prefix = ""
    while _compiled(backbone) or not (hasattr(backbone, "group_matcher") or _own_features(backbone)):
        children = list(backbone.named_children())
        if len(children) != 1 or next(backbone.parameters(recurse=False), None) is not None:
            break
        prefix, backbone = f"{prefix}{children[0][0]}.", children[0][1]
    return backbone, prefix


def _compiled(module: nn.Module) -> bool:
    """A compiled module answers for the one inside, but its parameters have other names."""
    return "_orig_mod" in module._modules


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
    try:
        matcher = find_matcher(coarse=True)
    except AssertionError:  # RDNet has only its fine grouping
        return None
    named = ((name, name) for name, _ in backbone.named_parameters(remove_duplicate=False))
    groups: Mapping[int, list[str]] = group_with_matcher(named, matcher)
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


def _by_children(backbone: nn.Module, head: set[str]) -> dict[str, int]:
    """One slice for each child; parameters of the module itself (tokens, positions) belong to the first."""
    divided: set[str] = set()
    while True:
        ranks: dict[str, int] = {}
        sizes: dict[str, int] = {}  # child -> numbers in its weights, without scales and biases
        for name, parameter in backbone.named_parameters(remove_duplicate=False):
            child = _child(name, divided)
            if child and name not in head:
                sizes[child] = sizes.get(child, 0) + (parameter.numel() if parameter.ndim > 1 else 0)
            ranks[name] = len(sizes) - 1 if child in sizes else 0
        lists = [name for name in sizes.keys() - divided if _is_list(backbone.get_submodule(name))]
        if not lists or sum(size > 0 for size in sizes.values()) >= FEW:
            return ranks
        divided.add(max(lists, key=sizes.__getitem__))


def _is_list(module: nn.Module) -> bool:
    return isinstance(module, nn.Sequential | nn.ModuleList | nn.ModuleDict)


def _child(name: str, divided: Collection[str]) -> str:
    """The module that a parameter counts with: a child, or a child of the `divided` ones; "" for the module's own."""
    path, *rest = name.split(".")[:-1] or [""]
    while path in divided and rest:
        path = f"{path}.{rest.pop(0)}"
    return path


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
