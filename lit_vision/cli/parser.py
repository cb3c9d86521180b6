"""The option parser: jsonargparse's, with errors of one sentence and the nearest right name."""

import inspect
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib import import_module
from numbers import Number
from typing import Any, NoReturn

from jsonargparse.typing import register_type
from pytorch_lightning import Callback
from pytorch_lightning.cli import LightningArgumentParser
from pytorch_lightning.loggers import Logger
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lit_vision.cli.names import DATA_MODULES, TASKS, nearest
from lit_vision.errors import UserError, chain, find_user_error


def _number(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, Number):
        raise ValueError(f"{value!r} is no number")
    return value


# torchvision's transforms take a numbers.Number (degrees: 20), which jsonargparse reads but would not write back.
register_type(Number, lambda value: value, _number, type_check=isinstance, fail_already_registered=False)

NOUNS = {"int": "a whole number", "float": "a number", "str": "text", "bool": "true or false", "list": "a list"}
PARTS = {"model": TASKS, "data": DATA_MODULES}
LINKED = ("class_names", "num_classes")


class ShortErrorParser(LightningArgumentParser):
    """Says what is wrong in one sentence instead of fifty lines of usage."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raises a UserError that says what jsonargparse's message means.

        Raises:
            UserError: always, on the outermost parser.
        """
        if not self.exit_on_error:
            super().error(message, ex)
        parser = getattr(ex, "subcommand_parser", None) or self
        options = [option for action in parser._actions for option in action.option_strings]
        raise UserError(explain(message, options)) from ex


def explain(message: str, options: Iterable[str] = ()) -> str:
    """One sentence for a message of jsonargparse.

    Args:
        message: the message, possibly of many nested lines.
        options: all option strings of the parser, to find what an unknown one was meant to be.
    """
    for rule in (_unknown_argument, _missing):
        found = rule(message, list(options))
        if found:
            return found
    key = ".".join(re.findall(r'Parser key "(.+?)"', message)) or "options"
    for nested in (_unknown_option, _wrong_type, _unknown_class):
        found = nested(message, key)
        if found:
            return found
    return f"{key}: {_last_words(message)}"


def _unknown_argument(message: str, options: list[str]) -> str | None:
    in_yaml = re.search(r"does not accept option '([\w.]+)'", message)
    if in_yaml:
        return f"unknown key {in_yaml.group(1)}{nearest(in_yaml.group(1), [option[2:] for option in options])}"
    found = re.search(r"[Uu]nrecognized arguments: (\S+)", message)
    if not found:
        return None
    word = found.group(1).partition("=")[0]
    if not word.startswith("-"):
        return f"'{word}' belongs to no option; values follow their option: --key value"
    return f"unknown option {word}{nearest(word, options)}"


def _missing(message: str, options: list[str]) -> str | None:
    found = re.search(r"the following arguments are required: (.+)", message)
    if not found:
        return None
    inside = re.search(r"given class_path '.*\.(\w+)'", message)
    key = re.search(r'Parser key "(.+?)"', message)
    names = [name.strip() for name in found.group(1).split(",")]
    if inside and key:
        return (
            f"{inside.group(1)} needs {key.group(1)}.{names[0]}; set it in the YAML or with --{key.group(1)}.{names[0]}"
        )
    missing = " and ".join(name.rpartition(".")[2] for name in names)
    return f"no {missing} given; name an experiment with -c, or set {missing} with --{names[0].rpartition('.')[2]}"


def _unknown_option(message: str, key: str) -> str | None:
    found = re.search(r"Option '([\w.]+?)' is not accepted(?:.*?class_path='([\w.]+)')?", message)
    found = found or re.search(r"(?:Key|key) '([\w.]+?)' is not (?:expected|accepted)()", message)
    if not found:
        return None
    name = found.group(1)
    before = re.findall(r"given class_path '([\w.]+)'", message[: found.start()])
    owner = found.group(2) or (before[-1] if before else "")
    names = parameters(owner) if owner else []
    if name in LINKED and key == "model":
        return f"model.{name} comes from the data; leave it out"
    place = f" of {owner.rpartition('.')[2]}" if owner else ""
    hint = nearest(name, names) or (f"; it has {', '.join(sorted(names))}" if names else "")
    return f"{key}: unknown option '{name}'{place}{hint}"


def parameters(class_path: str) -> list[str]:
    """Names of the options that a class and its bases take."""
    module, _, name = class_path.rpartition(".")
    try:
        bases = getattr(import_module(module), name).__mro__
    except (ImportError, AttributeError, ValueError):
        return []
    names: dict[str, None] = {}
    for base in bases[:-1]:
        if "__init__" in vars(base):
            kinds = inspect.signature(base.__init__).parameters.values()
            names.update((p.name, None) for p in kinds if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY))
            if not any(p.kind is p.VAR_KEYWORD for p in kinds):
                break
    return [name for name in names if name not in ("self", *LINKED)]


def _wrong_type(message: str, key: str) -> str | None:
    wanted = re.findall(r"Expected an? (<class '(\w+)'>|typing\.Literal\[(.+?)\](?=\.|\s|$))", message)
    nouns = dict.fromkeys([*(NOUNS[builtin] for _, builtin, _ in wanted if builtin in NOUNS), *_tuples(message)])
    choices = list(dict.fromkeys(re.findall(r"'([^']+)'", " ".join(values for _, _, values in wanted))))
    value = _given(message)
    if not (nouns or choices) or value is None:
        return None
    if choices:  # true, false and text are other ways to write one of them
        nouns = dict.fromkeys(noun for noun in nouns if noun not in (NOUNS["bool"], NOUNS["str"]))
    words = [] if not choices else [f"one of {', '.join(choices)}" if len(choices) > 1 else choices[0]]
    expected = " or ".join([*nouns, *words])
    return f"{key} is {value}, but must be {expected}{nearest(value, choices)}"


def _tuples(message: str) -> list[str]:
    """What a user writes for a tuple, where the value was to be one."""
    if not re.search(r"Expected a (tuple with|<class 'tuple'>)", message):
        return []
    named = re.findall(r"tuple\[([^\[\]]+)\]", message)
    counts = [str(parts.count(",") + 1) for parts in named] or re.findall(r"a tuple with (\d+)", message)
    return [f"a list of {count}" for count in counts]


def _unknown_class(message: str, key: str) -> str | None:
    found = re.search(r"Expected a dot import path string: (\S+)", message)
    found = found or re.search(r"(?:No module named|Import|import).*?'([\w.]+)'", message)
    if not found:
        return None
    name = found.group(1).rstrip(".")
    if key in PARTS:
        hint = nearest(name, PARTS[key]) or f"; it can be {', '.join(PARTS[key])}, or the full path of your own"
        return f"{key}: unknown class '{name}'{hint}"
    bases: list[type[Any]] = [Callback, Logger, Optimizer, LRScheduler, nn.Module]
    kinds = {kind.__name__: kind for base in bases for kind in _subclasses(base)}
    if name in kinds:  # but of another base than this key's
        return f"{key}: class '{name}' needs its full path, {kinds[name].__module__}.{name}"
    return f"{key}: unknown class '{name}'{nearest(name, kinds)}"


def _subclasses(kind: type[Any]) -> Iterator[type[Any]]:
    for child in kind.__subclasses__():
        yield child
        yield from _subclasses(child)


def _given(message: str) -> str | None:
    # The innermost value is printed first.
    found = re.search(r"(?:Given value|Got value): (.+?)(?:\. Got value: .*)?$", message, re.MULTILINE)
    return found.group(1) if found else None


def _last_words(message: str) -> str:
    noise = re.compile(
        r"Parser key|Does not validate|Subtypes:|Errors:|Given value|Expected a <class 'NoneType'>|Problem with given"
    )
    lines = [line.strip(" -") for line in message.splitlines()]
    telling = [line for line in lines if line and not noise.match(line)]
    return " ".join(telling[:2])[:400] if telling else message.strip()[:400]


@contextmanager
def translated(what: str) -> Iterator[None]:
    """Turns whatever is raised inside into a UserError: the one hidden in the chain, else the innermost reason.

    Args:
        what: begins the sentence where a library, not lit_vision, has refused something.
    """
    try:
        yield
    except Exception as error:
        *_, innermost = chain(error)
        reason = " ".join(str(innermost).split())[:400] or type(innermost).__name__
        raise find_user_error(error) or UserError(f"{what}: {reason}") from error
