"""Darknet files as others write and read them, without a line of lit_vision: seeded .weights, and OpenCV's reader."""

import re
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest

SHARED = Path(__file__).parents[2] / "shared"
FILES = SHARED / "weights" / "darknet"
OPENCV_EPS = 1e-6  # of its batch normalisation
REAL = ("yolo-fastest-1.1", "yolo-fastest-1.1-xl", "MobileNetV2-YOLOv3-Nano-coco")

needs_files = pytest.mark.skipif(not FILES.is_dir(), reason=f"{FILES} with Darknet's files is not here")
needs_reader = pytest.mark.skipif(not hasattr(cv2.dnn, "readNetFromDarknet"), reason="OpenCV 5 reads no Darknet files")

Rows = npt.NDArray[np.float32]

# What OpenCV 4.14 finds in photos with yolo-fastest-1.1-xl at 320 x 320, thresholds 0.3 and 0.45: class, score, box.
FOUND: dict[str, list[tuple[str, float, list[int] | None]]] = {
    "dog.jpg": [
        ("dog", 0.958, [114, 188, 386, 536]),
        ("bicycle", 0.894, [113, 127, 574, 497]),
        ("car", 0.841, [450, 78, 685, 163]),
        ("truck", 0.437, None),
    ],
    "person.jpg": [
        ("person", 0.995, [188, 103, 271, 363]),
        ("dog", 0.981, [58, 252, 207, 354]),
        ("cow", 0.969, [389, 143, 609, 334]),
    ],
    "bus.jpg": [
        ("person", 0.985, [53, 387, 206, 879]),
        ("person", 0.976, [228, 430, 341, 814]),
        ("bus", 0.928, [43, 247, 826, 741]),
        ("person", 0.883, [696, 361, 806, 883]),
        ("person", 0.409, [1, 533, 65, 830]),
    ],
    "zidane.jpg": [("person", 0.998, None), ("person", 0.996, None)]
    + [("tie", s, None) for s in (0.376, 0.373, 0.312)],
    "eagle.jpg": [("bird", 0.993, None)],
    "giraffe.jpg": [("giraffe", 0.995, None), ("zebra", 0.943, None)],
}


def sections(text: str) -> list[tuple[str, dict[str, str]]]:
    found: list[tuple[str, dict[str, str]]] = []
    for line in text.splitlines():
        line = line.split("#")[0].replace(" ", "")
        if line.startswith("["):
            found.append((line.strip("[]"), {}))
        elif "=" in line:
            key, value = line.split("=", 1)
            found[-1][1][key] = value
    return found


def three_and_one(text: str) -> str:
    """The .cfg of yolov3-tiny with one anchor for its second head, the second of the list."""
    text = text.replace("mask = 0,1,2", "mask = 1")
    last = text.rindex("filters=255")
    return f"{text[:last]}filters=85{text[last + len('filters=255') :]}"


def draw_weights(text: str, path: Path, seed: int = 0, minor: int = 2, heads: float = 2.0) -> Path:
    """Writes weights that keep the signal's size: each convolution's by its fan-in, small ones before a shortcut.

    Args:
        text: of the .cfg.
        path: of the .weights.
        seed: of the numbers.
        minor: version 0.minor of the header; below 2 it has 4 bytes for the images seen.
        heads: spread of the raw outputs.
    """
    rng = np.random.default_rng(seed)
    (_, net), *layers = sections(text)
    outputs: list[int] = []
    with path.open("wb") as file:
        file.write(np.array([0, minor, 0], "<i4").tobytes() + (64_000).to_bytes(8 if minor >= 2 else 4, "little"))
        for i, (name, options) in enumerate(layers):
            channels = outputs[-1] if outputs else int(net.get("channels", 3))
            if name == "route":
                numbers = [int(number) for number in options["layers"].split(",")]
                groups = int(options.get("groups", 1))
                channels = sum(outputs[number if number >= 0 else i + number] // groups for number in numbers)
            if name == "convolutional":
                following = layers[i + 1][0] if i + 1 < len(layers) else ""
                gain = {"shortcut": 0.3, "dropout": 0.3, "yolo": heads}.get(following, 1.4)
                file.write(convolution(rng, options, channels, gain))
                channels = int(options["filters"])
            outputs.append(channels)
    return path


def convolution(rng: np.random.Generator, options: dict[str, str], channels: int, gain: float) -> bytes:
    filters, size = int(options["filters"]), int(options["size"])
    shape = (filters, channels // int(options.get("groups", 1)), size, size)
    weights = rng.normal(size=shape) * gain / np.sqrt(np.prod(shape[1:]))
    parts = [rng.normal(size=filters) * 0.2]
    if options.get("batch_normalize") == "1":
        # Variances down to 1e-4, where an eps ten times larger shows; scales follow them.
        variance = 10.0 ** rng.uniform(-4, 0, filters)
        parts += [rng.uniform(0.5, 1.0, filters) * np.sqrt(variance), rng.normal(size=filters) * 0.2, variance]
    return b"".join(part.astype("<f4").tobytes() for part in [*parts, weights])


def opencv_rows(config: Path | str, weights: Path, images: Rows, folder: Path) -> list[Rows]:
    """Rows (cell by cell, anchor by anchor) of each [yolo] in the order of the .cfg.

    They are cx, cy, w, h as fractions of the picture, objectness, and objectness times class probability.
    """
    text = config.read_text() if isinstance(config, Path) else config
    (folder / "raw.cfg").write_text(re.sub(r"\[yolo\]", "[yolo]\nthresh=0\nnms_threshold=0", text))
    net = cv2.dnn.readNetFromDarknet(str(folder / "raw.cfg"), str(weights))
    net.enableWinograd(False)
    net.setInput(images)
    names = sorted(net.getUnconnectedOutLayersNames(), key=lambda name: int(name.split("_")[1]))
    return list(net.forward(names))
