"""Whose weights a file holds: the networks of timm and torchvision that have exactly its tensors.

To build all 1,400 networks takes minutes, so a table beside this file has a hash of each one's names and shapes.
`python -m lit_vision.networks.nearest_fit` writes it anew; a test compares some of its lines with the installed timm.
"""

import hashlib
import re
import warnings
from collections.abc import Iterator, Mapping
from itertools import takewhile
from pathlib import Path

from torch import Tensor

from lit_vision.networks.timm_names import without_memory
from lit_vision.networks.torchvision_names import create_torchvision, is_torchvision, torchvision_names

TABLE = Path(__file__).with_name("nearest_fit.txt")
# Last layers have another size in every file, or are left out; counters are absent from files converted from elsewhere.
_HEADS = ("fc_", "fc.", "classifier", "head", "last_linear", "aux", "AuxLogits")
_DIGITS = re.compile(r"\d+")
_NAMED = 3


def nearest_fit(own: str, tensors: Mapping[str, Tensor]) -> list[str]:
    """Names of up to three networks that have the given tensors, last layers apart.

    Those that differ from `own` in digits only come first, then the shorter names.

    Args:
        own: name of the network for which the file was meant.
        tensors: by the names in the file, perhaps with a prefix that all share.
    """
    keys = {key_of(tensors), key_of(_without_shared_prefix(tensors))}
    lines = (line.split() for line in TABLE.read_text().splitlines())
    names = [name for key, name in lines if key in keys]
    names.sort(key=lambda name: (_DIGITS.sub("", name) != _DIGITS.sub("", own), len(name)))
    return [name for name in names[:_NAMED] if _key_now(name) in keys]  # another release may have changed it


def key_of(tensors: Mapping[str, Tensor]) -> str:
    """A hash of the names and shapes of a network's tensors, whatever their order, dots and underscores alike."""
    body = sorted(
        f"{name.replace('.', '_')} {tuple(tensor.shape)}"
        for name, tensor in tensors.items()
        if tensor.ndim and not name.startswith(_HEADS)
    )
    return hashlib.sha256("\n".join(body).encode()).hexdigest()[:12]


def _without_shared_prefix(tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    first, last = min(tensors, default=""), max(tensors, default="")
    shared = "".join(a for a, _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False)))
    cut = shared.rfind(".") + 1
    return {name[cut:]: tensor for name, tensor in tensors.items()}


def _key_now(name: str) -> str | None:
    import timm

    import lit_vision.networks.mobilenet  # noqa: F401  imported for the names that it adds to timm's

    create = create_torchvision if is_torchvision(name) else timm.create_model
    try:
        return key_of(without_memory(create, name).state_dict())
    except Exception:  # timm's builders raise errors of every kind; then there is no such network here
        return None


def _lines() -> Iterator[str]:
    import timm

    import lit_vision.networks.mobilenet  # noqa: F401  imported for the names that it adds to timm's

    for name in (*timm.list_models(), *torchvision_names()):
        key = _key_now(name)
        if key is not None:
            yield f"{key} {name}\n"


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    TABLE.write_text("".join(_lines()))
