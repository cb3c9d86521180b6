from functools import partial

import pytest
import segmentation_models_pytorch as smp
import timm
import torch
import torchvision
from torch import nn

from lit_vision.networks.backbone_stages import stages
from lit_vision.networks.timm_names import without_memory

on_meta = partial(without_memory, timm.create_model)

# Name, stages as a classifier, stages as a source of features.
NETWORKS = [
    ("resnet18", 5, 5),
    ("efficientnet_b0", 8, 5),
    ("convnext_atto", 5, 4),
    ("vit_tiny_patch16_224", 13, 13),
    ("swin_tiny_patch4_window7_224", 5, 4),
    ("mobilenetv3_small_100", 8, 5),
    ("regnety_002", 5, 5),
    ("densenet121", 5, 5),
    ("resnest14d", 5, 5),
    ("maxvit_pico_rw_256", 5, 5),
    ("hrnet_w18_small", 6, 6),
]


def assert_partition(network: nn.Module, slices: list[list[str]], head: set[str]) -> None:
    listed = [name for names in slices for name in names]
    assert len(listed) == len(set(listed))
    assert set(listed) == {name for name, _ in network.named_parameters()} - head
    order = {name: i for i, (name, _) in enumerate(network.named_parameters())}
    parameters = dict(network.named_parameters())
    for names in slices:
        assert any(parameters[name].ndim > 1 for name in names), f"only normalisation: {names}"
    starts = [min(order[name] for name in names) for names in slices]
    assert starts[-1] == 0, "the last stage sees the image"
    assert starts == sorted(starts, reverse=True)


@pytest.mark.parametrize(("name", "as_classifier", "as_features"), NETWORKS)
def test_every_parameter_is_in_one_stage(name: str, as_classifier: int, as_features: int) -> None:
    network = on_meta(name)
    classifier = network.get_classifier()  # type: ignore[operator]  # timm's own method
    prefix = next(n for n, module in network.named_modules() if module is classifier)
    head = {f"{prefix}.{n}" for n, _ in classifier.named_parameters()}
    assert len(head) == 2
    slices = stages(network)
    assert_partition(network, slices, head)
    assert len(slices) == as_classifier
    features = on_meta(name, features_only=True)
    assert_partition(features, stages(features), set())
    assert len(stages(features)) == as_features


def test_stages_of_resnet_by_name() -> None:
    slices = stages(on_meta("resnet18"))
    assert [names[0] for names in slices] == [
        "layer4.0.conv1.weight",
        "layer3.0.conv1.weight",
        "layer2.0.conv1.weight",
        "layer1.0.conv1.weight",
        "conv1.weight",
    ]
    assert slices[-1] == ["conv1.weight", "bn1.weight", "bn1.bias"]


def test_final_norm_joins_the_last_blocks() -> None:
    assert stages(on_meta("vit_tiny_patch16_224"))[0][-2:] == ["norm.weight", "norm.bias"]
    assert "cls_token" in stages(on_meta("vit_tiny_patch16_224"))[-1]


@pytest.mark.parametrize("name", ["tu-resnet18", "tu-convnext_atto", "resnet18", "efficientnet-b0"])
def test_encoders_of_segmentation_models(name: str) -> None:
    with torch.device("meta"):
        encoder = smp.encoders.get_encoder(name, weights=None)
    slices = stages(encoder)
    assert_partition(encoder, slices, set())
    assert len(slices) >= 3


def test_any_module_is_divided_by_its_children() -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 5, 3), nn.BatchNorm2d(5), nn.Conv2d(5, 6, 1)
    )
    assert stages(network) == [
        ["5.weight", "5.bias"],
        ["3.weight", "3.bias", "4.weight", "4.bias"],
        ["0.weight", "0.bias", "1.weight", "1.bias"],
    ]


def test_wrapping_modules_are_looked_through() -> None:
    inner = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 4))
    assert stages(nn.ModuleDict({"trunk": inner})) == [
        ["trunk.1.weight", "trunk.1.bias"],
        ["trunk.0.weight", "trunk.0.bias"],
    ]


def test_own_parameters_belong_to_the_input() -> None:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(2, 2), nn.Linear(2, 2)
            self.token = nn.Parameter(torch.zeros(1, 2))

    assert stages(Tokens()) == [["second.weight", "second.bias"], ["token", "first.weight", "first.bias"]]


def test_tied_parameters_belong_to_the_stage_nearest_the_head() -> None:
    network = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3))
    network[2].weight = network[0].weight
    # What is left of the first child is a bias alone, which joins its neighbour.
    assert stages(network) == [["0.weight", "2.bias"], ["0.bias", "1.weight", "1.bias"]]


def test_a_list_of_layers_counts_by_its_layers_where_children_are_few() -> None:
    class Few(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv2d(3, 3, 1, bias=False)
            self.features = nn.Sequential(*(nn.Conv2d(3, 3, 1, bias=False) for _ in range(3)))
            self.classifier = nn.Sequential(nn.Linear(300, 300), nn.ReLU(), nn.Linear(300, 2))

    expected = [["features.2.weight"], ["features.1.weight"], ["features.0.weight"], ["stem.weight"]]
    assert stages(Few()) == expected


# Stages, and module names of the head, which timm does not describe.
TORCHVISION = [
    ("resnet18", 5, {"fc"}),
    ("efficientnet_b0", 9, {"classifier.1"}),
    ("densenet121", 8, {"classifier"}),
    ("swin_t", 8, {"head"}),
    ("vit_b_16", 2, {"heads.head"}),
    ("vgg11", 8, {"classifier.0", "classifier.3", "classifier.6"}),
]


@pytest.mark.parametrize(("name", "count", "heads"), TORCHVISION)
def test_networks_of_torchvision(name: str, count: int, heads: set[str]) -> None:
    with torch.device("meta"):
        network = torchvision.models.get_model(name, weights=None)
    head = {n for n, _ in network.named_parameters() if n.rpartition(".")[0] in heads}
    assert len(head) == 2 * len(heads)
    assert_partition(network, stages(network), head)
    assert len(stages(network)) == count


def test_a_compiled_network_has_the_same_stages_under_its_names() -> None:
    network = timm.create_model("resnet18")
    compiled: nn.Module = torch.compile(network)  # type: ignore[assignment]  # nothing is compiled before it runs
    assert stages(compiled) == [[f"_orig_mod.{name}" for name in names] for names in stages(network)]
    assert len(stages(compiled)) == 5


def test_grouping_that_timm_has_not_written() -> None:
    network = on_meta("rdnet_tiny")
    assert_partition(network, stages(network), {"head.fc.weight", "head.fc.bias"})
    assert len(stages(network)) == 4


def test_nothing_to_divide() -> None:
    assert stages(nn.ReLU()) == []
