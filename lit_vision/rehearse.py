"""A short run of the user's own experiment on two processes, killed and resumed, before the cluster is paid for.

The same few steps are run twice: once without a break, and once with a kill -9 and a SIGTERM at random steps, resumed
each time. Whatever then differs, differs on the cluster too.
"""

import random
import shutil
import signal
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from lit_vision.cli.experiment_files import Configs, config_paths, read_configs, setting
from lit_vision.errors import UserError
from lit_vision.rehearsal_launch import End, Servers
from lit_vision.rehearsal_report import RANKS, Check, Evidence, checks, table_of

EPOCHS, STEPS = 3, 4
CALLBACKS = "lit_vision.callbacks"


def main(words: Sequence[str], seed: int | None = None, folder: Path | None = None) -> int:
    """Rehearses and prints the report; 0 if every check holds.

    Args:
        words: options of `lit-vision fit`, -c first.
        seed: draws the steps of the breaks; null = another one each time.
        folder: for runs and logs; null = a temporary one, which stays where a check fails.
    """
    seed = random.randrange(1000) if seed is None else seed
    started, console = time.monotonic(), Console()
    made = plan(words, read_configs(config_paths(words)), seed, folder)
    found = rehearse(made, console.print)
    console.print(table_of(found))
    held = all(check.holds is not False for check in found)
    console.print(f"{time.monotonic() - started:.0f} s, --seed {seed}")
    if held and folder is None:
        shutil.rmtree(made.folder, ignore_errors=True)
    else:
        console.print(f"runs and logs: {made.folder}")
    return 0 if held else 1


@dataclass(frozen=True)
class Plan:
    """What is launched.

    Args:
        words: the user's options, -c first.
        options: what makes the run short and puts it on two CPU processes.
        folder: of everything the rehearsal writes.
        kill: optimizer steps after which the run is killed, see `breaks`.
        stop: optimizer steps after which it gets SIGTERM, more than `kill`.
        notes: what is otherwise than in the experiment.
    """

    words: Sequence[str]
    options: Sequence[str]
    folder: Path
    kill: int
    stop: int
    notes: Sequence[str]


def plan(words: Sequence[str], configs: Configs, seed: int, folder: Path | None = None) -> Plan:
    """Shortens the experiment.

    Args:
        words: options of `lit-vision fit`, -c first.
        configs: contents of the experiment's files.
        seed: draws the steps of kill and stop.
        folder: null = a new one in the system's place for temporary files.
    """
    trainer = {name: found[1] for name in TRAINER if (found := setting(configs, "trainer", name))}
    trainer |= {name: value for name in TRAINER if (value := _given(words, f"--trainer.{name}")) is not None}
    notes, accumulate = [], int(trainer.get("accumulate_grad_batches") or 1)
    epochs = trainer.get("max_epochs")
    strategy, precision = trainer.get("strategy", "auto"), str(trainer.get("precision") or "")
    options = {"accelerator": "cpu", "devices": 2, "num_nodes": 1, "max_epochs": EPOCHS, "max_steps": -1}
    options |= {"limit_train_batches": STEPS * accumulate, "limit_val_batches": 2, "check_val_every_n_epoch": 1}
    options |= {"val_check_interval": 1.0, "enable_progress_bar": "false", "log_every_n_steps": 1}
    if not _is_ddp(strategy):
        options["strategy"] = "ddp"
        notes += [f"strategy {_name(strategy)} is rehearsed as ddp"] if strategy != "auto" else []
    if precision.startswith("16"):
        options["precision"] = "bf16-mixed"
        notes.append(f"precision {precision} needs a GPU: rehearsed as bf16-mixed")
    steps = [f"--trainer.{name}={value}" for name, value in options.items()]
    whole = {"epochs": epochs, "steps": trainer.get("max_steps") if trainer.get("max_steps", -1) != -1 else None}
    last = EPOCHS * STEPS
    draw = random.Random(seed)
    kill = draw.randint(2, last // 2)
    spy = [f"--trainer.callbacks+={CALLBACKS}.rehearsal.Rehearsal"]
    spy += [f"--trainer.callbacks.{name}={value}" for name, value in whole.items() if value is not None]
    saving = [
        f"--trainer.callbacks+={CALLBACKS}.checkpointing.RunCheckpoints",
        "--trainer.callbacks.every_n_train_steps=1",
    ]
    place = folder or Path(tempfile.mkdtemp(prefix="lit-vision-rehearsal-"))
    return Plan(words, [*steps, *saving, *spy], place, kill, draw.randint(kill + 2, last - 2), notes)


TRAINER = ("accumulate_grad_batches", "max_epochs", "max_steps", "strategy", "precision")


def _given(words: Sequence[str], option: str) -> Any:
    """The value of an option on the command line, as YAML reads it."""
    import yaml

    found = None
    for i, word in enumerate(words):
        name, equals, value = word.partition("=")
        if name == option and (equals or i + 1 < len(words)):
            found = yaml.safe_load(value if equals else words[i + 1])
    return found


def _name(strategy: Any) -> str:
    return str(strategy.get("class_path", strategy)) if isinstance(strategy, Mapping) else str(strategy)


def _is_ddp(strategy: Any) -> bool:
    name = _name(strategy).rpartition(".")[2]
    return name == "DDPStrategy" or (name.startswith("ddp") and "spawn" not in name and "fork" not in name)


def rehearse(plan: Plan, say: Any = print) -> list[Check]:
    """Runs the experiment without a break, then with two breaks, and compares.

    Args:
        plan: what is launched.
        say: takes a line about what is going on.

    Returns:
        The checks, in the order in which they are shown.

    Raises:
        UserError: the uninterrupted run fails by itself.
    """
    for note in plan.notes:
        say(note)
    with Servers(plan.words, plan.folder) as servers:
        return _rehearse(plan, servers, say)


def _rehearse(plan: Plan, servers: Servers, say: Any) -> list[Check]:
    whole, broken = plan.folder / "whole", plan.folder / "broken"

    def fit(folder: Path, *more: str, end: End | None = None) -> list[int]:
        place = ["--runs", str(folder / "runs"), "--experiment", "rehearsal", "--wandb", "offline"]
        words = [*plan.words, *plan.options, f"--trainer.callbacks.folder={folder}", *place, *more]
        return servers.run(["fit", *words], folder, end, swapped=folder == broken)

    say(f"1 of 4: {EPOCHS} epochs of {STEPS} steps on two processes, without a break")
    if any(fit(whole)):
        raise UserError(f"the experiment itself fails on two processes: {_why(whole)} (log: {whole / 'log.txt'})")
    kill, stop = breaks(plan, Evidence(whole).last_step())
    say(f"2 of 4: the same, killed (kill -9) after step {kill}")
    killed = fit(broken, end=(kill, signal.SIGKILL))
    say(f"3 of 4: resumed, stopped (SIGTERM) after step {stop}")
    stopped = fit(broken, "--resume", "auto", end=(stop, signal.SIGTERM))
    say("4 of 4: resumed, to the end")
    ended = fit(broken, "--resume", "auto")
    return checks(Evidence(whole), Evidence(broken), (killed, stopped, ended), (kill, stop))


def breaks(plan: Plan, steps: int) -> tuple[int, int]:
    """When the run is killed and stopped: as planned, or sooner where few pictures make a shorter run.

    Args:
        plan: for a run of EPOCHS * STEPS steps.
        steps: of the uninterrupted run.

    Raises:
        UserError: it is too short for two breaks.
    """
    if steps < 4:
        raise UserError(f"a rehearsal needs 4 steps for its two breaks, this has {steps}; lower data.batch_size")
    kill = max(plan.kill * steps // (EPOCHS * STEPS), 1)
    return kill, min(max(plan.stop * steps // (EPOCHS * STEPS), kill + 1), steps - 1)


def _why(folder: Path) -> str:
    unused = [
        name for rank in range(RANKS) for line in Evidence(folder).lines(rank, "unused") for name in line["names"]
    ]
    if unused:
        return f"{unused[0]} and {len(set(unused)) - 1} others train but get no gradient: freeze them"
    lines = (folder / "log.txt").read_text(errors="replace").splitlines()
    errors = [line for line in lines if line.startswith("error:")] or [line for line in lines if line.strip()]
    return errors[-1].removeprefix("error: ") if errors else "without a word"
