"""Every test of a task starts from the same seed, on one thread."""

import pytest
import pytorch_lightning as pl
import torch


@pytest.fixture(autouse=True)
def _reproducible() -> None:
    torch.set_num_threads(1)
    pl.seed_everything(0)
