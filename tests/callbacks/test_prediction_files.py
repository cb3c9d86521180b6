import csv
from pathlib import Path
from typing import Any

import pytest
import torch
from quiet import quiet_trainer

from lit_vision.callbacks import results
from lit_vision.callbacks.results import PredictionFiles
from lit_vision.data.classification import ClassificationDataModule
from lit_vision.data.shapes import draw_shapes
from lit_vision.tasks.classification import TransferClassifier


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_shapes(tmp_path_factory.mktemp("drawn") / "set", train=4, val=4, test=7, size=64)


def test_test_split_is_written_in_its_order(data: Path, tmp_path: Path) -> None:
    module = ClassificationDataModule(str(data / "classification"), image_size=64, batch_size=3, num_workers=0)
    torch.manual_seed(0)
    task = TransferClassifier(module.class_names, backbone="lcnet_050")
    trainer = quiet_trainer(default_root_dir=tmp_path, callbacks=[PredictionFiles()])
    trainer.predict(task, datamodule=module, return_predictions=False)
    with (tmp_path / "predict" / "predictions.csv").open(newline="") as file:
        rows = list(csv.reader(file))[1:]
    index = module.index
    assert [row[0] for row in rows] == [str(index.path(i)) for i in index.indices("test").tolist()]
    for row in rows:
        stem = Path(row[0]).relative_to(index.root).with_suffix(".jpg")
        assert (tmp_path / "predict" / "pictures" / stem).is_file()


def test_batches_of_all_processes_come_in_the_order_of_the_data_set(monkeypatch: pytest.MonkeyPatch) -> None:
    other = [(1, {"x": torch.tensor(1)}), (-1, {"x": torch.tensor(9)})]

    def gather(own: Any, gathered: list[Any] | None) -> None:
        assert gathered is not None
        gathered[:] = [own, other]

    monkeypatch.setattr(results.distributed, "gather_object", gather)

    class Trainer:
        world_size, is_global_zero = 2, True

    pairs = results._from_all(Trainer(), [0, 2], [{"x": torch.tensor(0)}, {"x": torch.tensor(2)}])
    assert [(i, int(value["x"])) for i, value in pairs if i >= 0] == [(0, 0), (1, 1), (2, 2)]
