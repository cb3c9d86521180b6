"""Which strategies can follow openings."""

from typing import Any

import pytest
from pytorch_lightning.strategies import (
    DDPStrategy,
    FSDPStrategy,
    ModelParallelStrategy,
    SingleDeviceStrategy,
    Strategy,
)
from torch.distributed.algorithms.ddp_comm_hooks.powerSGD_hook import PowerSGDState

from lit_vision.callbacks.ddp import check_strategy
from lit_vision.errors import UserError


def named(name: str) -> Strategy:
    """A strategy of another kind; DeepSpeed's and XLA's own classes need their packages."""
    kind = type(name, (Strategy,), {})
    kind.__abstractmethods__ = frozenset()  # type: ignore[attr-defined]
    return object.__new__(kind)


@pytest.mark.parametrize(
    ("strategy", "message"),
    [
        (lambda: DDPStrategy(model_averaging_period=4), "DDPStrategy: model_averaging_period"),
        (lambda: DDPStrategy(ddp_comm_state=PowerSGDState(None)), "DDPStrategy: PowerSGD"),
        (lambda: FSDPStrategy(use_orig_params=False), "FSDPStrategy: .*use_orig_params: true"),
        (lambda: named("DeepSpeedStrategy"), "DeepSpeedStrategy: it fixes the trainable parameters at the start"),
        (lambda: named("XLAStrategy"), "XLAStrategy: XLA compiles one graph"),
    ],
)
def test_refused_by_name_with_the_reason(strategy: Any, message: str) -> None:
    with pytest.raises(UserError, match=f"ProgressiveUnfreezing cannot work with {message}"):
        check_strategy(strategy())


def test_weights_in_flat_parameters_are_not_taken_back() -> None:
    with pytest.raises(UserError, match="FSDPStrategy: gain cannot put weights back into its flat parameters"):
        check_strategy(FSDPStrategy(), takes_back=True)
    check_strategy(ModelParallelStrategy(), takes_back=True)


@pytest.mark.parametrize(
    "strategy",
    [
        lambda: SingleDeviceStrategy("cpu"),
        lambda: DDPStrategy(static_graph=True),
        lambda: DDPStrategy(start_method="fork"),
        lambda: FSDPStrategy(),  # use_orig_params is its default
        lambda: ModelParallelStrategy(),
    ],
)
def test_accepted(strategy: Any) -> None:
    check_strategy(strategy())
