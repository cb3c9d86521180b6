"""Features of a backbone stage by stage: where each stage ends is watched, not declared, so any network will do."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from lit_vision.errors import UserError


def stage_ends(backbone: nn.Module, images: Tensor, stages: Sequence[Sequence[str]]) -> list[str]:
    """Name of the module whose output ends each stage.

    It is the one that finishes last among those all of whose parameters lie in the stage; of a block and its last
    layer that is the block.

    Args:
        backbone: in evaluation mode.
        images: (B, C, H, W) as the backbone takes them.
        stages: names of its parameters by stage, as `networks.stages` divides them.

    Raises:
        UserError: a stage gives no tensor of features.
    """
    stage_of = {name: k for k, names in enumerate(stages) for name in names}
    home: dict[str, int] = {}
    for name, module in backbone.named_modules():
        inside = {stage_of.get(f"{name}.{inner}" if name else inner, -1) for inner, _ in module.named_parameters()}
        if len(inside) == 1 and (stage := inside.pop()) >= 0:
            home[name] = stage
    last: dict[int, str] = {}

    def note(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor) and output.ndim > 1:
                last[home[name]] = name

        return hook

    handles = [backbone.get_submodule(name).register_forward_hook(note(name)) for name in home]
    try:
        with torch.no_grad():
            backbone(images)
    finally:
        for handle in handles:
            handle.remove()
    missing = [stage for stage in range(len(stages)) if stage not in last]
    if missing:
        raise UserError(f"stage {missing[0]} of {type(backbone).__name__} gives no features that could be measured")
    return [last[stage] for stage in range(len(stages))]


@dataclass
class Taps:
    """Outputs of certain modules during the last forward pass; see `tapped`."""

    outputs: dict[str, Tensor] = field(default_factory=dict)


@contextmanager
def tapped(backbone: nn.Module, names: Sequence[str]) -> Iterator[Taps]:
    """Inside, every forward pass of the backbone leaves the outputs of the named modules in the result."""
    taps = Taps()

    def keep(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
            taps.outputs[name] = output.detach()

        return hook

    handles = [backbone.get_submodule(name).register_forward_hook(keep(name)) for name in dict.fromkeys(names)]
    try:
        yield taps
    finally:
        for handle in handles:
            handle.remove()


def as_maps(features: Tensor, image_size: tuple[int, int], channels_last: bool = False) -> Tensor:
    """Features of any layout as maps (B, D, h, w).

    Args:
        features: (B, D, h, w), (B, h, w, D) with `channels_last`, (B, T, D) tokens, or (B, D).
        image_size: height and width of the pictures, which tells how tokens lie; those before the grid (class,
            registers) are left out. Tokens that are no grid become one row.
        channels_last: see `features`.
    """
    if features.ndim == 4:
        return features.permute(0, 3, 1, 2) if channels_last else features
    if features.ndim == 2:
        return features[..., None, None]
    tokens = features.shape[1]
    height, width = image_size
    for rows in range(int(tokens**0.5 * max(height / width, 1) + 1), 0, -1):
        columns = round(rows * width / height)
        if columns and rows * columns <= tokens and tokens - rows * columns <= 8:  # up to 8 registers in use
            return features[:, tokens - rows * columns :].mT.reshape(len(features), -1, rows, columns)
    return features.mT[..., None, :]


def pooled(maps: Tensor) -> Tensor:
    """(B, D) means over the picture of maps (B, D, h, w)."""
    return maps.mean((2, 3))


def at_points(maps: Tensor, image: Tensor, points: Tensor, image_size: tuple[int, int]) -> Tensor:
    """(N, D) features of the cells in which points lie.

    Args:
        maps: (B, D, h, w).
        image: (N,) which picture of the batch.
        points: (N, 2) x, y in pixels of the pictures.
        image_size: height and width of the pictures.
    """
    height, width = image_size
    columns = (points[:, 0] * maps.shape[3] / width).long().clamp(0, maps.shape[3] - 1)
    rows = (points[:, 1] * maps.shape[2] / height).long().clamp(0, maps.shape[2] - 1)
    return maps[image, :, rows, columns]


def in_boxes(maps: Tensor, image: Tensor, boxes: Tensor, image_size: tuple[int, int]) -> Tensor:
    """(N, D) means of the cells that boxes cover, by torchvision's RoIAlign.

    Args:
        maps: (B, D, h, w).
        image: (N,) which picture of the batch.
        boxes: (N, 4) xyxy in pixels of the pictures.
        image_size: height and width of the pictures.
    """
    from torchvision.ops import roi_align

    height, width = image_size
    scale = torch.tensor([maps.shape[3] / width, maps.shape[2] / height] * 2)
    rois = torch.cat([image[:, None].float(), boxes * scale], 1)
    means: Tensor = roi_align(maps.contiguous(), rois, output_size=1, aligned=True, sampling_ratio=3)
    return means[..., 0, 0]


def random_twin(task: Any, seed: int) -> Any:
    """The same task with newly drawn weights, in evaluation mode; nothing is downloaded."""
    options: Mapping[str, Any] = dict(task.hparams)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        twin = type(task)(**options)
    return twin.eval()


def calibrate(backbone: nn.Module, batches: Sequence[Tensor]) -> None:
    """Gives a new network's batch normalisation the statistics of some batches, without which its features vanish."""
    norms = [module for module in backbone.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    before = [module.momentum for module in norms]
    for module in norms:
        module.reset_running_stats()
        module.momentum = None  # the mean over all batches
    backbone.train()
    with torch.no_grad():
        for images in batches:
            backbone(images)
    backbone.eval()
    for module, momentum in zip(norms, before, strict=True):
        module.momentum = momentum
