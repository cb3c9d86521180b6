"""<run>/test/per_image.npz: what a test has seen of each picture, enough to compute its metrics for any of them."""

import json
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lit_vision.errors import UserError
from lit_vision.metrics.per_image import Arrays, chosen, joined
from lit_vision.types import Int64Array

NAME = "per_image.npz"
VERSION = 1


@dataclass(frozen=True)
class Evidence:
    """What one evaluation leaves behind.

    Args:
        kind: what the arrays are of, see `metrics.weighted.KINDS`.
        metric: the task's own, such as "accuracy".
        class_names: K names.
        files: N pictures, relative to the data set's folder.
        labels: (N,) a number for each picture's labels, see `data.fingerprint`.
        arrays: see `metrics.per_image`.
        facts: plain values: checkpoint, image_size ...
    """

    kind: str
    metric: str
    class_names: Sequence[str]
    files: Sequence[str]
    labels: npt.NDArray[np.uint64]
    arrays: Arrays
    facts: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.files)

    def at(self, positions: Int64Array) -> "Evidence":
        """The pictures at these positions, in this order."""
        files = [self.files[i] for i in positions.tolist()]
        return replace(self, files=files, labels=self.labels[positions], arrays=chosen(self.arrays, positions))

    def write(self, path: Path) -> None:
        """Writes the file as one step: plain arrays, no pickle."""
        header = {"version": VERSION, "kind": self.kind, "metric": self.metric, "class_names": list(self.class_names)}
        columns: dict[str, Any] = {
            "header": np.array(json.dumps({**header, "facts": self.facts})),
            "files": np.array(self.files, str),
            "labels": self.labels,
            **{f"of/{name}": values for name, values in self.arrays.items()},
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        with partial.open("wb") as file:
            np.savez_compressed(file, **columns)
        partial.replace(path)


def read(path: Path) -> Evidence:
    """The evidence in a file.

    Raises:
        UserError: it is damaged, or of a later version.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            header = json.loads(str(file["header"]))
            arrays = {name.removeprefix("of/"): file[name] for name in file.files if name.startswith("of/")}
            files, labels = [str(name) for name in file["files"]], file["labels"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"{path} is damaged: delete it, and the run is tested again") from error
    if header["version"] > VERSION:
        raise UserError(f"{path} was written by a later version of lit_vision: delete it, and the run is tested again")
    return Evidence(
        header["kind"], header["metric"], header["class_names"], files, labels, arrays, header.get("facts", {})
    )


def pooled(parts: Sequence[Evidence]) -> Evidence:
    """The pictures of several evaluations as of one."""
    return replace(
        parts[0],
        files=[name for part in parts for name in part.files],
        labels=np.concatenate([part.labels for part in parts]),
        arrays=joined([part.arrays for part in parts]),
    )
