import json
from pathlib import Path

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
