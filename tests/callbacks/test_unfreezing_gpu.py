"""What only a GPU can show: NCCL, SyncBatchNorm, the fp16 scaler, FSDP2 there. Run with `pytest -m gpu`."""

import copy
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import unfreezing_net as net
from pytorch_lightning.strategies import ModelParallelStrategy
from torch import nn
from torch.distributed.fsdp import fully_shard

from lit_vision.callbacks.unfreezing import ProgressiveUnfreezing

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


class Watch(pl.Callback):
    """Trainable parameters and the head's gradient norm at each step; norms in evaluation mode."""

    def __init__(self) -> None:
        self.trainable: list[int] = []
        self.norms: list[float] = []
        self.held: list[list[str]] = []

    def on_before_optimizer_step(self, trainer: pl.Trainer, pl_module: Any, optimizer: Any) -> None:
        self.trainable.append(sum(p.requires_grad for p in pl_module.parameters()))
        self.norms.append(float(net.whole(pl_module.head.weight.grad).norm()))
        norms = (nn.BatchNorm2d, nn.SyncBatchNorm)
        self.held.append([n for n, m in pl_module.named_modules() if isinstance(m, norms) and not m.training])


def train(tmp_path: Path, module: net.Staged, **options: Any) -> Watch:
    watch = Watch()
    trainer = pl.Trainer(
        max_epochs=4,
        accelerator="gpu",
        devices=1,
        callbacks=[ProgressiveUnfreezing(at=[1, 2, 3]), watch],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        default_root_dir=tmp_path,
        **options,
    )
    trainer.fit(module, net.loader(0))
    return watch


EXPECTED = [2] * 4 + [5] * 4 + [8] * 4 + [11] * 4


def test_scaler_of_fp16(tmp_path: Path) -> None:
    half = train(tmp_path, net.Staged(), precision="16-mixed")
    full = train(tmp_path, net.Staged(), precision="32-true")
    assert half.trainable == full.trainable == EXPECTED
    assert half.norms == pytest.approx(full.norms, rel=0.2)  # divided by the scale before they are measured


def test_synchronised_norms_of_closed_stages_stand_still(tmp_path: Path) -> None:
    module = net.Staged()
    before = copy.deepcopy(module.state_dict())
    watch = train(tmp_path, module, strategy="ddp", sync_batchnorm=True)
    assert watch.trainable == EXPECTED
    assert watch.held[0] == ["backbone.0.1", "backbone.1.1", "backbone.2.1"]
    assert watch.held[-1] == []
    assert not torch.equal(module.state_dict()["backbone.0.1.running_mean"].cpu(), before["backbone.0.1.running_mean"])


def test_fsdp2(tmp_path: Path) -> None:
    class Sharded(net.Staged):
        def configure_model(self) -> None:
            for stage in self.backbone:
                fully_shard(stage, mesh=self.device_mesh["data_parallel"])
            fully_shard(self, mesh=self.device_mesh["data_parallel"])

    strategy = ModelParallelStrategy(data_parallel_size=1, tensor_parallel_size=1)
    sharded, plain = Sharded(), net.Staged()
    assert train(tmp_path, sharded, strategy=strategy).trainable == EXPECTED
    train(tmp_path, plain)
    for name, parameter in plain.named_parameters():
        other = net.whole(sharded.get_parameter(name).detach())
        assert torch.allclose(other.cpu(), parameter.detach().cpu(), atol=1e-4), name


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_nccl_ranks_stay_equal(tmp_path: Path) -> None:
    module = net.Staged()
    watch = Watch()
    trainer = pl.Trainer(
        max_epochs=4,
        accelerator="gpu",
        devices=2,
        strategy="ddp_spawn",
        callbacks=[ProgressiveUnfreezing(at=[1, 2, 3]), watch],  # compares the ranks at each opening
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        default_root_dir=tmp_path,
    )
    trainer.fit(module, net.loader(0))
    assert trainer.state.finished
