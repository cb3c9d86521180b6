"""Every test of a task starts from the same seed, on one thread."""

from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from pairs import draw_pairs


@pytest.fixture(autouse=True)
def _reproducible() -> None:
    torch.set_num_threads(1)
    pl.seed_everything(0)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_pairs(tmp_path_factory.mktemp("pairs"))
