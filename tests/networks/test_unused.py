import copy

import pytest
import torch
from torch import Tensor, nn

from lit_vision.networks.unused import Unused, drop_unused


class Net(nn.Module):
    """Gives what its second layer makes; what follows, and what lies beside it, is computed for nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(nn.Conv2d(3, 3, 1) for _ in range(4)))
        self.scale = nn.Parameter(torch.ones(1))
        self.wide, self.narrow = nn.Conv2d(3, 5, 1), nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        features = []
        for layer in self.layers:
            images = layer(images)
            features.append(images)
        self.narrow(self.wide(images) * self.scale)
        return features[1]


def test_what_no_output_depends_on_is_taken_out_or_does_not_train() -> None:
    net = Net()
    before = copy.deepcopy(net)
    image = torch.randn(2, 3, 8, 8)
    assert drop_unused(net, (3, 8, 8)) == (1, 3, 8, 8)
    assert torch.equal(net(image), before(image))
    assert [type(layer) for layer in net.layers] == [nn.Conv2d, nn.Conv2d, Unused, Unused]
    assert isinstance(net.wide, Unused)
    assert [name for name, p in net.named_parameters() if not p.requires_grad] == ["scale"]
    assert net.training
    net(image).mean().backward()
    assert all(p.grad is not None for p in net.layers.parameters())


class Joined(nn.Module):
    """Adds what it computes for nothing to numbers of its shape."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.wide = nn.Conv2d(3, 2, 1), nn.Conv2d(2, 5, 1)

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.used(images)
        self.wide(features) + torch.zeros(5, 1, 1, device=images.device)
        return features


def test_layers_round_which_a_network_is_built_stay_and_do_not_train() -> None:
    net = Joined()
    drop_unused(net, (3, 8, 8))
    assert isinstance(net.wide, nn.Conv2d)
    assert [name for name, p in net.named_parameters() if not p.requires_grad] == ["wide.weight", "wide.bias"]
    assert net(torch.randn(1, 3, 8, 8)).shape == (1, 2, 8, 8)


@pytest.mark.parametrize("training", [True, False])
def test_nothing_is_computed_and_the_mode_stays(training: bool) -> None:
    net = nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2)).train(training)
    before = copy.deepcopy(net.state_dict())
    with torch.inference_mode():
        drop_unused(net, (3, 4, 4))
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert all(module.training is training for module in net.modules())
    assert all(p.requires_grad for p in net.parameters())
