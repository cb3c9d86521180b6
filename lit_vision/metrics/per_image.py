"""What a metric keeps of each picture, in flat arrays, from which it can be computed for any multiset of pictures.

Conventions
    Arrays without a slash in their name have a row for each picture.
    Arrays "<kind>/<name>" have any number of rows for a picture; "<kind>/picture" says whose they are, rising.
"""

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from lit_vision.types import Int64Array

Arrays: TypeAlias = dict[str, npt.NDArray[Any]]


def pictures(arrays: Mapping[str, npt.NDArray[Any]]) -> int:
    """N, the number of pictures."""
    return next(len(values) for name, values in arrays.items() if "/" not in name)


def joined(parts: Sequence[Arrays]) -> Arrays:
    """The pictures of several parts, one part after the other; what not all of them have is left out."""
    starts = np.cumsum([0, *(pictures(part) for part in parts)])
    return {
        name: np.concatenate(
            [
                part[name] + start if name.endswith("/picture") else part[name]
                for part, start in zip(parts, starts, strict=False)
            ]
        )
        for name in parts[0]
        if all(name in part for part in parts)
    }


def chosen(arrays: Arrays, positions: Int64Array) -> Arrays:
    """The pictures at these positions, in this order, each once."""
    place = np.full(pictures(arrays), -1, np.int64)
    place[positions] = np.arange(len(positions))
    rows: dict[str, Int64Array] = {}
    for name, values in arrays.items():
        if name.endswith("/picture"):
            new = place[values]
            kept = np.flatnonzero(new >= 0)
            rows[name.partition("/")[0]] = kept[np.argsort(new[kept], kind="stable")]
    result = {}
    for name, values in arrays.items():
        kind, slash, _ = name.partition("/")
        result[name] = values[rows[kind]] if slash else values[positions]
        if name.endswith("/picture"):
            result[name] = place[result[name]]
    return result
