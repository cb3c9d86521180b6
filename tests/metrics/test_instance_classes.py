"""Average precision of each class of instances."""

import numpy as np
import pytest
import torch
from pairs import TINY

from lit_vision.metrics.instances import InstanceMetrics
from lit_vision.tasks.instances import InstanceSegmenter


def test_each_class_that_has_objects_has_its_own() -> None:
    truth = np.zeros((10, 40), np.int32)
    for k in range(4):
        truth[2:8, 10 * k : 10 * k + 6] = k + 1
    predicted = np.where(truth == 4, 0, truth)  # the second object of class "b" is missed
    metric, ones = InstanceMetrics(3, ["a", "b", "c"]), torch.ones(3)
    kinds = torch.tensor([0, 0, 1, 1])
    metric.update(0, torch.from_numpy(predicted), kinds[:3], ones, torch.from_numpy(truth), kinds)
    values = {name: float(value) for name, value in metric.compute().items() if name.startswith("ap/")}
    assert values == pytest.approx({"ap/a": 1.0, "ap/b": 51 / 101})  # recalls 0 to 0.5 of 101; nothing is said of "c"
    assert float(metric.compute()["ap"]) == pytest.approx((1 + 51 / 101) / 2)


def test_a_task_of_one_class_says_it_once() -> None:
    several, one = InstanceSegmenter(["a", "b"], **TINY), InstanceSegmenter(["a"], **TINY)
    assert several.metrics["val"].class_names == ["a", "b"]
    assert one.metrics["val"].class_names is None
