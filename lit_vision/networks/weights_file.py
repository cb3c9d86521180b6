"""Tensors by name from a weights file. Nothing in a file is ever run: pickles are read with `weights_only=True`."""

import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor

from lit_vision.errors import UserError
from lit_vision.networks.darknet_file import is_darknet_file

Tensors: TypeAlias = dict[str, Tensor]

SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".tar")
# Where training programs put the weights inside their checkpoints; averaged weights come first, as in timm.
_NESTS = ("state_dict_ema", "model_ema", "state_dict", "model_state_dict", "model", "network", "teacher")


def read_tensors(file: str | Path) -> Tensors:
    """Reads .safetensors, or .pth, .pt, .bin, .ckpt of plain tensors, also inside a checkpoint's "state_dict".

    Raises:
        UserError: the file is missing, of another kind, damaged, or a pickle that holds more than plain data.
    """
    path = _located(file)
    content = _read_safetensors(path) if path.suffix == ".safetensors" else read_contents(path)
    tensors = {name: value for name, value in _unnest(content).items() if isinstance(value, Tensor)}
    if not tensors:
        raise UserError(f"weights: {path} holds no tensors by name; save `model.state_dict()`.")
    return tensors


def stated_licence(file: str | Path) -> str | None:
    """The licence that a weights file states: in the metadata of safetensors, or in a checkpoint of ours.

    Raises:
        UserError: as `read_tensors`.
    """
    if is_darknet_file(file):  # Darknet's files state nothing
        return None
    path = _located(file)
    if path.suffix == ".safetensors":
        from safetensors import safe_open

        with safe_open(path, "pt") as content:
            facts: Mapping[str, Any] = content.metadata() or {}
    else:
        facts = read_contents(path).get("lit_vision") or {} if path.suffix == ".ckpt" else {}
    return facts.get("licence") or facts.get("license")


def _located(file: str | Path) -> Path:
    path = Path(os.path.expandvars(file)).expanduser()
    if not path.is_file():
        raise UserError(f"weights: there is no file {path}.")
    if path.suffix not in SUFFIXES:
        raise UserError(f"weights: {path} is none of {', '.join(SUFFIXES)}.")
    return path


def _read_safetensors(path: Path) -> Mapping[str, Any]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return dict(load_file(path))
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"weights: {path} cannot be read as safetensors ({error}).") from error


def read_contents(file: str | Path) -> Mapping[str, Any]:
    """All that a file of torch.save holds by name.

    Raises:
        UserError: as `read_tensors`.
    """
    path = _located(file)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "Unsupported global" in str(error) or "Unsupported class" in str(error):
            raise UserError(
                f"weights: {path} holds Python objects besides tensors, which could run any code and are not loaded; "
                "save `model.state_dict()` or a .safetensors file."
            ) from error
        raise UserError(f"weights: {path} is damaged or no file of torch.save.") from error
    except Exception as error:  # torch.load raises errors of every kind on damaged files
        raise UserError(f"weights: {path} is damaged or no file of torch.save ({_first_line(error)}).") from error
    if not isinstance(content, Mapping):
        raise UserError(f"weights: {path} holds a {type(content).__name__}, not tensors by name.")
    return content


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__


def _unnest(content: Mapping[str, Any]) -> Mapping[str, Any]:
    for nest in _NESTS:
        inner = content.get(nest)
        if isinstance(inner, Mapping) and any(isinstance(value, Tensor) for value in inner.values()):
            return inner
    return content
