"""What kept features depend on, beside the pictures' files: weights, network, transform, machine."""

import hashlib
import platform
from collections.abc import Collection
from pickle import PicklingError, dumps
from typing import Any

import torch
from torch import Tensor, nn

from lit_vision.data.dataset import VisionDataset
from lit_vision.data.loader import fingerprint


def body_tensors(network: nn.Module, head: Collection[str]) -> dict[str, Tensor]:
    """Parameters and buffers of a network without its head's parameters."""
    named = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    return {name: tensor.detach() for name, tensor in named.items() if name not in head}


def body_key(network: nn.Module, preprocess: nn.Module, tensors: dict[str, Tensor], precision: str) -> str:
    """A short text for everything that the body's outputs depend on, the pictures apart."""
    digest = hashlib.blake2b(digest_size=8)
    digest.update(repr((network, preprocess, precision, _machine(tensors))).encode())
    for name, tensor in tensors.items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.cpu().contiguous().view(-1).view(dtype=torch.uint8).numpy().data)
    return digest.hexdigest()


def _machine(tensors: dict[str, Tensor]) -> tuple[Any, ...]:
    """Other kernels may round otherwise."""
    device = next(iter(tensors.values())).device
    kind = torch.cuda.get_device_name(device) if device.type == "cuda" else torch.backends.cpu.get_cpu_capability()
    return device.type, kind, platform.machine(), torch.__version__


def data_key(dataset: VisionDataset, batch_size: int) -> str:
    """A short text for the files of a split, their order, and the way from a file to the network's input."""
    digest = hashlib.blake2b(digest_size=8)
    transform = dataset.transform
    facts = (
        fingerprint(dataset),
        (transform.image_size, transform.fit, transform.augmentation),
        (dataset.in_channels, dataset.depth, dataset.seed, batch_size),
        *([jitter] if (jitter := _jitter(dataset)) else []),
    )
    digest.update(repr(facts).encode())
    if dataset.index.boxes is not None:  # crops of the files
        digest.update(dataset.index.boxes.tobytes())
    for own in transform.extra:
        digest.update(_all_of(own))
    return digest.hexdigest()


def _all_of(transform: Any) -> bytes:
    """A user's own transform with all its values; one that cannot be pickled counts by what it says of itself."""
    try:
        return dumps(transform)
    except (PicklingError, AttributeError, TypeError):
        return repr(transform).encode()


def is_random(dataset: VisionDataset) -> bool:
    """Whether a picture looks different from epoch to epoch."""
    changes = dataset.transform.augmentation is not None or dataset.transform.extra or _jitter(dataset)
    return dataset.seed is not None and bool(changes)


def _jitter(dataset: VisionDataset) -> float:
    """By how much the crops of a classification move in training."""
    return float(getattr(dataset, "jitter", 0.0))
