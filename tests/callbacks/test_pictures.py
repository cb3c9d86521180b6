from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from quiet import quiet_trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lit_vision.callbacks.pictures import Pictures, _own_images, spread
from lit_vision.drawing import alone, draw_guess, draw_truth, ranked, to_network
from lit_vision.errors import UserError
from lit_vision.metrics.classification import ClassificationMetrics
from lit_vision.plotting import color_of


def batches(count: int = 12, size: int = 3) -> DataLoader[Any]:
    """Grey pictures with a label by turns; the last one only fills up a process's share."""
    items = [
        {
            "image": torch.full((3, 40, 40), 100, dtype=torch.uint8),
            "label": torch.tensor(i % 2),
            "index": torch.tensor(i if i < count - 1 else -1),
            "frame": torch.eye(3)[:2],
            "size": torch.tensor([40, 40]),
        }
        for i in range(count)
    ]
    return DataLoader(items, batch_size=size)  # type: ignore[arg-type]  # a list is a map-style dataset


def sorted_classes(count: int, classes: int) -> DataLoader[Any]:
    """Pictures whose grey tells their position, class after class as a reader of folders gives them."""
    items = [
        {
            "image": torch.full((3, 320, 320), i, dtype=torch.uint8),
            "label": torch.tensor(i * classes // count),
            "index": torch.tensor(i),
        }
        for i in range(count)
    ]
    return DataLoader(items, batch_size=7)  # type: ignore[arg-type]  # a list is a map-style dataset


class Task(pl.LightningModule):
    """The smallest thing that a callback takes for a task."""

    def __init__(self, class_names: Sequence[str] = ("even", "odd")) -> None:
        super().__init__()
        self.class_names = list(class_names)
        self.layer = nn.Linear(1, 2)
        self.metrics = nn.ModuleDict({stage: ClassificationMetrics(self.class_names) for stage in ("val", "test")})
        self.seen: list[bool] = []

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.seen.append((Path(self.trainer.default_root_dir) / "pictures" / "first_batch.jpg").exists())
        return self.layer(torch.ones(len(batch["image"]), 1)).sum()

    def validation_step(self, batch: Any, batch_idx: int) -> list[dict[str, Tensor]]:
        real = batch["index"] >= 0
        shares = torch.eye(len(self.class_names))[batch["index"][real] % 2]
        self.metrics["val"].update(shares, batch["label"][real])
        return [{"probabilities": row} for row in shares]

    def on_validation_epoch_end(self) -> None:
        self.metrics["val"].compute()
        self.metrics["val"].reset()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(
    folder: Path, callback: Pictures, task: Task | None = None, val: DataLoader[Any] | None = None, **options: Any
) -> Task:
    task = task or Task()
    settings = {"max_epochs": 1, "num_sanity_val_steps": 2, **options}
    trainer = quiet_trainer(default_root_dir=folder, callbacks=[callback], **settings)
    trainer.fit(task, batches(), val or batches())
    return task


def test_first_batch_is_drawn_before_the_first_step(tmp_path: Path) -> None:
    task = fit(tmp_path, Pictures(images=2))
    assert task.seen == [True] * 4
    picture = cv2.imread(str(tmp_path / "pictures" / "first_batch.jpg"))
    assert picture.shape == (320, 3 * 320 + 2 * 4, 3)  # three pictures of 40 pixels, enlarged


def test_truth_and_prediction_stand_side_by_side(tmp_path: Path) -> None:
    fit(tmp_path, Pictures(images=4))
    picture = cv2.imread(str(tmp_path / "pictures" / "val_epoch_000.jpg"))[:, :, ::-1]
    assert picture.shape == (2 * 320 + 4, 4 * 320 + 3 * 4, 3)  # four pairs
    truth, guess = picture[1, 1].astype(int), picture[1, 326].astype(int)
    assert np.abs(truth - truth.mean()).max() < 5  # grey ground: the truth
    assert guess[1] > guess[0] + 60  # green ground: right


def test_every_class_of_a_sorted_split_is_drawn_and_the_same_images_each_epoch(tmp_path: Path) -> None:
    """The first images alone would all be of the first class."""
    drawn: list[list[int]] = []

    class Recorder(Pictures):
        def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            if not trainer.sanity_checking:
                drawn.append([int(picture[-1, -1, 0]) for picture in self._drawn[::2]])
            super().on_validation_end(trainer, pl_module)

    fit(tmp_path, Recorder(images=8), Task("abcd"), sorted_classes(50, 4), max_epochs=2)
    assert drawn[0] == drawn[1] == sorted(spread(50, 8))
    assert [position * 4 // 50 for position in drawn[0]] == [0, 0, 1, 1, 2, 2, 3, 3]


def test_pictures_are_spread_over_the_batches_that_are_evaluated(tmp_path: Path) -> None:
    fit(tmp_path, Pictures(images=3), Task("abcd"), sorted_classes(50, 4), limit_val_batches=2)
    picture = cv2.imread(str(tmp_path / "pictures" / "val_epoch_000.jpg"))
    cells = [picture[row * 324 + 300, column * 324 + 300, 0] for row, column in ((0, 0), (0, 2), (1, 0))]
    assert [abs(int(cell) - place) <= 2 for cell, place in zip(cells, sorted(spread(14, 3)), strict=True)] == [True] * 3


@pytest.mark.parametrize("count", [1, 7, 8, 9, 100, 1000])
def test_spread_takes_one_of_each_stretch(count: int) -> None:
    places = sorted(spread(count, 8))
    assert len(places) == min(count, 8)
    assert all(0 <= place < count for place in places)
    edges = [k * count // 8 for k in range(9)]
    assert [sum(low <= place < high for place in places) for low, high in pairwise(edges)] == [
        int(high > low) for low, high in pairwise(edges)
    ]


def test_spread_meets_classes_that_take_turns() -> None:
    """Equal steps would not: 8 of 24 images that are cat, dog, cat, dog ... at steps of 3 starting at 1."""
    for period in (2, 3, 4):
        assert {place % period for place in spread(24, 8)} == set(range(period))


def test_share_of_a_process_and_loaders_of_ones_own() -> None:
    def trainer(loader: object, batches: float, world_size: int) -> Any:
        return SimpleNamespace(
            state=SimpleNamespace(fn="validate"),
            val_dataloaders=loader,
            num_val_batches=[batches],
            world_size=world_size,
        )

    data = batches(11, 4)
    assert _own_images(trainer(data, 3, 1), 8) == 11
    assert _own_images(trainer([data], 2, 2), 8) == 6  # rank 0 has the positions 0, 2, ..., 10
    assert _own_images(trainer(data, 1, 2), 8) == 4
    assert _own_images(trainer(SimpleNamespace(dataset=iter([]), batch_size=4), float("inf"), 1), 8) == 8


def test_padding_and_sanity_check_are_not_drawn(tmp_path: Path) -> None:
    callback = Pictures(images=50)
    fit(tmp_path, callback)
    picture = cv2.imread(str(tmp_path / "pictures" / "val_epoch_000.jpg"))
    assert picture.shape[0] == 6 * 324 - 4  # eleven pairs, two in a row; the twelfth is padding


def test_confusion_matrix_is_drawn_after_the_metrics(tmp_path: Path) -> None:
    task = fit(tmp_path, Pictures())
    assert task.metrics["val"].confusion.tolist() == [[6, 0], [0, 5]]
    assert (tmp_path / "pictures" / "confusion_val.png").exists()


@pytest.mark.parametrize(
    ("every", "epochs", "expected"),
    [(2, 4, ["000", "002", "003"]), (None, 3, ["000", "001", "002"]), (10, 3, ["000", "002"])],
)
def test_epochs_that_are_drawn(tmp_path: Path, every: int | None, epochs: int, expected: list[str]) -> None:
    fit(tmp_path, Pictures(images=1, every_n_epochs=every), max_epochs=epochs)
    found = sorted(path.stem for path in (tmp_path / "pictures").glob("val_epoch_*"))
    assert found == [f"val_epoch_{epoch}" for epoch in expected]


def test_a_fast_development_run_writes_nothing(tmp_path: Path) -> None:
    fit(tmp_path, Pictures(), fast_dev_run=True)
    assert list(tmp_path.iterdir()) == []


def test_wrong_numbers_are_refused() -> None:
    with pytest.raises(UserError, match="images and every_n_epochs from 1"):
        Pictures(images=0)


def test_boxes_of_the_original_are_drawn_in_the_networks_pixels() -> None:
    frame = np.array([[2.0, 0, 10], [0, 3, 20]], np.float32)
    moved = to_network(np.array([[5, 5, 20, 30]], np.float32), frame)
    np.testing.assert_array_equal(moved, [[20, 35, 50, 110]])
    batch = {"image": torch.zeros(1, 3, 400, 400, dtype=torch.uint8), "frame": torch.from_numpy(frame)[None]}
    prediction = {"boxes": torch.tensor([[5.0, 5, 20, 30]]), "labels": torch.tensor([1]), "scores": torch.tensor([0.9])}
    drawn = draw_guess(batch, 0, prediction, ["a", "b"])
    assert tuple(drawn[109, 35]) == color_of(1)


def test_what_is_predicted_of_the_padding_is_not_drawn() -> None:
    frame = torch.tensor([[[1.0, 0, 0], [0, 1, 20]]])
    batch = {
        "image": torch.zeros(1, 3, 400, 400, dtype=torch.uint8),
        "frame": frame,
        "size": torch.tensor([[300, 400]]),
    }
    drawn = draw_guess(batch, 0, {"mask": torch.ones(400, 400, dtype=torch.int64)}, ["a", "b"])
    assert (drawn[20:320, 350] == np.round(0.5 * np.array(color_of(1)))).all()
    assert not drawn[320:].any()
    assert not drawn[:20, 350].any()


def test_what_pads_a_picture_to_the_largest_of_its_batch_is_cut_off() -> None:
    batch = {
        "image": torch.zeros(2, 3, 64, 96, dtype=torch.uint8),
        "mask": torch.zeros(2, 64, 96, dtype=torch.int64),
        "boxes": [torch.zeros(0, 4), torch.tensor([[1.0, 2, 3, 4]])],
        "frame": torch.eye(3)[:2].expand(2, -1, -1),
        "size": torch.tensor([[64, 96], [33, 50]]),
    }
    one, guess = alone(batch, 1, {"mask": torch.zeros(64, 96), "scores": torch.zeros(7)})
    assert [tuple(each.shape) for each in (one["image"], one["mask"], guess["mask"], guess["scores"])] == [
        *((1, 3, 33, 50), (1, 33, 50)),
        *((33, 50), (7,)),
    ]
    assert one["boxes"][0].tolist() == [[1, 2, 3, 4]]
    assert alone(batch, 0, {})[0]["image"].shape[2:] == (64, 96)


def test_each_kind_of_batch_is_drawn_by_its_keys() -> None:
    image = torch.zeros(1, 1, 400, 400, dtype=torch.uint8)
    square = torch.zeros(1, 400, 400, dtype=torch.int64)
    square[:, 100:200, 100:200] = 1
    names = ["background", "thing"]
    mask = draw_truth({"image": image, "mask": square}, 0, names)
    assert tuple(mask[150, 150]) == tuple(np.round(0.5 * np.array(color_of(1))).astype(int))
    objects = {"image": image, "mask": square, "instances": square.int(), "labels": [torch.tensor([0])]}
    assert (draw_truth(objects, 0, ["thing"])[150, 199] == 255).all()
    boxes = {"image": image, "boxes": [torch.tensor([[100.0, 100, 200, 200]])], "labels": [torch.tensor([1])]}
    assert tuple(draw_truth(boxes, 0, names)[199, 150]) == color_of(1)
    several = draw_truth({"image": image, "label": torch.tensor([[1.0, 1.0]])}, 0, names)
    one = draw_truth({"image": image, "label": torch.tensor([[0.0, 1.0]])}, 0, names)
    assert (several > 0).any(2).sum() > (one > 0).any(2).sum() > 0


def test_ranking_leaves_out_what_is_improbable() -> None:
    assert ranked(np.array([0.01, 0.7, 0.29], np.float32), "abc") == [
        ("b", pytest.approx(0.7)),
        ("c", pytest.approx(0.29)),
    ]


def test_drawings_of_large_pictures_are_kept_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lit_vision.plotting.KEPT", 400)
    pictures, task = Pictures(images=1), Task()
    testing: Any = SimpleNamespace(fn="test")
    loader = SimpleNamespace(dataset=[0], batch_size=1)
    trainer: Any = SimpleNamespace(is_global_zero=True, fast_dev_run=False, state=testing, world_size=1)
    trainer.test_dataloaders, trainer.num_test_batches = loader, [1]
    batch = {
        "image": torch.full((1, 3, 300, 1000), 100, dtype=torch.uint8),
        "mask": torch.zeros(1, 300, 1000, dtype=torch.long),
        "index": torch.tensor([0]),
        "frame": torch.eye(3)[None, :2],
        "size": torch.tensor([[300, 1000]]),
    }
    pictures._add(trainer, task, [{"mask": torch.zeros(300, 1000, dtype=torch.long)}], batch)
    assert [drawn.shape for drawn in pictures._drawn] == [(100, 333, 3)] * 2
