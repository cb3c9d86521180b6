"""yolov3-tiny and yolov3 against OpenCV's reader of the original Darknet files, an implementation by others."""

import re
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from lit_vision.networks.yolo import YOLO, yolov3, yolov3_tiny

CONFIGS = Path(__file__).parents[3] / "shared/weights/darknet"
EPS = 1e-6  # OpenCV's and the CPU Darknet's

needs_configs = pytest.mark.skipif(not CONFIGS.is_dir(), reason=f"{CONFIGS} with yolov3-tiny.cfg is not here")
needs_reader = pytest.mark.skipif(not hasattr(cv2.dnn, "readNetFromDarknet"), reason="OpenCV 5 reads no Darknet files")


def darknet_order(network: YOLO) -> list[tuple[nn.Conv2d, nn.BatchNorm2d | None]]:
    """Convolutions in the order of the cfg, which is the order of our modules, with their norms."""
    modules = [module for module in network.modules() if isinstance(module, nn.Conv2d | nn.BatchNorm2d)]
    pairs: list[tuple[nn.Conv2d, nn.BatchNorm2d | None]] = []
    for module, after in zip(modules, [*modules[1:], None], strict=True):
        if isinstance(module, nn.Conv2d):
            pairs.append((module, after if isinstance(after, nn.BatchNorm2d) else None))
    return pairs


def draw(network: YOLO, seed: int = 0) -> None:
    """Weights that keep the signal's size, and statistics that matter; heads with small weights."""
    generator = torch.Generator().manual_seed(seed)
    for convolution, norm in darknet_order(network):
        fan_in = convolution.weight[0].numel()
        size = (2 / fan_in) ** 0.5 if norm is not None else 1 / fan_in**0.5
        convolution.weight.data.normal_(generator=generator).mul_(size)
        if norm is not None:
            norm.weight.data.uniform_(0.5, 1.0, generator=generator)
            norm.bias.data.normal_(generator=generator).mul_(0.2)
            norm.running_mean.normal_(generator=generator).mul_(0.2)  # type: ignore[union-attr]
            norm.running_var.uniform_(0.5, 1.5, generator=generator)  # type: ignore[union-attr]
        elif convolution.bias is not None:
            convolution.bias.data.normal_(generator=generator).mul_(0.5)


def write_weights(network: YOLO, path: Path) -> None:
    """Header 0.2.0 and 8 bytes of images seen; then bias, [scale, mean, variance,] weights of each convolution."""
    with path.open("wb") as file:
        file.write(np.array([0, 2, 0, 0, 0], "<i4").tobytes())
        for convolution, norm in darknet_order(network):
            parts = (
                [convolution.bias] if norm is None else [norm.bias, norm.weight, norm.running_mean, norm.running_var]
            )
            for part in [*parts, convolution.weight]:
                assert part is not None
                file.write(part.detach().numpy().astype("<f4").tobytes())


def opencv_boxes(config: Path, weights: Path, images: np.ndarray, folder: Path) -> dict[str, np.ndarray]:
    """Rows (cell by cell, anchor by anchor) of cx, cy, w, h as fractions, objectness, class scores; by layer."""
    text = re.sub(r"\[yolo\]", "[yolo]\nthresh=0\nnms_threshold=0", config.read_text())
    (folder / "raw.cfg").write_text(text)
    net = cv2.dnn.readNetFromDarknet(str(folder / "raw.cfg"), str(weights))
    net.enableWinograd(False)
    net.setInput(images)
    names = list(net.getUnconnectedOutLayersNames())
    return dict(zip(names, net.forward(names), strict=True))


def compare(network: YOLO, config: str, folder: Path, height: int, width: int) -> int:
    network.eval()
    write_weights(network, folder / "drawn.weights")
    images = np.random.default_rng(0).random((1, 3, height, width), np.float32)
    by_name = opencv_boxes(CONFIGS / config, folder / "drawn.weights", images, folder)
    theirs = np.concatenate([by_name[name] for name in sorted(by_name, key=lambda name: int(name.split("_")[1]))])
    with torch.no_grad():
        decoded = network.decode(network(torch.from_numpy(images)))
    x1, y1, x2, y2 = (decoded.boxes[0].double().numpy() / [width, height, width, height]).T
    ours = np.stack([(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1, decoded.objectness[0].numpy()], axis=1)
    np.testing.assert_allclose(ours, theirs[:, :5], rtol=1e-4, atol=2e-5)
    scores = (decoded.objectness[..., None] * decoded.probabilities)[0].numpy()
    np.testing.assert_allclose(scores, theirs[:, 5:], rtol=1e-4, atol=2e-5)
    assert theirs[:, 4].std() > 0.05  # the outputs differ from box to box: equality says something
    return len(theirs)


@needs_configs
@needs_reader
@pytest.mark.parametrize(("height", "width"), [(416, 416), (224, 352)])
def test_tiny_equals_opencv(tmp_path: Path, height: int, width: int) -> None:
    network = yolov3_tiny(80, norm_eps=EPS)
    draw(network)
    assert compare(network, "yolov3-tiny.cfg", tmp_path, height, width) == 3 * height * width * 5 // 1024
    assert (tmp_path / "drawn.weights").stat().st_size == 35_434_956  # of the official file


@needs_configs
@needs_reader
def test_a_zero_padded_pool_would_be_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = yolov3_tiny(80, norm_eps=EPS)
    draw(network)
    pad = nn.functional.pad
    monkeypatch.setattr(nn.functional, "pad", lambda x, sides, value: pad(x, sides, value=0.0))
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        compare(network, "yolov3-tiny.cfg", tmp_path, 224, 224)


@needs_configs
@needs_reader
@pytest.mark.slow  # 62 million weights through a file
def test_yolov3_equals_opencv(tmp_path: Path) -> None:
    network = yolov3(80, norm_eps=EPS)
    draw(network)
    for _, norm in darknet_order(network)[:52]:  # residual sums would grow without bound
        assert norm is not None
        norm.weight.data.mul_(0.5)
    assert compare(network, "yolov3.cfg", tmp_path, 256, 320) == 3 * (80 + 320 + 1280)
    assert (tmp_path / "drawn.weights").stat().st_size == 248_007_048
