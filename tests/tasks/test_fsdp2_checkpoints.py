"""What two processes under FSDP2, which divide the weights, make of a checkpoint of one, and of their own."""

import json
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.strategies import ModelParallelStrategy
from quiet import quiet_trainer
from two_ranks import both

from lit_vision.callbacks.checkpointing import RunCheckpoints
from lit_vision.data.segmentation import SegmentationDataModule
from lit_vision.errors import UserError
from lit_vision.tasks.segmentation import SemanticSegmenter

SIZES = {
    "same": [(64, 64)] * 4,
    "mixed": [(40, 70), (70, 40), (40, 70), (100, 33)],  # they take turns: process 0 has a single size, process 1 two
}


def data_module(root: Path) -> SegmentationDataModule:
    options = {"classes": ["ground", "thing"]}
    return SegmentationDataModule(
        str(root), options=options, fit="native", image_size=64, batch_size=2, num_workers=0, augmentation="none"
    )


def draw(root: Path, sizes: list[tuple[int, int]]) -> None:
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for folder in ("images", "masks"):
            (root / folder / split).mkdir(parents=True)
        for k, (height, width) in enumerate(sizes):
            cv2.imwrite(str(root / f"images/{split}/{k}.png"), rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
            cv2.imwrite(str(root / f"masks/{split}/{k}.png"), rng.integers(0, 2, (height, width), dtype=np.uint8))


def segmenter() -> SemanticSegmenter:
    return SemanticSegmenter(
        ["ground", "thing"], encoder="test_resnet", decoder_args={"decoder_channels": [8] * 5}, boundary_metrics="never"
    )


def saved(folder: Path) -> Path:
    """A checkpoint after a training with channels_last, whose weights are in another order."""
    for name, sizes in SIZES.items():
        draw(folder / name, sizes)
    pl.seed_everything(0, verbose=False)
    trainer = quiet_trainer(max_epochs=1, limit_val_batches=0)
    task = segmenter()
    trainer.fit(task, data_module(folder / "same"))
    assert not all(one.is_contiguous() for one in task.parameters())
    trainer.save_checkpoint(folder / "one.ckpt")
    return folder / "one.ckpt"


def losses(folder: Path, divided: bool = False) -> dict[str, float]:
    found = {}
    for name in SIZES:
        strategy = ModelParallelStrategy(data_parallel_size=2, tensor_parallel_size=1) if divided else "auto"
        devices = 2 if divided else 1
        trainer = quiet_trainer(use_distributed_sampler=False, devices=devices, strategy=strategy)
        (values,) = trainer.validate(segmenter(), data_module(folder / name), folder / "one.ckpt", verbose=False)
        found[name] = values["val/loss"]
    return found


def test_weights_of_a_checkpoint_are_in_row_major_order(tmp_path: Path) -> None:
    state = torch.load(saved(tmp_path), weights_only=True)["state_dict"]
    assert all(tensor.is_contiguous() for tensor in state.values())


@pytest.mark.slow
def test_two_processes_see_what_one_sees(tmp_path: Path) -> None:
    saved(tmp_path)
    alone = losses(tmp_path)["same"]
    for found in both(__file__, "validate", tmp_path):
        assert found["same"] == pytest.approx(alone, rel=1e-5)
        assert 0.5 < found["mixed"] < 3  # it comes to its end: both processes run the network as often
    assert abs(first_loss(tmp_path) - alone) > 1e-3  # negative control: other weights are seen


def first_loss(folder: Path) -> float:
    """That of weights that were drawn, and never trained."""
    pl.seed_everything(0, verbose=False)
    (values,) = quiet_trainer().validate(segmenter(), data_module(folder / "same"), verbose=False)
    return float(values["val/loss"])


class Checks(pl.Callback):
    """What RunCheckpoints does before a training, alone."""

    on_fit_start = RunCheckpoints.on_fit_start


def go_on(folder: Path) -> str:
    """Trains two epochs under FSDP2, from a checkpoint of an undivided one of one epoch, or from its own."""
    said = []
    for name, epochs in (("one.ckpt", 2), (None, 1), ("two.ckpt", 2)):
        strategy = ModelParallelStrategy(2, 1, save_distributed_checkpoint=False)
        sharing: dict[str, Any] = {"use_distributed_sampler": False, "devices": 2, "strategy": strategy}
        trainer = quiet_trainer(max_epochs=epochs, limit_val_batches=0, callbacks=[Checks()], **sharing)
        try:
            trainer.fit(segmenter(), data_module(folder / "same"), ckpt_path=name and folder / name)
        except UserError as error:
            said.append(str(error))
            continue
        said.append(f"step {trainer.global_step}")
        trainer.save_checkpoint(folder / "two.ckpt")
    return "; ".join(said)


@pytest.mark.slow
def test_a_training_goes_on_from_a_checkpoint_of_its_own_kind(tmp_path: Path) -> None:
    saved(tmp_path)
    for said in both(__file__, "fit", tmp_path):
        assert said.startswith(f"{tmp_path / 'one.ckpt'} was written by a training that did not divide its network")
        assert said.endswith("; step 1; step 2")


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo")
    found = go_on(Path(sys.argv[2])) if sys.argv[1] == "fit" else losses(Path(sys.argv[2]), divided=True)
    print(json.dumps(found))
    torch.distributed.destroy_process_group()
