"""Necks and heads over any backbone: shapes, starting values, what a decoded box means, combinations without sense."""

import math
from typing import Any

import pytest
import torch
from torch import nn

from lit_vision.errors import UserError
from lit_vision.networks.anchor_free import AnchorFreeYOLO
from lit_vision.networks.yolo import YOLO
from lit_vision.networks.yolo_build import yolo
from lit_vision.networks.yolo_choice import create_yolo
from lit_vision.networks.yolo_necks import PAN
from lit_vision.ops.anchors import PAPER_ANCHORS
from lit_vision.ops.boxes import select_detections


def count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def multiplications(network: nn.Module, side: int) -> float:
    """Of the convolutions, for one picture."""
    total = 0.0

    def add(layer: nn.Conv2d, _: Any, output: torch.Tensor) -> None:
        nonlocal total
        total += output[0].numel() * layer.weight[0].numel()

    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_hook(add)
    network.eval()(torch.zeros(1, 3, side, side, device="meta"))
    return total


@pytest.mark.parametrize("neck", ["v3", "pan"])
@pytest.mark.parametrize("head", ["v3", "anchor_free"])
@pytest.mark.parametrize("backbone", ["csp_n", "lcnet_050", "darknet53", "swin_tiny_patch4_window7_224"])
def test_every_neck_and_head_over_every_backbone(backbone: str, neck: Any, head: Any) -> None:
    args = {"img_size": 64} if "swin" in backbone else None
    with torch.device("meta"):
        network = yolo(backbone, 2, width=64, neck=neck, head=head, backbone_args=args)
        outputs = network.eval()(torch.zeros(2, 3, 64, 64))
    channels = 21 if head == "v3" else 4 * 17 + 2
    assert [tuple(o.shape) for o in outputs] == [(2, channels, 64 // s, 64 // s) for s in (32, 16, 8)]
    assert network.strides == (32, 16, 8)
    with pytest.raises(UserError, match="72 x 64 is not a multiple of 32"):
        network(torch.zeros(1, 3, 72, 64, device="meta"))


def test_the_smallest_costs_no_more_than_the_smallest_of_others() -> None:
    with torch.device("meta"):
        network = yolo("csp_n", 80, neck="pan", head="anchor_free")
    assert count(network) < 2.6e6
    assert 2 * multiplications(network, 640) < 6.5e9


def test_pan_brings_what_the_finest_sees_to_the_coarsest_and_back() -> None:
    torch.manual_seed(0)
    pan = PAN((32, 16), 32).eval()
    fine, coarse = torch.randn(1, 16, 8, 8), torch.randn(1, 32, 4, 4)
    found = pan([coarse, fine])
    assert [tuple(f.shape) for f in found] == [(1, 32, 4, 4), (1, 16, 8, 8)]
    changed = pan([coarse, fine + torch.randn(1, 16, 8, 8)])
    assert not torch.allclose(found[0], changed[0])
    changed = pan([coarse + torch.randn(1, 32, 4, 4), fine])
    assert not torch.allclose(found[1], changed[1])
    three, finest = PAN((64, 32, 16), 64).eval(), torch.randn(1, 16, 8, 8)
    others = [torch.randn(1, 64, 2, 2), torch.randn(1, 32, 4, 4)]
    assert not torch.allclose(three([*others, finest])[0], three([*others, -finest])[0])  # over two steps


@pytest.mark.parametrize("reg_max", [0, 16])
def test_a_new_anchor_free_head_sees_little_in_boxes_of_four_cells(reg_max: int) -> None:
    torch.manual_seed(0)
    network = yolo("lcnet_050", 5, width=32, neck="pan", head="anchor_free", head_args={"reg_max": reg_max})
    decoded = network.decode(network(torch.rand(2, 3, 64, 64)))
    assert decoded.boxes.shape == (2, 4 + 16 + 64, 4)
    sizes = (decoded.boxes[..., 2:] - decoded.boxes[..., :2]).mean(dim=(0, 2))
    assert sizes[:4].mean().item() == pytest.approx(4 * 32, rel=0.1)
    assert sizes[-64:].mean().item() == pytest.approx(4 * 8, rel=0.1)
    scores = decoded.objectness[..., None] * decoded.probabilities
    assert scores.mean().item() == pytest.approx(0.01, rel=0.2)


def test_objectness_without_anchors_is_the_best_classs_probability() -> None:
    with torch.no_grad():
        network = yolo(
            "lcnet_050", 2, width=32, strides=(32,), neck="pan", head="anchor_free", head_args={"reg_max": 0}
        )
        raw = torch.full((1, 6, 1, 2), math.log(0.25))  # a quarter of a cell to each side
        raw[0, 4:, 0, 0] = torch.tensor([math.log(0.8 / 0.2), math.log(0.6 / 0.4)])
        raw[0, 4:, 0, 1] = -200.0  # probabilities that float32 knows as 0
        decoded = network.decode([raw])
    assert decoded.objectness[0].tolist() == pytest.approx([0.8, 0.0])
    assert decoded.probabilities[0, 0].tolist() == pytest.approx([1.0, 0.75])
    assert decoded.probabilities.isfinite().all()
    found = select_detections(*(x[0] for x in decoded), objectness_threshold=0.5, score_threshold=0.5)
    assert found["scores"].tolist() == pytest.approx([0.8, 0.6])
    assert found["labels"].tolist() == [0, 1]
    assert found["boxes"].tolist() == [[8, 8, 24, 24]] * 2
    found = select_detections(*(x[0] for x in decoded), objectness_threshold=0.5, score_threshold=0.7)
    assert found["labels"].tolist() == [0]


def test_only_boxes_above_the_threshold_are_decoded_without_anchors() -> None:
    torch.manual_seed(0)
    network = yolo("lcnet_050", 3, width=32, neck="pan", head="anchor_free", head_args={"reg_max": 4})
    raw = [torch.randn(2, 23, side, side) for side in (2, 4, 8)]
    decoded = network.decode(raw)
    threshold = float(decoded.objectness.flatten().sort().values[-9])  # of the ninth best: it is not above itself
    found = network.decode_above(raw, threshold)
    assert sum(len(one.objectness) for one in found) == 8
    for i, one in enumerate(found):
        kept = decoded.objectness[i] > threshold
        for ours, every in zip(one, decoded, strict=True):
            torch.testing.assert_close(ours, every[i][kept])


def test_head_args_stretch_the_places_in_a_cell() -> None:
    network = yolo("lcnet_050", 2, width=32, head_args={"scale_x_y": 2.0})
    assert isinstance(network, YOLO)
    outputs = [torch.tensor([50.0, 50.0, 0, 0, 0, 0, 0] * 3).view(1, 21, 1, 1)]
    network.strides, network.scale_x_y, network.anchors = (32,), network.scale_x_y[:1], network.anchors[:1]
    boxes = network.decode(outputs).boxes
    assert ((boxes[..., 0] + boxes[..., 2]) / 2).flatten().tolist() == pytest.approx([48.0] * 3)


def test_depth_and_depthwise_make_heads_heavier_and_lighter() -> None:
    with torch.device("meta"):
        sizes = [
            count(yolo("csp_n", 3, neck="pan", head="anchor_free", head_args=args))
            for args in ({"depthwise": True}, {"depth": 0}, {"width": 32}, {}, {"depth": 2})
        ]
    assert sizes[1] < sizes[0] < sizes[3] < sizes[4]
    assert sizes[2] < sizes[3]


@pytest.mark.parametrize("head", ["v3", "anchor_free"])
def test_every_parameter_has_a_gradient(head: Any) -> None:
    network = yolo("csp_n", 2, neck="pan", head=head, width=32, anchors=PAPER_ANCHORS)
    sum(output.square().sum() for output in network(torch.rand(2, 3, 64, 64))).backward()
    assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in network.parameters())


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"backbone": "csp_n", "head": "anchor_free", "anchors": "auto"}, "has no anchors"),
        ({"backbone": "csp_n", "head": "anchor_free", "anchors": [[8, 8]]}, "has no anchors"),
        (
            {"backbone": "csp_n", "head": "anchor_free", "head_args": {"scale_x_y": 2.0}},
            "scale_x_y is not of head anchor",
        ),
        ({"backbone": "csp_n", "head_args": {"reg_max": 16}}, "reg_max is not of head v3, which has scale_x_y"),
        ({"backbone": "csp_n", "head_args": {"scale_x_y": 0.5}}, "scale_x_y is 0.5"),
        ({"backbone": "csp_n", "head": "anchor_free", "head_args": {"reg_max": -1}}, "reg_max -1"),
        (
            {"backbone": "csp_n", "head": "anchor_free", "head_args": {"reg_max": "many"}},
            "reg_max is 'many'; give a whole",
        ),
        ({"backbone": "csp_n", "head": "anchor_free", "head_args": {"reg_max": 2.5}}, "reg_max is 2.5; give a whole"),
        ({"backbone": "csp_n", "head": "anchor_free", "head_args": {"depth": True}}, "depth is True; give a whole"),
        ({"backbone": "csp_n", "head": "anchor_free", "head_args": {"depthwise": 1}}, "depthwise is 1; give true or"),
        ({"backbone": "csp_n", "head_args": {"scale_x_y": None}}, "scale_x_y is None; give a number"),
        ({"backbone": "csp_n", "width": 0}, "width is 0; give the channels"),
        ({"backbone": "csp_n", "head": "anchor_free", "strides": []}, r"`strides` \[\] must be neighbours"),
        ({"backbone": "csp_n", "anchors": []}, "`anchors` must be a list"),
        ({"backbone": "csp_n", "anchors": [[1.0, float("nan")]] * 3}, "`anchors` must be a list"),
        ({"backbone": "csp_n", "anchors": [[float("inf"), 1.0]] * 3}, "`anchors` must be a list"),
        ({"backbone": "csp_n", "neck": "pan", "width": -8}, "width is -8; give the channels"),
        ({"architecture": "yolov3-tiny", "neck": "pan"}, "fixed in yolov3-tiny"),
        ({"head": "anchor_free"}, "fixed in yolov3: they go with a `backbone`"),
    ],
)
def test_combinations_without_sense_are_refused(settings: dict[str, Any], says: str) -> None:
    with torch.device("meta"), pytest.raises(UserError, match=says):
        create_yolo(3, **settings)


def test_without_anchors_any_number_of_scales_goes() -> None:
    with torch.device("meta"):
        network = create_yolo(3, backbone="csp_n", head="anchor_free", strides=(4, 8, 16, 32), neck="pan")
    assert isinstance(network, AnchorFreeYOLO)
    assert network.strides == (32, 16, 8, 4)
