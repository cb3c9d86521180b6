"""COCO's JSON file as typed records, and its segmentations as bytes of an Index.

Format: https://cocodataset.org/#format-data. Outlines stay undecoded JSON until they are asked for one by one, so a
file of a million objects never becomes a million Python lists.
"""

import re
from codecs import BOM_UTF8
from pathlib import Path

import msgspec
import numpy as np

from lit_vision.data.index import NO_SEGMENT, POLYGONS, RLE
from lit_vision.data.rle import compress, join_rings
from lit_vision.errors import UserError

_LARGEST = 2**16  # pixels of a side, where the size is not known
# Python writes NaN into JSON, which JSON does not know; as null it is reported for its own annotation.
_NOT_A_NUMBER = re.compile(rb"(?<=[:,\[])(\s*)-?(?:NaN|Infinity)(?=\s*[,\]}])")


class CocoImage(msgspec.Struct, gc=False):
    """An entry of "images"."""

    id: int
    file_name: str
    width: int = 0
    height: int = 0


class CocoCategory(msgspec.Struct, gc=False):
    """An entry of "categories"."""

    id: int
    name: str


class CocoAnnotation(msgspec.Struct, gc=False):
    """An entry of "annotations"; bbox is x, y, width, height."""

    image_id: int
    category_id: int
    id: int | None = None
    bbox: tuple[float, float, float, float] | None = None
    iscrowd: bool | int | None = 0
    segmentation: msgspec.Raw = msgspec.Raw(b"null")


class CocoRle(msgspec.Struct):
    """Run lengths of a mask: a list, or compressed to text."""

    size: tuple[int, int]
    counts: str | list[int]


class CocoFile(msgspec.Struct):
    """What is read of a COCO file."""

    images: list[CocoImage]
    annotations: list[CocoAnnotation] = []
    categories: list[CocoCategory] = []


class _LooseFile(msgspec.Struct):
    images: list[CocoImage]
    annotations: list[msgspec.Raw] = []
    categories: list[CocoCategory] = []


_outline = msgspec.json.Decoder(list[list[float]] | CocoRle | None)
_annotation = msgspec.json.Decoder(CocoAnnotation)


def decode_file(path: Path, name: str, problems: list[str]) -> CocoFile:
    """Decodes a COCO file; annotations that cannot be used are left out and added to `problems`.

    Args:
        path: the file.
        name: how sentences call it.
        problems: gets a sentence for each malformed annotation.

    Raises:
        UserError: the file is missing, no JSON, or without a list of images.
    """
    try:
        data = path.read_bytes().removeprefix(BOM_UTF8)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): check its name and rights.") from None
    try:
        return msgspec.json.decode(data, type=CocoFile)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return _decode_loosely(_NOT_A_NUMBER.sub(rb"\1null", data), name, problems)


def _decode_loosely(data: bytes, name: str, problems: list[str]) -> CocoFile:
    """One annotation at a time, to name every bad one instead of the first."""
    try:
        loose = msgspec.json.decode(data, type=_LooseFile)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{name} is not a COCO file ({error}): export it again, or point to another file.") from None
    rows = [_decode_one(raw, f"{name}: annotations[{place}]", problems) for place, raw in enumerate(loose.annotations)]
    return CocoFile(loose.images, [row for row in rows if row is not None], loose.categories)


def _decode_one(raw: msgspec.Raw, where: str, problems: list[str]) -> CocoAnnotation | None:
    try:
        return _annotation.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        problems.append(f"{where} is malformed ({error}): correct or delete it.")
        return None


def pack_segmentation(raw: msgspec.Raw, size: tuple[int, int]) -> tuple[int, bytes]:
    """Kind and bytes of a segmentation, as `Index.segments` holds them.

    Args:
        raw: the JSON of a segmentation: polygons, run lengths, an empty list or null.
        size: height and width of the image.

    Raises:
        ValueError: it is malformed; the message says how. Compressed counts are left to `faulty_rles`.
    """
    if len(memoryview(raw)) < 5:  # [] and null, the commonest, need no decoding
        return NO_SEGMENT, b""
    try:
        value = _outline.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ValueError(str(error)) from None
    if isinstance(value, CocoRle):
        return RLE, _pack_rle(value, size)
    rings = [ring for ring in value or [] if ring]
    if not rings:
        return NO_SEGMENT, b""
    far = max(size) or _LARGEST
    for ring in rings:
        if len(ring) < 6 or len(ring) % 2:
            raise ValueError(f"a polygon has {len(ring)} numbers, not x and y of at least 3 points")
        if min(ring) < -far or max(ring) > 2 * far:
            raise ValueError(f"a polygon reaches from {min(ring):g} to {max(ring):g}, far outside of its image")
    return POLYGONS, join_rings([np.array(ring) for ring in rings]).tobytes()


def _pack_rle(rle: CocoRle, size: tuple[int, int]) -> bytes:
    if rle.size != size:
        raise ValueError(f"its mask is {rle.size[1]} x {rle.size[0]}, its image {size[1]} x {size[0]}")
    if isinstance(rle.counts, list):
        return compress(np.array(rle.counts, np.int64), size)
    return rle.counts.encode()
