"""Which pictures are looked at, and what of them."""

from pathlib import Path

import numpy as np
import pytest
import torch

from lit_vision.data.index import Index, Packed
from lit_vision.transfer.sample import BACKGROUNDS, chosen, regions


def index_of(labels: list[list[int]], splits: list[int] | None = None) -> Index:
    """An index of pictures with these labels."""
    return Index(
        root=Path("."),
        format="test",
        class_names=("a", "b", "c"),
        files=Packed.pack([f"{i}.png" for i in range(len(labels))]),
        sizes=np.zeros((len(labels), 2), np.int32),
        splits=np.array(splits or [0] * len(labels), np.int8),
        offsets=np.cumsum([0, *map(len, labels)]),
        labels=np.array([label for own in labels for label in own], np.int32),
    )


def test_rare_classes_come_first() -> None:
    index = index_of([[0]] * 50 + [[1]] * 3 + [[2]] * 7)
    found = chosen(index, 12, seed=0)
    labels = [int(index.labels[i]) for i in found]
    assert [labels.count(k) for k in range(3)] == [5, 3, 4]
    assert len(set(found.tolist())) == 12
    assert np.array_equal(found, chosen(index, 12, seed=0))
    assert not np.array_equal(found, chosen(index, 12, seed=1))


def test_only_training_pictures_are_looked_at() -> None:
    index = index_of([[0], [1], [2], [0]], splits=[0, 1, 2, 0])
    assert chosen(index, 10, seed=0).tolist() == [0, 3]


def test_pictures_without_objects_are_a_class_of_their_own() -> None:
    index = index_of([[0, 1]] * 10 + [[]] * 10)
    found = chosen(index, 9, seed=0)
    assert 3 <= sum(i >= 10 for i in found.tolist()) <= 5


def test_a_mask_gives_pixels_of_each_of_its_classes() -> None:
    mask = torch.full((1, 8, 8), 255)
    mask[0, :4, :4], mask[0, 4:, 4:] = 0, 2
    found = regions({"mask": mask}, 3, np.random.default_rng(0))
    labels = found.targets.argmax(1)
    assert labels.bincount(minlength=3).tolist() == [4, 0, 4]
    assert found.where is not None
    for (x, y), label in zip(found.where.tolist(), labels.tolist(), strict=True):
        assert mask[0, int(y), int(x)] == label


def test_boxes_get_background_beside_them_that_covers_none() -> None:
    boxes = torch.tensor([[10.0, 10.0, 30.0, 30.0], [50.0, 50.0, 60.0, 80.0], [0.0, 0.0, 9.0, 9.0]])
    batch = {
        "image": torch.zeros(1, 3, 100, 100),
        "boxes": [boxes],
        "labels": [torch.tensor([0, 1, 1])],
        "crowd": [torch.tensor([False, False, True])],
    }
    found = regions(batch, 2, np.random.default_rng(0))
    assert found.where is not None
    labels = found.targets.argmax(1).tolist()
    assert sorted(labels) == [0, 1] + [2] * BACKGROUNDS  # the crowd is no object
    for box, label in zip(found.where, labels, strict=True):
        overlap = (torch.minimum(box[2:], boxes[:, 2:]) - torch.maximum(box[:2], boxes[:, :2])).clamp(0).prod(1)
        assert bool((overlap == 0).all()) == (label == 2)


@pytest.mark.parametrize(("labels", "kept"), [([[1, 0], [0, 0], [1, 1]], [0, 2]), ([[0, 0], [0, 1], [0, 0]], [1])])
def test_pictures_without_any_label_say_nothing(labels: list[list[float]], kept: list[int]) -> None:
    found = regions({"label": torch.tensor(labels).float()}, 2, np.random.default_rng(0))
    assert found.image.tolist() == kept
    assert found.targets.tolist() == [labels[k] for k in kept]
