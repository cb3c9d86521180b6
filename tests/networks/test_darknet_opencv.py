"""Networks of Darknet's files against OpenCV's reader of the same files, an implementation by others."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from darknet_files import (
    FILES,
    OPENCV_EPS,
    REAL,
    SHARED,
    Rows,
    draw_weights,
    needs_files,
    needs_reader,
    opencv_rows,
    three_and_one,
)
from torch import nn

from lit_vision.networks import darknet_layers, darknet_weights, yolo_network
from lit_vision.networks.darknet import DarknetYOLO, create_darknet
from lit_vision.networks.darknet_cfg import FOLDER
from lit_vision.networks.darknet_weights import load_weights
from lit_vision.ops import grid

pytestmark = needs_reader

RTOL, ATOL = 1e-4, 2e-5


def load(config: Path | str, weights: Path, bn_eps: float = OPENCV_EPS) -> DarknetYOLO:
    network = create_darknet(str(config), bn_eps=bn_eps)
    load_weights(network, weights)
    return network.eval()


def our_rows(network: DarknetYOLO, images: Rows) -> list[Rows]:
    """As `opencv_rows`, but coarsest first."""
    height, width = images.shape[-2:]
    with torch.no_grad():
        outputs = network(torch.from_numpy(images))
        decoded = network.decode(outputs)
    x1, y1, x2, y2 = (decoded.boxes[0].double().numpy() / [width, height, width, height]).T
    scores = (decoded.objectness[..., None] * decoded.probabilities)[0].numpy()
    boxes = np.stack([(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1, decoded.objectness[0].numpy()], axis=1)
    rows = np.concatenate([boxes, scores], axis=1)
    counts = [output.shape[2] * output.shape[3] * network.anchors.shape[1] for output in outputs]
    return np.split(rows, np.cumsum(counts)[:-1])


def assert_equal(ours: list[Rows], theirs: list[Rows]) -> None:
    for own, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(own, other, rtol=RTOL, atol=ATOL)


def noise(height: int, width: int) -> Rows:
    return np.random.default_rng(0).random((1, 3, height, width), np.float32)


def compare(config: Path, weights: Path, images: Rows, folder: Path) -> int:
    theirs = opencv_rows(config, weights, images, folder)
    assert_equal(our_rows(load(config, weights), images), theirs)
    rows = np.concatenate(theirs)
    assert np.ptp(rows[:, 4]) > 0.5  # the outputs differ from box to box: equality says something
    assert rows[:, 2:4].max() < 100  # and boxes are no wild numbers
    return len(rows)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Rows, list[Rows]]:
    """Seeded weights of yolov3-tiny, a picture, and what OpenCV makes of both."""
    folder = tmp_path_factory.mktemp("tiny")
    weights = draw_weights((FOLDER / "yolov3-tiny.cfg").read_text(), folder / "tiny.weights")
    images = noise(224, 352)
    return weights, images, opencv_rows(FOLDER / "yolov3-tiny.cfg", weights, images, folder)


def test_tiny_equals_opencv(tiny: tuple[Path, Rows, list[Rows]], tmp_path: Path) -> None:
    weights, images, theirs = tiny
    assert_equal(our_rows(load("yolov3-tiny", weights), images), theirs)
    assert compare(FOLDER / "yolov3-tiny.cfg", weights, noise(416, 416), tmp_path) == 2535
    assert weights.stat().st_size == 35_434_956  # of the official file


def swapped(first: Callable[..., object]) -> Callable[..., object]:
    return lambda tensors, dim=0: first(tensors[::-1], dim=dim)


def leaky(slope: float) -> Callable[[pytest.MonkeyPatch], None]:
    return lambda patch: patch.setattr(darknet_layers, "SLOPE", slope)


def pool(**wrong: float) -> Callable[[pytest.MonkeyPatch], None]:
    pad = F.pad
    return lambda patch: patch.setattr(darknet_layers.F, "pad", lambda x, sides, value: pad(x, sides, **wrong))


def pool_at_the_left(patch: pytest.MonkeyPatch) -> None:
    pad = F.pad
    patch.setattr(darknet_layers.F, "pad", lambda x, sides, value: pad(x, (sides[1], 0, sides[3], 0), value=-torch.inf))


def bilinear(patch: pytest.MonkeyPatch) -> None:
    resize = F.interpolate
    patch.setattr(
        darknet_layers.F, "interpolate", lambda x, scale_factor, mode: resize(x, None, scale_factor, "bilinear")
    )


def anchors_reversed(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(
        yolo_network, "decode", lambda flat, where: grid.decode(flat, where._replace(anchors=where.anchors.flip(0)))
    )


def axes_swapped(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(yolo_network, "decode", lambda flat, where: grid.decode(flat[..., [1, 0, 2, 3]], where))


def grid_transposed(patch: pytest.MonkeyPatch) -> None:
    make = grid.grid_of
    patch.setattr(
        yolo_network, "grid_of", lambda outputs, *more: make([output.transpose(2, 3) for output in outputs], *more)
    )


def scale_for_bias(patch: pytest.MonkeyPatch) -> None:
    small = darknet_weights._small

    def wrong(conv: nn.Conv2d, norm: nn.BatchNorm2d | None) -> list[torch.Tensor]:
        parts = small(conv, norm)
        return parts if norm is None else [parts[1], parts[0], *parts[2:]]

    patch.setattr(darknet_weights, "_small", wrong)


def softmax_classes(patch: pytest.MonkeyPatch) -> None:
    decoded = DarknetYOLO.decode
    flat_of = grid.flatten_outputs

    def wrong(self: DarknetYOLO, outputs: list[torch.Tensor]) -> grid.Decoded:
        classes = flat_of(outputs, self.anchors.shape[1])[..., 5:]
        return decoded(self, outputs)._replace(probabilities=classes.softmax(-1))

    patch.setattr(DarknetYOLO, "decode", wrong)


MUTANTS: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "slope 0.01": leaky(0.01),
    "slope 0.1015": leaky(0.1015),
    "bilinear upsampling": bilinear,
    "swapped route": lambda patch: patch.setattr(darknet_layers.torch, "cat", swapped(torch.cat)),
    "pool padded with 0": pool(value=0.0),
    "pool padded above and at the left": pool_at_the_left,
    "anchors reversed": anchors_reversed,
    "x and y swapped": axes_swapped,
    "grid transposed": grid_transposed,
    "scale for bias": scale_for_bias,
    "softmax": softmax_classes,
}


@pytest.mark.parametrize("name", MUTANTS)
def test_a_wrong_network_would_be_noticed(
    name: str, tiny: tuple[Path, Rows, list[Rows]], monkeypatch: pytest.MonkeyPatch
) -> None:
    weights, images, theirs = tiny
    MUTANTS[name](monkeypatch)
    ours = our_rows(load("yolov3-tiny", weights), images)
    monkeypatch.undo()
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        assert_equal(ours, theirs)


@pytest.mark.parametrize("bn_eps", [1e-5, 1e-3])
def test_another_eps_would_be_noticed(bn_eps: float, tiny: tuple[Path, Rows, list[Rows]]) -> None:
    weights, images, theirs = tiny
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        assert_equal(our_rows(load("yolov3-tiny", weights, bn_eps), images), theirs)


@pytest.mark.parametrize(("old", "new"), [("mask = 3,4,5", "mask = 5,4,3"), ("mask = 0,1,2", "mask = 1,2,3")])
def test_masks_choose_the_anchors_in_their_order(
    old: str, new: str, tiny: tuple[Path, Rows, list[Rows]], tmp_path: Path
) -> None:
    weights, images, theirs = tiny
    text = (FOLDER / "yolov3-tiny.cfg").read_text()
    assert old in text
    ours = our_rows(load(text.replace(old, new), weights), images)
    assert_equal(ours, opencv_rows(text.replace(old, new), weights, images, tmp_path))
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        assert_equal(ours, theirs)


def test_heads_may_have_different_numbers_of_anchors(tmp_path: Path) -> None:
    """The second head's only anchor is the second of the list; what it lacks are boxes that are never objects."""
    text = three_and_one((FOLDER / "yolov3-tiny.cfg").read_text())
    weights, images = draw_weights(text, tmp_path / "a.weights"), noise(96, 160)
    first, second = our_rows(load(text, weights), images)
    by_anchor = second.reshape(-1, 3, 85)
    assert (by_anchor[:, 1:, 4] == 0).all()
    assert_equal([first, by_anchor[:, 0]], opencv_rows(text, weights, images, tmp_path))


@pytest.mark.slow  # 62 million weights through a file
@pytest.mark.parametrize(("name", "size"), [("yolov3", 248_007_048), ("yolov3-spp", 252_209_544)])
def test_large_networks_equal_opencv(name: str, size: int, tmp_path: Path) -> None:
    weights = draw_weights((FOLDER / f"{name}.cfg").read_text(), tmp_path / "drawn.weights")
    assert compare(FOLDER / f"{name}.cfg", weights, noise(256, 320), tmp_path) == 3 * (80 + 320 + 1280)
    assert weights.stat().st_size == size


@needs_files
@pytest.mark.parametrize("name", REAL)
def test_real_networks_equal_opencv(name: str, tmp_path: Path) -> None:
    dog = cv2.imread(str(SHARED / "data/photos/dog.jpg"))
    images = cv2.dnn.blobFromImage(dog, 1 / 255, (320, 320), swapRB=True, crop=False)
    assert compare(FILES / f"{name}.cfg", FILES / f"{name}.weights", images, tmp_path) == 3 * (100 + 400)


PARTS = """
[net]
channels=3
[convolutional]
batch_normalize=1
filters=8
size=3
stride=2
pad=1
activation=leaky
[convolutional]
batch_normalize=1
filters=8
size=3
stride=1
pad=1
activation=linear
{part}
[convolutional]
batch_normalize=1
filters=16
size=3
stride=2
pad=1
activation=leaky
[convolutional]
size=1
filters=14
activation=linear
[yolo]
mask=1,0
anchors=9,12, 20,15
classes=2
num=2
scale_x_y={scale}
"""
CONVOLUTION = "[convolutional]\nbatch_normalize=1\nfilters=8\nsize=3\npad=1\nactivation="
PIECES = {
    "nothing": "",
    "groups": CONVOLUTION + "leaky\ngroups=4",
    "mish": CONVOLUTION + "mish",
    "swish": CONVOLUTION + "swish",
    "relu": CONVOLUTION + "relu",
    "logistic": CONVOLUTION + "logistic",
    "shortcut": "[shortcut]\nfrom=-2\nactivation=linear",
    "activated shortcut": "[shortcut]\nfrom=-2\nactivation=leaky",
    "group of a route": "[route]\nlayers=-1\ngroups=2\ngroup_id=1",
    "route": "[route]\nlayers=-1,0",
    "pool": "[maxpool]\nsize=5\nstride=1",
    "dropout": "[dropout]\nprobability=.5",
}


@pytest.mark.parametrize("piece", PIECES)
def test_every_part_equals_opencv(piece: str, tmp_path: Path) -> None:
    text = PARTS.format(part=PIECES[piece], scale="1.2")
    weights = draw_weights(text, tmp_path / "drawn.weights", heads=3.0)
    ours, theirs = our_rows(load(text, weights), noise(48, 64)), opencv_rows(text, weights, noise(48, 64), tmp_path)
    assert_equal(ours, theirs)
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        assert_equal(our_rows(load(PARTS.format(part=PIECES[piece], scale="1.0"), weights), noise(48, 64)), theirs)
