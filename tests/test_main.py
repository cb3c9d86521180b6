"""Stage one of the command line: everything here answers without torch."""

import ast
import inspect
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from lit_vision import __version__
from lit_vision.__main__ import main
from lit_vision.cli import completion, screens
from lit_vision.cli.commands import COMMANDS
from lit_vision.cli.names import DATA_MODULES, READER_OPTIONS, TASKS, TRAINING, nearest
from lit_vision.errors import UserError

PACKAGE = Path(__file__).parents[1]

WRONG = [
    ("fti", "no command 'fti'; did you mean 'fit'? (lit-vision --help lists all)"),
    ("xyzzy", "no command 'xyzzy' (lit-vision --help lists all)"),
    ("-c toy.yaml fit", "the command comes first: lit-vision fit|validate|test|predict -c ..."),
    ("fit", "fit needs an experiment: lit-vision fit -c experiments/<task>/<name>.yaml"),
    ("test", "test needs an experiment: lit-vision test -c experiments/<task>/<name>.yaml"),
    ("fit -c", "-c needs a file: -c experiments/<task>/<name>.yaml"),
    ("fit -c m8.yaml", "config file not found: m8.yaml; did you mean 'm18.yaml'?"),
    ("fit --config=m8.yaml", "config file not found: m8.yaml; did you mean 'm18.yaml'?"),
    ("fit -c no/m8.yaml", "config file not found: no/m8.yaml (there is no folder no)"),
    ("fit -c syntax.yaml", "syntax.yaml:3: not valid YAML: mapping values are not allowed here"),
    ("fit -c key.yaml", "key.yaml:2: unknown key 'modle'; did you mean 'model'?"),
    ("fit -c twice.yaml", "twice.yaml:3: key 'lr' stands twice; only the last would count"),
    ("fit -c list.yaml", "list.yaml: holds no keys; an experiment has model:, data: and trainer:"),
    ("fit -c picture.yaml", "picture.yaml: not a YAML text file"),
    ("fit -c m18.yaml --modle x", "unknown option --modle; did you mean 'model'?"),
    ("fit -c m18.yaml --ckpt best", "unknown option --ckpt; did you mean 'ckpt_path'?"),
    ("completion", "which shell? lit-vision completion bash|zsh|fish"),
    ("completion bsh", "no completion for 'bsh'; did you mean 'bash'?; there is one for bash, zsh, fish"),
    ("convert nowhere --to coco --output out", "data set not found: nowhere"),
    (
        "convert . --to coc --output out",
        "lit-vision convert: --to is coc, but must be one of coco, voc, yolo; did you mean 'coco'?",
    ),
    (
        "convert . --to coco --output out --options.classes",
        "lit-vision convert: --options.classes needs a value: --options.classes VALUE",
    ),
    (
        "convert . --to coco --output out --options.classes --link",
        "lit-vision convert: --options.classes needs a value: --options.classes VALUE",
    ),
    (
        "convert . --to coco --outptu out",
        "lit-vision convert: the following arguments are required: --output",
    ),
    (
        "predict --images a.jpg --ckpt_path no.ckpt --output out",
        "checkpoint not found: no.ckpt (--ckpt_path takes best, last or a file)",
    ),
    ("compare", "lit-vision compare: the following arguments are required: RUN"),
    ("compare nowhere there", "no run folder nowhere: give runs/<experiment>/<run>, several seeds joined by commas"),
    ("compare . .", ". is no run folder: it has no config.yaml; give runs/<experiment>/<run>"),
    ("compare run", "lit-vision compare needs two runs or more: lit-vision compare runs/<experiment>/<run> ..."),
    ("compare run run --level 95", "lit-vision compare: --level is 95.0, but must be between 0 and 1, such as 0.95"),
    ("compare run run --resamples 9", "lit-vision compare: --resamples is 9, but must be 100 or more"),
    ("compare run run --seed -1", "lit-vision compare: --seed is -1, but must be 0 or more"),
    ("compare run run --output m18.yaml", "lit-vision compare: --output m18.yaml is a file, but must be a folder"),
    ("compare run run --spilt val", "lit-vision compare: unrecognized arguments: --spilt val; did you mean '--split'?"),
    (
        "compare run run --split vla",
        "lit-vision compare: --split is vla, but must be one of test, val; did you mean 'val'?",
    ),
    ("fit -c m18.yaml --folds 1", "--folds is 1, but there must be 2 or more, such as 5"),
    ("fit --folds 5", "fit --folds needs an experiment: lit-vision fit -c experiments/<task>/<name>.yaml --folds 5"),
    (
        "predict --images a.jpg --output out",
        "lit-vision predict: the following arguments are required: --ckpt_path",
    ),
]


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("m18.yaml").write_text("model: Toy\ndata: ToyData\n")
    Path("syntax.yaml").write_text("model: Toy\ndata:\n  class_path: a: b\n")
    Path("key.yaml").write_text("data: ToyData\nmodle: Toy\n")
    Path("twice.yaml").write_text("model:\n  init_args: {lr: 1,\n    lr: 2}\n")
    Path("run").mkdir()
    Path("run/config.yaml").touch()
    Path("list.yaml").write_text("- model\n")
    Path("picture.yaml").write_bytes(b"\x89PNG\xff\xfe")
    return tmp_path


@pytest.mark.parametrize(("line", "sentence"), WRONG, ids=[line for line, _ in WRONG])
def test_error_is_one_sentence(line: str, sentence: str, files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(line.split()) == 2
    out, err = capsys.readouterr()
    assert (out, err) == ("", f"error: {sentence}\n")


def test_nothing_of_this_imports_torch(files: Path) -> None:
    lines = [
        *(line for line, _ in WRONG),
        "--help",
        "help",
        "version",
        "--version",
        "fit --help",
        "predict -h",
        "compare -h",
    ]
    lines += [f"completion {shell}" for shell in completion.SHELLS]
    code = (
        "import sys\nfrom lit_vision.__main__ import main\n"
        f"for line in {lines!r}:\n"
        "    main(line.split())\n"
        "    heavy = {'torch', 'numpy', 'jsonargparse', 'pytorch_lightning', 'wandb'} & set(sys.modules)\n"
        "    assert not heavy, (line, heavy)\n"
        "print('light')\n"
        "import numpy\n"
        "assert 'numpy' in sys.modules  # the check above can fail\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "light" in done.stdout


@pytest.mark.parametrize("words", [[], ["help"], ["--help"], ["-h"]])
def test_main_screen_names_every_command(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 0
    screen = capsys.readouterr().out
    assert screen == screens.MAIN
    for command in COMMANDS:
        assert f"lit-vision {command}" in screen


@pytest.mark.parametrize("command", TRAINING)
def test_training_screen_fits(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 60
    assert max(len(line) for line in lines) <= 120
    for name in (*TASKS, *DATA_MODULES):
        assert any(name in line for line in lines)


def test_names_are_the_classes_of_the_package() -> None:
    for name, module in {**TASKS, **DATA_MODULES}.items():
        source = PACKAGE / f"{module.replace('.', '/')}.py"
        assert name in {node.name for node in ast.parse(source.read_text()).body if isinstance(node, ast.ClassDef)}


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["version"]) == main(["--version"]) == 0
    assert capsys.readouterr().out == f"lit-vision {__version__}\n" * 2


def test_debug_shows_the_traceback() -> None:
    with pytest.raises(UserError, match="no command 'fti'"):
        main(["fti", "--debug"])


@pytest.mark.parametrize("shell", completion.SHELLS)
def test_completion_is_small(shell: str) -> None:
    assert 500 < len(completion.script(shell, list(COMMANDS))) < 3000


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["f"], {"fit"}),
        (["fit", "--model", "T"], {"TransferClassifier"}),
        (["fit", "--trainer.max"], {"--trainer.max_epochs"}),
        (["fit", "-c", "exp"], {"experiments/shapes/one.yaml"}),
        (["fit", "--ckpt_path", ""], {"best", "last"}),
        (["completion", "z"], {"zsh"}),
        (["convert", "in", "--to", "c"], {"coco"}),
        (["convert", "in", "--options.cl"], {"--options.class_masks", "--options.classes"}),
    ],
)
def test_bash_completes(words: list[str], expected: set[str], tmp_path: Path) -> None:
    (tmp_path / "experiments" / "shapes").mkdir(parents=True)
    (tmp_path / "experiments" / "shapes" / "one.yaml").touch()
    line = " ".join(f"'{word}'" for word in ["lit-vision", *words])
    script = completion.script("bash", list(COMMANDS))
    asked = f"{script}\nCOMP_WORDS=({line}); COMP_CWORD={len(words)}; _lit_vision; printf '%s\\n' \"${{COMPREPLY[@]}}\""
    done = subprocess.run(["bash", "-c", asked], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) == expected


def test_second_callback_list_is_announced(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Trap 6: the second of two lists replaces the first."""
    Path("a.yaml").write_text("trainer: {callbacks: []}\n")
    Path("b.yaml").write_text("trainer: {callbacks: []}\n")
    Path("c.yaml").write_text("trainer: {callbacks+: []}\n")
    main(["test", "-c", "m18.yaml", "-c", "a.yaml", "-c", "b.yaml", "--unknown.key", "1"])
    assert "replace" not in capsys.readouterr().err  # the unknown option ends it first
    from lit_vision.cli.experiment_files import read_configs, replaced_callbacks

    a, b, c = (Path(f"{name}.yaml") for name in "abc")
    assert replaced_callbacks(read_configs([a, b])) == (
        "trainer.callbacks of b.yaml replace those of a.yaml; write callbacks+: to append"
    )
    assert replaced_callbacks(read_configs([a, c])) is None


def test_plain_commands_need_no_method_on_the_trainer(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trap 10: LightningCLI's own extra subcommands build a model first and must be identifiers."""
    calls: list[tuple[object, ...]] = []
    module = SimpleNamespace(convert_by_words=lambda *args: calls.append(args) or [])
    monkeypatch.setitem(sys.modules, "lit_vision.data.convert", module)
    assert main(["convert", ".", "--to", "yolo", "--output", "out", "--format", "coco"]) == 0
    assert calls == [(Path(), Path("out"), "yolo", "coco", {}, False)]


def test_convert_hands_the_readers_options_and_the_links_on(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[object, ...]] = []
    module = SimpleNamespace(convert_by_words=lambda *args: calls.append(args) or [])
    monkeypatch.setitem(sys.modules, "lit_vision.data.convert", module)
    words = ["--options.classes", "a,b", "--to", "voc", ".", "--options.images=x=y", "--link", "--output", "out"]
    assert main(["convert", *words]) == 0
    assert calls == [(Path(), Path("out"), "voc", "auto", {"classes": "a,b", "images": "x=y"}, True)]


def test_options_of_readers_are_those_of_the_code(capsys: pytest.CaptureFixture[str]) -> None:
    from lit_vision.data.formats import FORMATS

    for name, options in READER_OPTIONS.items():
        assert list(options) == [key for key in inspect.signature(FORMATS[name].read).parameters if key != "root"]
    assert main(["convert", "--help"]) == 0
    screen = capsys.readouterr().out
    assert all(f"{', '.join(options)}\n" in screen for options in READER_OPTIONS.values())
    assert all(word in screen for word in ("--link", "--options.NAME VALUE", "--to {coco,voc,yolo}"))


def test_predict_on_pictures_needs_the_checkpoint_alone(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[object, ...]] = []
    module = SimpleNamespace(predict_images=lambda *args, **options: calls.append((*args, options)))
    monkeypatch.setitem(sys.modules, "lit_vision.predict", module)
    Path("a.ckpt").touch()
    assert main(["predict", "--ckpt_path", "a.ckpt", "--images", "*.jpg", "--output", "out", "--threshold", "0.3"]) == 0
    options = calls[0][3]
    assert calls == [(Path("a.ckpt"), "*.jpg", Path("out"), options)]
    assert options == {
        "batch_size": 8,
        "num_workers": 0,
        "device": "auto",
        "threshold": 0.3,
        "overwrite": False,
        "precision": "32",
        "label_maps": None,
    }
    words = ["--ckpt_path", "a.ckpt", "--images", "a.jpg", "--output", "out", "--tile", "640"]
    assert main(["predict", *words, "--nms_threshold", "0.6"]) == 0
    assert (calls[1][3]["tile"], calls[1][3]["nms_threshold"]) == (640, 0.6)  # type: ignore[index]
    assert main(["predict", *words[:-1], "0"]) == 0
    assert calls[2][3]["tile"] is None  # type: ignore[index]


def test_a_threshold_is_a_number_or_auto(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", "--ckpt_path", "a", "--images", "b", "--output", "c", "--threshold", "abc"]) == 2
    said = "error: lit-vision predict: argument --threshold: 'abc' is neither a number nor auto\n"
    assert capsys.readouterr().err == said


def test_quickstart_writes_where_told(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Path] = []
    monkeypatch.setitem(sys.modules, "lit_vision.quickstart", SimpleNamespace(main=calls.append))
    assert main(["quickstart", "--output", "there"]) == 0
    assert calls == [Path("there")]


@pytest.mark.parametrize(
    ("word", "hint"),
    [
        ("fti", "; did you mean 'fit'?"),
        ("FIT", "; did you mean 'fit'?"),
        ("zebra", ""),
        ("val", "; did you mean 'validate'?"),
    ],
)
def test_nearest(word: str, hint: str) -> None:
    assert nearest(word, TRAINING) == hint
