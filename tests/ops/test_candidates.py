"""Boxes decoded only where something is."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from lit_vision.networks.darknet import create_darknet
from lit_vision.networks.yolo_build import yolo
from lit_vision.ops.anchors import PAPER_ANCHORS
from lit_vision.ops.boxes import select_detections
from lit_vision.ops.candidates import decoded_above


class Whole:
    """A network that decodes all of its outputs only."""

    def __init__(self, network: torch.nn.Module) -> None:
        self.decode = network.decode


def tiny() -> torch.nn.Module:
    network = create_darknet("yolov3-tiny", 4)
    network.scale_x_y = (1.1, 1.05)  # as AlexeyAB's later networks
    return network


def anchor_free() -> torch.nn.Module:
    head_args = {"reg_max": 4}
    return yolo("lcnet_050", 7, strides=(16, 32), width=16, head="anchor_free", head_args=head_args)


def over_backbone() -> torch.nn.Module:
    anchors = PAPER_ANCHORS[:6]
    return yolo("lcnet_050", 4, strides=(16, 32), width=16, anchors=anchors, head_args={"scale_x_y": 2.0})


@pytest.mark.parametrize("build", [tiny, over_backbone, anchor_free])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
def test_equal_to_decoding_everything(build: Callable[[], Any], batch: int, memory: torch.memory_format) -> None:
    torch.manual_seed(0)
    network = build()
    outputs = [torch.randn(batch, 27, side, side + 2).contiguous(memory_format=memory) for side in (3, 6)]
    whole = network.decode(outputs)
    for found in (network.decode_above(outputs, 0.6), decoded_above(Whole(network), outputs, 0.6)):
        assert len(found) == batch
        for i, one in enumerate(found):
            kept = whole.objectness[i] > 0.6
            assert 10 < kept.sum() < 100
            torch.testing.assert_close(one.objectness, whole.objectness[i][kept], rtol=1e-6, atol=0)
            torch.testing.assert_close(one.boxes, whole.boxes[i][kept], rtol=1e-6, atol=1e-5)
            torch.testing.assert_close(one.probabilities, whole.probabilities[i][kept])


def test_nothing_above_gives_empty_boxes_that_go_through_the_choice() -> None:
    outputs: list[Tensor] = [torch.full((2, 27, side, side), -9.0) for side in (2, 4)]
    for one in create_darknet("yolov3-tiny", 4).decode_above(outputs, 0.5):
        assert one.boxes.shape == (0, 4)
        assert one.probabilities.shape == (0, 4)
        assert select_detections(*one)["boxes"].shape == (0, 4)
