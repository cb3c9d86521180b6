"""Completion scripts for shells: static, about two kilobytes, answering without starting Python."""

from itertools import chain

from lit_vision.cli.names import DATA_MODULES, KEYS, READER_OPTIONS, TASKS, nearest
from lit_vision.errors import UserError

OPTIONS = (
    *("--help", "--help-all", "--debug", "--config", "--print_config", "--images", "--output"),
    *("--cfg", "--weights", "--names", "--fit"),
    *("--folds", "--metric", "--split", "--resamples", "--minutes"),
    *("--to", "--format", "--link", *(f"--options.{name}" for name in sorted(set(chain(*READER_OPTIONS.values()))))),
    *(f"--{key}" for key in KEYS),
    *("--model.backbone", "--model.weights", "--model.freeze", "--model.optimizer", "--model.scheduler"),
    *("--data.root", "--data.format", "--data.image_size", "--data.batch_size", "--data.num_workers"),
    *("--trainer.max_epochs", "--trainer.precision", "--trainer.devices", "--trainer.accelerator"),
)
VALUES = {
    "--model": tuple(TASKS),
    "--data": tuple(DATA_MODULES),
    "--ckpt_path": ("best", "last"),
    "--resume": ("auto",),
    "--wandb": ("off", "offline", "online"),
    "--split": ("test", "val"),
    "--cfg": ("yolov3", "yolov3-tiny", "yolov3-spp"),
    "--fit": ("stretch", "letterbox"),
    "--to": ("coco", "voc", "yolo"),
    "--format": tuple(READER_OPTIONS),
}
SHELLS = ("bash", "zsh", "fish")

BASH = """\
_lit_vision() {{
  local word="${{COMP_WORDS[COMP_CWORD]}}" before="${{COMP_WORDS[COMP_CWORD-1]}}"
  case "$before" in
    -c|--config) COMPREPLY=($(compgen -W "$(find experiments -name '*.yaml' 2>/dev/null)" -- "$word") \
$(compgen -f -X '!*.yaml' -- "$word")); return;;
{cases}
  esac
  if [ "$COMP_CWORD" -eq 1 ]; then COMPREPLY=($(compgen -W "{commands}" -- "$word")); return; fi
  case "$word" in
    -*) COMPREPLY=($(compgen -W "{options}" -- "$word"));;
    *) COMPREPLY=($(compgen -f -- "$word"));;
  esac
}}
complete -o filenames -F _lit_vision lit-vision
"""


def script(shell: str, commands: list[str]) -> str:
    """A completion script: commands, class names, experiments/*.yaml and the most used options.

    Args:
        shell: "bash", "zsh" or "fish".
        commands: names of all commands.

    Raises:
        UserError: another shell.
    """
    if shell not in SHELLS:
        raise UserError(f"no completion for '{shell}'{nearest(shell, SHELLS)}; there is one for {', '.join(SHELLS)}")
    if shell == "fish":
        return _fish(commands)
    bash = _bash(commands)
    # zsh runs bash's own functions through its compatibility layer.
    return bash if shell == "bash" else f"autoload -U +X bashcompinit && bashcompinit\n{bash}"


def _bash(commands: list[str]) -> str:
    cases = "\n".join(
        f'    {option}) COMPREPLY=($(compgen -W "{" ".join(values)}" -- "$word")); return;;'
        for option, values in {**VALUES, "completion": SHELLS}.items()
    )
    return BASH.format(cases=cases, commands=" ".join(commands), options=" ".join(OPTIONS))


def _fish(commands: list[str]) -> str:
    lines = [f"complete -c lit-vision -n __fish_use_subcommand -f -a '{' '.join(commands)}'"]
    lines.append("complete -c lit-vision -s c -l config -r -a '(find experiments -name \"*.yaml\" 2>/dev/null)'")
    for option in OPTIONS:
        values = f" -x -a '{' '.join(VALUES[option])}'" if option in VALUES else ""
        lines.append(f"complete -c lit-vision -l {option[2:]}{values}")
    return "\n".join(lines) + "\n"
