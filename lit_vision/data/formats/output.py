"""The folder a data set is written to: empty before, images copied or linked under unique names.

What all writers share: `write(index, output, link)` takes an index with boxes, and outlines as polygons or run lengths
where there are any; writes into `output`, an empty or new folder; makes symbolic links to the images instead of copies
if asked; and gives a sentence, with a count, on each thing that the format cannot hold. It raises a UserError where
`output` is not empty or lies in the data set.
"""

import re
import shutil
from collections import Counter
from pathlib import Path, PurePosixPath

from lit_vision.data.decode import read_size
from lit_vision.data.index import Index
from lit_vision.errors import UserError

_ODD_BYTES = re.compile("[\ud800-\udfff]")  # as Python has the bytes of a file name that are no UTF-8


def new_folder(output: Path, index: Index) -> Path:
    """Makes the output folder.

    Raises:
        UserError: it is not empty, or lies in the folder that is read.
    """
    require_free(output)
    if output.resolve().is_relative_to(index.root.resolve()):
        raise UserError(f"{output} lies in the data set {index.root}, where nothing is written: choose another folder.")
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{output} cannot be made ({error.strerror}): choose another folder.") from None
    return output


def require_free(output: Path) -> None:
    """Raises UserError where the output folder holds anything, or is a file."""
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UserError(f"{output} is not empty: choose another folder, or empty it yourself.")


def unique_names(index: Index) -> list[str]:
    """A file name for every image: its own where no other image has that stem, else its path joined by underscores.

    In what is written every name is UTF-8: bytes that are none become "_".
    """
    paths = [PurePosixPath(_ODD_BYTES.sub("_", text)) for text in index.files.texts()]
    stems = Counter(path.stem.lower() for path in paths)
    names = [path.name if stems[path.stem.lower()] == 1 else _joined(path) for path in paths]
    # Two files that differ in their ending alone would share an annotation file.
    taken: set[str] = set()
    for i, name in enumerate(map(PurePosixPath, names)):
        stem, number = name.stem, 1
        while stem.lower() in taken:
            stem, number = f"{name.stem}_{number + 1}", number + 1
        taken.add(stem.lower())
        names[i] = stem + name.suffix
    return names


def _joined(path: PurePosixPath) -> str:
    return "_".join(part for part in path.parts if part not in ("..", "/"))


def place_image(source: Path, target: Path, link: bool) -> None:
    """Copies an image, or makes a symbolic link to it.

    Raises:
        UserError: the image is missing or the disk is full.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        if link:
            target.symlink_to(source.resolve(strict=True))
        else:
            shutil.copyfile(source, target)
    except OSError as error:
        raise UserError(f"{source} cannot be put to {target} ({error.strerror}): check both.") from None


def size_of(index: Index, i: int) -> tuple[int, int]:
    """Height and width of image i, from its header where the index does not say."""
    height, width = index.sizes[i].tolist()
    return (height, width) if height and width else read_size(index.path(i))
