"""ProgressiveUnfreezing on one process: what trains, what stands still, what is refused, what a restart finds."""

import copy
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import unfreezing_net as net
from pytorch_lightning.callbacks import BackboneFinetuning, EMAWeightAveraging, ModelCheckpoint
from pytorch_lightning.plugins import MixedPrecision
from torch.amp import GradScaler
from torch.optim import lr_scheduler
from unfreezing_net import Watch, train

from lit_vision.callbacks.unfreezing import ProgressiveUnfreezing
from lit_vision.callbacks.unfreezing_checks import allow_graphs
from lit_vision.callbacks.unfreezing_schedule import Gain, Plateau
from lit_vision.errors import UserError


def test_equals_the_training_by_hand_bit_for_bit(tmp_path: Path) -> None:
    module, watch, _ = train(tmp_path, ProgressiveUnfreezing(at=[1, 2, 3]))
    expected = net.trained_by_hand(net.Staged(), lambda epoch, step: min(epoch, 3), 4, 0)
    assert net.fingerprint(module) == net.fingerprint(expected)
    other = net.trained_by_hand(net.Staged(), lambda epoch, step: min(epoch + 1, 3), 4, 0)
    assert net.fingerprint(module) != net.fingerprint(other)
    assert watch.trainable == watch.with_gradient == [2] * 4 + [5] * 4 + [8] * 4 + [11] * 4


@pytest.mark.parametrize(("scale", "skipped"), [(2.0**16, 0), (2.0**20, 3)])
def test_scaler_of_fp16(tmp_path: Path, scale: float, skipped: int) -> None:
    scaler, other = GradScaler("cpu", scale), GradScaler("cpu", scale)
    plugin = MixedPrecision("16-mixed", "cpu", scaler)
    module, watch, _ = train(tmp_path, ProgressiveUnfreezing(at=[1, 2, 3]), plugins=[plugin])
    opened = net.trained_by_hand(net.Staged(), lambda e, s: min(e, 3), 4, 0, half=torch.float16, scaler=other)
    assert net.fingerprint(module) == net.fingerprint(opened)
    assert scaler.get_scale() == scale / 2**skipped
    assert watch.trainable == [2] * 4 + [5] * 4 + [8] * 4 + [11] * 4


def test_fp16_without_a_scaler_is_bf16_on_a_cpu(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="fp16 is not supported on CPU. Using `precision='bf16-mixed'` instead"):
        module, _, _ = train(tmp_path, ProgressiveUnfreezing(at=[1, 2, 3]), precision="16-mixed")
    by_hand = net.trained_by_hand(net.Staged(), lambda e, s: min(e, 3), 4, 0, half=torch.bfloat16)
    assert net.fingerprint(module) == net.fingerprint(by_hand)


def test_even_spacing_is_the_default(tmp_path: Path) -> None:
    _, watch, _ = train(tmp_path, ProgressiveUnfreezing(), epochs=8)
    assert watch.trainable[:: net.STEPS] == [2, 2, 5, 5, 8, 8, 11, 11]
    _, short, _ = train(tmp_path, ProgressiveUnfreezing(), epochs=2)  # 8 steps: at 2, 4 and 6
    assert short.trainable == [2, 2, 5, 5, 8, 8, 11, 11]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"at": [1, 5], "unit": "step"}, [2] + [5] * 4 + [8] * 3),
        ({"at": [0.25, 0.5, 0.5], "unit": "fraction"}, [2, 2, 5, 5, 11, 11, 11, 11]),
        ({"at": [0, 0, 0]}, [11] * 8),
        ({"at": [0, 0], "max_stages": 2}, [11] * 8),
        ({"at": [1], "stages": ["2", "[01]"]}, [2] * 4 + [5] * 4),
        ({"at": [0, 0], "never": ["0"]}, [8] * 8),
    ],
)
def test_what_is_open_when(tmp_path: Path, options: dict[str, Any], expected: list[int]) -> None:
    _, watch, _ = train(tmp_path, ProgressiveUnfreezing(**options), epochs=2)
    assert watch.trainable == expected


def test_never_between_two_batches_of_one_step(tmp_path: Path) -> None:
    _, watch, _ = train(tmp_path, ProgressiveUnfreezing(at=[1, 2, 3], unit="step"), epochs=2, accumulate_grad_batches=2)
    assert watch.trainable == watch.with_gradient == [2, 5, 8, 11]


def test_norms_of_closed_stages_stand_still(tmp_path: Path) -> None:
    first = copy.deepcopy(net.Staged()).state_dict()
    module, watch, _ = train(tmp_path, ProgressiveUnfreezing(at=[1, 2]), epochs=3)
    for epoch, after in enumerate(watch.norms):
        for name, value in after.items():
            depth = 2 - int(name.split(".")[1])  # block 2 is stage 0
            moved = not torch.equal(value, first[name])
            assert moved == (depth < epoch), (epoch, name)
    assert [stage[1].training for stage in module.backbone] == [False, True, True]


def test_closed_norms_answer_alike_in_training_and_evaluation() -> None:
    module, callback = net.Staged(), ProgressiveUnfreezing(at=[1])
    callback.setup(pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False), module, "fit")
    images = torch.randn(2, 3, 8, 8)
    training = module(images)
    assert torch.equal(training, module.eval()(images))


def test_learning_rates_fall_with_the_distance_from_the_head(tmp_path: Path) -> None:
    _, watch, _ = train(tmp_path, ProgressiveUnfreezing(at=[0, 0, 0], lr_decay=0.5), epochs=1)
    assert watch.rates[0][::2] == [net.LR, net.LR / 2, net.LR / 4, net.LR / 8]


SCHEDULERS: dict[str, Any] = {
    "lambda": lambda o: lr_scheduler.LambdaLR(o, lambda epoch: 0.9**epoch),
    "one_cycle": lambda o: lr_scheduler.OneCycleLR(o, [group["lr"] for group in o.param_groups], total_steps=5),
    "cosine": lambda o: lr_scheduler.CosineAnnealingLR(o, 4),
    "warm_restarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 2),
    "sequential": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.ConstantLR(o, 0.5, 2), lr_scheduler.ExponentialLR(o, 0.9)], [2]
    ),
}


@pytest.mark.parametrize("name", SCHEDULERS)
def test_every_scheduler_keeps_the_ratio_of_the_stages(tmp_path: Path, name: str) -> None:
    module = net.Staged(scheduler=SCHEDULERS[name])
    _, watch, _ = train(tmp_path, ProgressiveUnfreezing(at=[1, 2, 3], lr_decay=0.5), module)
    assert len({tuple(rates) for rates in watch.rates}) > 1  # it does schedule
    for rates in watch.rates:
        assert rates[::2] == pytest.approx([rates[0] * 0.5**depth for depth in range(4)])


def test_plateau_scheduler(tmp_path: Path) -> None:
    def with_monitor(optimizer: Any) -> dict[str, Any]:
        return {
            "scheduler": lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, threshold=10.0),
            "monitor": "val/loss",
        }

    module = net.Staged(scheduler=with_monitor)
    _, watch, _ = train(tmp_path, ProgressiveUnfreezing(at=[1, 2, 3], lr_decay=0.5), module)
    assert watch.rates[-1][0] < watch.rates[0][0]
    assert watch.rates[-1][2] == pytest.approx(watch.rates[-1][0] / 2)


def test_opens_on_a_plateau(tmp_path: Path) -> None:
    plateau = Plateau(patience=1, min_delta=100.0)  # nothing improves by so much
    _, watch, _ = train(tmp_path, ProgressiveUnfreezing(plateau=plateau), epochs=5)
    assert watch.trainable[:: net.STEPS] == [2, 2, 5, 8, 11]


class Fixed(net.Staged):
    """One of its parameters is not meant to train, as a table of sines; the optimizer does not have it."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone[0][0].weight.requires_grad_(False)


def test_what_the_network_keeps_from_training_stays_so(tmp_path: Path) -> None:
    module, watch, _ = train(tmp_path, ProgressiveUnfreezing(at=[0, 0, 0]), Fixed(), epochs=1)
    assert set(watch.trainable) == {10}
    assert torch.equal(module.backbone[0][0].weight, net.Staged().backbone[0][0].weight)


def test_open_by_hand(tmp_path: Path) -> None:
    class ByHand(pl.Callback):
        def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
            if trainer.current_epoch == 1:
                callback.open_stage(1)

    callback = ProgressiveUnfreezing(at=[])
    _, watch, _ = train(tmp_path, callback, others=[ByHand()])
    assert watch.trainable[:: net.STEPS] == [2, 2, 8, 8]
    with pytest.raises(UserError, match="stage 3 does not exist: there are 3"):
        callback.open_stage(3)


def test_averaged_weights_of_closed_stages_stay(tmp_path: Path) -> None:
    average = EMAWeightAveraging(decay=0.5)
    train(tmp_path, ProgressiveUnfreezing(at=[1]), epochs=2, others=[average])
    pretrained = net.Staged()
    assert average._average_model is not None
    averaged = dict(average._average_model.module.named_parameters())
    for name, parameter in pretrained.named_parameters():
        same = torch.allclose(averaged[name], parameter, atol=1e-6)
        assert same == name.startswith(("backbone.0", "backbone.1")), name


@pytest.mark.slow
def test_compiled_network_opens_too(tmp_path: Path) -> None:
    module = net.Staged()
    module.backbone.compile(backend="aot_eager")
    compiled, watch, _ = train(tmp_path, ProgressiveUnfreezing(at=[1, 2, 3]), module)
    eager, plain, _ = train(tmp_path, ProgressiveUnfreezing(at=[1, 2, 3]))
    assert watch.with_gradient == plain.with_gradient
    for one, other in zip(compiled.parameters(), eager.parameters(), strict=True):
        assert torch.allclose(one, other, atol=1e-5)


def test_openings_leave_room_for_their_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch._dynamo.config, "recompile_limit", 8)
    module: Any = net.Staged()
    allow_graphs(module, openings=9)
    assert torch._dynamo.config.recompile_limit == 8
    module.compiled = True
    allow_graphs(module, openings=9)
    assert torch._dynamo.config.recompile_limit == 40


# --- restarts -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("stop", [1, 2, 3])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_continues_from_a_checkpoint_bit_for_bit(tmp_path: Path, stop: int, optimizer: str) -> None:
    whole, _, _ = train(tmp_path, ProgressiveUnfreezing(at=[1, 2, 3]), net.Staged(optimizer))
    keep = ModelCheckpoint(dirpath=tmp_path, filename="stopped")
    train(
        tmp_path,
        ProgressiveUnfreezing(at=[1, 2, 3]),
        net.Staged(optimizer),
        epochs=stop,
        others=[keep],
        enable_checkpointing=True,
    )
    module, callback, watch = net.Staged(optimizer), ProgressiveUnfreezing(at=[1, 2, 3]), Watch()
    trainer = pl.Trainer(
        max_epochs=4, accelerator="cpu", callbacks=[callback, watch], logger=False, default_root_dir=tmp_path,
        enable_checkpointing=False, enable_progress_bar=False, num_sanity_val_steps=0,
    )  # fmt: skip
    trainer.fit(module, net.loader(0), net.loader(7), ckpt_path=str(keep.best_model_path))
    assert net.fingerprint(module) == net.fingerprint(whole)
    assert watch.trainable[0] == 2 + 3 * stop  # Lightning's own callback would have closed all again (#21901)
    opened = [event["step"] for event in callback.record.history if event["event"] == "open"]
    assert opened == [4, 8, 12]


def test_other_stages_are_refused(tmp_path: Path) -> None:
    state = _state_after(tmp_path, ProgressiveUnfreezing(at=[0]))
    other = ProgressiveUnfreezing(at=[0], max_stages=2)
    other.setup(pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False), net.Staged(), "fit")
    with pytest.raises(
        UserError, match=r"3 stages of unfreezing are not the 2 of this run: stage \d differs in backbone"
    ):
        other.load_state_dict(state)


def _state_after(tmp_path: Path, callback: ProgressiveUnfreezing) -> dict[str, Any]:
    train(tmp_path, callback, epochs=1)
    return callback.state_dict()


def test_a_test_of_the_checkpoint_thaws_nothing(tmp_path: Path) -> None:
    state = _state_after(tmp_path, ProgressiveUnfreezing(at=[0]))
    callback = ProgressiveUnfreezing(at=[0])
    callback.load_state_dict(state)  # as Trainer.test does, without `setup("fit")`
    assert callback.open == 0


def test_state_is_plain(tmp_path: Path) -> None:
    state = _state_after(tmp_path, ProgressiveUnfreezing(at=[0], gain=Gain()))
    torch.save(state, tmp_path / "state.pt")
    loaded = torch.load(tmp_path / "state.pt", weights_only=True)
    assert loaded["open"] == 1
    assert set(loaded["best"]["weights"]) == set(net.Staged().state_dict())
    assert len(loaded["best"]["optimizers"]) == 1


# --- errors ---------------------------------------------------------------------------------------------------------
class Lacking(net.Staged):
    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.head.parameters(), lr=0.1)


class Homeless(net.Staged):
    backbones = {}  # noqa: RUF012  # overrides a property


@pytest.mark.parametrize(
    ("options", "others", "module", "message"),
    [
        ({"at": [1, 2, 3, 4]}, [], net.Staged, "at has more times than the 3 stages"),
        ({"stages": ["nothing"]}, [], net.Staged, "'nothing'"),
        ({"max_stages": 0}, [], net.Staged, "max_stages is 0"),
        ({}, [BackboneFinetuning()], net.Staged, "take BackboneFinetuning out"),
        ({}, [], Lacking, r"the optimizer lacks backbone.0.0.weight \(9 parameters in all\)"),
        ({}, [], Homeless, "Homeless names no `backbones` that train"),
        ({"plateau": Plateau(monitor="val/nothing")}, [], net.Staged, "val/nothing was not logged in validation"),
    ],
)
def test_what_cannot_work_is_refused(
    tmp_path: Path, options: dict[str, Any], others: list[Any], module: type[Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        train(tmp_path, ProgressiveUnfreezing(**options), module(), others=others)


def test_times_and_plateau_exclude_each_other() -> None:
    with pytest.raises(UserError, match="give at or plateau, not both"):
        ProgressiveUnfreezing(at=[1], plateau=Plateau())
