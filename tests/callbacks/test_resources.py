import json
from pathlib import Path

import pytest
from quiet import quiet_trainer
from stand_in import Toy, ToyData

from lit_vision.callbacks.resources import Resources, peak_memory_gib


def test_a_run_writes_what_it_cost(tmp_path: Path) -> None:
    data = ToyData(str(tmp_path))
    settings = {"max_epochs": 2, "use_distributed_sampler": False}
    trainer = quiet_trainer(default_root_dir=tmp_path, callbacks=[Resources()], **settings)
    trainer.fit(Toy(class_names=data.class_names), data)
    facts = json.loads((tmp_path / "resources.json").read_text())
    assert facts["epochs"] == 2
    assert facts["optimizer_steps"] == trainer.global_step > 0
    assert facts["seconds"] > 0
    assert 0.1 < facts["peak_memory_gib"] <= peak_memory_gib() + 0.01
    assert facts["precision"] == "32-true"


@pytest.mark.parametrize(
    ("more", "epochs", "said"),
    [(0, 0, "nothing was left to train: 2 epochs were done before"), (1, 1, "trained 1 epochs in ")],
)
def test_epochs_of_a_checkpoint_are_not_this_run_s(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, more: int, epochs: int, said: str
) -> None:
    data = ToyData(str(tmp_path))
    first = quiet_trainer(max_epochs=2, use_distributed_sampler=False)
    first.fit(Toy(class_names=data.class_names), data)
    first.save_checkpoint(tmp_path / "two.ckpt")
    settings = {"max_epochs": 2 + more, "use_distributed_sampler": False}
    again = quiet_trainer(default_root_dir=tmp_path, callbacks=[Resources()], **settings)
    with caplog.at_level("INFO"):
        again.fit(Toy(class_names=data.class_names), data, ckpt_path=tmp_path / "two.ckpt")
    assert json.loads((tmp_path / "resources.json").read_text())["epochs"] == epochs
    assert said in caplog.text
    assert "trained 3" not in caplog.text
