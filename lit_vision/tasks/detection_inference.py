"""What a detector does after training: views of a picture, tiles of a large one, and which boxes come out."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lit_vision.data.pictures import CollatePictures
from lit_vision.data.transforms import Transform, restore_boxes
from lit_vision.ops.box_views import View, show, unshow
from lit_vision.ops.boxes import select_detections
from lit_vision.ops.candidates import decoded_above
from lit_vision.ops.grid import Decoded
from lit_vision.ops.tile_boxes import merge_tiles
from lit_vision.ops.tiles import tile_grid
from lit_vision.types import DetectionBatch, DetectionPrediction, Sample, UInt8Array

TILES_AT_ONCE = 8  # bounds the memory, whatever the size of the picture

Run = Callable[[Tensor], Sequence[Tensor]]


class Rule(NamedTuple):
    """Which boxes of a network are detections; see `ops.boxes.select_detections`. score: one threshold, or (K,)."""

    objectness: float
    score: float | Tensor
    nms: float
    most: int


def true_boxes(batch: DetectionBatch) -> list[Tensor]:
    """The objects' boxes (N, 4) of each image in its original pixels: the file's own, where the batch has them."""
    if "original_boxes" in batch:
        return batch["original_boxes"]
    framed = zip(batch["boxes"], batch["frame"], batch["size"], strict=True)
    return [restore_boxes(own, frame, size) for own, frame, size in framed]


def detect(found: Sequence[Decoded], frames: Tensor, sizes: Tensor, rule: Rule) -> list[DetectionPrediction]:
    """Detections of each image in its original pixels, clipped to it; of what lies in the padding nothing is left.

    Args:
        found: of each image boxes (N, 4) in network pixels, objectness (N,) and probabilities (N, K).
        frames: (B, 2, 3), original to network.
        sizes: (B, 2) height and width of the originals.
        rule: which boxes.
    """
    detections: list[DetectionPrediction] = []
    for one, frame, size in zip(found, frames, sizes, strict=True):
        chosen = select_detections(*one, rule.objectness, rule.score, rule.nms, rule.most)
        boxes = restore_boxes(chosen["boxes"], frame, size)
        seen = (boxes[:, 2:] > boxes[:, :2]).all(dim=1)
        own: DetectionPrediction = {
            "boxes": boxes[seen],
            "labels": chosen["labels"][seen],
            "scores": chosen["scores"][seen],
        }
        detections.append(own)
    return detections


def see(
    network: Any,
    run: Run,
    images: Tensor,
    views: Sequence[View],
    threshold: float,
    known: Sequence[Tensor] | None = None,
) -> list[Decoded]:
    """Boxes of each image in all views together, in pixels of the images; NMS among them comes later.

    Args:
        network: has `coarsest`, the stride whose multiples sides are, and decodes its outputs.
        run: images to the network's outputs.
        images: (B, C, H, W) uint8.
        views: how to show them.
        threshold: of the objectness, strict.
        known: the outputs for the images as they are, where they have been computed already.
    """
    size = (int(images.shape[-2]), int(images.shape[-1]))
    parts = []
    for view in views:
        if view == View() and known is not None:
            parts.append(decoded_above(network, known, threshold))
            continue
        shown = show(images, view, network.coarsest)
        seen = (int(shown.shape[-2]), int(shown.shape[-1]))
        found = decoded_above(network, run(shown), threshold)
        parts.append([one._replace(boxes=unshow(one.boxes, view, seen, size)) for one in found])
    return [Decoded(*map(torch.cat, zip(*of_image, strict=True))) for of_image in zip(*parts, strict=True)]


def detect_in_tiles(
    image: UInt8Array,
    tile: int,
    overlap: float,
    data: Mapping[str, Any],
    find: Callable[[Tensor, float], list[Decoded]],
    rules: Sequence[Rule],
    device: torch.device,
) -> list[DetectionPrediction]:
    """Detections of a whole picture, by each of some rules, from tiles that the network sees as pictures.

    Args:
        image: (H, W, C) uint8.
        tile: side of a tile, pixels of the picture.
        overlap: smallest share of it that neighbours have in common.
        data: the preprocessing of a checkpoint: image_size and fit.
        find: images (B, C, h, w) and the objectness to be above, to boxes in network pixels.
        rules: each gives detections of its own; `most` counts in each tile.
        device: where the network is.
    """
    size = (image.shape[0], image.shape[1])
    grid = tile_grid(size, tile, overlap)
    tiles = torch.from_numpy(grid)
    lowest = min(rule.objectness for rule in rules)
    found: list[list[DetectionPrediction]] = [[] for _ in rules]
    for start, batch in _batches(image, grid.tolist(), data):
        decoded = find(batch["image"].to(device), lowest)
        for own, rule in zip(found, rules, strict=True):
            own += [
                {**one, "boxes": one["boxes"] + tiles[start + k, [0, 1, 0, 1]].to(one["boxes"])}
                for k, one in enumerate(detect(decoded, batch["frame"], batch["size"], rule))
            ]
    return [_together(own, tiles, size, rule.nms) for own, rule in zip(found, rules, strict=True)]


def _batches(
    image: UInt8Array, tiles: Sequence[Sequence[int]], data: Mapping[str, Any]
) -> Iterator[tuple[int, dict[str, Any]]]:
    transform, collate = Transform(tuple(data["image_size"]), data["fit"]), CollatePictures(data["fit"])
    for start in range(0, len(tiles), TILES_AT_ONCE):
        samples: list[Sample | str] = []
        for x1, y1, x2, y2 in tiles[start : start + TILES_AT_ONCE]:
            warped = transform(image[y1:y2, x1:x2])
            frame, size = torch.as_tensor(warped.frame), torch.tensor([y2 - y1, x2 - x1])
            samples.append({"image": warped.image, "index": start, "frame": frame, "size": size})
        batch, _ = collate(samples)
        assert batch is not None  # every sample is a picture
        yield start, batch


def _together(
    found: Sequence[DetectionPrediction], tiles: Tensor, size: tuple[int, int], nms: float
) -> DetectionPrediction:
    counts = torch.tensor([len(one["scores"]) for one in found])
    every: DetectionPrediction = {
        "boxes": torch.cat([one["boxes"] for one in found]),
        "labels": torch.cat([one["labels"] for one in found]),
        "scores": torch.cat([one["scores"] for one in found]),
    }
    tile_of = torch.arange(len(found)).repeat_interleave(counts).to(every["labels"].device)
    return merge_tiles(every, tile_of, tiles.to(tile_of.device), size, nms)
