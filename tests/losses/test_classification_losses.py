import math

import pytest
import torch
import torch.nn.functional as F

from lit_vision.losses.classification import smooth_binary_cross_entropy, soft_cross_entropy


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weighted", [False, True])
def test_one_hot_targets_give_torchs_own_loss(smoothing: float, weighted: bool) -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(9, 4), torch.randint(0, 4, (9,))
    weight = torch.tensor([0.5, 1.0, 2.0, 7.0]) if weighted else None
    expected = F.cross_entropy(logits, labels, weight, label_smoothing=smoothing)
    assert torch.allclose(soft_cross_entropy(logits, F.one_hot(labels, 4).float(), weight, smoothing), expected)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_a_batch_of_classes_of_weight_0_costs_nothing(smoothing: float) -> None:
    logits = torch.tensor([[1.0, -2.0, 3.0]], requires_grad=True)
    loss = soft_cross_entropy(logits, torch.tensor([[1.0, 0.0, 0.0]]), torch.tensor([0.0, 1.0, 2.0]), smoothing)
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None
    assert logits.grad.tolist() == [[0.0, 0.0, 0.0]]


def test_mixed_targets_weigh_as_their_parts() -> None:
    logits, weight = torch.zeros(1, 2), torch.tensor([1.0, 3.0])
    mixed = soft_cross_entropy(logits, torch.tensor([[0.5, 0.5]]), weight)
    assert mixed.item() == pytest.approx(math.log(2))  # torch's own would give 2 log 2
    logits = torch.tensor([[math.log(3.0), 0.0]])  # probabilities 3/4 and 1/4
    expected = (0.5 * 1 * math.log(4 / 3) + 0.5 * 3 * math.log(4)) / (0.5 * 1 + 0.5 * 3)
    assert soft_cross_entropy(logits, torch.tensor([[0.5, 0.5]]), weight).item() == pytest.approx(expected)


def test_binary_loss_by_hand() -> None:
    logits = torch.tensor([[0.0, math.log(3.0)]])
    expected = (math.log(2) * 5 + math.log(4)) / 2  # present with factor 5; absent at probability 3/4
    found = smooth_binary_cross_entropy(logits, torch.tensor([[1.0, 0.0]]), torch.tensor([5.0, 9.0]))
    assert found.item() == pytest.approx(expected)


def test_smoothing_moves_yes_and_no_towards_a_half() -> None:
    logits = torch.tensor([[2.0, -1.0]])
    expected = F.binary_cross_entropy_with_logits(logits, torch.tensor([[0.9, 0.1]]))
    assert torch.allclose(smooth_binary_cross_entropy(logits, torch.tensor([[1.0, 0.0]]), None, 0.2), expected)
