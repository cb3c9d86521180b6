import pytest
import torch

from lit_vision.errors import UserError
from lit_vision.networks.yolo import YOLO
from lit_vision.networks.yolo_build import yolo
from lit_vision.networks.yolo_choice import create_yolo
from lit_vision.ops.anchors import PAPER_ANCHORS, TINY_ANCHORS


def count(network: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def shapes(network: YOLO, height: int, width: int, channels: int = 3) -> list[tuple[int, ...]]:
    device = next(network.parameters()).device
    return [tuple(output.shape) for output in network.eval()(torch.zeros(1, channels, height, width, device=device))]


@pytest.mark.parametrize(
    ("name", "strides", "width"),
    [
        ("resnet18", (8, 16, 32), None),
        ("mobilenetv3_small_050", (16, 32), 32),
        ("resnet10t", (8, 16), 64),
        ("lcnet_050", (16,), None),
    ],
)
def test_any_backbone(name: str, strides: tuple[int, ...], width: int | None) -> None:
    with torch.device("meta"):
        network = yolo(name, 2, in_channels=5, strides=strides, width=width, anchors=PAPER_ANCHORS[: 3 * len(strides)])
    assert shapes(network, 96, 128, channels=5) == [(1, 21, 96 // s, 128 // s) for s in sorted(strides, reverse=True)]


def test_small_backbones_get_small_necks() -> None:
    with torch.device("meta"):
        network = yolo("lcnet_050", 4)
        assert count(network) - count(network.backbone) < 1.5e6
        narrow = yolo("lcnet_050", 4, width=32)
        assert count(narrow) - count(narrow.backbone) < 0.15e6


def test_backbones_with_channels_last_features() -> None:
    with torch.device("meta"):
        network = yolo("swin_tiny_patch4_window7_224", 2, width=32, backbone_args={"img_size": 64})
    assert shapes(network, 64, 64)[0] == (1, 21, 2, 2)


def test_a_new_network_sees_nothing() -> None:
    torch.manual_seed(0)
    network = yolo("lcnet_050", 4, width=32)
    decoded = network.decode(network(torch.rand(2, 3, 64, 64)))
    assert decoded.boxes.shape == (2, 3 * (4 + 16 + 64), 4)
    assert decoded.objectness.mean().item() == pytest.approx(0.01, rel=0.2)
    assert decoded.probabilities.mean().item() == pytest.approx(0.25, rel=0.2)


def test_gradients_reach_every_parameter() -> None:
    network = yolo("lcnet_050", 2, width=16)
    sum(output.square().sum() for output in network(torch.rand(2, 3, 64, 64))).backward()
    assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in network.parameters())


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"architecture": "yolov3", "backbone": "resnet18"}, "not both"),
        ({"architecture": "yolov3-tiny", "pretrained": True}, "backbone of its own"),
        ({"architecture": "yolov3", "width": 64}, "go with a `backbone`"),
        ({"backbone": "resnet18", "strides": [8, 32], "anchors": "auto"}, "neighbours"),
        ({"backbone": "resnet18", "strides": [8], "anchors": "paper"}, "serves 2 or 3 scales"),
        ({"backbone": "resnet18", "anchors": [[1, 2, 3]]}, "list of"),
        ({"backbone": "vit_tiny_patch16_224"}, "strides"),
        ({"backbone_args": {"slope": 0.1}}, "slope"),
        ({"backbone": "darknet53", "backbone_args": {"slope": "steep"}}, "slope is 'steep'; give a number"),
    ],
)
def test_arguments_that_exclude_each_other(settings: dict[str, object], says: str) -> None:
    with torch.device("meta"), pytest.raises(UserError, match=says):
        create_yolo(3, **settings)  # type: ignore[arg-type]


def test_image_size_must_fit_the_strides() -> None:
    network = yolo("lcnet_050", 1, width=16)
    with pytest.raises(UserError, match="100 x 96 is not a multiple of 32"):
        network(torch.zeros(1, 3, 100, 96))


def test_names_choose_networks() -> None:
    with torch.device("meta"):
        tiny = create_yolo(3, architecture="yolov3-tiny")
        assert count(create_yolo(80)) == 61_949_149
        darknet = create_yolo(2, backbone="darknet53", backbone_args={"slope": 0.2}, bn_eps=1e-4)
    assert tiny.strides == (32, 16)
    assert {m.negative_slope for m in darknet.backbone.modules() if isinstance(m, torch.nn.LeakyReLU)} == {0.2}
    assert {m.eps for m in darknet.modules() if isinstance(m, torch.nn.BatchNorm2d)} == {1e-4}
    assert sorted(map(tuple, create_yolo(3, architecture="yolov3-tiny").anchors.flatten(0, 1).tolist())) == TINY_ANCHORS
