from collections.abc import Callable
from itertools import combinations, pairwise

import numpy as np
import pytest
import segmentation_models_pytorch as smp
import timm
import torch
from torch import nn

from lit_vision.errors import UserError
from lit_vision.networks.darknet import create_darknet
from lit_vision.networks.stages import Stages, divide
from lit_vision.networks.timm_names import without_memory
from lit_vision.tasks.base import VisionTask
from lit_vision.tasks.classification import TransferClassifier
from lit_vision.tasks.detection import YOLODetector
from lit_vision.tasks.instances import InstanceSegmenter
from lit_vision.tasks.segmentation import SemanticSegmenter

# The networks of reference/unfreezing.md and their coarse stages without the head.
TIMM = [
    ("resnet18", 5),
    ("efficientnet_b5", 8),
    ("tf_efficientnetv2_s", 7),
    ("convnext_tiny", 5),
    ("vit_small_patch16_224", 13),
    ("swin_tiny_patch4_window7_224", 5),
    ("resnest269e", 5),
    ("mobilenetv3_large_100", 9),
    ("regnety_016", 5),
    ("densenet121", 5),
    ("maxvit_tiny_rw_224", 5),
]
ENCODERS = ["tu-resnet18", "tu-convnext_atto", "resnet34", "efficientnet-b0", "densenet121", "mobilenet_v2", "mit_b0"]


def assert_partition(module: nn.Module, found: Stages, prefixes: list[str], head: set[str]) -> None:
    """Every parameter is in one stage, in `never`, or of the head; nearer the image means a later stage."""
    listed = [name for names in found.names for name in names] + found.never
    order = {name: i for i, (name, _) in enumerate(module.named_parameters())}
    assert len(listed) == len(set(listed))
    assert set(listed) | head == order.keys()
    assert not set(listed) & head
    assert list(found.by_backbone) == prefixes
    for stage, names in enumerate(found.names):
        assert names, "no stage is empty"
        assert sorted(name for own in found.by_backbone.values() for name in own[stage]) == sorted(names)
    for prefix, own in found.by_backbone.items():
        assert len(own) == len(found.names)
        assert all(name.startswith(f"{prefix}.") for names in own for name in names)
        starts = [min(order[name] for name in names) for names in own if names]
        assert starts == sorted(starts, reverse=True)


def test_the_check_of_the_partition_can_fail() -> None:
    net = whole(net=chain(1, 2))
    right = divide({"net": net["net"]})
    assert_partition(net, right, ["net"], set())
    for wrong in (right.names[::-1], right.names[:1], [right.names[0], *right.names]):
        with pytest.raises(AssertionError):
            assert_partition(net, Stages(wrong, [], {"net": wrong}), ["net"], set())


def whole(**backbones: nn.Module) -> nn.ModuleDict:
    return nn.ModuleDict(backbones)


@pytest.mark.parametrize(("name", "count"), TIMM)
def test_networks_of_timm(name: str, count: int) -> None:
    network, features = (without_memory(timm.create_model, name, **args) for args in ({}, {"features_only": True}))
    prefix = next(n for n, module in network.named_modules() if module is network.get_classifier())
    found = divide({"net": network})
    assert_partition(whole(net=network), found, ["net"], {f"net.{prefix}.weight", f"net.{prefix}.bias"})
    assert len(found.names) == count
    assert_partition(whole(net=features), divide({"net": features}), ["net"], set())


@pytest.mark.parametrize("name", ENCODERS)
def test_encoders_of_segmentation_models(name: str) -> None:
    encoder = smp.encoders.get_encoder(name, weights=None)
    found = divide({"net": encoder})
    assert_partition(whole(net=encoder), found, ["net"], set())
    assert len(found.names) >= 4


@pytest.mark.parametrize(("name", "count"), [("yolov3", 6), ("yolov3-tiny", 6)])
def test_darknets(name: str, count: int) -> None:
    with torch.device("meta"):
        network = create_darknet(name, 3)
    found = divide({"backbone": network.get_submodule("backbone")}, module=network)
    head = {name for name, _ in network.named_parameters() if not name.startswith("backbone.")}
    assert_partition(network, found, ["backbone"], head)
    assert len(found.names) == count


TASKS: list[tuple[Callable[[], VisionTask], int]] = [
    (lambda: TransferClassifier(["a", "b"], backbone="resnet18"), 5),
    (lambda: SemanticSegmenter(["a", "b"], encoder="resnet18"), 5),
    (lambda: InstanceSegmenter(["a"], encoder="resnet18", border_encoder="mobilenetv3_small_100"), 5),
    (lambda: YOLODetector(["a"], backbone="resnet18"), 5),
]


@pytest.mark.parametrize(("make", "count"), TASKS, ids=["classifier", "segmenter", "instances", "detector"])
def test_backbones_of_the_four_tasks(make: Callable[[], VisionTask], count: int) -> None:
    task = make()
    inside = tuple(f"{prefix}." for prefix in task.backbones)
    head = {name for name, _ in task.named_parameters() if not name.startswith(inside) or ".fc." in name}
    assert head
    found = divide(task.backbones, module=task)
    assert_partition(task, found, list(task.backbones), head)
    assert len(found.names) == count
    assert found == divide(task.backbones), "no part beside the backbones shares anything with them"


def chain(*sizes: int) -> nn.Sequential:
    """Layers "0", "1" ... of so many weights each, nearest the image first."""
    return nn.Sequential(*(nn.Linear(size, 1, bias=False) for size in sizes))


def sizes_of(net: nn.Module, found: Stages) -> list[int]:
    named = {f"net.{name}": parameter for name, parameter in net.named_parameters()}
    return [sum(named[name].numel() for name in names) for names in found.names]


def test_patterns_are_stages_and_the_first_match_counts() -> None:
    network = timm.create_model("resnet18")
    found = divide({"net": network}, [r"layer[34]\.", "layer[1-4]", "conv1|bn1"])
    assert {name.split(".")[1] for name in found.names[0]} == {"layer3", "layer4"}
    assert {name.split(".")[1] for name in found.names[1]} == {"layer1", "layer2"}
    assert found.names[2] == ["net.conv1.weight", "net.bn1.weight", "net.bn1.bias"]
    assert_partition(whole(net=network), found, ["net"], {"net.fc.weight", "net.fc.bias"})


def test_networks_of_one_kind_may_have_stages_of_their_own() -> None:
    nets = {"one.model": chain(2, 2, 2), "other.model": chain(2, 2, 2)}
    found = divide(nets, ["other", r"one\.model\.[12]", "0"])
    named = {prefix: [f"{prefix}.{k}.weight" for k in range(3)] for prefix in nets}
    assert found.names == [named["other.model"], named["one.model"][1:], named["one.model"][:1]]
    assert divide(nets, ["2", "[01]"]).names[0] == ["one.model.2.weight", "other.model.2.weight"]
    assert divide(nets, ["other"], never=["one"]).never == named["one.model"]
    with pytest.raises(
        UserError, match=r"no pattern matches one.model.0.weight, one.model.1.weight, one.model.2.weight;"
    ):
        divide(nets, ["other"])


def test_a_module_of_this_name_comes_before_the_regular_expression() -> None:
    found = divide({"net": chain(*[2] * 12)}, ["1", "0|[2-9]", "10|11"])
    assert found.names[0] == ["net.1.weight"], "not 10 and 11, which it matches as an expression"
    assert found.names[2] == ["net.10.weight", "net.11.weight"]


def test_never_stays_frozen_in_the_order_of_the_network() -> None:
    network = timm.create_model("resnet18")
    found = divide({"net": network}, never=["layer1.0", r".*bn1\.", "conv1.weight"])
    assert found.never[:3] == ["net.conv1.weight", "net.bn1.weight", "net.bn1.bias"]
    assert sum(name.startswith("net.layer1.0") for name in found.never) == 6
    assert len(found.names) == 4, "nothing is left of the stem"
    assert_partition(whole(net=network), found, ["net"], {"net.fc.weight", "net.fc.bias"})
    given = divide({"net": network}, ["layer4", "layer[123]"], never=["conv1|bn1"])
    assert len(given.names) == 2
    assert len(given.never) == 3


@pytest.mark.parametrize(
    ("patterns", "never", "words"),
    [
        (["layer4"], [], r"no pattern matches conv1.weight, bn1.weight, bn1.bias and 42 more; add a pattern .* never"),
        (["layer4", "layer5", ".*"], [], r"stages: 'layer5' is no part of the backbone; did you mean layer"),
        (
            [".*", "layer4"],
            [],
            r"all that 'layer4' matches belongs to the patterns before it or to never; leave it out",
        ),
        (["layer4", ".*"], ["layer4"], r"all that 'layer4' matches"),
        (["("], [], r"'\(' is no regular expression"),
        (None, ["layer9"], r"never: 'layer9' is no part of the backbone; did you mean layer"),
        (None, ["fc"], r"never: 'fc' is no part of the backbone"),
    ],
)
def test_mistakes(patterns: list[str] | None, never: list[str], words: str) -> None:
    with torch.device("meta"):
        network = timm.create_model("resnet18")
    with pytest.raises(UserError, match=words):
        divide({"net": network}, patterns, never=never)


def test_at_least_one_stage() -> None:
    with pytest.raises(UserError, match="max_stages is 0, but there is at least one stage"):
        divide({"net": chain(1, 1)}, max_stages=0)


def test_neighbours_join_as_evenly_as_possible() -> None:
    with torch.device("meta"):
        network = timm.create_model("resnet18")
    found = divide({"net": network}, max_stages=3)
    # 8.4, 2.1, 0.53, 0.15 and 0.01 million: the first has most in any case, what is small joins.
    assert [{name.split(".")[1] for name in names} for names in found.names] == [
        {"layer4"},
        {"layer3"},
        {"conv1", "bn1", "layer1", "layer2"},
    ]
    assert found.names[2][0] == "net.conv1.weight", "in the order of the network"
    assert_partition(whole(net=network), found, ["net"], {"net.fc.weight", "net.fc.bias"})
    assert divide({"net": network}, max_stages=9) == divide({"net": network})
    assert len(divide({"net": network}, max_stages=1).names) == 1


def test_of_equal_ways_the_stages_near_the_head_are_the_smaller_ones() -> None:
    net = chain(5, 5, 5, 5, 5)
    assert sizes_of(net, divide({"net": net}, max_stages=2)) == [10, 15]
    assert sizes_of(net, divide({"net": net}, max_stages=3)) == [5, 10, 10]


def test_joining_is_the_best_of_all_ways() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        sizes = rng.integers(1, 50, 8).tolist()
        net = chain(*sizes[::-1])
        for most in range(1, 9):
            cuts = combinations(range(1, 8), most - 1)
            ways = ([sum(sizes[a:b]) for a, b in pairwise([0, *ends, 8])] for ends in cuts)
            best = min(ways, key=lambda way: (sum(size**2 for size in way), way))
            assert sizes_of(net, divide({"net": net}, max_stages=most)) == best


def test_several_backbones_share_their_stages() -> None:
    deep, flat = chain(4, 3, 2, 1), chain(6, 5)
    found = divide({"deep": deep, "flat": flat})
    assert found.names == [
        ["deep.3.weight", "flat.1.weight"],
        ["deep.2.weight", "flat.0.weight"],
        ["deep.1.weight"],
        ["deep.0.weight"],
    ]
    assert found.by_backbone["flat"] == [["flat.1.weight"], ["flat.0.weight"], [], []]
    joined = divide({"deep": deep, "flat": flat}, max_stages=2)  # of 6, 8, 3 and 4: squares 6, 15 or 14, 7
    assert joined.by_backbone["flat"] == [["flat.0.weight", "flat.1.weight"], []]
    given = divide({"deep": deep, "flat": flat}, ["[23]", "[01]"])
    assert given.by_backbone["flat"] == [[], ["flat.0.weight", "flat.1.weight"]]


def test_tied_parameters_are_in_one_stage_nearest_the_head() -> None:
    net = chain(3, 3, 3, 3)
    net[3].weight = net[0].weight
    assert divide({"net": net}).names == [["net.0.weight"], ["net.2.weight"], ["net.1.weight"]]
    # Its second name is as good as its first.
    assert divide({"net": net}, ["3", "[12]"]).names == [["net.0.weight"], ["net.1.weight", "net.2.weight"]]
    assert divide({"net": net}, never=["3"]).never == ["net.0.weight"]


def test_a_parameter_of_two_backbones_is_in_one_stage_nearest_the_head() -> None:
    one, two = chain(3, 4), chain(5, 3)
    one[0].weight = two[1].weight
    found = divide({"one": one, "two": two})
    assert found.names == [["one.0.weight", "one.1.weight"], ["two.0.weight"]]
    assert found.by_backbone == {"one": [found.names[0], []], "two": [[], ["two.0.weight"]]}


def test_what_the_head_uses_too_is_in_no_stage() -> None:
    module = nn.ModuleDict({"head": nn.Linear(3, 1, bias=False), "net": chain(3, 4)})
    module["net"][0].weight = module["head"].weight  # type: ignore[index]  # a Sequential
    assert divide({"net": module["net"]}, module=module).names == [["net.1.weight"]]
    assert divide({"net": module["net"]}).names == [["net.1.weight"], ["net.0.weight"]], "it sees only the backbone"


def test_nothing_to_divide() -> None:
    assert divide({}) == Stages([], [], {})
    assert divide({"net": nn.ReLU()}, max_stages=2) == Stages([], [], {"net": []})
