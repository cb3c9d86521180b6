"""Writes predictions as files that other programs read, one image at a time, in the original image's pixels."""

import csv
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, TextIO

import numpy as np
from PIL import Image
from torch import Tensor

from lit_vision.drawing import draw_prediction
from lit_vision.errors import UserError
from lit_vision.object_files import HEADER, LabelMapKind, measured, outlines, write_label_map
from lit_vision.plotting import palette, write_picture
from lit_vision.types import UInt8Array

Prediction = Mapping[str, Tensor]


class Results:
    """Files of one prediction run. Use it as a context manager; rows stand in the order of `write`.

    pictures/<name>.jpg and, by task:
        classification: predictions.csv (path, label, probability, then a column for each class); several labels,
            and their probabilities, are separated by "|".
        segmentation: masks/<name>.png, class index with a palette, and classes.json.
        instances: labels/<name>.png or .tif, 16-bit label map (32-bit .tif for more than 65,535 objects), objects.csv
            (path, label, object, score, area, centre x, y, box left, top, width, height) and predictions.json.
        detection: predictions.csv (path, label, score, x1, y1, x2, y2) and predictions.json.
    predictions.json is COCO: images, categories (id = 1 + class) and annotations with a score; for pycocotools'
    `loadRes` take its "annotations". image_id counts the images from 1.

    Args:
        folder: where the files go; it may exist.
        task: "classification", "segmentation", "instances" or "detection".
        class_names: K names.
        threshold: probability from which a class counts, for pictures with several labels; null = one label each.
        label_maps: "png" or "tiff" for instances; null = png.

    Raises:
        UserError: label_maps is given for another task, or is neither.
    """

    def __init__(
        self,
        folder: Path,
        task: str,
        class_names: Sequence[str],
        threshold: float | None = None,
        label_maps: LabelMapKind | None = None,
    ) -> None:
        if label_maps is not None and (task != "instances" or label_maps not in ("png", "tiff")):
            raise UserError(f"label_maps is {label_maps} for {task}: instances alone have label maps, png or tiff")
        self.label_maps: LabelMapKind = label_maps or "png"
        self.folder, self.task, self.class_names, self.threshold = folder, task, list(class_names), threshold
        self._write = {
            "classification": self._write_label,
            "segmentation": self._write_mask,
            "instances": self._write_instances,
            "detection": self._write_boxes,
        }[task]
        self.count = 0
        folder.mkdir(parents=True, exist_ok=True)
        table = "objects.csv" if task == "instances" else "predictions.csv"
        self._table = _Table(folder / table, self._header()) if self._header() else None
        self._coco = _Coco(folder / "predictions.json") if task in ("instances", "detection") else None
        if task == "segmentation":
            colors = palette()[: len(self.class_names)].tolist()
            facts = {"classes": self.class_names, "colors": colors, "ignore_index": 255}
            (folder / "classes.json").write_text(json.dumps(facts))

    def _header(self) -> list[str]:
        if self.task == "classification":
            return ["path", "label", "probability", *self.class_names]
        if self.task == "instances":
            return list(HEADER)
        return ["path", "label", "score", "x1", "y1", "x2", "y2"] if self.task == "detection" else []

    def __enter__(self) -> "Results":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the files; what was written until then is complete and readable."""
        if self._table:
            self._table.close()
        if self._coco:
            self._coco.close(self.class_names)

    def write(self, path: Path, name: str, image: UInt8Array, prediction: Prediction) -> None:
        """Adds one image.

        Args:
            path: of the image file, as it is named in the results.
            name: of its own result files, without an ending, unique in this run; may hold folders.
            image: (H, W, C) uint8, the original picture.
            prediction: of one of the kinds in types.py.
        """
        values = {key: value.detach().cpu().numpy() for key, value in prediction.items()}
        self.count += 1
        write_picture(self.folder / "pictures" / f"{name}.jpg", draw_prediction(image, prediction, self.class_names))
        if self._coco:
            self._coco.add_image(self.count, path, image.shape[0], image.shape[1])
        self._write(path, name, values)

    def _write_label(self, path: Path, name: str, values: Mapping[str, Any]) -> None:
        shares = values["probabilities"]
        most = [int(shares.argmax())]
        chosen = most if self.threshold is None else np.flatnonzero(shares >= self.threshold).tolist()
        label = "|".join(self.class_names[k] for k in chosen)
        sure = "|".join(f"{shares[k]:.6f}" for k in chosen)
        self._row([path, label, sure, *(f"{share:.6f}" for share in shares.tolist())])

    def _write_mask(self, path: Path, name: str, values: Mapping[str, Any]) -> None:
        image = Image.fromarray(values["mask"].astype(np.uint8))
        image.putpalette(palette().tobytes())  # makes it a palette picture; the values stay
        image.save(_made(self.folder / "masks" / f"{name}.png"))

    def _write_instances(self, path: Path, name: str, values: Mapping[str, Any]) -> None:
        instances, labels, scores = values["instances"], values["labels"].tolist(), values["scores"].tolist()
        write_label_map(self.folder / "labels" / name, instances, self.label_maps)
        measures = measured(instances, len(labels))
        facts = zip(*(one.tolist() for one in measures), strict=True)
        for k, (area, centre, box) in enumerate(facts):
            place = [f"{value:.2f}" for value in centre]
            self._row([path, self.class_names[labels[k]], k + 1, f"{scores[k]:.6f}", area, *place, *box])
        for label, score, outline in zip(labels, scores, outlines(instances, measures), strict=True):
            self._add(label, score, **outline)

    def _write_boxes(self, path: Path, name: str, values: Mapping[str, Any]) -> None:
        rows = zip(values["boxes"].tolist(), values["labels"].tolist(), values["scores"].tolist(), strict=True)
        for (x1, y1, x2, y2), label, score in rows:
            corners = [f"{edge:.2f}" for edge in (x1, y1, x2, y2)]
            self._row([path, self.class_names[label], f"{score:.6f}", *corners])
            box = [round(edge, 2) for edge in (x1, y1, x2 - x1, y2 - y1)]
            self._add(label, score, bbox=box, area=round((x2 - x1) * (y2 - y1), 2))

    def _row(self, values: Sequence[object]) -> None:
        assert self._table is not None
        self._table.add(values)

    def _add(self, label: int, score: float, **facts: object) -> None:
        assert self._coco is not None
        self._coco.add({"image_id": self.count, "category_id": label + 1, "score": round(score, 6), **facts})


def licence_note(licence: str) -> str:
    """The line that ends a prediction: what was trained from pretrained weights stands under their licence."""
    return f"licence of the pretrained weights behind this checkpoint: {licence}"


def result_names(paths: Iterable[str]) -> list[str]:
    """A name for each path's own result files, unique whatever the case of its letters.

    Args:
        paths: relative, with forward slashes; those that go up are brought down.

    Returns:
        Paths without their ending; where two would be equal, with it; where they still are, numbered.
    """
    plain = [
        PurePosixPath(*(part for part in PurePosixPath(path).parts if part not in ("/", "..", "."))) for path in paths
    ]
    stems = [str(path.with_suffix("")) for path in plain]
    counts = Counter(stem.casefold() for stem in stems)
    names, taken = [], {stem.casefold() for stem in stems if counts[stem.casefold()] == 1}
    for path, stem in zip(plain, stems, strict=True):
        name, number = stem, 1
        if counts[stem.casefold()] > 1:
            name = str(path)
            while name.casefold() in taken:
                name, number = f"{path}-{number + 1}", number + 1
            taken.add(name.casefold())
        names.append(name)
    return names


class _Table:
    """A CSV file, row by row; of file names that are no UTF-8 the odd bytes become escapes, as \\udce9."""

    def __init__(self, path: Path, header: Sequence[str]) -> None:
        self.file: TextIO = path.open("w", newline="", encoding="utf-8", errors="backslashreplace")
        self.writer = csv.writer(self.file)
        self.writer.writerow(header)

    def add(self, row: Sequence[object]) -> None:
        self.writer.writerow(row)

    def close(self) -> None:
        self.file.close()


class _Coco:
    """A COCO file whose annotations go to disk as they come."""

    def __init__(self, path: Path) -> None:
        self.file: TextIO = path.open("w", encoding="utf-8")
        self.file.write('{"annotations": [')
        self.images: list[dict[str, object]] = []
        self.annotations = 0

    def add_image(self, number: int, path: Path, height: int, width: int) -> None:
        self.images.append({"id": number, "file_name": str(path), "height": height, "width": width})

    def add(self, annotation: Mapping[str, object]) -> None:
        self.annotations += 1
        self.file.write(",\n" if self.annotations > 1 else "\n")
        self.file.write(json.dumps({"id": self.annotations, **annotation, "iscrowd": 0}))

    def close(self, class_names: Sequence[str]) -> None:
        categories = [{"id": k + 1, "name": name} for k, name in enumerate(class_names)]
        self.file.write(f'],\n"images": {json.dumps(self.images)},\n"categories": {json.dumps(categories)}}}\n')
        self.file.close()


def _made(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path
