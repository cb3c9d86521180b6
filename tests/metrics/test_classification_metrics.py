import pytest
import torch
from torchmetrics.functional.classification import (
    multiclass_accuracy,
    multiclass_confusion_matrix,
    multiclass_f1_score,
    multilabel_average_precision,
    multilabel_exact_match,
    multilabel_f1_score,
)

from lit_vision.metrics.classification import ClassificationMetrics, MultiLabelMetrics

NAMES = ["a", "b", "c", "d", "e", "f", "g"]


def test_equal_to_torchmetrics_over_batches() -> None:
    torch.manual_seed(0)
    scores, labels = torch.rand(60, 7), torch.randint(0, 7, (60,))
    metrics = ClassificationMetrics(NAMES)
    for part in range(0, 60, 16):
        metrics.update(scores[part : part + 16], labels[part : part + 16])
    values = metrics.compute()
    assert values["accuracy"] == multiclass_accuracy(scores, labels, 7, average="micro")
    assert values["top5"] == pytest.approx(float(multiclass_accuracy(scores, labels, 7, "micro", top_k=5)))
    assert values["f1"] == pytest.approx(float(multiclass_f1_score(scores, labels, 7, average="macro")))
    by_class = multiclass_accuracy(scores, labels, 7, average="none")
    assert [float(values[f"accuracy/{name}"]) for name in NAMES] == pytest.approx(by_class.tolist())
    assert torch.equal(metrics.confusion, multiclass_confusion_matrix(scores, labels, 7))  # type: ignore[arg-type]


def test_by_hand() -> None:
    metrics = ClassificationMetrics(["cat", "dog", "fox"])
    metrics.update(torch.eye(3)[[0, 0, 1, 1]], torch.tensor([0, 0, 0, 1]))
    values = {name: float(value) for name, value in metrics.compute().items()}
    assert values == pytest.approx(
        {"accuracy": 3 / 4, "f1": (4 / 5 + 2 / 3) / 2, "accuracy/cat": 2 / 3, "accuracy/dog": 1.0}
    )  # fox occurs nowhere: left out, not NaN and not 0


def test_reset_forgets_but_keeps_the_last_picture() -> None:
    metrics = ClassificationMetrics(["cat", "dog"])
    metrics.update(torch.eye(2), torch.tensor([0, 1]))
    metrics.compute()
    metrics.reset()
    assert metrics.confusion is not None
    assert metrics.confusion.tolist() == [[1, 0], [0, 1]]
    metrics.update(torch.eye(2), torch.tensor([1, 0]))
    assert metrics.compute()["accuracy"] == 0


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_nothing_counted() -> None:
    assert ClassificationMetrics(["cat", "dog"]).compute() == {}
    assert MultiLabelMetrics(["cat", "dog"]).compute() == {}


def test_several_labels_equal_torchmetrics() -> None:
    torch.manual_seed(0)
    probabilities, targets = torch.rand(50, 4), (torch.rand(50, 4) > 0.6).float()
    metrics = MultiLabelMetrics(NAMES[:4], threshold=0.4)
    metrics.update(probabilities[:30], targets[:30])
    metrics.update(probabilities[30:], targets[30:])
    values, labels = metrics.compute(), targets.long()
    assert float(values["map"]) == pytest.approx(float(multilabel_average_precision(probabilities, labels, 4)))
    assert float(values["f1"]) == pytest.approx(float(multilabel_f1_score(probabilities, labels, 4, 0.4)))
    assert float(values["exact_match"]) == pytest.approx(float(multilabel_exact_match(probabilities, labels, 4, 0.4)))
    assert float(values["accuracy"]) == pytest.approx(float(((probabilities >= 0.4) == targets.bool()).float().mean()))


@pytest.mark.filterwarnings("ignore:No positive samples")
def test_several_labels_by_hand() -> None:
    metrics = MultiLabelMetrics(["cat", "dog", "fox"])
    metrics.update(torch.tensor([[0.9, 0.2, 0.1], [0.6, 0.7, 0.1]]), torch.tensor([[1, 0, 0], [0, 1, 0]]))
    values = {name: float(value) for name, value in metrics.compute().items()}
    assert values["map"] == 1.0  # both rank their pictures right; fox never occurs
    assert values["exact_match"] == 0.5
    assert values["accuracy"] == pytest.approx(5 / 6)
    assert values["f1"] == pytest.approx((2 / 3 + 1) / 2)
    assert metrics.confusion is not None
    assert metrics.confusion.tolist() == [[[0, 1], [0, 1]], [[1, 0], [0, 1]], [[2, 0], [0, 0]]]


def test_a_class_counts_as_present_from_the_threshold_on() -> None:
    metrics = MultiLabelMetrics(["cat", "dog"], threshold=0.3)
    metrics.update(torch.tensor([[0.3, 0.2999]]), torch.tensor([[1, 0]]))
    assert metrics.compute()["accuracy"] == 1.0
