"""One of two processes that train, are cut and continue, case by case; rank 0 writes what was equal to sys.argv[1]."""

import json
import logging
import sys
import warnings
from pathlib import Path
from typing import Any

import torch.distributed as dist
from resuming import CASES, EVERY_STEP, Case, cut_and_continued, digest, train
from torch.optim.lr_scheduler import OneCycleLR

from lit_vision.callbacks.boundaries import Boundaries

STEPS = 9  # 26 images on two processes, 4 at a time, 3 epochs
ON_TWO: dict[str, Any] = {"devices": 2, "strategy": "ddp"}
OWN = {
    "OneCycle": {"scheduler": lambda o: OneCycleLR(o, 0.1, total_steps=STEPS), "scheduler_interval": "step"},
}


def equal_on_both(one: object, other: object) -> bool:
    flags: list[Any] = [None, None]
    dist.all_gather_object(flags, one == other)
    return all(flags)


def compare(folder: Path, case: Case) -> dict[str, bool]:
    """Whether a run that was cut after an epoch, or inside one, equals the uncut one on both processes."""
    step = 3 if "accumulate_grad_batches" in case.trainer else 5  # in the second epoch
    whole = digest(train(folder / "whole", case))
    found = {}
    for place, checkpoints in (("epoch", {}), ("inside", EVERY_STEP)):
        again = digest(cut_and_continued(folder / place, case.but(checkpoints=checkpoints), step))
        found[place] = equal_on_both(again, whole)
    return found


def main(output: Path) -> None:
    for name in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    cases = {**CASES, "without seeds": CASES["dropout"].but(first=lambda: [Boundaries()])}
    found = {}
    for name, case in cases.items():
        case = case.but(trainer={**case.trainer, **ON_TWO}, model=OWN.get(name, case.model))
        found[name] = compare(output.parent / name, case)
    if dist.get_rank() == 0:
        output.write_text(json.dumps(found, indent=1))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
