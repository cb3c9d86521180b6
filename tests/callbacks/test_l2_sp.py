"""StartingPointPenalty: hand-computed gradients and steps, what is not pulled, restarts, several processes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import unfreezing_net as net
from pytorch_lightning.callbacks import EMAWeightAveraging, ModelCheckpoint
from torch import nn
from two_ranks import both

from lit_vision.callbacks.l2_sp import StartingPointPenalty
from lit_vision.callbacks.unfreezing import ProgressiveUnfreezing
from lit_vision.errors import UserError
from lit_vision.networks.stages import divide
from lit_vision.tasks.optimization import parameter_groups

ALPHA = 0.3


class Seen(pl.Callback):
    """Gradients of each step after the callbacks before this one, and the penalties logged."""

    def __init__(self) -> None:
        self.gradients: list[dict[str, torch.Tensor]] = []
        self.penalties: list[float] = []

    def on_before_optimizer_step(self, trainer: pl.Trainer, pl_module: Any, optimizer: Any) -> None:
        named = pl_module.named_parameters()
        self.gradients.append({name: p.grad.clone() for name, p in named if p.grad is not None})

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        if "l2_sp/penalty" in trainer.callback_metrics:
            self.penalties.append(float(trainer.callback_metrics["l2_sp/penalty"]))


def train(
    tmp_path: Path, *callbacks: pl.Callback, epochs: int = 2, optimizer: str = "sgd", **options: Any
) -> net.Staged:
    module = net.Staged(optimizer)
    net.fit(module, callbacks, epochs, str(tmp_path), **options)
    return module


def by_hand(optimizer: str = "sgd", epochs: int = 2, accumulate: int = 1, clip: float | None = None) -> net.Staged:
    """The same training without Lightning and the callback."""
    module = net.Staged(optimizer)
    start = {name: p.detach().clone() for name, p in module.named_parameters() if name.startswith("backbone")}
    groups = parameter_groups(module, divide(module.backbones))
    stepper = net.OPTIMIZERS[optimizer](groups)
    for group in stepper.param_groups:
        group["weight_decay"] *= group["name"].startswith("head")
    for _ in range(epochs):
        for k, (images, labels) in enumerate(net.loader(0)):
            if k % accumulate == 0:
                stepper.zero_grad()
            (nn.functional.cross_entropy(module(images), labels) / accumulate).backward()
            if (k + 1) % accumulate == 0:
                for name, w0 in start.items():
                    parameter = module.get_parameter(name)
                    assert parameter.grad is not None
                    parameter.grad += ALPHA * (parameter.detach() - w0)
                if clip is not None:
                    nn.utils.clip_grad_norm_([p for group in stepper.param_groups for p in group["params"]], clip)
                stepper.step()
    return module


def distance(module: net.Staged) -> float:
    pairs = zip(module.backbone.parameters(), net.Staged().backbone.parameters(), strict=True)
    return sum(float((w - w0).detach().square().sum()) for w, w0 in pairs) ** 0.5


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("options", [{}, {"accumulate": 2}, {"clip": 0.05}])
def test_equals_the_training_by_hand(tmp_path: Path, optimizer: str, options: dict[str, Any]) -> None:
    lightning = {"accumulate": "accumulate_grad_batches", "clip": "gradient_clip_val"}
    given = {lightning[name]: value for name, value in options.items()}
    module = train(tmp_path, StartingPointPenalty(ALPHA), optimizer=optimizer, **given)
    for one, other in zip(module.parameters(), by_hand(optimizer, **options).parameters(), strict=True):
        assert torch.allclose(one, other, atol=1e-6)
    without = train(tmp_path, optimizer=optimizer, **given)
    assert distance(module) < 0.99 * distance(without)


def test_one_step_in_numbers(tmp_path: Path) -> None:
    class Shift(pl.Callback):
        """Moves the weights away from where they began, as earlier steps would have."""

        def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
            with torch.no_grad():
                for parameter in pl_module.parameters():
                    parameter += 0.5

    def step(*callbacks: pl.Callback) -> tuple[net.Staged, Seen]:
        seen = Seen()
        return train(tmp_path, Shift(), *callbacks, seen, epochs=1, limit_train_batches=1), seen

    _, plain = step()
    module, pulled = step(StartingPointPenalty(ALPHA))
    assert len(pulled.gradients[0]) == 11
    for name, gradient in pulled.gradients[0].items():
        extra = gradient - plain.gradients[0][name]
        expected = ALPHA * 0.5 if name.startswith("backbone") else 0.0
        assert torch.allclose(extra, torch.full_like(extra, expected), atol=1e-6), name
    first, name = net.Staged().get_parameter("backbone.0.0.weight") + 0.5, "backbone.0.0.weight"
    assert torch.allclose(module.get_parameter(name), first - net.LR * pulled.gradients[0][name], atol=1e-6)  # no decay


def test_a_strong_pull_holds_the_backbone_and_lets_the_head_go(tmp_path: Path) -> None:
    held, free = train(tmp_path, StartingPointPenalty(10.0), epochs=4), train(tmp_path, epochs=4)
    assert distance(held) < 0.1 * distance(free)
    moved = [float((module.head.weight - net.Staged().head.weight).detach().norm()) for module in (held, free)]
    assert moved[0] > 0.5 * moved[1]


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_no_pull_changes_no_bit(tmp_path: Path, optimizer: str) -> None:
    none = net.fingerprint(train(tmp_path, optimizer=optimizer))
    assert net.fingerprint(train(tmp_path, StartingPointPenalty(0.0), optimizer=optimizer)) == none
    assert net.fingerprint(train(tmp_path, StartingPointPenalty(1e-3), optimizer=optimizer)) != none


def test_penalty_is_logged(tmp_path: Path) -> None:
    seen = Seen()
    module = train(tmp_path, StartingPointPenalty(ALPHA), seen)
    assert len(seen.penalties) == 2
    assert seen.penalties[-1] == pytest.approx(ALPHA / 2 * distance(module) ** 2, rel=1e-4)


def test_weight_decay_of_the_head_alone_is_left(tmp_path: Path) -> None:
    module = net.Staged()
    trainer = net.fit(module, [StartingPointPenalty(ALPHA)], 1, str(tmp_path))
    decay = {group["name"]: group["weight_decay"] for group in trainer.optimizers[0].param_groups}
    assert decay.pop("head/decay") == 0.01
    assert set(decay.values()) == {0.0}


def test_closed_stages_are_not_touched(tmp_path: Path) -> None:
    seen = Seen()
    callbacks = [ProgressiveUnfreezing(at=[1]), StartingPointPenalty(ALPHA), EMAWeightAveraging(decay=0.5), seen]
    train(tmp_path, *callbacks, precision="bf16-mixed")
    assert [len(step) for step in seen.gradients] == [2] * 4 + [5] * 4
    assert seen.penalties[0] == 0 < seen.penalties[1]


# --- restarts -------------------------------------------------------------------------------------------------------
def continued(tmp_path: Path, callbacks: Callable[[], list[pl.Callback]], module: net.Staged) -> net.Staged:
    keep = ModelCheckpoint(dirpath=tmp_path, filename="stopped")
    net.fit(net.Staged("adamw"), [*callbacks(), keep], 2, str(tmp_path), enable_checkpointing=True)
    trainer = pl.Trainer(
        max_epochs=4, accelerator="cpu", callbacks=callbacks(), logger=False, default_root_dir=tmp_path,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
    )  # fmt: skip
    trainer.fit(module, net.loader(0), net.loader(7), ckpt_path=str(keep.best_model_path))
    return module


def test_continues_bit_for_bit(tmp_path: Path) -> None:
    def callbacks() -> list[pl.Callback]:
        return [ProgressiveUnfreezing(at=[1, 2, 3]), StartingPointPenalty(ALPHA)]

    whole = train(tmp_path, *callbacks(), epochs=4, optimizer="adamw")
    module = continued(tmp_path, callbacks, net.Staged("adamw"))
    assert net.fingerprint(module) == net.fingerprint(whole)
    assert net.fingerprint(module) != net.fingerprint(train(tmp_path, callbacks()[0], epochs=4, optimizer="adamw"))


def test_another_start_is_refused(tmp_path: Path) -> None:
    other = net.Staged("adamw")
    with torch.no_grad():
        other.backbone[0][0].weight[0, 0, 0, 0] += 1e-6
    with pytest.raises(UserError, match=r"began with other weights than this one.*give the same model.weights"):
        continued(tmp_path, lambda: [StartingPointPenalty(ALPHA)], other)
    head = net.Staged("adamw")
    with torch.no_grad():
        head.head.weight += 1  # it is not pulled, so it may begin anywhere
    continued(tmp_path, lambda: [StartingPointPenalty(ALPHA)], head)


def test_state_is_plain_and_a_test_needs_no_start(tmp_path: Path) -> None:
    callback = StartingPointPenalty(ALPHA)
    train(tmp_path, callback, epochs=1)
    torch.save(callback.state_dict(), tmp_path / "state.pt")
    StartingPointPenalty(ALPHA).load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))


# --- errors ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("alpha", [-0.1, float("nan"), float("inf")])
def test_alpha_is_not_negative(alpha: float) -> None:
    with pytest.raises(UserError, match="must be 0"):
        StartingPointPenalty(alpha)


class Homeless(net.Staged):
    backbones = {}  # noqa: RUF012  # overrides a property


class OneGroup(net.Staged):
    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=0.1)


@pytest.mark.parametrize(
    ("module", "words"), [(Homeless, "Homeless names no `backbones`"), (OneGroup, "holds weights of the backbone and")]
)
def test_what_cannot_work_is_refused(tmp_path: Path, module: type[Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        net.fit(module(), [StartingPointPenalty(ALPHA)], 1, str(tmp_path))


# --- two processes --------------------------------------------------------------------------------------------------
@pytest.mark.slow
@pytest.mark.xdist_group("two_processes")
def test_two_processes_stay_equal(tmp_path: Path) -> None:
    ranks = both(str(Path(__file__).parent / "l2_sp_on_two.py"), "all", tmp_path)
    for name in ("ddp", "fsdp2"):
        assert ranks[0][name]["sha"] == ranks[1][name]["sha"], name
    assert ranks[0]["drawn apart"]["sha"] == ranks[1]["drawn apart"]["sha"]
    assert ranks[0]["fsdp2"]["distance"] == pytest.approx(ranks[0]["ddp"]["distance"], rel=1e-3)
    assert ranks[0]["ddp"]["distance"] < 0.9 * ranks[0]["without"]["distance"]
