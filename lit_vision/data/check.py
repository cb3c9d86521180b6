"""Looks through a whole data set before training: all its problems together, or none."""

import posixpath
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Literal

import numpy as np

from lit_vision.data.check_files import Finding, look_at_files
from lit_vision.data.formats.boxes import box_fault, clip_boxes, clip_note, faulty_boxes
from lit_vision.data.index import NO_SEGMENT, Index
from lit_vision.errors import DataError
from lit_vision.types import SPLITS, BoolArray, Int32Array, Split

Task = Literal["classification", "segmentation", "instances", "detection"]
_NEEDS = {
    "classification": "labels of whole images (formats folder and csv) or boxes (formats coco, voc and yolo)",
    "detection": "boxes (formats coco, voc and yolo; `lit-vision convert --to coco` makes them from label maps)",
    "segmentation": "class masks (format masks) or outlines of objects (formats coco, yolo and labelmaps)",
    "instances": "outlines of objects (formats labelmaps, coco and yolo)",
}
_NAMED = 10  # class names in one sentence


def check(
    index: Index,
    task: Task,
    *,
    progress: Callable[[int, int], None] | None = None,
    workers: int = 8,
    missing_classes: Literal["refuse", "note"] = "refuse",
) -> Index:
    """Finds what would stop or spoil a training. Files are only read.

    Args:
        index: a data set with its splits; `problems` of its reader are raised together with those found here.
        task: what it is for.
        progress: called with the number of images looked at and of all images.
        workers: threads that read files.
        missing_classes: whether a class that the training split never shows is a problem, or a note.

    Returns:
        The index with the sizes of all images in a split, boxes clipped to them, and notes on what was clipped.

    Raises:
        DataError: every problem, one sentence each.
    """
    problems = [*index.problems, *_wrong_names(index), *_misfits(index, task)]
    problems += [*_duplicates(index), *_empty_splits(index)]
    findings = look_at_files(index, problems, progress, workers)
    index = replace(index, sizes=findings.sizes)
    index = replace(index, notes=(*index.notes, *_torn_maps(index, findings)))
    problems += _wrong_labels(index)
    index = _clipped(index, problems)
    problems += _bare_validation(index, task)
    index = replace(index, notes=(*index.notes, *_bare_test(index, task)))
    if missing := _missing_classes(index, findings):
        if missing_classes == "refuse":
            problems.append(missing)
        else:
            index = replace(index, notes=(*index.notes, missing))
    if problems:
        raise DataError(problems)
    return index


def class_problems(index: Index, missing_classes: Literal["refuse", "note"] = "refuse") -> list[str]:
    """What keeps whole pictures from being told apart, a sentence each: one class, or fewer pictures than classes.

    Args:
        index: a data set with labels of whole pictures, its splits drawn or not.
        missing_classes: "note" allows classes without pictures, hence more classes than pictures.
    """
    names, pictures = index.class_names, int((index.splits <= 0).sum())
    if len(names) == 1:
        return [
            f"{index.root} has one class only, {names[0]}, and one class cannot be told from itself: add pictures of "
            "another class, such as a folder `other`."
        ]
    if missing_classes == "refuse" and 0 < pictures < len(names) and not index.multi_label:
        return [
            f"{index.root} has {pictures} pictures to train on, fewer than its {len(names)} classes: add pictures, or "
            "set the option classes to those that have some."
        ]
    return []


def _wrong_names(index: Index) -> Iterator[str]:
    """Class names that metrics and results could not tell apart."""
    names = index.class_names
    if not names and not index.problems:
        yield f"{index.root} has no classes, since it has no objects: add annotations, or set the option classes."
    for name in dict.fromkeys(name for name in names if names.count(name) > 1 or not name.strip()):
        yield f"{index.root}: the class name {name!r} is empty or there twice: give each class a name of its own."


def _misfits(index: Index, task: Task) -> Iterator[str]:
    """What the task needs and the index lacks."""
    outlined = index.segment_kinds is not None and bool((index.segment_kinds != NO_SEGMENT).any())
    fits = {
        "classification": index.boxes is not None or (index.segments is None and index.mask_kind == "none"),
        "detection": index.boxes is not None,
        "segmentation": index.mask_kind != "none" or outlined,
        "instances": index.mask_kind == "instances" or outlined,
    }
    # Where a reader had to leave objects out, they may be those that the task needs; it has said why.
    if not fits[task] and not index.problems:
        yield f"{index.root}, read as {index.format}, does not hold what {task} needs: {_NEEDS[task]}."
    elif fits[task] and task in ("segmentation", "instances") and outlined and index.segment_kinds is not None:
        bare = np.flatnonzero(index.segment_kinds == NO_SEGMENT)
        if len(bare):
            file = index.files.text(_image_of(index, int(bare[0])))
            yield f"{len(bare)} of {len(index.labels)} objects have no outline, the first in {file}: add outlines."


def _image_of(index: Index, k: int) -> int:
    return int(np.searchsorted(index.offsets, k, side="right")) - 1


def _duplicates(index: Index) -> Iterator[str]:
    """Images that are there twice: they would count twice, or be tested on what they were trained with."""
    seen: dict[str, int] = {}
    for i, text in enumerate(index.files.texts()):
        first = seen.setdefault(posixpath.normpath(text), i)
        if first != i:
            splits = {SPLITS[s] if s >= 0 else "no" for s in (int(index.splits[first]), int(index.splits[i]))}
            where = f"in the {' and the '.join(sorted(splits))} split"
            yield f"{text} is there twice, {where}: keep one of them."


def _empty_splits(index: Index) -> Iterator[str]:
    train, val, test = (bool((index.splits == number).any()) for number in range(3))
    if not (train or val or test):
        yield f"{index.root} has no images in any split: add images or correct the splits."
    elif (val and not train) or (train and not val):
        name = "val" if train else "train"
        yield f"{index.root} has no images in its {name} split: add some, or set val_fraction, folds or list files."


def _wrong_labels(index: Index) -> Iterator[str]:
    wrong = np.flatnonzero((index.labels < 0) | (index.labels >= len(index.class_names)))
    for k in wrong.tolist():
        file = index.files.text(_image_of(index, k))
        yield f"{file} has the label {index.labels[k]}, but there are {len(index.class_names)} classes: correct it."


def _clipped(index: Index, problems: list[str]) -> Index:
    """Boxes clipped to the sizes now known; those beyond mending become problems."""
    if index.boxes is None:
        return index
    sizes: Int32Array = np.repeat(index.sizes, np.diff(index.offsets), axis=0)
    for k in faulty_boxes(index.boxes, sizes).tolist():
        i = _image_of(index, k)
        x1, y1, x2, y2 = index.boxes[k].tolist()
        fault = box_fault((x1, y1, x2, y2), (int(sizes[k, 0]), int(sizes[k, 1])))
        problems.append(
            f"{index.files.text(i)}: object {k - int(index.offsets[i]) + 1}: its box ({x1:g}, {y1:g}, {x2:g}, {y2:g}) "
            f"{fault}: correct or delete it in its annotation."
        )
    boxes, overhang = clip_boxes(index.boxes, sizes)
    return replace(index, boxes=boxes, notes=(*index.notes, *clip_note(overhang)))


def _torn_maps(index: Index, findings: Finding) -> Iterator[str]:
    """A sentence where most label maps look like masks of object or not, or of classes."""
    torn, maps = findings.torn
    if torn > maps / 2:
        yield (
            f"{torn} of {maps} label maps of {index.root} have few objects, each in several parts: are they masks of 0 "
            "and 255, or of classes? Each object wants a number of its own; scipy.ndimage.label numbers what does not "
            "touch"
        )


def _bare_validation(index: Index, task: Task) -> Iterator[str]:
    if bare := _without_objects(index, task, "val"):
        yield (
            f"{index.root}: none of the {bare} images of the val split shows an object, so that training could not be "
            "judged: add their annotations, or draw the splits anew (folds or split_files)."
        )


def _bare_test(index: Index, task: Task) -> Iterator[str]:
    if bare := _without_objects(index, task, "test"):
        yield f"None of the {bare} images of the test split shows an object: a test has no mean average precision."


def _without_objects(index: Index, task: Task, split: Split) -> int:
    """The number of images of a detection's split, if none of them shows an object other than crowds; else 0."""
    if task != "detection" or _explained(index):
        return 0
    own = index.splits == SPLITS.index(split)
    objects = np.repeat(own, np.diff(index.offsets))
    if index.crowd is not None:
        objects &= ~index.crowd
    return 0 if objects.any() else int(own.sum())


def _explained(index: Index) -> bool:
    """Whether there is no object at all, and the reader has said why."""
    return bool(index.problems) and not len(index.labels)


def _missing_classes(index: Index, findings: Finding) -> str | None:
    """The sentence on classes that the training split never shows; None if it shows all."""
    if not (index.splits == 0).any() or _explained(index):
        return None
    shown: BoolArray = findings.shown.copy()
    trained = np.repeat(index.splits == 0, np.diff(index.offsets))
    if index.crowd is not None:
        trained &= ~index.crowd
    labels = index.labels[trained]
    shown[labels[(labels >= 0) & (labels < len(shown))]] = True
    missing = [name for name, seen in zip(index.class_names, shown, strict=True) if not seen]
    if not missing or findings.unread:
        return None
    names = ", ".join(missing[:_NAMED]) + (f" and {len(missing) - _NAMED} more" if len(missing) > _NAMED else "")
    nowhere = "" if _shown_anywhere(index, missing) else " (nor does any other)"
    return (
        f"{index.root}: the training split never shows {names}{nowhere}: add examples, draw the splits anew, or set "
        f"the option classes to the others.{_of_unknown(index, findings)}"
    )


def _of_unknown(index: Index, findings: Finding) -> str:
    """A sentence where a missing class may be what masks call 255, in masks of 0 and 255 above all."""
    unknown, pixels = findings.unknown
    if not unknown:
        return ""
    if index.colors is not None:
        mend = "save those masks as RGB pictures, since colors count in no others, or where all are grey in grey ones"
    elif len(index.class_names) == 2:
        mend = "set options: {colors: [[0, 0, 0], [255, 255, 255]]}"
    else:
        mend = "give the option colors a grey for each class, [255, 255, 255] for that one"
    return f" {100 * unknown / pixels:.3g} % of its pixels are 255 = not known; where 255 is a class, {mend}."


def _shown_anywhere(index: Index, names: list[str]) -> bool:
    """Whether any split has a label of these classes; True where masks hold them, of which only training's are read."""
    numbers = [index.class_names.index(name) for name in names]
    return index.mask_kind != "none" or bool(np.isin(index.labels, numbers).any())
