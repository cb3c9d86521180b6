"""What the adviser prints: pictures by class, estimates by stage, and the name of a smaller network."""

import re
from collections import Counter
from typing import Any

import numpy as np
from rich.table import Table
from torch import nn

from lit_vision.networks.timm_names import architecture, without_memory
from lit_vision.transfer.estimates import paired
from lit_vision.transfer.sample import batches, chosen
from lit_vision.transfer.similarity import Similarity
from lit_vision.types import IGNORE_INDEX, Int64Array

SHOWN = 12  # classes; of more, the rarest
MASKS = 500  # looked into, at most


def counts_table(datamodule: Any) -> Table:
    """Training pictures that show each class, the rarest first; of masks, 500 are looked into."""
    train = datamodule.index.indices("train")
    counts, looked = _counts(datamodule, train)
    of = "" if looked == len(train) else f", {looked} of them looked at"
    table = Table("class", "pictures", title=f"{len(train):,} training pictures{of}", title_justify="left")
    rows = sorted((counts[k], name) for k, name in enumerate(datamodule.class_names))
    for count, name in rows[:SHOWN]:
        table.add_row(name, f"{count:,}")
    if len(rows) > SHOWN:
        rest = [count for count, _ in rows[SHOWN:]]
        table.add_row(f"{len(rest)} more", f"{min(rest):,} to {max(rest):,} each")
    return table


def _counts(datamodule: Any, train: Int64Array) -> tuple[Counter[int], int]:
    """Pictures by class, and how many were looked at."""
    index = datamodule.index
    if len(index.labels) and datamodule.task != "segmentation":
        return Counter(k for i in train for k in np.unique(index.labels[index.span(int(i))]).tolist()), len(train)
    counts: Counter[int] = Counter()
    some = chosen(index, MASKS, seed=0)
    first = 1 if datamodule.task == "instances" else 0  # their masks count background as 0
    for batch in batches(datamodule, some, 1):
        counts.update(int(k) - first for k in batch["mask"].unique() if first <= k < IGNORE_INDEX)
    return counts, len(some)


def estimates_table(found: Similarity) -> Table:
    """What the features of each stage are worth, from the image to the head; last, the random twin's variance."""
    title = f"What features of {found.images} pictures tell of labels (* = most)"
    table = Table(title=title, title_justify="left")
    table.add_column("stage", no_wrap=True)
    table.add_column("ends at", overflow="fold")
    for name in ("variance", "accuracy", "5 near", "LogME", "random"):
        table.add_column(name, justify="right", no_wrap=True)
    for stage in reversed(range(len(found.pretrained))):
        own, twin = found.pretrained[stage], found.random[stage]
        spread = paired(own.probe.errors, np.zeros(len(found.groups)), found.groups)
        mark = " *" if stage == found.best else ""
        table.add_row(
            f"{stage}{mark}",
            own.module,
            f"{own.probe.explained:.2f} ± {spread.margin:.2f}",
            f"{own.probe.accuracy:.3f}",
            f"{own.neighbours:.3f}",
            f"{own.logme:.2f}",
            f"{twin.probe.explained:.2f}",
        )
    return table


def smaller_backbone(backbone: nn.Module) -> str | None:
    """The next smaller pretrained timm network of the same kind, as resnet34 for resnet50; None where there is none."""
    import timm

    own = architecture(backbone)
    if not timm.is_model(own):
        return None
    kind = _kind(own)
    names = {name.partition(".")[0] for name in timm.list_models(f"{own[:4]}*", pretrained=True)}
    sizes = {name: _parameters(name) for name in names | {own} if _kind(name) == kind}
    below = [(size, name) for name, size in sizes.items() if size < sizes[own]]
    return max(below)[1] if below else None


def _kind(name: str) -> str:
    return re.sub(r"\d+", "", name)


def _parameters(name: str) -> int:
    import timm

    network = without_memory(timm.create_model, name, num_classes=0)
    return sum(parameter.numel() for parameter in network.parameters())
