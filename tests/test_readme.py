"""What the README promises is there: its commands, its files, its Python."""

import re
from pathlib import Path

import pytest

from lit_vision.__main__ import main

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\(([^)#:]+)\)", README))))
def test_links_lead_to_files(link: str) -> None:
    assert (ROOT / link).exists()


def test_make_targets_exist() -> None:
    targets = re.findall(r"^make ([a-z-]+)", README, flags=re.M)
    makefile = (ROOT / "Makefile").read_text()
    assert targets
    assert all(f"\n{target}:" in makefile for target in targets)


@pytest.mark.parametrize("line", re.findall(r"^lit-vision .*$", README, flags=re.M))
def test_commands_are_known(line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(ROOT)
    words = line.split("#")[0].split()[1:]
    if words[0] == "compare":
        assert main(["compare", "--help"]) == 0
        assert "usage: lit-vision compare" in capsys.readouterr().out
        return
    if "-c" not in words:
        assert "--images" in words
        assert main(["predict", "--help"]) == 0
        text = capsys.readouterr().out
        assert all(word in text for word in words if word.startswith("--"))
        return
    assert main([*words[: words.index("-c") + 2], "--print_config"]) == 0


def test_the_experiment_shown_parses(tmp_path: Path) -> None:
    (shown,) = re.findall(r"```yaml\n(.*?)```", README, flags=re.S)
    (tmp_path / "mine.yaml").write_text(shown)
    assert main(["fit", "-c", str(tmp_path / "mine.yaml"), "--print_config"]) == 0


def test_the_python_shown_compiles_and_its_names_exist() -> None:
    (shown,) = re.findall(r"```python\n(.*?)```", README, flags=re.S)
    compile(shown, "README.md", "exec")
    from lit_vision.data import ClassificationDataModule
    from lit_vision.tasks import TransferClassifier

    assert ClassificationDataModule.__name__ in shown
    assert TransferClassifier.__name__ in shown
