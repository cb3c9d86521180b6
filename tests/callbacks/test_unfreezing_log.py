"""Run as a program with the name of a part and a folder, this is one of two processes."""

import json
import math
import sys
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor, distributed, nn
from two_ranks import both

from lit_vision.callbacks.unfreezing_log import UnfreezingLog, learning_rates
from lit_vision.networks.stages import divide
from lit_vision.tasks.classification import TransferClassifier
from lit_vision.tasks.instances import InstanceSegmenter
from lit_vision.tasks.optimization import scale_learning_rates


class Net(nn.Module):
    """A backbone of three layers and a head, all weights 2."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(*(nn.Linear(2, 2) for _ in range(3)))
        self.head = nn.Linear(2, 1)
        for parameter in self.parameters():
            nn.init.constant_(parameter, 2)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.backbone(x))
        return y


def log_of(net: Net, never: tuple[str, ...] = (), distances: bool = True) -> UnfreezingLog:
    return UnfreezingLog(divide({"backbone": net.backbone}, never=never), net, distances)


def close(net: Net, *layers: int) -> None:
    for layer in layers:
        net.backbone[layer].requires_grad_(False)


# --- gradient norms ---------------------------------------------------------------------------------------------
def test_gradient_norms_by_hand() -> None:
    net = Net()
    log = log_of(net)
    net.head.weight.grad = torch.tensor([[3.0, 0.0]])
    net.head.bias.grad = torch.tensor([4.0])
    net.backbone[1].weight.grad = torch.ones(2, 2)
    assert log.grad_norms(net) == {"head": 5.0, "stage1": 2.0}
    assert log.grad_norms(Net()) == {}


def test_closed_stages_have_no_gradient_norm() -> None:
    net = Net()
    close(net, 0, 1)
    log = log_of(net)
    net(torch.ones(3, 2)).sum().backward()
    norms = log.grad_norms(net)
    assert list(norms) == ["head", "stage0"]
    of_stage0 = torch.cat([parameter.grad.flatten() for parameter in net.backbone[2].parameters()])  # type: ignore[union-attr]  # it has one
    assert norms["stage0"] == pytest.approx(float(of_stage0.norm()), rel=1e-6)
    net.zero_grad()
    net.backbone[1].requires_grad_(True)
    net(torch.ones(3, 2)).sum().backward()
    assert list(log.grad_norms(net)) == ["head", "stage0", "stage1"]


def test_norms_of_half_floats_do_not_overflow() -> None:
    net = Net().half()
    log = log_of(net)
    net.head.weight.grad = torch.full((1, 2), 3e4, dtype=torch.float16)
    net.backbone[2].bias.grad = torch.full((2,), 2e-7, dtype=torch.float16)
    norms = log.grad_norms(net)
    assert norms["head"] == pytest.approx(3e4 * math.sqrt(2), rel=1e-3)
    assert norms["stage0"] == pytest.approx(2e-7 * math.sqrt(2), rel=0.2)  # as near as float16 comes to 2e-7


# --- distances --------------------------------------------------------------------------------------------------
def test_distances_by_hand() -> None:
    net = Net()
    log = log_of(net)
    assert log.distances(net) == {"stage0": 0.0, "stage1": 0.0, "stage2": 0.0}
    with torch.no_grad():
        net.backbone[1].weight[0, 0] += 3
        net.backbone[1].bias[1] -= 4
        net.head.weight += 100  # heads are not pretrained
    assert log.distances(net)["stage1"] == pytest.approx(5 / math.sqrt(6 * 4))
    assert log.distances(net)["stage2"] == 0.0


def test_the_first_weights_are_a_copy_that_loading_does_not_change() -> None:
    net = Net()
    log = log_of(net, never=("0",))
    net.load_state_dict({name: torch.ones_like(value) for name, value in net.state_dict().items()})
    assert log.distances(net) == {"stage0": 0.5, "stage1": 0.5}, "what never trains is not measured"


def test_weights_that_began_as_zeros() -> None:
    net = Net()
    nn.init.zeros_(net.backbone[0].weight)
    nn.init.zeros_(net.backbone[0].bias)
    log = log_of(net)
    with torch.no_grad():
        net.backbone[0].bias[0] = 3
    assert log.distances(net)["stage2"] == 3.0


def test_rounding_to_another_precision_is_no_distance() -> None:
    net = Net()
    with torch.no_grad():
        net.backbone[0].weight.fill_(1 / 3)
    log = log_of(net)
    assert log.distances(net.bfloat16()) == {"stage0": 0.0, "stage1": 0.0, "stage2": 0.0}


def test_layers_may_be_replaced_under_the_same_name() -> None:
    net = Net()
    log = log_of(net)
    weight = net.backbone[2].weight
    net.backbone[2] = nn.Linear(2, 2)
    net.backbone[2].weight, net.backbone[2].bias = (
        nn.Parameter(weight.detach() + 2),
        nn.Parameter(torch.full((2,), 2.0)),
    )
    assert log.distances(net)["stage0"] == pytest.approx(4 / math.sqrt(24))


def test_no_copy_where_distances_are_not_wanted() -> None:
    log = log_of(Net(), distances=False)
    assert log._first == {}
    assert log.distances(Net()) == {}
    assert sum(tensor.numel() for tensor in log_of(Net())._first.values()) == 18


# --- words ------------------------------------------------------------------------------------------------------
def shown(log: UnfreezingLog, when: list[str], rates: dict[str, float], width: int = 140) -> list[str]:
    console = Console(width=width, record=True, file=StringIO())
    console.print(log.table(when, rates))
    lines = console.export_text().splitlines()
    return [" ".join(line.strip("│").replace("│", "|").split()) for line in lines if "│" in line]


def test_the_table_of_a_classifier() -> None:
    task = TransferClassifier(["a", "b"], backbone="resnet18")
    log = UnfreezingLog(divide(task.backbones, max_stages=3, never=["conv1"]), task)
    assert shown(log, ["epoch 1", "epoch 2", "stays closed"], {"head": 1e-3, "stage0": 5e-4, "stage1": 2.5e-4}) == [
        "head | fc | 1.0 k | 0.001 | from the start",
        "stage0 | layer4 | 8.4 M | 0.0005 | epoch 1",
        "stage1 | layer3 | 2.1 M | 0.00025 | epoch 2",
        "stage2 | bn1 .. layer2 | 673.7 k | | stays closed",
        "never | conv1 | 9.4 k | | never",
    ]
    assert log.label(0) == "stage 0 (layer4, 8.4 M parameters)"


def test_labels_of_parts_of_lists_and_of_two_networks() -> None:
    task: Any = TransferClassifier(["a", "b"], backbone="test_vit")
    log = UnfreezingLog(divide(task.backbones, max_stages=3), task)
    assert [log.label(stage).split(",")[0] for stage in range(3)] == [
        "stage 0 (blocks.4 .. norm",
        "stage 1 (blocks.1 .. blocks.3",
        "stage 2 (cls_token .. blocks.0",
    ]
    task = InstanceSegmenter(["a"], encoder="resnet18", border_encoder="lcnet_050")
    log = UnfreezingLog(divide(task.backbones), task)
    assert log.label(0).startswith("stage 0 (network: layer4; border_network: blocks.5, ")
    head = shown(log, [""] * 5, {})[0]
    assert head.startswith("head | network: decoder, segmentation_head; border_network: decoder, segmentation_head |")
    one = UnfreezingLog(divide({"backbone": nn.Linear(1, 1)}), nn.ModuleDict({"backbone": nn.Linear(1, 1)}))
    assert one.label(0) == "stage 0 (all, 2 parameters)"


def test_learning_rates_by_stage_now_and_at_the_beginning() -> None:
    weights = [nn.Parameter(torch.zeros(1)) for _ in range(5)]
    names = ["head/decay", "network/stage0/decay", "network/stage0/no_decay", "border.network/stage1/decay", "mine"]
    groups = [
        {"params": [weight], "name": name, "lr": 0.5**i}
        for i, (weight, name) in enumerate(zip(weights, names, strict=True))
    ]
    optimizer = torch.optim.SGD(groups)
    torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.1)
    assert learning_rates(optimizer) == pytest.approx({"head": 0.1, "stage0": 0.05, "stage1": 0.0125})
    assert learning_rates(optimizer, initial=True) == {"head": 1.0, "stage0": 0.5, "stage1": 0.125}
    assert learning_rates(torch.optim.SGD(weights, lr=1.0)) == {}


def test_rates_of_a_second_network_are_told_where_they_differ() -> None:
    task = InstanceSegmenter(["a"], border_lr_factor=0.5, lr_decay=0.1, encoder="mobilenetv3_small_050")
    stages = divide(task.backbones, max_stages=2, module=task)
    optimizer = torch.optim.SGD(task.grouped(stages), lr=1.0)
    scale_learning_rates(optimizer)
    rates = learning_rates(optimizer)
    assert rates == pytest.approx(
        {
            "head": 1,
            "border_network/head": 0.5,
            "stage0": 0.1,
            "border_network/stage0": 0.05,
            "stage1": 0.01,
            "border_network/stage1": 0.005,
        }
    )
    rows = shown(UnfreezingLog(stages, task), ["later", "later"], rates, width=240)
    assert [row.split(" | ")[3] for row in rows[:3]] == [
        "1; border_network 0.5",
        "0.1; border_network 0.05",
        "0.01; border_network 0.005",
    ]


# --- over two processes -----------------------------------------------------------------------------------------
def measures(net: Net, log: UnfreezingLog) -> dict[str, float]:
    net(torch.arange(6.0).view(3, 2)).sum().backward()
    found = {f"grad/{name}": value for name, value in log.grad_norms(net).items()}
    torch.optim.SGD(net.parameters(), lr=1e-4).step()
    return {**found, **log.distances(net)}


def as_a_process() -> dict[str, float]:
    from torch.distributed.fsdp import fully_shard

    distributed.init_process_group("gloo")
    net = Net()
    log = log_of(net)
    close(net, 0)
    for layer in net.backbone:
        fully_shard(layer)
    fully_shard(net)
    assert net.backbone[1].weight.to_local().shape == (1, 2)  # type: ignore[operator]  # a DTensor: half is here
    return measures(net, log)


@pytest.mark.slow
def test_parameters_divided_among_two_processes_measure_as_whole_ones(tmp_path: Path) -> None:
    net = Net()
    log = log_of(net)
    close(net, 0)
    alone = measures(net, log)
    assert list(alone) == ["grad/head", "grad/stage0", "grad/stage1", "stage0", "stage1", "stage2"]
    assert alone["stage2"] == 0.0
    assert alone["stage1"] > 0
    for found in both(__file__, "measure", tmp_path):
        assert found == pytest.approx(alone, rel=1e-6)


if __name__ == "__main__":
    said = as_a_process()
    print("\n" + json.dumps(said))
    sys.stdout.flush()
    distributed.destroy_process_group()
