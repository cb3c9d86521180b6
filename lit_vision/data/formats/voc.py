"""Pascal VOC: one XML file per image.

Format: http://host.robots.ox.ac.uk/pascal/VOC/voc2012/devkit_doc.pdf. Corners are 1-based and inclusive, so the box
(1, 1, 2, 2) of VOC is (0, 0, 2, 2) here.
"""

import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from lit_vision.data.formats.boxes import box_fault
from lit_vision.data.formats.build import IndexBuilder
from lit_vision.data.formats.files import list_files, nearest, relative
from lit_vision.data.formats.voc_files import ANNOTATIONS, image_of, image_places, split_of_stems
from lit_vision.data.formats.voc_write import write
from lit_vision.data.index import Index
from lit_vision.errors import UserError

__all__ = ["found", "read", "write"]

LAYOUT = "Annotations/*.xml, JPEGImages/*.jpg, ImageSets/Main/<split>.txt"


class _Object(NamedTuple):
    name: str
    box: tuple[float, float, float, float]
    crowd: bool


class _Picture(NamedTuple):
    file: str
    split: int
    size: tuple[int, int]
    objects: list[_Object]


def found(root: Path) -> str | None:
    """How many annotation files lie in `Annotations`, in words; None if there are none."""
    if next((root / ANNOTATIONS).glob("*.xml"), None) is None:
        return None
    return f"{sum(1 for _ in (root / ANNOTATIONS).glob('*.xml'))} files {ANNOTATIONS}/*.xml"


def read(
    root: Path,
    *,
    classes: Sequence[str] | None = None,
    images: str | None = None,
    difficult: Literal["ignore", "keep"] = "ignore",
    one_based: bool = True,
) -> Index:
    """Reads Pascal VOC annotations.

    Args:
        root: folder of Annotations/, ImageSets/ and JPEGImages/.
        classes: class names in order; those met, sorted by name, where not given. Objects of others are left out.
        images: folder of the images, as seen from root; found where not given.
        difficult: "ignore" makes objects marked difficult neither right nor wrong in the score, as VOC does; "keep"
            makes them ordinary objects.
        one_based: whether the first pixel is 1, as VOC has it; false for tools that begin at 0.

    Returns:
        An index of boxes; `problems` names the files and objects that cannot be used.

    Raises:
        UserError: there are no annotation files.
    """
    files, _ = list_files(root / ANNOTATIONS, (".xml",))
    if not files:
        raise UserError(f"{root / ANNOTATIONS} has no XML files: the format voc reads {LAYOUT}.")
    builder = IndexBuilder(root, "voc", places=True)
    splits = split_of_stems(root, files, builder.problems)
    places = image_places(root, images)
    first = 1.0 if one_based else 0.0
    pictures = []
    for file in files:
        if not splits or file.removesuffix(".xml") in splits:
            picture = _picture(root, file, splits, places, first, builder.problems)
            pictures += [picture] if picture else []
    if unlisted := (len(files) - sum(file.removesuffix(".xml") in splits for file in files) if splits else 0):
        builder.notes.append(f"{unlisted} files of {ANNOTATIONS} are in no list of ImageSets/Main and were left out.")
    names = _fill(builder, pictures, classes, difficult)
    return builder.build(names)


def _fill(
    builder: IndexBuilder, pictures: Sequence[_Picture], classes: Sequence[str] | None, difficult: str
) -> list[str]:
    met = {item.name for picture in pictures for item in picture.objects}
    names = sorted(met) if classes is None else list(classes)
    if met and not met & set(names):
        raise UserError(f"None of the classes {', '.join(names)} is in {ANNOTATIONS}: {nearest(names[0], met)}.")
    numbers = {name: label for label, name in enumerate(names)}
    unwanted = 0
    for picture in sorted(pictures, key=lambda picture: picture.split):
        builder.add_image(picture.file, picture.split, picture.size)
        for item in picture.objects:
            if item.name in numbers:
                builder.add_object(numbers[item.name], item.box, item.crowd and difficult == "ignore")
            else:
                unwanted += 1
    if unwanted:
        builder.notes.append(
            f"{unwanted} objects of classes left out by the option classes were not read: "
            f"{', '.join(sorted(met - set(names)))}."
        )
    return names


def _picture(
    root: Path, file: str, splits: dict[str, int], places: Sequence[Path], first: float, problems: list[str]
) -> _Picture | None:
    name = f"{ANNOTATIONS}/{file}"
    try:
        tree = ElementTree.parse(root / name).getroot()
    except (ElementTree.ParseError, UnicodeDecodeError, OSError) as error:
        problems.append(f"{name} is not readable XML ({error}): export it again or delete it.")
        return None
    stem = file.removesuffix(".xml")
    split = splits.get(stem, -1)
    image = image_of(stem, tree.findtext("filename") or "", split, places)
    if image is None:
        tried = ", ".join(relative(place, root) for place in places) or "JPEGImages"
        problems.append(
            f"{name} names the image {tree.findtext('filename') or stem}, which is not in {tried}: "
            f"add it, or set images to its folder."
        )
        return None
    try:
        size = int(float(tree.findtext("size/height") or 0)), int(float(tree.findtext("size/width") or 0))
    except (ValueError, OverflowError):
        problems.append(f"{name} has a size that is not a number: correct its width and height.")
        return None
    objects = [
        _object(item, f"{name}: object {k + 1}", size, first, problems) for k, item in enumerate(tree.findall("object"))
    ]
    return _Picture(relative(image, root), split, size, [item for item in objects if item])


def _object(
    item: ElementTree.Element, where: str, size: tuple[int, int], first: float, problems: list[str]
) -> _Object | None:
    name = (item.findtext("name") or "").strip()
    texts = [item.findtext(f"bndbox/{key}") for key in ("xmin", "ymin", "xmax", "ymax")]
    try:
        xmin, ymin, xmax, ymax = (float(text or "") for text in texts)
    except ValueError:
        problems.append(f"{where} has no xmin, ymin, xmax, ymax that are numbers: correct or delete it.")
        return None
    box = (xmin - first, ymin - first, xmax - first + 1, ymax - first + 1)
    fault = box_fault(box, size) if name else None
    if not name or fault:
        what = f"its box ({xmin:g}, {ymin:g}, {xmax:g}, {ymax:g}) {fault}" if name else "it has no name"
        problems.append(f"{where}: {what}: correct or delete it.")
        return None
    return _Object(name, box, (item.findtext("difficult") or "0").strip() == "1")
