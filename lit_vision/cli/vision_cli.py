"""fit, validate, test and predict: Lightning's own command line, made to keep its promises.

`lit_vision.__main__` calls `run` after it has checked all that can be checked without torch.
"""

import importlib
import json
import os
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Literal

from pytorch_lightning import Trainer
from pytorch_lightning.cli import LightningCLI
from pytorch_lightning.utilities import rank_zero_info

from lit_vision.callbacks.boundaries import all_end
from lit_vision.callbacks.save_run import SaveRun
from lit_vision.callbacks.stopping import stopped_before_training
from lit_vision.cli import experiment_files, untrained
from lit_vision.cli.channels import ChannelLink
from lit_vision.cli.names import CALLBACKS, DATA_MODULES, TASKS, TRAINING
from lit_vision.cli.parser import ShortErrorParser, translated
from lit_vision.cli.trainer_defaults import choose_precision, default_callbacks, first_callbacks, kept_in_folder, quiet
from lit_vision.data.base import VisionDataModule
from lit_vision.errors import UserError
from lit_vision.runs import folder as run_folder
from lit_vision.runs.checkpoints import check_task, explained, fill_in, read_header
from lit_vision.runs.loggers import RunWandbLogger, WandbChoice, run_loggers
from lit_vision.runs.resume import Resumed, to_continue
from lit_vision.tasks.base import VisionTask

TRAINER_DEFAULTS = {
    "use_distributed_sampler": False,  # our samplers give each process its share, and know where they were
    "log_every_n_steps": 10,
}


def run(command: str, args: Sequence[str]) -> "VisionCLI":
    """Parses, builds and runs one command.

    Args:
        command: "fit", "validate", "test" or "predict".
        args: options as on the command line.

    Returns:
        The command line after the run, with `trainer`, `model`, `datamodule`, `folder` and `metrics`.

    Raises:
        UserError: something the user gave is wrong.
    """
    quiet()
    if command != "fit":
        return _parse_and_run(command, args)
    with stopped_before_training():
        return _parse_and_run(command, args)


def _parse_and_run(command: str, args: Sequence[str]) -> "VisionCLI":
    import_named(args)
    environment = os.environ.pop("JSONARGPARSE_DEFAULT_ENV", None)
    if environment:
        rank_zero_info("JSONARGPARSE_DEFAULT_ENV is ignored: it reaches some options only; use --key value")
    return VisionCLI([command, *args])


def import_named(args: Sequence[str]) -> None:
    """Imports the tasks, data modules and callbacks that are named: then jsonargparse knows their short names."""
    texts = [path.read_text() for path in experiment_files.config_paths(args)]
    text = " ".join([*args, *texts])
    for name, module in {**TASKS, **DATA_MODULES, **CALLBACKS}.items():
        if name in text:
            with translated(f"{name} cannot be loaded"):
                importlib.import_module(module)


class VisionCLI(LightningCLI):
    """LightningCLI over all tasks and data modules, with run folders and checkpoints that never override options."""

    def __init__(self, args: list[str]) -> None:
        self.paths = experiment_files.config_paths(args)
        self.folder: run_folder.RunFolder
        self.metrics: dict[str, float] = {}
        self.header: dict[str, Any] = {}
        self.channels = ChannelLink()
        strict: dict[str, Any] = {"allow_abbrev": False}
        super().__init__(
            model_class=VisionTask,
            datamodule_class=VisionDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            save_config_callback=SaveRun,
            trainer_defaults=TRAINER_DEFAULTS,
            seed_everything_default=0,
            parser_class=ShortErrorParser,
            parser_kwargs={**strict, **{command: dict(strict) for command in TRAINING}},
            auto_configure_optimizers=False,
            args=args,
        )

    # --- options ------------------------------------------------------------------------------------------------
    def add_arguments_to_parser(self, parser: Any) -> None:
        """Adds what concerns the run folder, and ties the model's classes to the data's."""
        parser.add_argument("--experiment", type=str | None, default=None, help="its name; default: stem of the YAML")
        parser.add_argument("--runs", type=str, default="runs", help="folder of all run folders")
        parser.add_argument("--run_dir", type=str | None, default=None, help="one run folder, instead of a new one")
        parser.add_argument("--resume", type=str | None, default=None, help="auto, or the run folder to continue")
        choices = Literal["auto", "off", "offline", "online"] | bool  # YAML reads a bare `off` as false
        parser.add_argument("--wandb", type=choices, default="auto", help="auto: online where there is a key")
        parser.link_arguments("data.class_names", "model.init_args.class_names", self._classes, apply_on="instantiate")
        parser.link_arguments("data.in_channels", "model.init_args.in_channels", self.channels, apply_on="instantiate")

    def parse_arguments(self, parser: Any, args: Any) -> None:
        """Parses, then refuses what would be dropped silently and finds files named relative to their YAML."""
        super().parse_arguments(parser, args)
        self.options = self.config[self.config.subcommand]
        configs = experiment_files.read_configs(self.paths)
        self._say_dropped(configs)
        self.channels.read(args, configs, self.options.model.get("init_args", {}))
        self.given_classes = self.options.model.get("init_args", {}).get("class_names")
        for section, name in experiment_files.LOCATED:
            arguments = self.options[section].get("init_args", {})
            if isinstance(arguments.get(name), str):
                arguments[name] = experiment_files.locate(arguments[name], configs, section, name)
        untrained.find_classifier(self.options.model.get("init_args", {}))

    def _say_dropped(self, configs: experiment_files.Configs) -> None:
        for section in ("model", "data"):
            kept = self.options[section].get("init_args", {})
            for path, content in configs.items():
                given = content.get(section)
                arguments = given.get("init_args") if isinstance(given, dict) else None
                dropped = [name for name in arguments or {} if name not in kept and not name.endswith("+")]
                if dropped:
                    kind = _short(self.options[section].class_path)
                    rank_zero_info(f"{section} is {kind}, which has no {', '.join(dropped)}: left out from {path}")

    # --- run folder and checkpoint ------------------------------------------------------------------------------
    def _parse_ckpt_path(self) -> None:
        """Finds the checkpoint and the run folder; unlike Lightning's, takes no option from the checkpoint."""
        options, command = self.options, self.config.subcommand
        stem = self.paths[0].stem if self.paths else _short(options.model.class_path)
        experiment = options.experiment or stem
        runs, run_dir = Path(options.runs), Path(options.run_dir) if options.run_dir else None
        self.trains = untrained.trains(options.model.class_path, command, options.get("ckpt_path"))
        which = options.get("ckpt_path") or (None if command == "fit" or not self.trains else "best")
        checkpoint = None
        if options.resume:
            run = self._resumed(runs, experiment, run_dir)
            run_dir, checkpoint = (run.folder, run.checkpoint) if run else (run_dir, None)
        elif which and which != "none":
            checkpoint = run_folder.find_checkpoint(str(which), runs, experiment, run_dir)
            self._check(checkpoint)
        options.ckpt_path = str(checkpoint) if checkpoint else None
        if run_dir and command == "fit" and not (checkpoint or options.resume) and (run_dir / "checkpoints").exists():
            raise UserError(f"{run_dir} holds a run already; continue it with --resume {run_dir}, or name another")
        self.folder = (
            run_folder.inherited()
            or (run_folder.existing(run_dir, experiment) if run_dir else None)
            or (run_folder.of_checkpoint(checkpoint) if checkpoint else None)
            or run_folder.new(runs, experiment)
        )
        if run_folder.rank() == 0:
            self.folder.announce()
        self.save_config_kwargs.update(folder=self.folder, command=command)

    def _resumed(self, runs: Path, experiment: str, run_dir: Path | None) -> Resumed | None:
        if self.config.subcommand != "fit":
            raise UserError(f"--resume belongs to fit; name the run to {self.config.subcommand} with --run_dir")
        if self.options.get("ckpt_path"):
            raise UserError("--resume finds the checkpoint itself: leave out --ckpt_path, or give that alone")
        task = _short(self.options.model.class_path)
        run = to_continue(self.options.resume, task, self.options.trainer, runs, experiment, run_dir)
        self.header = dict(run.header) if run else {}
        return run

    def _check(self, checkpoint: Path) -> None:
        rank_zero_info(f"checkpoint: {checkpoint}")
        self.header = read_header(checkpoint)
        check_task(checkpoint, self.header, _short(self.options.model.class_path))
        arguments = self.options.model.get("init_args", {})
        if self.config.subcommand != "fit":
            # All weights come from the checkpoint: nothing to download.
            first = {"pretrained": False, "weights": None, "border_weights": None, "start_from": None}
            for name, value in first.items():
                if name in arguments:
                    arguments[name] = value
            fill_in(arguments, self.header["hyper_parameters"])

    # --- building -----------------------------------------------------------------------------------------------
    def instantiate_classes(self) -> None:
        """Builds data, model and trainer; what they refuse is shown as their own sentence."""
        with translated("the experiment cannot be built"):
            super().instantiate_classes()

    def _classes(self, names: list[str]) -> list[str]:
        """The data's class names on their way to the model; a value of the user's own would be dropped silently."""
        if self.given_classes is None:
            return names
        if len(names) == len(self.given_classes):
            raise UserError("model.class_names comes from the data; leave it out")
        raise UserError(
            f"model.class_names has {len(self.given_classes)} classes, the data has {len(names)}; "
            "leave it out: it comes from the data"
        )

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """The Trainer with the run's folder, loggers, callbacks and precision, where the user has set none."""
        if self.datamodule is not None:
            self.model.adapt_to(self.datamodule)  # decides on the metric that chooses the best checkpoint
        options = dict(self._get(self.config_init, "trainer", default={}))
        fitting = self.subcommand == "fit"
        if options.get("precision") is None:
            precision, reason = "32-true", "of all evaluations unless told otherwise"
            if fitting:
                begun = self.folder.path / "config.yaml" if self.header else None
                precision, reason = choose_precision(self.model, str(options.get("accelerator", "auto")), begun)
            rank_zero_info(f"precision: {precision} ({reason})")
            kwargs["precision"] = self.options.trainer.precision = precision
        if options.get("logger") in (None, True):
            # Quoted or not, YAML's `off` reaches us as text or as false.
            choice: WandbChoice = {False: "off", True: "online"}.get(self.options.wandb, self.options.wandb)
            choice = "off" if options.get("fast_dev_run") else choice
            first_step = self.header["logged"] if self.header else 0 if self.options.resume else None
            loggers = run_loggers(self.folder, choice, str(self.subcommand), first_step)
            kwargs["logger"] = options["logger"] = loggers or False
        kwargs |= kept_in_folder(options, self.folder, fitting)
        own = options.get("callbacks") or []
        own = own if isinstance(own, list) else [own]
        first = first_callbacks(own) if fitting else []
        options["callbacks"] = first + [one for one in own if one not in first]
        kwargs["callbacks"] = options["callbacks"] + default_callbacks(options, self.folder, fitting)
        return super().instantiate_trainer(**kwargs)

    # --- running ------------------------------------------------------------------------------------------------
    def _run_subcommand(self, subcommand: str) -> None:
        rank_zero_info(f"run folder: {self.folder.path}")
        failed = 1
        arguments = self.options.model.get("init_args", {})
        try:
            with (
                explained(Path(self.options.ckpt_path or ""), self.header, dict(arguments)),
                self._claim(),
                all_end(self.trainer),
            ):
                super()._run_subcommand(subcommand)
            failed = 0
        except SystemExit as exit:
            failed = exit.code if isinstance(exit.code, int) else 1
            raise
        finally:
            for logger in self.trainer.loggers:
                if isinstance(logger, RunWandbLogger):
                    logger.finish(failed)

    def _claim(self) -> AbstractContextManager[None]:
        writes = self.subcommand == "fit" and run_folder.rank() == 0
        return run_folder.claimed(self.folder.path) if writes else nullcontext()

    def predict(self, **options: Any) -> None:
        """Predicts the data module's test split; PredictionFiles writes batch by batch."""
        self.trainer.predict(**{**options, "return_predictions": False})

    def after_fit(self) -> None:
        """Keeps the last metrics for callers, and says why a run was short."""
        for callback in self.trainer.early_stopping_callbacks:
            if callback is not None and callback.stopping_reason_message and not callback.verbose:
                reason = callback.stopping_reason_message.removesuffix(" Signaling Trainer to stop.")
                rank_zero_info(f"stopped early: {reason}")
        self.metrics = {name: float(value) for name, value in self.trainer.callback_metrics.items()}

    def after_validate(self) -> None:
        """Writes <run>/validate/metrics.json."""
        self._write_metrics()

    def after_test(self) -> None:
        """Writes <run>/test/metrics.json."""
        self._write_metrics()

    def _write_metrics(self) -> None:
        self.after_fit()
        if not self.trains:
            untrained.save(self.trainer, self.folder.checkpoints / "best.ckpt")
        if self.trainer.is_global_zero:
            path = self.folder.path / str(self.subcommand) / "metrics.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            facts = {"checkpoint": self.options.ckpt_path, "monitor": self.model.monitor, "metrics": self.metrics}
            path.write_text(json.dumps(facts, indent=1) + "\n")
            rank_zero_info(f"metrics: {path}")


def _short(class_path: str) -> str:
    return class_path.rpartition(".")[2]
