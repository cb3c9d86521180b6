"""Experiments in YAML, checked before torch is imported: missing files, syntax, doubled and unknown keys."""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lit_vision.cli.names import KEYS, nearest
from lit_vision.errors import UserError

Configs = Mapping[Path, dict[str, Any]]

# Paths that are looked for beside the experiment, too.
FILES = ("weights", "architecture", "classifier", "border_weights", "start_from")  # of a model
LOCATED = (("data", "root"), *(("model", name) for name in FILES))


def config_paths(args: Sequence[str]) -> list[Path]:
    """The files given as -c FILE, --config FILE or --config=FILE, in order.

    Raises:
        UserError: -c stands at the end, without a file.
    """
    paths = []
    for i, arg in enumerate(args):
        if arg in ("-c", "--config"):
            if i + 1 == len(args):
                raise UserError(f"{arg} needs a file: {arg} experiments/<task>/<name>.yaml")
            paths.append(Path(args[i + 1]))
        elif arg.startswith("--config="):
            paths.append(Path(arg.partition("=")[2]))
    return paths


def read_configs(paths: Sequence[Path]) -> dict[Path, dict[str, Any]]:
    """The content of each file, in order.

    Raises:
        UserError: a file is missing, is no YAML mapping, has a key twice, or a top-level key that nothing reads.
    """
    return {path: read_config(path) for path in paths}


def read_config(path: Path) -> dict[str, Any]:
    """One experiment as plain values; see `read_configs`."""
    import yaml

    if not path.is_file():
        raise UserError(f"config file not found: {path}{_similar_file(path)}")
    try:
        text = path.read_text(encoding="utf-8")
        tree = yaml.compose(text, Loader=yaml.SafeLoader)
        content = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise UserError(f"{path}:{line}: not valid YAML: {error.problem or error.context}") from error
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{path}: not a YAML text file") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: holds no keys; an experiment has model:, data: and trainer:")
    for key, line in _doubled(tree):
        raise UserError(f"{path}:{line}: key '{key}' stands twice; only the last would count")
    for key in content:
        if key not in KEYS:
            raise UserError(f"{path}:{_line_of(tree, key)}: unknown key '{key}'{nearest(str(key), KEYS)}")
    return content


def setting(configs: Configs, section: str, name: str) -> tuple[Path, Any] | None:
    """The last file that sets `section.name` or `section.init_args.name`, and the value; None if no file does."""
    found = None
    for path, content in configs.items():
        options = content.get(section)
        if isinstance(options, dict):
            arguments = options.get("init_args")
            for place in (options, arguments if isinstance(arguments, dict) else {}):
                if name in place:
                    found = (path, place[name])
    return found


def replaced_callbacks(configs: Configs) -> str | None:
    """One sentence where a later file's trainer.callbacks replaces an earlier file's list."""
    paths = [path for path, content in configs.items() if "callbacks" in (content.get("trainer") or {})]
    if len(paths) < 2:
        return None
    return f"trainer.callbacks of {paths[-1]} replace those of {paths[0]}; write callbacks+: to append"


def locate(value: str, configs: Configs, section: str, name: str) -> str:
    """A path from a config: as seen from the working folder, else from the folder of the file that sets it."""
    expanded = Path(os.path.expandvars(value)).expanduser()
    if expanded.is_absolute() or expanded.exists():
        return value
    source = setting(configs, section, name)
    if source and source[1] == value and (source[0].parent / expanded).exists():
        return str((source[0].parent / expanded).resolve())
    return value


def _similar_file(path: Path) -> str:
    folder = path.parent
    if not folder.is_dir():
        return f" (there is no folder {folder})"
    return nearest(path.name, [file.name for file in folder.iterdir() if file.suffix in (".yaml", ".yml")])


def _doubled(node: Any) -> Iterator[tuple[str, int]]:
    """Keys that stand twice in one mapping, with their lines."""
    import yaml

    if isinstance(node, yaml.MappingNode):
        seen = set()
        for key, value in node.value:
            if key.value in seen and key.value != "<<":
                yield key.value, key.start_mark.line + 1
            seen.add(key.value)
            yield from _doubled(value)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            yield from _doubled(value)


def _line_of(tree: Any, key: object) -> int:
    lines = [node.start_mark.line + 1 for node, _ in tree.value if node.value == str(key)]
    return lines[0] if lines else 1
