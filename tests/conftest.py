"""Fixtures that several test files share."""

import os
import sys
from pathlib import Path

import pytest

# Before torch is imported: one thread per test process. Several processes share the cores (pytest -n), and threads that
# spin while they wait for each other cost far more than they gain on networks as small as the tests'.
os.environ.setdefault("OMP_NUM_THREADS", "1")

sys.path.append(str(Path(__file__).parent))  # so that an experiment can name stand_in.Toy

TOY = """\
model: {class_path: stand_in.Toy, init_args: {width: 5}}
data: {class_path: stand_in.ToyData, init_args: {root: .}}
trainer: {max_epochs: 1, accelerator: cpu, enable_progress_bar: false, enable_model_summary: false}
wandb: off
"""


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder with the experiment toy.yaml, without W&B account or earlier environment."""
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_PROJECT", "LIT_VISION_RUN_DIR", "RANK", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "toy.yaml").write_text(TOY)
    return tmp_path


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The drawn data set of all four tasks: 4, 4 and 5 scenes of 64 pixels by split, twice as many to classify."""
    from lit_vision.data.shapes import draw_shapes

    return draw_shapes(tmp_path_factory.mktemp("drawn") / "set", train=4, val=4, test=5, size=64)
