import pytest
import timm
import torch
from torch import nn

from lit_vision.errors import UserError
from lit_vision.networks.freezing import freeze_parameters, frozen_parameters, norms_of


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(0)
    made: nn.Module = timm.create_model("resnet18", num_classes=3)
    return made


def test_backbone_means_all_but_the_classifier(network: nn.Module) -> None:
    frozen = frozen_parameters(network, "backbone")
    assert {name for name, _ in network.named_parameters()} - frozen == {"fc.weight", "fc.bias"}


@pytest.mark.parametrize("nothing", [None, 0, []])
def test_nothing_is_frozen(network: nn.Module, nothing: int | list[str] | None) -> None:
    assert frozen_parameters(network, nothing) == set()


def test_a_number_counts_stages_from_the_image(network: nn.Module) -> None:
    assert frozen_parameters(network, 1) == {"conv1.weight", "bn1.weight", "bn1.bias"}
    assert {name.split(".")[0] for name in frozen_parameters(network, 3)} == {"conv1", "bn1", "layer1", "layer2"}
    assert frozen_parameters(network, 5) == frozen_parameters(network, "backbone")


def test_names_and_regular_expressions(network: nn.Module) -> None:
    assert frozen_parameters(network, ["bn1", "conv1.weight"]) == frozen_parameters(network, 1)
    assert {name.split(".")[0] for name in frozen_parameters(network, [r"layer[12]\."])} == {"layer1", "layer2"}
    assert {name.split(".")[0] for name in frozen_parameters(network, "layer3")} == {"layer3"}


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (6, "has 5 stages"),
        (-1, "has 5 stages"),
        (True, "has 5 stages"),
        (["layer5"], "'layer5' is no part of the backbone; did you mean layer"),
        (["("], "no regular expression"),
    ],
)
def test_mistakes(network: nn.Module, spec: int | list[str], words: str) -> None:
    with pytest.raises(UserError, match=words):
        frozen_parameters(network, spec)


def test_freezing_turns_off_only_what_is_named(network: nn.Module) -> None:
    network.get_parameter("layer4.0.conv1.weight").requires_grad_(False)  # the user's own choice stays
    network.get_parameter("conv1.weight").grad = torch.ones(64, 3, 7, 7)
    freeze_parameters(network, frozen_parameters(network, 1))
    off = {name for name, parameter in network.named_parameters() if not parameter.requires_grad}
    assert off == {"conv1.weight", "bn1.weight", "bn1.bias", "layer4.0.conv1.weight"}
    assert network.get_parameter("conv1.weight").grad is None


def test_norms_of_frozen_stages(network: nn.Module) -> None:
    assert norms_of(network, frozen_parameters(network, 1)) == ["bn1"]
    assert norms_of(network, {"bn1.weight"}) == [], "its bias still trains"
    everything = norms_of(network, frozen_parameters(network, "backbone"))
    assert everything == [name for name, module in network.named_modules() if isinstance(module, nn.BatchNorm2d)]


def test_norms_without_parameters_follow_their_surroundings() -> None:
    block = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, affine=False))
    network = nn.Sequential(block, nn.Conv2d(4, 4, 1))
    assert norms_of(network, {"0.0.weight", "0.0.bias"}) == ["0.1"]
    assert norms_of(network, {"1.weight", "1.bias"}) == []
    assert norms_of(nn.Sequential(nn.BatchNorm2d(3, affine=False)), set()) == []


def test_held_statistics_stand_still_while_others_move(network: nn.Module) -> None:
    frozen = frozen_parameters(network, 2)
    freeze_parameters(network, frozen)
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.1, weight_decay=0.1)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    for _ in range(2):
        network.train()
        held = norms_of(network, frozen)
        assert held == ["bn1"] + [f"layer1.{i}.bn{j}" for i in (0, 1) for j in (1, 2)]
        for name in held:
            network.get_submodule(name).eval()
        network(torch.rand(4, 3, 32, 32)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    for name, tensor in network.state_dict().items():
        still = name.split(".")[0] in ("conv1", "bn1", "layer1")
        assert torch.equal(tensor, before[name]) is still, name


def test_without_holding_the_statistics_would_move(network: nn.Module) -> None:
    freeze_parameters(network, frozen_parameters(network, 2))
    before = network.get_buffer("bn1.running_mean").clone()
    network.train()(torch.rand(4, 3, 32, 32))
    assert not torch.equal(network.get_buffer("bn1.running_mean"), before)
