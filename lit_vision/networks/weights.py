"""Weights from a file into a network, whatever wrapped the network when they were saved.

Names are compared with dots and underscores alike: timm's feature networks call `blocks.0.conv` `blocks_0.conv`.
"""

import logging
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor, nn

from lit_vision.errors import UserError
from lit_vision.networks.stem import adapt_stem
from lit_vision.networks.timm_names import architecture, checkpoint_filter, config_of, flat, full_network
from lit_vision.networks.weights_file import Tensors, read_tensors

log = logging.getLogger(__name__)

_COUNTER = "num_batches_tracked"  # BatchNorm's step count: absent from files converted from elsewhere, and of no effect
_SHOWN = 3
# timm builds these under another name.
NARROW = {
    f"mobilenetv1_{width}": f"mobilenetv1_100 with backbone_args: {{channel_multiplier: 0.{digits}, pad_type: same}}"
    for width, digits in (("025", "25"), ("050", "5"), ("075", "75"))
}


def load_weights(network: nn.Module, file: str | Path, called: str | None = None) -> list[str]:
    """Copies the weights of `file` into `network`, which may be a classifier, timm's features or an smp encoder.

    Prefixes of wrappers ("network.", "module.", ...) are found by comparing names. A last layer of another size stays
    as it is; a first convolution of other channels is adapted as timm does (repeated and scaled, or summed for one).

    Args:
        network: gets the weights.
        file: see `read_tensors`.
        called: what errors call the network; None = its own name.

    Returns:
        What was left out or changed, a sentence each; they are logged too.

    Raises:
        UserError: the file cannot be read, or its weights are of another network.
    """
    notes = place_weights(network, read_tensors(file), file, called)
    if os.environ.get("LOCAL_RANK", "0") == "0":
        for note in notes:
            log.warning(note)
    return notes


def place_weights(network: nn.Module, tensors: Tensors, source: str | Path, called: str | None = None) -> list[str]:
    """As `load_weights`, of tensors that were read before from `source`; nothing is logged."""
    fit = _fit(network, tensors)
    if not fit.complete and (convert := checkpoint_filter(network)) is not None:
        fit = _converted(network, tensors, convert, fit)
    if not fit.complete:
        raise UserError(_misfit(called or architecture(network), source, fit, tensors))
    own = network.state_dict()
    own.update(fit.found)  # it goes on stating the versions of its modules, which some of torchvision's ask for
    network.load_state_dict(own)
    return [f"{source}: {note}" for note in fit.notes]


@dataclass
class _Fit:
    """How a file's tensors meet a network's names; `found` has the network's own names, `sources` flat ones."""

    sources: Tensors = field(default_factory=dict)
    found: Tensors = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    misshapen: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        return not (self.missing or self.unknown or self.misshapen)


def _fit(network: nn.Module, tensors: Mapping[str, Tensor]) -> _Fit:
    targets = {flat(name): (name, tensor) for name, tensor in network.state_dict().items()}
    prefix = "model_" if all(name.startswith("model_") for name in targets) else ""
    targets = {name.removeprefix(prefix): target for name, target in targets.items()}
    fit = _Fit()
    sources = fit.sources = _unwrapped({flat(name): tensor for name, tensor in tensors.items()}, targets, fit)
    heads = tuple(flat(head) + "_" for head in config_of(network).heads)
    stem = _first_convolution(network, targets)
    for short, (name, target) in targets.items():
        _place(fit, short, name, target, sources.get(short), stem, heads)
    if any(name.startswith(heads) and name not in sources for name in targets) and heads:
        fit.notes.append("has no last layer; the network's own stays newly drawn.")
    _sort_unknown(network, fit, [name for name in sources if name not in targets], heads)
    return fit


def _unwrapped(sources: Tensors, targets: Collection[str], fit: _Fit) -> Tensors:
    """The sources without the prefix under which most of the targets are found."""
    prefixes = {""}
    for anchor in list(targets)[:3]:
        prefixes.update(name[: -len(anchor)] for name in sources if name.endswith("_" + anchor))
    best = max(sorted(prefixes), key=lambda prefix: sum(prefix + name in sources for name in targets))
    inside = {name.removeprefix(best): tensor for name, tensor in sources.items() if name.startswith(best)}
    if outside := len(sources) - len(inside):
        fit.notes.append(f"{outside} tensors outside {best.rstrip('_')!r} are left out.")
    return inside


def _place(
    fit: _Fit, short: str, name: str, target: Tensor, source: Tensor | None, stem: str, heads: tuple[str, ...]
) -> None:
    if source is None:
        if not (short.startswith(heads) or short.endswith(_COUNTER)):
            fit.missing.append(name)
    elif source.shape == target.shape:
        fit.found[name] = source
    elif short.startswith(heads) and heads:
        if short.endswith("weight"):
            fit.notes.append(f"its last layer has {len(source)} outputs, not {len(target)}; it stays newly drawn.")
    elif short == stem and (adapted := _adapted(source, target)) is not None:
        fit.found[name] = adapted
        fit.notes.append(f"{name} is adapted from {source.shape[1]} to {target.shape[1]} channels.")
    else:
        fit.misshapen.append(f"{name} {tuple(source.shape)} for {tuple(target.shape)}")


def _first_convolution(network: nn.Module, targets: Mapping[str, tuple[str, Tensor]]) -> str:
    """The flat name of the layer that sees the image: as timm states it, else the first with four dimensions."""
    for stem in config_of(network).stems:
        if flat(stem) + "_weight" in targets:
            return flat(stem) + "_weight"
    return next((name for name, (_, tensor) in targets.items() if tensor.ndim == 4), "")


def _adapted(source: Tensor, target: Tensor) -> Tensor | None:
    if source.ndim != 4:
        return None
    adapted = adapt_stem(source, target.shape[1])
    return adapted if adapted.shape == target.shape else None


def _sort_unknown(network: nn.Module, fit: _Fit, names: list[str], heads: tuple[str, ...]) -> None:
    """Layers after the last feature may be left over; anything else that the network does not know is a mismatch."""
    names = [name for name in names if not name.endswith(_COUNTER) and not name.startswith(heads)]
    if not names:
        return
    whole = full_network(network)
    if whole is None or whole is network:
        fit.unknown = names
        return
    known = {flat(name) for name in whole.state_dict()}
    fit.unknown = [name for name in names if name not in known]
    if len(names) > len(fit.unknown):
        fit.notes.append(f"{len(names) - len(fit.unknown)} tensors after the last feature are left out.")


def _converted(network: nn.Module, tensors: Tensors, convert: object, plain: _Fit) -> _Fit:
    """The fit after timm's conversion from the authors' own names or sizes; the plain one where that is no better."""
    assert callable(convert)
    try:
        converted = convert(dict(tensors), full_network(network))
    except Exception:  # written for certain files, these functions fail on others in any way
        return plain
    fit = _fit(network, {name: tensor for name, tensor in converted.items() if isinstance(tensor, Tensor)})
    return fit if fit.complete else plain


def _misfit(called: str, source: str | Path, fit: _Fit, written: Tensors) -> str:
    unknown = [name for name in written if flat(name).endswith(tuple(fit.unknown))] if fit.unknown else []
    parts = []
    for names, words in (
        (fit.missing, "{} of the network's tensors are missing"),
        (unknown, "{} of the file's are unknown to it"),
        (fit.misshapen, "{} have another shape"),
    ):
        if names:
            shown = ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
            parts.append(f"{words.format(len(names))} ({shown})")
    return f"weights: {source} does not fit {called}: {'; '.join(parts)}; {_mend(called, written)}."


def _mend(called: str, written: Tensors) -> str:
    from lit_vision.networks.nearest_fit import nearest_fit  # which builds networks, and they load weights

    names = nearest_fit(called, written)
    if not names:
        return (
            "no network we know has these tensors, so give other weights, or the arguments of the backbone they are of"
        )
    as_arguments = f" ({NARROW[names[0]]})" if names[0] in NARROW else ""
    return f"the file fits {' and '.join(names)}{as_arguments}: set backbone: {names[0]}, or give other weights"
