"""The next smaller network that advice names."""

from functools import partial

import pytest
import timm
from torch import nn

from lit_vision.networks.timm_names import without_memory
from lit_vision.transfer.report import smaller_backbone

on_meta = partial(without_memory, timm.create_model)


# Before timm 1.0.30 a RegNet cannot be built without memory.
@pytest.mark.parametrize(("own", "smaller"), [("resnet34", "resnet26"), ("regnety_004", "regnety_002")])
def test_the_next_smaller_of_the_same_kind(own: str, smaller: str) -> None:
    assert smaller_backbone(on_meta(own)) == smaller


def test_the_smallest_and_an_unknown_one_have_none_below() -> None:
    assert smaller_backbone(on_meta("regnety_002")) is None
    assert smaller_backbone(nn.Linear(2, 2)) is None
