"""Decoders that leave a part of their encoder unused train on two processes; run as a program, this is one of them."""

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from quiet import quiet_trainer
from torch.utils.data import DataLoader
from two_ranks import both

from lit_vision.callbacks.rank_check import RankCheck
from lit_vision.callbacks.unfreezing import ProgressiveUnfreezing
from lit_vision.tasks.segmentation import SemanticSegmenter

DECODERS: dict[str, dict[str, Any]] = {
    "pspnet": {"decoder": "pspnet", "encoder": "mobilenetv3_small_050"},
    "dpt": {"decoder": "dpt", "encoder": "test_vit", "decoder_args": {"decoder_fusion_channels": 16}},
    "depth": {
        "encoder": "mobilenetv3_small_050",
        "decoder_args": {"encoder_depth": 3, "decoder_channels": [8, 8, 4]},
    },
}


def train(name: str) -> dict[str, Any]:
    """Six steps, in which the stages open one after the other."""
    torch.manual_seed(0)
    task = SemanticSegmenter(["a", "b"], **DECODERS[name])
    images = torch.randint(0, 256, (12, 3, 64, 64), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    samples = [{"image": one, "mask": (one[0] > 127).long(), "index": i} for i, one in enumerate(images)]
    loader: DataLoader[Any] = DataLoader(samples, batch_size=2)  # type: ignore[arg-type]  # a list is enough
    callbacks = [RankCheck(), ProgressiveUnfreezing(at=[1, 2], unit="step", max_stages=2)]
    before = {key: value.clone() for key, value in task.named_parameters()}
    trainer = quiet_trainer(max_epochs=2, devices=2, strategy="ddp", callbacks=callbacks)
    trainer.fit(task, loader)
    still = [key for key, value in task.named_parameters() if torch.equal(value, before[key])]
    return {"steps": trainer.global_step, "still": still, "sum": sum(float(p.abs().sum()) for p in task.parameters())}


@pytest.mark.slow
def test_they_train_and_stay_alike(tmp_path: Path) -> None:
    first, second = both(__file__, "train", tmp_path)
    assert first == second
    for name in DECODERS:
        assert first[name]["steps"] == 6
        assert first[name]["still"] == []


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    print(json.dumps({name: train(name) for name in DECODERS}))
