"""`lit-vision advise`, second stage: builds the user's own experiment, measures it, and writes the one that follows."""

import re
from collections.abc import Sequence
from importlib import import_module
from inspect import Parameter, signature
from pathlib import Path
from typing import Any

import yaml
from pytorch_lightning.utilities import rank_zero_info
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from lit_vision.cli.parser import translated
from lit_vision.cli.trainer_defaults import quiet
from lit_vision.cli.vision_cli import VisionCLI, import_named
from lit_vision.errors import UserError
from lit_vision.transfer.advice import Advice, advise
from lit_vision.transfer.report import counts_table, estimates_table, smaller_backbone
from lit_vision.transfer.similarity import measure, pictures_per_class
from lit_vision.transfer.strategies import PARTS

DEFAULTS = {"wandb", "experiment", "run_dir", "runs", "resume", "ckpt_path"}  # of the command, not of the experiment
ADAM_LIKE = ("Adam", "NAdam", "RAdam")  # whose learning rates the recipes are for


def run(words: Sequence[str], output: Path, images: int, minutes: float) -> Advice:
    """Measures, prints the advice with its reasons, and writes the experiment.

    Args:
        words: options of `lit-vision fit`, -c first.
        output: the YAML to be written.
        images: pictures of the sample.
        minutes: about so long the networks may run.

    Raises:
        UserError: the experiment cannot be built, or has no pretrained weights.
    """
    quiet()
    import_named(words)
    cli = AdviseCLI(["fit", *words, "--wandb", "off", "--trainer.logger", "false"])
    task, data, console = cli.model, cli.datamodule, Console()
    if not (cli.given("pretrained") or cli.given("weights")):
        raise UserError(
            "model has no pretrained weights, so there is nothing to transfer; set model.weights: <file> or "
            "model.pretrained: true, or train from scratch"
        )
    console.print(counts_table(data))
    with translated("the data cannot be measured"), _progress() as bar:
        found = measure(task, data, images, minutes, seed=data.seed, progress=_shown(bar))
    console.print(estimates_table(found))
    backbone = next(iter(task.backbones.values()))
    parameters = sum(parameter.numel() for parameter in backbone.parameters())
    advice = advise(len(data.index.indices("train")), pictures_per_class(data), data.batch_size, parameters, found)
    smaller = smaller_backbone(backbone) if advice.small else None
    lines = explain(advice, smaller, parameters)
    console.print("\n".join(lines), highlight=False, soft_wrap=True)
    write(output, cli.experiment(advice), lines)
    console.print(f"experiment: {output}; run it: lit-vision fit -c {output}", soft_wrap=True)
    return advice


class AdviseCLI(VisionCLI):
    """Parses and builds as fit does, and keeps the options as the user gave them; runs nothing."""

    def before_instantiate_classes(self) -> None:
        """Keeps the options before defaults of this machine come in."""
        self.plain = yaml.safe_load(
            self._parser("fit").dump(self.config["fit"].clone(), skip_default=True, skip_none=False)
        )

        optimizer = self.config["fit"].model.get("init_args", {}).get("optimizer")
        if optimizer is not None and "class_path" in optimizer:
            self.plain["model"].setdefault("init_args", {})["optimizer"] = _whole(optimizer)

    def _run_subcommand(self, subcommand: str) -> None:
        rank_zero_info("measuring what the pretrained features are worth; nothing is trained")

    def given(self, name: str) -> Any:
        """An option of the model; None where it has no such option."""
        return self.options.model.get("init_args", {}).get(name)

    def experiment(self, advice: Advice) -> dict[str, Any]:
        """The options of a complete experiment that follows the advice."""
        options = {key: value for key, value in self.plain.items() if key not in DEFAULTS}
        model, trainer = options["model"].setdefault("init_args", {}), options.setdefault("trainer", {})
        for name in ("freeze", "lr_decay"):
            model.pop(name, None)
        if self.calibrated(model):
            trainer["max_epochs"] = advice.epochs
            optimizer = model["optimizer"]
            optimizer["init_args"] = {**optimizer["init_args"], "lr": advice.lr}
        callbacks = [one for one in trainer.get("callbacks") or [] if "ProgressiveUnfreezing" not in str(one)]
        recipe = advice.recipe
        arguments = {"at": list(recipe.at), "unit": "fraction", "max_stages": PARTS, "lr_decay": recipe.lr_decay}
        trainer["callbacks"] = [*callbacks, {"class_path": "ProgressiveUnfreezing", "init_args": arguments}]
        trainer.setdefault("max_epochs", 2 * advice.epochs)  # what has a decoder to learn, too, needs longer
        trainer.pop("logger", None)
        order = ("seed_everything", "model", "data", "trainer")
        options.setdefault("seed_everything", 0)
        return {key: options[key] for key in order} | options

    def calibrated(self, model: dict[str, Any]) -> bool:
        """Whether the recipes' learning rates and epochs hold: they were measured for a classifier and AdamW."""
        name = str(model.get("optimizer", {}).get("class_path", "AdamW")).rpartition(".")[2]
        return self.options.model.class_path.endswith("TransferClassifier") and name.startswith(ADAM_LIKE)


_WORDS = {"few": "little data", "many": "much data", "similar": "like", "different": "unlike"}


def _whole(optimizer: Any) -> dict[str, Any]:
    """An optimizer with all that its class would not do by itself.

    The dump leaves out what the task's default optimizer has, such as a weight decay of 0.05; read again, that would
    become the class's own.
    """
    module, _, name = optimizer.class_path.rpartition(".")
    defaults = signature(getattr(import_module(module), name)).parameters
    given = vars(optimizer.get("init_args", {}))
    kept = {key: value for key, value in given.items() if _differs(defaults.get(key), value)}
    return {"class_path": optimizer.class_path, "init_args": kept}


def _differs(parameter: Parameter | None, value: Any) -> bool:
    """Whether an argument has to be said; rates always, so that they can be seen."""
    if parameter is None or parameter.name in ("lr", "weight_decay"):
        return value is not None
    default = parameter.default
    return bool(value != (type(value)(default) if isinstance(default, list | tuple) else default))


def explain(advice: Advice, smaller: str | None, parameters: int) -> list[str]:
    """The advice in sentences: what was found, the case, what to do."""
    amount, likeness = advice.case.split("_")
    case = f"{_WORDS[amount]}, {_WORDS[likeness]}"
    lines = [*advice.reasons, f"case: {case} the pretraining: {advice.recipe.words}"]
    if advice.small:
        hint = f": {smaller}" if smaller else ""
        lines.append(f"{parameters / 1e6:.1f} M parameters are many for so little data: try a smaller backbone{hint}")
    return lines


def write(output: Path, options: dict[str, Any], lines: Sequence[str]) -> None:
    """Writes the experiment with its reasons as comments, and leaves an earlier file as <name>.old.

    Raises:
        UserError: the folder does not exist.
    """
    if not output.parent.is_dir():
        raise UserError(f"--output {output}: there is no folder {output.parent}")
    text = yaml.safe_dump(options, sort_keys=False, default_flow_style=None, width=120)
    text = re.sub(r"class_path: (?:lit_vision\.[\w.]+\.|torch\.optim\.)(\w+)", r"class_path: \1", text)
    head = "".join(f"# {line}\n" for line in ["Written by lit-vision advise.", *lines])
    partial = output.with_suffix(".partial")
    partial.write_text(f"{head}# lit-vision fit -c {output}\n{text}")
    if output.exists():
        output.replace(output.with_suffix(".old"))
    partial.replace(output)


def _progress() -> Progress:
    return Progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())


def _shown(bar: Progress) -> Any:
    rows: dict[str, Any] = {}

    def show(what: str, done: int, total: int) -> None:
        if what not in rows:
            rows[what] = bar.add_task(f"{what} features", total=total)
        bar.update(rows[what], completed=done)

    return show
