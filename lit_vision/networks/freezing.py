"""What `freeze:` means: which parameters stand still, and the normalisation layers that must stand still with them."""

from collections.abc import Collection, Mapping, Sequence
from typing import TypeAlias

from torch import nn

from lit_vision.errors import UserError
from lit_vision.networks.backbone_stages import stages
from lit_vision.networks.name_patterns import matching

FreezeSpec: TypeAlias = str | int | Sequence[str] | None

_NORMS: tuple[type[nn.Module], ...] = (
    nn.modules.batchnorm._BatchNorm,  # the common base of BatchNorm, SyncBatchNorm and InstanceNorm has no other name
    nn.modules.instancenorm._InstanceNorm,
    nn.GroupNorm,
    nn.LayerNorm,
    nn.RMSNorm,
)


def frozen_parameters(backbone: nn.Module, spec: FreezeSpec) -> set[str]:
    """Names of the backbone's parameters that `spec` freezes.

    Args:
        backbone: a network; its classifier, if it has one, is never frozen by "backbone" or a number.
        spec: "backbone" = all; a whole number n = the n stages nearest the image; a list of names of parameters or
            modules, or of regular expressions that match the beginning of names; None or 0 = nothing.

    Raises:
        UserError: a name matches nothing, or there are fewer stages.
    """
    if spec is None or spec == 0:
        return set()
    slices = stages(backbone)
    if spec == "backbone":
        return {name for names in slices for name in names}
    if isinstance(spec, int):
        if not 0 <= spec <= len(slices) or isinstance(spec, bool):
            raise UserError(f"freeze: {spec} is out of range; this backbone has {len(slices)} stages.")
        return {name for names in slices[len(slices) - spec :] for name in names}
    patterns = [spec] if isinstance(spec, str) else list(spec)
    names = [name for name, _ in backbone.named_parameters()]
    return {name for pattern in patterns for name in matching("freeze", pattern, names)}


def freeze_parameters(module: nn.Module, names: Collection[str]) -> None:
    """Turns off the gradients of the named parameters; all others stay as they are."""
    for name in names:
        parameter = module.get_parameter(name)
        parameter.requires_grad_(False)
        parameter.grad = None  # a gradient left over would go on moving the parameter


def norms_of(module: nn.Module, names: Collection[str]) -> list[str]:
    """Names of the normalisation layers that stand still when the parameters `names` do: in evaluation mode.

    Those are the layers whose parameters are all among `names`, and layers without parameters that lie within the
    smallest module around them whose parameters are all among `names`.
    """
    owned, frozen = _owned(module), set(names)
    return [
        name for name, child in module.named_modules() if isinstance(child, _NORMS) and _around(owned, name) <= frozen
    ]


def _around(owned: Mapping[str, set[str]], name: str) -> set[str]:
    """Parameters of the smallest module at or around `name` that has any; an impossible name where none has."""
    while name and name not in owned:
        name = name.rpartition(".")[0]
    return owned.get(name, {""})


def _owned(module: nn.Module) -> dict[str, set[str]]:
    """Names of the parameters within each module, under the names that `named_parameters` gives them."""
    canonical = {id(parameter): name for name, parameter in module.named_parameters()}
    owned: dict[str, set[str]] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        path = name
        while path:
            path = path.rpartition(".")[0]
            owned.setdefault(path, set()).add(canonical[id(parameter)])
    return owned
