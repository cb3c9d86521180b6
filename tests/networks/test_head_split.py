"""A network cut in front of its last layer is the network, in training too; what is not is refused."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lit_vision.errors import UserError
from lit_vision.networks.backbones import create_classifier
from lit_vision.networks.freezing import freeze_parameters, frozen_parameters, norms_of
from lit_vision.networks.head_split import HeadSplit

NETWORKS: dict[str, dict[str, Any]] = {
    "test_resnet": {"drop_rate": 0.3},
    "test_vit": {"drop_rate": 0.3, "img_size": 64},
    "test_convnext": {"drop_rate": 0.3},
    "test_efficientnet": {"drop_rate": 0.3},
    "mobilenetv1_025": {},
    "lcnet_050": {"drop_rate": 0.2},
    "regnetx_002": {"drop_rate": 0.2},
}


class Squeezed(nn.Module):
    """Ends as torchvision's SqueezeNet: the last layer is a convolution, then activation and mean."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU())
        self.classifier = nn.Sequential(nn.Dropout(0.5), nn.Conv2d(8, 4, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1))

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.features(images)).flatten(1)


class Twice(Squeezed):
    """Asks its last layer two times."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images) + super().forward(images.flip(3))


class Layers(nn.Module):
    """Several layers in a head with dropout of its own, and a dropout before it that is flattened."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.AdaptiveAvgPool2d(1))
        self.dropout = nn.Dropout(0.3)
        self.classifier = nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.5), nn.ReLU(), nn.Linear(8, 4))

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.dropout(self.features(images)).flatten(1))


def closed(network: nn.Module) -> set[str]:
    """Freezes the backbone and its norms in training mode; names of the head."""
    names = frozen_parameters(network, "backbone")
    freeze_parameters(network, names)
    network.train()
    for name in norms_of(network, names):
        network.get_submodule(name).eval()
    return {name for name, _ in network.named_parameters()} - names


def images(channels_last: bool = True) -> Tensor:
    drawn = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    return drawn.contiguous(memory_format=torch.channels_last) if channels_last else drawn


def built(name: str) -> nn.Module:
    torch.manual_seed(0)
    own = {"squeezed": Squeezed, "layers": Layers}
    network = own[name]() if name in own else create_classifier(name, 4, **NETWORKS[name])
    return network.to(memory_format=torch.channels_last)


@pytest.mark.parametrize("name", [*NETWORKS, "squeezed", "layers"])
@torch.no_grad()
def test_the_parts_are_the_whole(name: str) -> None:
    network = built(name)
    parts = HeadSplit(network, closed(network))
    modes = [module.training for module in network.modules()]
    features = parts.verify(images())
    assert [module.training for module in network.modules()] == modes
    assert torch.equal(features, parts.features(images()))
    plain = features.clone(memory_format=torch.contiguous_format)  # as it comes from a file
    for seed in (1, 2):
        whole, split = (_seeded(seed, part) for part in (lambda: network(images()), lambda: parts.logits(plain)))
        assert torch.equal(whole, split)
        assert whole.shape == (3, 4)
    network.eval()
    assert torch.equal(network(images()), parts.logits(plain))


def _seeded(seed: int, part: Any) -> Tensor:
    torch.manual_seed(seed)
    return part()


@torch.no_grad()
def test_dropout_before_the_layer_acts_on_features() -> None:
    network = built("test_resnet")
    parts = HeadSplit(network, closed(network))
    features = parts.verify(images())
    assert parts.dropouts == [0.3]
    assert not torch.equal(_seeded(1, lambda: parts.logits(features)), _seeded(2, lambda: parts.logits(features)))
    parts.dropouts = []  # the control: forgotten
    assert not torch.equal(_seeded(1, lambda: network(images())), _seeded(1, lambda: parts.logits(features)))


def test_gradients_of_the_head_are_those_of_the_network() -> None:
    network = built("mobilenetv1_025")
    parts = HeadSplit(network, closed(network))
    with torch.no_grad():
        features = parts.verify(images())
    grads = []
    for logits in (network(images()), parts.logits(features)):
        logits.square().sum().backward()
        grads.append([p.grad.clone() for p in parts.layer.parameters()])  # type: ignore[union-attr]
        network.zero_grad()
    assert all(torch.equal(one, other) for one, other in zip(*grads, strict=True))


REFUSED: dict[str, tuple[Any, str]] = {
    "drop_path": (lambda: create_classifier("test_vit", 4, img_size=64, drop_path_rate=0.01), "draws random numbers"),
    "dropout inside": (
        lambda: create_classifier("test_vit", 4, img_size=64, proj_drop_rate=0.01),
        "draws random numbers",
    ),
    "asked twice": (Twice, "runs 2 times"),
}


@pytest.mark.parametrize("case", list(REFUSED))
@torch.no_grad()
def test_a_body_that_differs_in_training_is_refused(case: str) -> None:
    build, sentence = REFUSED[case]
    torch.manual_seed(0)
    network = build()
    parts = HeadSplit(network, closed(network))
    with pytest.raises(UserError, match=sentence):
        parts.verify(images())


@torch.no_grad()
def test_norms_that_do_not_stand_still_are_refused() -> None:
    network = built("test_resnet")
    parts = HeadSplit(network, closed(network))
    network.train()  # the norms as well
    with pytest.raises(UserError, match="computes otherwise in training"):
        parts.verify(images())


def test_two_last_layers_are_refused() -> None:
    network = create_classifier("deit_tiny_distilled_patch16_224", 4)
    with pytest.raises(UserError, match="one last layer, and VisionTransformerDistilled has head, head_dist"):
        HeadSplit(network, closed(network))
