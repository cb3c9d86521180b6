"""Where stages end and what is read there, for networks of all kinds."""

import pytest
import torch
from torch import Tensor, nn

from lit_vision.networks.backbone_stages import stages
from lit_vision.networks.backbones import create_classifier, create_features
from lit_vision.tasks import TransferClassifier
from lit_vision.transfer.features import (
    as_maps,
    at_points,
    calibrate,
    in_boxes,
    pooled,
    random_twin,
    stage_ends,
    tapped,
)


@pytest.mark.parametrize(
    ("name", "ends"),
    [
        ("test_resnet", ["layer4", "layer3", "layer2", "layer1", "bn1"]),
        ("mobilenetv1_025", ["blocks.4", "blocks.3", "blocks.2", "blocks.1", "blocks.0", "bn1"]),
    ],
)
def test_a_stage_ends_with_its_last_block(name: str, ends: list[str]) -> None:
    network = create_classifier(name, 5).eval()
    found = stage_ends(network, torch.zeros(1, 3, 64, 64), stages(network))
    assert found[: len(ends)] == ends


@pytest.mark.parametrize("name", ["test_vit", "test_convnext", "test_efficientnet", "swin_tiny_patch4_window7_224"])
def test_other_kinds_of_networks_give_features_of_all_stages(name: str) -> None:
    side = 224 if "swin" in name else 160
    network = create_classifier(name, 5).eval()
    slices = stages(network)
    images = torch.randn(2, 3, side, side)
    ends = stage_ends(network, images, slices)
    with tapped(network, ends) as taps, torch.no_grad():
        network(images)
    last = getattr(network, "output_fmt", "NCHW") == "NHWC"
    for end in ends:
        found = pooled(as_maps(taps.outputs[end], (side, side), last))
        assert found.shape[0] == 2
        assert found.shape[1] >= 8
    assert len(ends) == len(slices)


def test_features_of_an_encoder_are_its_blocks() -> None:
    network = create_features("test_resnet").eval()
    images = torch.randn(2, 3, 64, 64)
    ends = stage_ends(network, images, stages(network))
    with tapped(network, ends[:1]) as taps, torch.no_grad():
        deepest = network(images)[-1]
    assert torch.equal(taps.outputs[ends[0]], deepest)


def test_tokens_lie_as_the_picture_does() -> None:
    """A class token before a grid of 2 x 3 cells; channels last; a vector."""
    grid = torch.arange(6.0).reshape(1, 6, 1)
    tokens = torch.cat([torch.full((1, 1, 1), 99.0), grid], 1)
    assert torch.equal(as_maps(tokens, (20, 30))[0, 0], torch.arange(6.0).reshape(2, 3))
    assert as_maps(torch.zeros(2, 4, 5, 7), (4, 5), channels_last=True).shape == (2, 7, 4, 5)
    assert as_maps(torch.zeros(2, 7), (4, 5)).shape == (2, 7, 1, 1)


def test_points_and_boxes_read_their_own_cells() -> None:
    """An 8 x 8 picture over 4 x 4 cells that hold their number."""
    maps = torch.arange(16.0).reshape(1, 1, 4, 4)
    points = torch.tensor([[0.5, 0.5], [7.5, 0.5], [2.5, 5.0]])
    assert at_points(maps, torch.zeros(3, dtype=torch.int64), points, (8, 8)).flatten().tolist() == [0, 3, 9]
    box = torch.tensor([[2.0, 2.0, 6.0, 6.0]])  # cells 5, 6, 9 and 10
    assert in_boxes(maps, torch.zeros(1, dtype=torch.int64), box, (8, 8)).item() == pytest.approx(7.5, abs=1e-4)


def test_a_twin_has_the_shape_and_other_weights() -> None:
    task = TransferClassifier(["a", "b"], backbone="test_resnet", in_channels=4)
    twin = random_twin(task, seed=1)
    own, other = dict(task.named_parameters()), dict(twin.named_parameters())
    assert {name: p.shape for name, p in own.items()} == {name: p.shape for name, p in other.items()}
    assert not torch.equal(own["network.layer1.0.conv1.weight"], other["network.layer1.0.conv1.weight"])
    again = dict(random_twin(task, seed=1).named_parameters())
    assert all(torch.equal(other[name], again[name]) for name in other)
    before = torch.get_rng_state()
    random_twin(task, seed=2)
    assert torch.equal(before, torch.get_rng_state())


def test_calibrated_norms_hold_the_statistics_of_the_batches() -> None:
    network = nn.Sequential(nn.BatchNorm2d(2))
    batches: list[Tensor] = [torch.randn(4, 2, 3, 3) * 3 + 5 for _ in range(3)]
    calibrate(network, batches)
    norm: nn.Module = network[0]
    assert torch.allclose(norm.running_mean, torch.stack([b.mean((0, 2, 3)) for b in batches]).mean(0), atol=1e-5)
    assert norm.momentum == 0.1
    assert not network.training
