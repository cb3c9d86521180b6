"""Run as a program with the name of a part and a folder, this is one of two processes."""

import json
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, distributed, nn
from two_ranks import both

from lit_vision.callbacks.rank_check import BLOCK, CARRY, RankCheck, _factors, bits_hash
from lit_vision.errors import UserError


def flip(tensor: Tensor, at: int, bit: int) -> None:
    whole = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.element_size()]
    bits = tensor.detach().view(-1).view(whole)
    mask = torch.tensor(1, dtype=whole) << bit
    bits[at] = bits[at] ^ mask


# --- the hash ---------------------------------------------------------------------------------------------------
def test_the_hash_is_the_sum_computed_by_hand() -> None:
    numbers = torch.tensor([7, -3, 2**31 - 1], dtype=torch.int32)
    factors = _factors(torch.device("cpu"))[:3].tolist()
    by_hand = 3 * CARRY + sum(n * f for n, f in zip(numbers.tolist(), factors, strict=True))
    assert int(bits_hash(numbers)) % 2**64 == by_hand % 2**64
    assert all(factor % 2 for factor in factors)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.complex64])
def test_any_bit_of_any_number_changes_it(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    tensor = torch.randn(3, 5).to(dtype)
    before = int(bits_hash(tensor))
    plain = torch.view_as_real(tensor) if tensor.is_complex() else tensor
    seen = {before}
    for at in range(plain.numel()):
        for bit in range(8 * plain.element_size()):
            flip(plain, at, bit)
            seen.add(int(bits_hash(tensor)))
            flip(plain, at, bit)
    assert int(bits_hash(tensor)) == before
    assert len(seen) == 1 + plain.numel() * 8 * plain.element_size(), "no two of them agree either"


def test_the_order_of_the_numbers_matters_within_a_block_and_over_blocks() -> None:
    torch.manual_seed(0)
    long = torch.randn(3 * BLOCK + 5)
    hashes = {int(bits_hash(long))}
    for one, other in ((0, 1), (5, BLOCK + 5), (BLOCK, 3 * BLOCK + 4)):
        swapped = long.clone()
        swapped[[one, other]] = long[[other, one]]
        hashes.add(int(bits_hash(swapped)))
    hashes.add(int(bits_hash(torch.cat([long[BLOCK:], long[:BLOCK]]))))
    assert len(hashes) == 5
    assert int(bits_hash(torch.zeros(4))) != int(bits_hash(torch.zeros(5)))


def test_two_signs_turned_at_once_do_not_cancel() -> None:
    ones = torch.ones(100, dtype=torch.float64)
    hashes = {int(bits_hash(ones))}
    for one, other in pairwise(range(100)):
        turned = ones.clone()
        turned[[one, other]] = -1
        hashes.add(int(bits_hash(turned)))
    assert len(hashes) == 100


def test_channels_last_weights_are_hashed_in_place() -> None:
    torch.manual_seed(0)
    weights = torch.randn(8, 6, 3, 3).to(memory_format=torch.channels_last)
    assert int(bits_hash(weights)) == int(bits_hash(weights.permute(0, 2, 3, 1).contiguous()))
    assert int(bits_hash(weights)) == int(bits_hash(weights.clone()))
    gaps = torch.randn(8, 6)[:, ::2]
    assert int(bits_hash(gaps)) == int(bits_hash(gaps.contiguous()))


# --- over two processes -----------------------------------------------------------------------------------------
def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2))


def in_both(parameters: Any) -> None:
    parameters[0].weight.data[0, 0, 0, 0] += 1
    parameters[2].weight.requires_grad_(False)


def swapped(net: Any) -> None:
    net[2].weight.data = net[2].weight.data.flip(0)


def sharded(net: Any) -> None:
    from torch.distributed.fsdp import fully_shard

    fully_shard(net)


def sharded_and_one_closed(net: Any) -> None:
    sharded(net)
    if distributed.get_rank() == 1:
        net[2].weight.requires_grad_(False)


# What happens to the network of rank 1 (of both, in the last ones) -> the beginning of the message, None = silence.
CASES: dict[str, tuple[Callable[[Any], object], str | None]] = {
    "equal": (lambda net: None, None),
    "one bit": (
        lambda net: flip(net[1].bias, 3, 0),
        "the processes have drifted apart: 1.bias has other values on rank 1 than on rank 0. Either",
    ),
    "swapped": (swapped, "the processes have drifted apart: 2.weight has other values on rank 1"),
    "frozen": (
        lambda net: net[0].weight.requires_grad_(False),
        "the processes have drifted apart: 0.weight trains on rank 0 but not on rank 1. Either",
    ),
    "two of them": (
        in_both,
        "the processes have drifted apart: 0.weight has other values on rank 1 than on rank 0 (2 of 6 parameters",
    ),
    "statistics": (lambda net: net[1].running_mean.add_(1), None),
    "one more": (
        lambda net: net.append(nn.Linear(1, 1)),
        "the processes have different networks, of [6, 8] parameters",
    ),
    "channels_last": (lambda net: net.to(memory_format=torch.channels_last), None),
    "sharded": (sharded, None),
    "sharded, one closed": (
        sharded_and_one_closed,
        "the processes have drifted apart: 2.weight trains on rank 0 but not on rank 1. Either",
    ),
}
ON_BOTH = ("channels_last", "sharded", "sharded, one closed")


def compare_all(rank: int) -> dict[str, str | None]:
    trainer: Any = SimpleNamespace(world_size=2, strategy=SimpleNamespace(root_device=torch.device("cpu")))
    said: dict[str, str | None] = {}
    for name, (change, _) in CASES.items():
        net = network()
        if rank == 1 or name in ON_BOTH:
            change(net)
        try:
            RankCheck.compare(trainer, net)
            said[name] = None
        except UserError as error:
            said[name] = str(error)
    return said


class Thawed(pl.LightningModule):
    """Its first layer is opened after DDP has wrapped it, so that its gradients stay each process's own."""

    def __init__(self, opens: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
        self.net[0].requires_grad_(False)
        self.opens = opens

    def on_train_start(self) -> None:
        self.net[0].requires_grad_(self.opens)

    def training_step(self, batch: Tensor, i: int) -> Tensor:
        loss: Tensor = self.net(batch + self.global_rank).square().sum()
        return loss

    def validation_step(self, batch: Tensor, i: int) -> None: ...

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01)


def train(folder: Path, opens: bool, checks: bool = True) -> str | None:
    data = torch.utils.data.DataLoader(torch.randn(8, 2), batch_size=2)
    trainer = pl.Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        devices=2,
        strategy="ddp",
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[RankCheck(checks)],
    )
    module = Thawed(opens)
    try:
        trainer.fit(module, data, data)
    except UserError as error:
        return str(error)
    weights = [torch.empty(2, 2) for _ in range(2)]
    distributed.all_gather(weights, module.net[0].weight.data)
    return f"equal: {torch.equal(*weights)}"


def test_two_processes_name_the_first_difference(tmp_path: Path) -> None:
    first, second = both(__file__, "compare", tmp_path)
    assert first == second, "all processes stop, with the same words"
    for name, (_, expected) in CASES.items():
        assert (first[name] is None) == (expected is None), (name, first[name])
        assert (first[name] or "").startswith(expected or ""), name


@pytest.mark.slow
def test_a_layer_opened_behind_the_back_of_ddp_stops_the_run(tmp_path: Path) -> None:
    first, second = both(__file__, "train", tmp_path)
    assert first == second
    assert first[0].startswith("the processes have drifted apart: net.0.weight has other values on rank 1")
    assert first[0].endswith("or parameters that train get no gradient, which DDP waits for: freeze them.")
    assert first[1] == "equal: False", "without the check nobody says a word"
    assert first[2] == "equal: True"


# --- on one process ---------------------------------------------------------------------------------------------
def test_it_compares_at_the_start_at_each_validation_and_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[int] = []
    monkeypatch.setattr(RankCheck, "compare", staticmethod(lambda trainer, module: steps.append(trainer.global_step)))
    data = torch.utils.data.DataLoader(torch.randn(8, 2), batch_size=2)

    def fit(check: RankCheck, **args: Any) -> list[int]:
        steps.clear()
        shown = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
        quiet: dict[str, Any] = {**shown, "enable_model_summary": False, "accelerator": "cpu"}
        trainer = pl.Trainer(default_root_dir=tmp_path, max_epochs=2, callbacks=[check], **quiet, **args)
        trainer.fit(Thawed(opens=True), data, data)
        trainer.validate(Thawed(opens=True), data, verbose=False)
        return list(steps)

    assert fit(RankCheck()) == [0, 4, 8, 8], "neither at the sanity check nor in validate"
    assert fit(RankCheck(), val_check_interval=2) == [0, 2, 4, 6, 8, 8]
    assert fit(RankCheck(enabled=False)) == []


def test_one_process_has_nothing_to_compare() -> None:
    alone: Any = SimpleNamespace(world_size=1)
    RankCheck.compare(alone, network())


def test_local_sgd_differs_by_design(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[int] = []
    monkeypatch.setattr(RankCheck, "compare", staticmethod(lambda trainer, module: called.append(1)))
    module = Thawed(opens=True)
    for period, times in ((4, 0), (None, 1)):
        called.clear()
        averaging: Any = SimpleNamespace(strategy=SimpleNamespace(_model_averaging_period=period))
        RankCheck().on_train_end(averaging, module)
        assert len(called) == times


def as_a_process(part: str, folder: Path) -> None:
    if part == "compare":
        distributed.init_process_group("gloo")
        said: Any = compare_all(distributed.get_rank())
    else:
        said = [train(folder, True), train(folder, True, checks=False), train(folder, False)]
    print("\n" + json.dumps(said))
    distributed.destroy_process_group()


if __name__ == "__main__":
    as_a_process(sys.argv[1], Path(sys.argv[2]))
