"""Writes a drawn data set of shapes for all four tasks: for the quick start, tests and docs.

Layout, one folder per task so that `format: auto` is never in doubt:
    classification/<split>/<class>/*.jpg
    segmentation/images/<split>/*.jpg, masks/<split>/*.png (8 bit: 0 background, 1 + class), classes.json
    instances/images/<split>/*.jpg, labels/<split>/*.png (16-bit label maps), classes/<split>/*.png, classes.json
    detection/images/<split>/*.jpg, annotations/instances_<split>.json (COCO: boxes and RLE masks)
The pictures of the last three are the same files, hard-linked where the disk allows it.
"""

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from lit_vision.data.rle import encode_rle
from lit_vision.data.scenes import CLASSES, Scene, draw_scene, draw_single
from lit_vision.errors import UserError
from lit_vision.types import SPLITS, Split, UInt8Array

__all__ = ["CLASSES", "Scene", "draw_scene", "draw_shapes", "draw_single"]

RECIPE = "shapes.json"  # what a drawn folder was drawn with: an equal recipe means equal files
VERSION = 1


def draw_shapes(
    root: Path | str, train: int = 400, val: int = 100, test: int = 100, size: int = 160, seed: int = 0
) -> Path:
    """Draws the data set, unless the same one is already there.

    Args:
        root: folder to make. It appears only when it is complete.
        train: scenes, and half the pictures to classify, in the training split.
        val: the same for the validation split.
        test: the same for the test split.
        size: height and width of the scenes in pixels, at least 64; pictures to classify: half of it, at least 64.
        seed: equal arguments give equal files, byte for byte.

    Returns:
        root.

    Raises:
        UserError: root holds something else.
    """
    root = Path(root)
    recipe = {"version": VERSION, "train": train, "val": val, "test": test, "size": size, "seed": seed}
    if size < 64 or min(train, val, test) < 1:
        raise UserError(f"drawn pictures need size >= 64 and at least one per split, got {recipe}")
    if _is_drawn(root, recipe):
        return root
    root.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{root.name}-", dir=root.parent, ignore_cleanup_errors=True) as folder:
        _draw_all(Path(folder) / "set", recipe)
        try:
            os.replace(Path(folder) / "set", root)
        except OSError:  # another process was faster
            _is_drawn(root, recipe)
    return root


def _is_drawn(root: Path, recipe: dict[str, int]) -> bool:
    """Whether root holds just this data set. Raises UserError where it holds anything else."""
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return False
    try:
        found = json.loads((root / RECIPE).read_text())
    except (OSError, ValueError):
        found = None
    if found != recipe:
        raise UserError(f"{root} exists and is not the drawn data set {recipe}: remove it or choose another folder")
    return True


def _draw_all(root: Path, recipe: dict[str, int]) -> None:
    for folder in ("segmentation", "instances"):
        _write_json(root / folder / "classes.json", {"classes": _class_names(folder), "ignore_index": 255})
    for number, split in enumerate(SPLITS):
        # a generator of its own for every picture: the 7th is the same in a set of 10 and of 1,000
        seeds = [(recipe["seed"], number, i) for i in range(recipe[split])]
        _draw_scenes(root, split, seeds, recipe["size"])
        seeds = [(recipe["seed"], number, i) for i in range(2 * recipe[split])]
        _draw_singles(root / "classification" / split, seeds, max(64, recipe["size"] // 2))
    _write_json(root / RECIPE, recipe)


def _class_names(folder: str) -> list[str]:
    return ["background", *CLASSES] if folder == "segmentation" else list(CLASSES)


def _draw_scenes(root: Path, split: Split, seeds: list[tuple[int, int, int]], size: int) -> None:
    coco = _empty_coco()
    for i, seed in enumerate(seeds):
        scene, name = draw_scene(np.random.default_rng((*seed, 0)), size), f"{split}_{i:05d}"
        picture = root / "segmentation" / "images" / split / f"{name}.jpg"
        _write_picture(picture, scene.image)
        for folder in ("instances", "detection"):
            _link(picture, root / folder / "images" / split / f"{name}.jpg")
        _write_array(root / "segmentation" / "masks" / split / f"{name}.png", scene.mask)
        _write_array(root / "instances" / "classes" / split / f"{name}.png", scene.mask)
        _write_array(root / "instances" / "labels" / split / f"{name}.png", scene.instances.astype(np.uint16))
        _add_to_coco(coco, scene, f"{name}.jpg")
    _write_json(root / "detection" / "annotations" / f"instances_{split}.json", coco)


def _draw_singles(root: Path, seeds: list[tuple[int, int, int]], size: int) -> None:
    for i, seed in enumerate(seeds):
        label = i % len(CLASSES)
        scene = draw_single(np.random.default_rng((*seed, 1)), label, size)
        _write_picture(root / CLASSES[label] / f"{root.name}_{i:05d}.jpg", scene.image)


def _empty_coco() -> dict[str, list[Any]]:
    categories = [{"id": k + 1, "name": name, "supercategory": "shape"} for k, name in enumerate(CLASSES)]
    return {"images": [], "annotations": [], "categories": categories}


def _add_to_coco(coco: dict[str, list[Any]], scene: Scene, file_name: str) -> None:
    """Appends an image and its objects; the k-th annotation of an image is object k of its label map."""
    height, width = scene.instances.shape
    image_id = len(coco["images"]) + 1
    coco["images"].append({"id": image_id, "file_name": file_name, "height": height, "width": width})
    for k, (x1, y1, x2, y2) in enumerate(scene.boxes.tolist()):
        inside = scene.instances == k + 1
        coco["annotations"].append(
            {
                "id": len(coco["annotations"]) + 1,
                "image_id": image_id,
                "category_id": int(scene.labels[k]) + 1,
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "area": int(inside.sum()),
                "iscrowd": 0,
                "segmentation": {"size": [height, width], "counts": encode_rle(inside).decode("ascii")},
            }
        )


def _write_picture(path: Path, image: UInt8Array) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    _, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 93])
    path.write_bytes(data.tobytes())


def _write_array(path: Path, array: UInt8Array | np.ndarray[Any, np.dtype[np.uint16]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    _, data = cv2.imencode(".png", array)
    path.write_bytes(data.tobytes())


def _write_json(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def _link(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:  # a disk without hard links
        shutil.copyfile(source, target)
