"""Training samples per second on one core: a 640 x 480 JPEG to a 416 x 416 sample with boxes, or boxes and a mask.

Against torchvision v2, with PIL images and with uint8 tensors: the same letterbox, mirror, rotation, zoom and colour
changes. The ways take turns, so that a busy machine slows all of them; medians are compared.

    python benchmarks/transforms.py [--rounds 60]
"""

import argparse
import io
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image
from torchvision import tv_tensors
from torchvision.io import decode_jpeg
from torchvision.transforms import v2

from lit_vision.data.augmentation import Augmentation
from lit_vision.data.decode import read_image
from lit_vision.data.transforms import Transform

SIDE = 416
BOXES = np.array([[x, y, x + 90, y + 70] for x in (20, 180, 400) for y in (30, 200, 380)], np.float32)
RANGES = Augmentation(rotate=10, scale=0.3, translate=0.1, hue=0.015, saturation=0.5, brightness=0.3, contrast=0.2)


def draw_jpeg(folder: Path) -> Path:
    coarse = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    path = folder / "a.jpg"
    Image.fromarray(cv2.resize(coarse, (640, 480), interpolation=cv2.INTER_CUBIC)).save(path, quality=90)
    return path


def v2_pipeline(tensor: bool) -> v2.Compose:
    """Resized first, which is the faster order."""
    steps: list[v2.Transform] = [v2.Resize(SIDE - 1, max_size=SIDE, antialias=True), v2.Pad([0, 52], fill=114)]
    geometric = [
        v2.RandomHorizontalFlip(),
        v2.RandomAffine(10, (0.1, 0.1), (1 / 1.3, 1.3), interpolation=v2.InterpolationMode.BILINEAR, fill=114),
    ]
    colour = [v2.ColorJitter(brightness=0.3, contrast=0.2, saturation=0.5, hue=0.015)]
    return v2.Compose(steps + geometric + colour + ([] if tensor else [v2.ToImage()]))


def ours(path: Path, mask: np.ndarray | None) -> Callable[[], object]:
    transform, rng = Transform((SIDE, SIDE), "letterbox", RANGES), np.random.default_rng(0)
    masks = {} if mask is None else {"mask": (mask, 255)}
    return lambda: transform(read_image(path), BOXES, masks, rng)


def torchvision_v2(path: Path, mask: np.ndarray | None, tensor: bool) -> Callable[[], object]:
    pipeline = v2_pipeline(tensor)

    def sample() -> object:
        data = path.read_bytes()
        encoded = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        image: Any = tv_tensors.Image(decode_jpeg(encoded)) if tensor else Image.open(io.BytesIO(data)).convert("RGB")
        boxes = tv_tensors.BoundingBoxes(torch.from_numpy(BOXES), format="XYXY", canvas_size=(480, 640))  # type: ignore[call-overload]  # a string is taken
        labels = () if mask is None else (tv_tensors.Mask(torch.from_numpy(mask)),)
        return pipeline(image, boxes, *labels)

    return sample


def medians(ways: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Milliseconds of each way, taking turns."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(rounds + 3):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            if turn >= 3:  # the first few warm up
                seconds[name].append(time.perf_counter() - start)
    return {name: 1000 * float(np.median(values)) for name, values in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=60)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    print(f"{'one core, 640x480 JPEG to 416':32}{'ms':>8}{'samples/s':>11}{'ours is':>10}")
    with tempfile.TemporaryDirectory() as folder:
        path = draw_jpeg(Path(folder))
        for label, mask in {"boxes": None, "boxes + mask": np.zeros((480, 640), np.uint8)}.items():
            ways = {
                "lit_vision": ours(path, mask),
                "torchvision v2, PIL": torchvision_v2(path, mask, tensor=False),
                "torchvision v2, tensor": torchvision_v2(path, mask, tensor=True),
            }
            times = medians(ways, rounds)
            for name, ms in times.items():
                print(f"{f'{label}: {name}':38}{ms:6.1f}{1000 / ms:9.0f}{ms / times['lit_vision']:10.1f}x")


if __name__ == "__main__":
    main()
