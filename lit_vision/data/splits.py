"""Division of a data set into training, validation and test: by list file, by fraction or in folds."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

import numpy as np
import numpy.typing as npt

from lit_vision.data.formats.files import read_text, split_of
from lit_vision.data.index import Index
from lit_vision.errors import DataError, UserError
from lit_vision.types import SPLITS, Int64Array

TRAIN, VAL, TEST = range(3)
Splits = npt.NDArray[np.int8]


def split(
    index: Index,
    *,
    val_fraction: float = 0.0,
    test_fraction: float = 0.0,
    files: Mapping[str, str] | None = None,
    folds: int | None = None,
    fold: int | None = None,
    group: str | None = None,
    stratify: bool = True,
    seed: int = 0,
) -> Index:
    """Gives every image a split, the same one on every machine. With nothing set, the data set's own splits stay.

    Args:
        index: the whole data set.
        val_fraction: share of the images, of those that are not in the test split yet, to validate on.
        test_fraction: share of the images to test on.
        files: list files by split, relative to the data set's folder: a path, file name or stem per line. Images in
            no list are for training if no list is given for it, else in no split.
        folds: number of equal parts, of which part `fold` is for validation and the others are for training.
        fold: 0 to folds - 1.
        group: regular expression with one group that is searched in each path, or "column" for the groups that the
            data set gives (which are used without asking, too).
        stratify: keep the share of each class, of the rarest of an image where it has several.
        seed: of the draw.

    Raises:
        UserError: settings contradict each other or the data set, or there is no validation split.
    """
    _check_settings(index, val_fraction, test_fraction, files, folds, fold)
    if files is not None:
        index = _by_files(index, files)
    elif folds is not None and fold is not None:
        pool = np.flatnonzero(index.splits != TEST)
        if stratify:
            _check_rarest(index, pool, folds)
        parts = _deal(index, pool, [1 / folds] * folds, _groups(index, group), stratify, seed)
        index = _assign(index, pool, np.where(parts == fold, VAL, TRAIN))
    elif val_fraction or test_fraction:
        pool = np.flatnonzero(index.splits <= TRAIN)
        shares = [1 - val_fraction - test_fraction, val_fraction, test_fraction]
        index = _assign(index, pool, _deal(index, pool, shares, _groups(index, group), stratify, seed))
    elif (index.splits < 0).all():
        index = index.with_splits(np.zeros(len(index), np.int8))
    return _validated(index, val_fraction)


def _validated(index: Index, val_fraction: float) -> Index:
    """The index, if it has images to validate on, or is for tests alone."""
    if not (index.splits == VAL).any() and (index.splits == TRAIN).any():
        if val_fraction:
            raise UserError(
                f"{index.root} has so few images ({len(index)}) that val_fraction {val_fraction} leaves none to "
                "validate on: add images of each class, raise val_fraction, or set stratify: false."
            )
        raise UserError(
            f"{index.root} has no images to validate on: set val_fraction (such as 0.2), or folds and fold, "
            f"or list files by split."
        )
    return index


def _check_settings(
    index: Index,
    val_fraction: float,
    test_fraction: float,
    files: Mapping[str, str] | None,
    folds: int | None,
    fold: int | None,
) -> None:
    ways = {
        "files": files is not None,
        "folds": folds is not None or fold is not None,
        "val_fraction or test_fraction": bool(val_fraction or test_fraction),
    }
    if len(chosen := [name for name, used in ways.items() if used]) > 1:
        raise UserError(f"Splits are set by {' and by '.join(chosen)}: keep one of them.")
    if min(val_fraction, test_fraction) < 0 or val_fraction + test_fraction >= 1:
        raise UserError(
            f"val_fraction {val_fraction} and test_fraction {test_fraction} must be 0 or more, below 1 in sum."
        )
    for split_number, fraction in ((VAL, val_fraction), (TEST, test_fraction)):
        if fraction and (count := int((index.splits == split_number).sum())):
            name = SPLITS[split_number]
            raise UserError(f"{index.root} has a {name} split of {count} images already: remove {name}_fraction.")
    if (folds is None) != (fold is None):
        raise UserError("folds and fold belong together: set both, such as folds: 5 and fold: 0.")
    if folds is not None and fold is not None and not (folds >= 2 and 0 <= fold < folds):
        raise UserError(
            f"With folds: {folds}, fold must be 0 to {max(folds, 2) - 1}, and folds 2 or more; fold is {fold}."
        )


def _assign(index: Index, pool: Int64Array, values: npt.NDArray[np.int64]) -> Index:
    splits: Splits = index.splits.copy()
    splits[pool] = values
    return index.with_splits(splits)


def _groups(index: Index, group: str | None) -> list[str] | None:
    """Group name of every image; None where each image is on its own."""
    if group is None or group == "column":
        if group is not None and index.groups is None:
            raise UserError(f"group is 'column', but {index.root} gives no groups: set the option group_column.")
        return index.groups.texts() if index.groups is not None else None
    try:
        pattern = re.compile(group)
    except re.error as error:
        raise UserError(f"group is {group!r}, which is no regular expression: {error}.") from None
    if pattern.groups != 1:
        raise UserError(
            f"group is {group!r}, which has {pattern.groups} groups in parentheses: "
            f"it needs exactly one (for a column of a table set the option group_column)."
        )
    matches = [(path, pattern.search(path)) for path in index.files.texts()]
    missing = [path for path, match in matches if match is None]
    if missing:
        raise UserError(f"group {group!r} does not match {len(missing)} paths, the first is {missing[0]}: correct it.")
    return [match.group(1) or "" for _, match in matches if match is not None]


def _rarest(index: Index, pool: Int64Array) -> Int64Array:
    """Place of each image's rarest label among all labels from the rarest on; K where an image has none."""
    counts = np.bincount(index.labels, minlength=len(index.class_names))
    rank = np.argsort(np.argsort(counts, kind="stable"), kind="stable")
    spans = (index.labels[index.span(i)] for i in pool.tolist())
    places = (int(rank[labels].min()) if len(labels) else len(counts) for labels in spans)
    return np.fromiter(places, np.int64, len(pool))


def _check_rarest(index: Index, pool: Int64Array, folds: int) -> None:
    """Every fold has to show every class."""
    images = np.repeat(np.arange(len(index)), np.diff(index.offsets))
    pairs = np.unique(np.stack([images, index.labels], 1)[np.isin(images, pool)], axis=0)
    counts = np.bincount(pairs[:, 1], minlength=len(index.class_names))
    fewest = min((int(count), k) for k, count in enumerate(counts) if count) if counts.any() else (folds, 0)
    if fewest[0] < folds:
        name = index.class_names[fewest[1]]
        raise UserError(
            f"folds is {folds}, but class {name} has {fewest[0]} images in {index.root}: "
            "take fewer folds, or set data.stratify to false to have folds without it."
        )


def _deal(
    index: Index, pool: Int64Array, shares: Sequence[float], groups: list[str] | None, stratify: bool, seed: int
) -> Int64Array:
    """Deals the images of the pool, group by group, to parts of these shares.

    Groups come ordered by stratum, larger ones first, else at random; each goes to the part that lacks most of its
    share, so that every part gets its share of every stratum up to one group.
    """
    names = groups and [groups[i] for i in pool.tolist()]
    unit = np.unique(np.array(names), return_inverse=True)[1] if names else np.arange(len(pool))
    sizes = np.bincount(unit) if len(pool) else np.zeros(0, np.int64)
    stratum = np.full(len(sizes), len(index.class_names), np.int64)
    if stratify and len(pool):
        np.minimum.at(stratum, unit, _rarest(index, pool))
    order = np.lexsort((np.random.default_rng(seed).permutation(len(sizes)), -sizes, stratum))
    share = np.array(shares)
    held = np.zeros(len(share))
    part = np.zeros(len(sizes), np.int64)
    dealt, last = 0, -1
    for k in order.tolist():
        dealt += int(sizes[k])
        # The first image of a class is for training wherever training has the larger share: it must be seen there.
        first = stratum[k] != last and share[TRAIN] > 0.5
        part[k] = TRAIN if first else int((share * dealt - held).argmax())
        held[part[k]] += sizes[k]
        last = int(stratum[k])
    return part[unit]


def _by_files(index: Index, files: Mapping[str, str]) -> Index:
    names = _names(index)
    problems: list[str] = []
    given = {split_of(name) for name in files}
    splits: Splits = np.full(len(index), -1 if TRAIN in given else TRAIN, np.int8)
    claimed: dict[int, str] = {}
    for name, file in files.items():
        if split_of(name) < 0:
            raise UserError(f"files has the split {name!r}: write train, val or test.")
        path = index.root / file if (index.root / file).is_file() else Path(file)
        for number, line in enumerate(read_text(path).splitlines(), 1):
            if entry := line.strip():
                where = f"{file}, line {number}"
                for i in _find(entry, names, where, problems):
                    if claimed.setdefault(i, name) != name:
                        problems.append(f"{where}: {entry} is in the list of {claimed[i]} too: delete it from one.")
                    splits[i] = split_of(name)
    if problems:
        raise DataError(problems)
    left_out = int((splits < 0).sum())
    notes = (f"{left_out} images are in no list and are not used.",) if left_out else ()
    return replace(index.with_splits(splits), notes=index.notes + notes)


def _names(index: Index) -> dict[str, list[int]]:
    """Positions by path, by file name and by stem."""
    names: dict[str, list[int]] = {}
    for i, text in enumerate(index.files.texts()):
        path = PurePosixPath(text)
        for name in {text, text.rsplit(".", 1)[0], path.name, path.stem}:
            names.setdefault(name, []).append(i)
    return names


def _find(entry: str, names: Mapping[str, list[int]], where: str, problems: list[str]) -> list[int]:
    found = names.get(entry.replace("\\", "/").removeprefix("./"), [])
    if not found:
        problems.append(f"{where}: {entry} is no image of the data set: correct or delete the line.")
    elif len(found) > 1:
        problems.append(
            f"{where}: {entry} is the name of {len(found)} images: write the path from the data set's folder."
        )
    return found if len(found) == 1 else []
