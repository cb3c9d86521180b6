"""The copy for prediction gives what the network gives."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lit_vision.networks import fusion
from lit_vision.networks.darknet import create_darknet
from lit_vision.networks.fusion import InferenceCopy, PackedConvolution, fuse
from lit_vision.networks.yolo_build import yolo

ANCHORS = [[10.0, 12.0]] * 3
NETWORKS: dict[str, Any] = {
    "yolov3-tiny": lambda: create_darknet("yolov3-tiny", 3),
    "lcnet_050": lambda: yolo("lcnet_050", 3, anchors=ANCHORS, strides=[8]),  # depthwise, hard swish, squeeze
    "resnet10t": lambda: yolo("resnet10t", 3, anchors=ANCHORS, strides=[8]),  # adds in place
    "efficientnet_b0": lambda: yolo("efficientnet_b0", 3, anchors=ANCHORS, strides=[8]),  # normalisation that activates
    "densenet121": lambda: yolo("densenet121", 3, anchors=ANCHORS, strides=[8]),  # normalises before convolutions
}


def stirred(network: nn.Module) -> nn.Module:
    """In evaluation mode, with statistics as training leaves them."""
    torch.manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low, high in ((module.running_mean, -0.2, 0.2), (module.running_var, 0.5, 2.0)):
                assert tensor is not None
                tensor.uniform_(low, high)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.2, 0.2)
    return network.eval()


def farthest(found: list[Tensor], expected: list[Tensor]) -> float:
    """Of the largest value."""
    largest = max(float(output.abs().max()) for output in expected)
    return max(float((a - b).abs().max()) for a, b in zip(found, expected, strict=True)) / largest


def norms(network: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in network.modules())


@pytest.mark.parametrize("name", NETWORKS)
def test_equal_for_every_size_and_batch(name: str) -> None:
    network = stirred(NETWORKS[name]())
    before = {key: value.clone() for key, value in network.state_dict().items()}
    fused = fuse(network, torch.rand(1, 3, 64, 64))
    assert any(isinstance(module, PackedConvolution) for module in fused.modules())
    assert norms(fused) < norms(network) / 1.9
    assert norms(fused) == 0 or name == "densenet121"
    with torch.inference_mode():
        for shape in ((1, 3, 64, 64), (3, 3, 96, 160)):
            images = torch.rand(shape).contiguous(memory_format=torch.channels_last)
            assert farthest(fused(images), network(images)) < 1e-5
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_without_onednn_the_copy_is_of_plain_convolutions(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> Tensor:
        raise NotImplementedError

    monkeypatch.setattr(PackedConvolution, "forward", refuse)
    network = stirred(create_darknet("yolov3-tiny", 3))
    fused = fuse(network, torch.rand(1, 3, 64, 64))
    assert norms(fused) == 0
    assert not any(isinstance(module, PackedConvolution) for module in fused.modules())
    images = torch.rand(2, 3, 64, 64)
    assert farthest(fused(images), network(images)) < 1e-5


class Twice(nn.Module):
    """The convolution's own output goes on, too."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.norm, self.activation = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()

    def forward(self, images: Tensor) -> list[Tensor]:
        x = self.convolution(images)
        return [self.activation(self.norm(x)) + x]


class Shared(Twice):
    """One convolution before two normalisations."""

    def __init__(self) -> None:
        super().__init__()
        self.other = nn.BatchNorm2d(4)

    def forward(self, images: Tensor) -> list[Tensor]:
        return [self.norm(self.convolution(images)), self.other(self.convolution(images))]


@pytest.mark.parametrize("kind", [Twice, Shared])
def test_what_cannot_be_folded_is_left_as_it_is(kind: type[nn.Module]) -> None:
    network, images = stirred(kind()), torch.rand(2, 3, 16, 16)
    fused = fuse(network, images)
    assert norms(fused) == norms(network)
    assert farthest(fused(images), network(images)) < 1e-5


class Branching(nn.Module):
    """Two activations read the first convolution, one the second."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.one, self.other = nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Sigmoid()
        self.second, self.last = nn.Conv2d(4, 2, 1), nn.ReLU()

    def forward(self, images: Tensor) -> list[Tensor]:
        read = self.first(images)
        return [self.last(self.second(self.one(read) + self.other(read)))]


def test_what_two_activations_read_is_not_activated_and_the_rest_is() -> None:
    torch.manual_seed(0)
    fused = fuse(Branching().eval(), torch.randn(1, 3, 8, 8))
    kinds = {name: one.kind for name, one in fused.named_modules() if isinstance(one, PackedConvolution)}
    assert kinds == {"first": "none", "second": "relu"}


def test_a_wrong_copy_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Were normalisation folded wrongly, the network itself would be used."""
    monkeypatch.setattr(fusion, "fuse_conv_bn_eval", lambda convolution, norm: convolution)
    network, images = stirred(create_darknet("yolov3-tiny", 3)), torch.rand(1, 3, 64, 64)
    fused = fuse(network, images)
    assert norms(fused) == norms(network)
    assert farthest(fused(images), network(images)) == 0.0


@torch.inference_mode()
def test_the_copy_follows_the_weights() -> None:
    with torch.inference_mode(False):
        network = stirred(create_darknet("yolov3-tiny", 3))
    inference, images = InferenceCopy(), torch.rand(1, 3, 64, 64)
    assert farthest(inference(network, images), network(images)) < 1e-5
    first = inference._copy
    inference(network, images)
    assert inference._copy is first
    for change in (
        lambda: network.load_state_dict({name: 0.9 * value for name, value in network.state_dict().items()}),
        lambda: network.convolutions()[0][2].running_mean.add_(0.5),
        lambda: setattr(network.convolutions()[-1][1].bias, "data", torch.ones(24)),
    ):
        before = inference(network, images)
        change()
        assert farthest(before, network(images)) > 1e-3
        assert farthest(inference(network, images), network(images)) < 1e-5


@torch.inference_mode()
def test_in_bf16_where_autocast_says_so() -> None:
    with torch.inference_mode(False):
        network = stirred(create_darknet("yolov3-tiny", 3))
    inference, images = InferenceCopy(), torch.rand(1, 3, 64, 64)
    expected = network(images)
    with torch.autocast("cpu", torch.bfloat16):
        found = inference(network, images)
        assert found[0].dtype == torch.bfloat16
        assert farthest([one.float() for one in found], expected) < 0.05
    assert farthest(inference(network, images), expected) < 1e-5  # in float32 again


def test_copies_of_a_task_are_without_it() -> None:
    with torch.inference_mode(False):
        inference, network = InferenceCopy(), stirred(create_darknet("yolov3-tiny", 3))
        with torch.inference_mode():
            inference(network, torch.rand(1, 3, 64, 64))
        assert copy.deepcopy(inference)._copy is None
