"""A last layer for new classes begins near 0; one whose weights were loaded is kept to the bit."""

from pathlib import Path

import pytest
import torch
from torch import nn

from lit_vision.networks.backbones import create_classifier
from lit_vision.networks.new_head import SPREAD, draw_new_head

NAMES = ["mobilenetv1_025", "test_resnet", "torchvision/squeezenet1_0"]


def head_of(network: nn.Module) -> nn.Module:
    name = "classifier.1" if type(network).__name__ == "SqueezeNet" else network.pretrained_cfg["classifier"]
    return network.get_submodule(name)


@pytest.mark.parametrize("name", NAMES)
def test_a_head_of_other_classes_is_drawn_small(name: str, tmp_path: Path) -> None:
    file = tmp_path / "weights.pth"
    torch.save(create_classifier(name, 40).state_dict(), file)
    head = head_of(create_classifier(name, 5, weights=str(file)))
    assert head.weight.std().item() == pytest.approx(SPREAD, rel=0.15)
    assert not head.bias.any()


@pytest.mark.parametrize("name", NAMES)
def test_a_head_of_the_same_classes_is_that_of_the_file(name: str, tmp_path: Path) -> None:
    file, whole = tmp_path / "weights.pth", create_classifier(name, 5)
    torch.save(whole.state_dict(), file)
    again = create_classifier(name, 5, weights=str(file))
    assert all(torch.equal(tensor, again.state_dict()[key]) for key, tensor in whole.state_dict().items())


def test_from_scratch_the_library_draws() -> None:
    """timm's MobileNet draws its last layer for K classes evenly up to 1 / sqrt(K)."""
    head = head_of(create_classifier("mobilenetv1_025", 5))
    assert head.weight.std().item() == pytest.approx(5**-0.5 / 3**0.5, rel=0.1)


def test_downloaded_weights_keep_the_head_of_their_own_classes() -> None:
    """`before` is None where a library has loaded: 1000 classes are the file's, others are new."""
    network = create_classifier("test_resnet", 1000)
    kept = head_of(network).weight.detach().clone()
    draw_new_head(network)
    assert torch.equal(head_of(network).weight, kept)
    other = create_classifier("test_resnet", 7)
    draw_new_head(other)
    assert other.get_classifier().weight.std().item() == pytest.approx(SPREAD, rel=0.15)
