import copy
import math
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer, RMSprop

from lit_vision.errors import UserError
from lit_vision.networks.stages import divide
from lit_vision.tasks.optimization import (
    check_optimization,
    fuse,
    parameter_groups,
    scale_learning_rates,
    warmup_cosine,
)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential()
        self.backbone.add_module("stem", nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)))
        self.backbone.add_module("body", nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4)))
        self.head = nn.Linear(4, 2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ((1.0, 1.0, "epoch"), "model.warmup is 1.0: give a share of the run"),
        ((-0.1, 1.0, "epoch"), "model.warmup is -0.1"),
        ((0.05, -1.0, "epoch"), "model.lr_decay is -1.0: give a factor above 0"),
        ((0.05, math.nan, "epoch"), "model.lr_decay is nan"),
        ((0.05, 1.0, "steps"), "model.scheduler_interval is steps: give epoch or step"),
    ],
)
def test_settings_without_sense_are_refused(settings: tuple[float, float, str], message: str) -> None:
    check_optimization(0.0, 1.2, "step")
    with pytest.raises(UserError, match=message):
        check_optimization(*settings)


def test_groups_are_head_first_then_stage_by_stage_without_decay_on_norms_and_biases() -> None:
    net = Net()
    groups = parameter_groups(net, divide({"backbone": net.backbone}), lr_decay=0.5)
    assert [group["name"] for group in groups] == [
        "head/decay",
        "head/no_decay",
        "backbone/stage0/decay",
        "backbone/stage0/no_decay",
        "backbone/stage1/decay",
        "backbone/stage1/no_decay",
    ]
    assert [group["lr_scale"] for group in groups] == [1, 1, 0.5, 0.5, 0.25, 0.25]
    assert [group.get("weight_decay") for group in groups] == [None, 0.0] * 3
    assert groups[0]["params"][0] is net.head.weight
    assert groups[4]["params"][0] is net.backbone.stem[0].weight  # type: ignore[union-attr]  # nn.Module attribute
    assert len(groups[3]["params"]) == 3  # the convolution's bias, the norm's weight and bias


def test_every_parameter_is_in_exactly_one_group_frozen_or_not() -> None:
    net = Net()
    net.backbone.requires_grad_(False)
    groups = parameter_groups(net, divide({"backbone": net.backbone}))
    ids = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(ids) == sorted(id(parameter) for parameter in net.parameters())


def test_learning_rates_fall_with_the_distance_from_the_head() -> None:
    net = Net()
    optimizer = torch.optim.SGD(
        parameter_groups(net, divide({"backbone": net.backbone}), lr_decay=0.1), lr=1.0, weight_decay=0.3
    )
    scale_learning_rates(optimizer)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.3, 0, 0.3, 0, 0.3, 0]


def test_warmup_cosine_hits_its_hand_computed_points() -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=2.0)
    scheduler = warmup_cosine(optimizer, steps=110, warmup=10 / 110, final=0.1)
    rates = []
    for _ in range(111):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates[0] == pytest.approx(0.2)
    assert rates[9] == rates[10] == pytest.approx(2.0)
    assert rates[60] == pytest.approx(2 * (0.1 + 0.9 / 2))
    assert rates[35] == pytest.approx(2 * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi / 4))))
    assert rates[110] == pytest.approx(0.2)


@pytest.mark.parametrize("make", [Adam, AdamW, lambda groups: SGD(groups, lr=0.1, momentum=0.9)])
def test_torchs_optimizers_step_in_one_pass_and_come_to_the_same(make: Callable[..., Optimizer]) -> None:
    nets = [Net(), Net()]
    nets[1].load_state_dict(nets[0].state_dict())
    optimizers = [make([{"params": list(net.parameters())}]) for net in nets]
    fuse(optimizers[1])
    assert [one.param_groups[0]["fused"] for one in optimizers] == [None, True]
    for _ in range(5):
        for net, optimizer in zip(nets, optimizers, strict=True):
            optimizer.zero_grad()
            net.head(net.backbone(torch.linspace(-1, 1, 192).view(1, 3, 8, 8)).mean((2, 3))).square().sum().backward()
            net.backbone.stem[0].weight.grad = None  # a closed stage's
            optimizer.step()
    for one, other in zip(*(net.parameters() for net in nets), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
    optimizers[1].add_param_group({"params": [nn.Parameter(torch.zeros(1))]})
    assert optimizers[1].param_groups[1]["fused"]


@pytest.mark.parametrize(
    "settings", [{"fused": False}, {"foreach": True}, {"foreach": False}, {"differentiable": True}]
)
def test_what_an_optimizer_is_told_stays(settings: dict[str, bool]) -> None:
    optimizer = AdamW(Net().parameters(), **settings)
    before = dict(optimizer.defaults)
    fuse(optimizer)
    assert optimizer.defaults == before


@pytest.mark.parametrize("make", [AdamW, lambda groups: SGD(groups, lr=0.1, momentum=0.9)])
def test_a_state_in_another_memory_format_goes_on_as_it_was(make: Callable[..., Optimizer]) -> None:
    def step(weight: nn.Parameter, optimizer: Optimizer) -> None:
        weight.grad = torch.empty_like(weight).copy_(torch.linspace(-1, 1, 54).view(2, 3, 3, 3) * weight.detach())
        optimizer.step()

    torch.manual_seed(0)
    start = torch.randn(2, 3, 3, 3)
    first = nn.Parameter(start.clone(memory_format=torch.channels_last))
    before = make([first])
    fuse(before)
    step(first, before)
    ends = []
    for fused in (True, False):
        weight = nn.Parameter(first.detach().clone(memory_format=torch.contiguous_format))
        after = make([weight])
        if fused:
            fuse(after)
        state = copy.deepcopy(before.state_dict())
        after.load_state_dict({**state, "param_groups": [{**state["param_groups"][0], "fused": fused}]})
        step(weight, after)
        ends.append(weight.detach())
    torch.testing.assert_close(*ends)


def test_other_optimizers_and_parameters_are_left_alone() -> None:
    class Own(AdamW):
        """One of a user's."""

    for optimizer in (Own(Net().parameters()), RMSprop(Net().parameters()), AdamW(Net().to("meta").parameters())):
        fuse(optimizer)
        assert not optimizer.param_groups[0].get("fused")
