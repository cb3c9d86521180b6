"""What an image file is before its pixels are needed: kind, header, size, orientation, whether it is whole."""

import io
import struct
import warnings
from pathlib import Path
from typing import IO, Literal, TypeAlias, cast

from PIL import Image
from PIL.ImageFile import ImageFile

from lit_vision.data.tiff import read_tiff_header, tiff_is_complete
from lit_vision.errors import UserError

Image.MAX_IMAGE_PIXELS = 2**30  # Pillow's guard stops at a tenth of an ordinary slide scan; this is OpenCV's own limit

warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")  # they name no file; the errors here do

FileKind: TypeAlias = Literal["jpeg", "png", "tiff", "webp", "bmp", "gif"]
READABLE = "JPEG, PNG, TIFF, WebP, BMP or GIF"
ORIENTATION = 0x0112  # EXIF tag
TURNED = (5, 6, 7, 8)  # EXIF orientations that swap height and width
MEND = "replace it or take it out of the data set"

_PILLOW_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF")
_SIGNATURES: tuple[tuple[bytes, FileKind], ...] = (
    (b"\xff\xd8\xff", "jpeg"),
    (b"\x89PNG\r\n\x1a\n", "png"),
    (b"II*\0", "tiff"),
    (b"MM\0*", "tiff"),
    (b"II+\0", "tiff"),
    (b"MM\0+", "tiff"),
    (b"RIFF", "webp"),
    (b"BM", "bmp"),
    (b"GIF8", "gif"),
)
_EDGE = 64  # bytes of head and tail that tell the kind and the end marker


def read_bytes(path: Path) -> bytes:
    """Content of a file.

    Raises:
        UserError: the file is missing, a folder, not readable or empty.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(_why_not_opened(path, error)) from error
    if not data:
        raise UserError(f"{path}: the file is empty; {MEND}")
    return data


def file_kind(head: bytes, path: Path) -> FileKind:
    """Kind of image by the first bytes, whatever the name says.

    Raises:
        UserError: these are not the first bytes of an image that can be read.
    """
    for signature, kind in _SIGNATURES:
        if head.startswith(signature) and (kind != "webp" or head[8:12] == b"WEBP"):
            return kind
    raise UserError(f"{path}: its content is not {READABLE}; {MEND}")


def open_header(source: bytes | IO[bytes], path: Path) -> Image.Image:
    """Header of any kind but TIFF; pixels are not decoded yet.

    Raises:
        UserError: the header is damaged.
    """
    try:
        return Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=_PILLOW_FORMATS)
    except Exception as error:  # Pillow's parsers raise whatever a damaged header makes them stumble over
        raise UserError(f"{path}: the header is damaged or cut off; {MEND}") from error


def exif_orientation(header: Image.Image) -> int:
    """EXIF orientation 1..8; 1 where there is none or the EXIF block is damaged."""
    try:
        if header.format == "PNG" and not _png_may_hold_exif(header):
            return 1  # Pillow would decode the whole picture to see whether EXIF follows it
        value = header.getexif().get(ORIENTATION, 1)
    except Exception:  # a damaged EXIF block does not make the picture unusable
        return 1
    return value if value in range(1, 9) else 1


def _png_may_hold_exif(header: Image.Image) -> bool:
    """Whether EXIF lies before the pixels, or behind them a chunk of EXIF or of text, which may be some."""
    if {"exif", "Raw profile type exif"} & set(header.info):
        return True
    file = cast(IO[bytes], cast(ImageFile, header).fp)
    place = file.tell()
    position, behind = 8, False
    try:
        while len(head := _at(file, position, 8)) == 8:
            behind |= head[4:] == b"IDAT"
            if behind and head[4:] in (b"eXIf", b"tEXt", b"zTXt", b"iTXt"):
                return True
            position += 12 + int.from_bytes(head[:4], "big")
        return False
    finally:
        file.seek(place)


def _at(file: IO[bytes], position: int, length: int) -> bytes:
    file.seek(position)
    return file.read(length)


def read_size(path: Path) -> tuple[int, int]:
    """(height, width) after EXIF rotation, from the header alone.

    Raises:
        UserError: the file is missing, empty or not an image.
    """
    try:
        with path.open("rb") as file:
            kind = file_kind(_head(file, path), path)
            if kind == "tiff":
                tiff = read_tiff_header(file, path)
                height, width, orientation = tiff.height, tiff.width, tiff.orientation
            else:
                header = open_header(file, path)
                (width, height), orientation = header.size, exif_orientation(header)
    except OSError as error:
        raise UserError(_why_not_opened(path, error)) from error
    return (width, height) if orientation in TURNED else (height, width)


def check_file(path: Path) -> str | None:
    """What is wrong with an image file, in one sentence; None if nothing is.

    Reads header and end marker. Only where these leave a doubt is the whole picture decoded.
    """
    try:
        with path.open("rb") as file:
            head = _head(file, path)
            kind = file_kind(head, path)
            if kind != "tiff":
                open_header(file, path)
            tail, length = _tail(file)
            if not is_complete(kind, head, tail, length):
                file.seek(0)
                require_whole(file.read(), kind, path)
    except UserError as error:
        return str(error)
    except OSError as error:
        return _why_not_opened(path, error)
    return None


def is_complete(kind: FileKind, head: bytes, tail: bytes, length: int) -> bool:
    """Whether the end marker (or the length named in the header) says that nothing is cut off.

    False means doubt, not proof: some writers add bytes behind the end. TIFF has no such marker: always in doubt.
    """
    if kind == "jpeg":
        return tail.rstrip(b"\0").endswith(b"\xff\xd9")
    if kind == "png":
        return b"IEND\xae\x42\x60\x82" in tail
    if kind == "webp":
        return len(head) >= 8 and struct.unpack("<I", head[4:8])[0] + 8 <= length
    if kind == "bmp":
        return len(head) >= 6 and 0 < struct.unpack("<I", head[2:6])[0] <= length
    return kind == "gif" and tail.rstrip(b"\0").endswith(b";")


def require_whole(data: bytes, kind: FileKind, path: Path) -> None:
    """Settle a doubt by decoding everything.

    Raises:
        UserError: the file is cut off or damaged.
    """
    if is_complete(kind, data[:_EDGE], data[-_EDGE:], len(data)):
        return
    if kind == "tiff":
        if not tiff_is_complete(data, path):
            raise UserError(f"{path}: the file is cut off; {MEND}")
        return
    decode_with_pillow(data, path)


def decode_with_pillow(data: bytes, path: Path) -> Image.Image:
    """The decoded first frame of any kind but TIFF.

    Raises:
        UserError: the file is cut off or damaged.
    """
    image = open_header(data, path)
    try:
        image.load()
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error ...
        raise UserError(f"{path}: the file is cut off or damaged; {MEND}") from error
    return image


def _head(file: IO[bytes], path: Path) -> bytes:
    head = file.read(_EDGE)
    if not head:
        raise UserError(f"{path}: the file is empty; {MEND}")
    file.seek(0)
    return head


def _tail(file: IO[bytes]) -> tuple[bytes, int]:
    length = file.seek(0, io.SEEK_END)
    file.seek(max(0, length - _EDGE))
    return file.read(), length


def _why_not_opened(path: Path, error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        return f"{path}: there is no such file; correct the path or {MEND}"
    if path.is_dir():
        return f"{path}: is a folder, not an image; give the path of a file"
    return f"{path}: cannot be opened ({error.strerror or error}); {MEND}"
