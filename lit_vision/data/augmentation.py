"""What may happen to a training picture: ranges a user sets, and one draw from them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from lit_vision.data import geometry
from lit_vision.data.geometry import Fit, Matrix, Size
from lit_vision.errors import UserError

Task = Literal["classification", "segmentation", "instances", "detection"]


@dataclass(frozen=True)
class Augmentation:
    """Ranges of random changes; every picture draws its own. All geometric ones become a single warp.

    Args:
        flip: probability of mirroring left to right.
        flip_vertical: probability of mirroring top to bottom.
        quarter_turns: turn by 0, 90, 180 or 270 degrees, each as likely: for pictures without an upright.
        rotate: largest turn to either side, degrees.
        scale: zoom, (smallest, largest) factor, or s for (1 / (1 + s), 1 + s); halving is as likely as doubling.
        translate: largest shift to either side, as a share of the network input's sides.
        shear: largest slant along either axis, degrees.
        crop_area: (smallest, largest) share of the picture's area that a random crop shows, stretched to the whole
            input (it replaces `fit` in training); null = no such crop.
        crop_ratio: (smallest, largest) width by height of that crop, relative to the network input's.
        hue: largest shift to either side, as a share of the colour circle (0.5 = any colour). RGB only.
        saturation: largest change of the saturation's factor 1. RGB only.
        brightness: largest change of the brightness's factor 1. Images of other than 3 channels draw for each channel.
        contrast: largest change of the contrast's factor 1 about mid-grey; per channel likewise.
        blur: probability of a Gaussian blur.
        blur_sigma: (smallest, largest) standard deviation of the blur, pixels of the network input.
        noise: largest standard deviation of Gaussian noise, grey levels of 255.
        erase: probability of covering one rectangle with grey; labels stay as they are.
        erase_area: (smallest, largest) share of the input that it covers.
        mosaic: probability that detection's training shows four pictures in one. What moves pixels is drawn for each of
            them, but for `translate`; what changes colours or covers something, for the four together.
        mixup: probability that a training picture of detection, or a mosaic, is blended with another.

    Raises:
        UserError: a value is out of range; the message names it.
    """

    flip: float = 0.5
    flip_vertical: float = 0.0
    quarter_turns: bool = False
    rotate: float = 0.0
    scale: float | tuple[float, float] = 0.0
    translate: float = 0.0
    shear: float = 0.0
    crop_area: tuple[float, float] | None = None
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    hue: float = 0.0
    saturation: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    blur: float = 0.0
    blur_sigma: tuple[float, float] = (0.3, 1.5)
    noise: float = 0.0
    erase: float = 0.0
    erase_area: tuple[float, float] = (0.02, 0.2)
    mosaic: float = 0.0
    mixup: float = 0.0

    def __post_init__(self) -> None:
        for name, highest in _HIGHEST.items():
            _require_number(name, getattr(self, name), highest)
        for name, (lowest, highest) in _PAIRS.items():
            _require_pair(name, getattr(self, name), lowest, highest)
        _require_pair("scale", self.scale_range, 0.01, 100)
        if self.crop_area is not None:
            _require_pair("crop_area", self.crop_area, 0.0001, 1)

    @classmethod
    def for_task(cls, task: Task) -> "Augmentation":
        """Sensible ranges for a task, where nothing is known about the pictures.

        Raises:
            UserError: there is no such task.
        """
        if task not in DEFAULTS:
            raise UserError(f"there are no augmentation defaults for task {task!r}; use one of {', '.join(DEFAULTS)}")
        return cls(**DEFAULTS[task])

    @property
    def scale_range(self) -> tuple[float, float]:
        """(smallest, largest) zoom factor."""
        if isinstance(self.scale, int | float):
            return 1 / (1 + self.scale), 1 + self.scale
        return self.scale

    @property
    def mixes(self) -> bool:
        """Whether a sample can show more than one picture."""
        return self.mosaic > 0 or self.mixup > 0

    def draw_frame(
        self, fit: Fit, size: Size, image_size: Size, rng: np.random.Generator, focus: tuple[float, float] | None = None
    ) -> Matrix:
        """One random frame from a picture of `size` to the network input: turn and mirror, fit or crop, then the rest.

        With fit "native" a random crop of `image_size` is taken (a smaller picture is centred). Given a focus (x, y) in
        the picture, crops have it in their centre, or as near to that as the picture's edges allow; what is drawn after
        that turns and zooms about it, and shifts no farther than that it stays inside.
        """
        turn, turned = geometry.turning(int(rng.integers(4)) if self.quarter_turns else 0, size)
        mirror = geometry.mirroring(rng.random() < self.flip, rng.random() < self.flip_vertical, turned)
        upright = mirror @ turn if self.quarter_turns else mirror
        moved = (None, None) if focus is None else tuple((upright @ [*focus, 1])[:2].tolist())
        if self.crop_area is not None:
            base = _random_crop(self.crop_area, self.crop_ratio, turned, image_size, rng, moved)
        elif fit == "native":
            base = geometry.translation(*(_offset(turned[1 - k], image_size[1 - k], rng, moved[k]) for k in (0, 1)))
        else:
            base = geometry.fit_frame(fit, turned, image_size)
        place = None if focus is None else (base @ upright @ [*focus, 1])[:2].tolist()
        return self._draw_jitter(image_size, rng, place) @ base @ upright

    def _draw_jitter(self, image_size: Size, rng: np.random.Generator, focus: Sequence[float] | None) -> Matrix:
        """Rotation, slant and zoom about the focus, else the centre, then a shift; the identity where all are off."""
        low, high = self.scale_range
        zoom = math.exp(rng.uniform(math.log(low), math.log(high)))
        angle, slant_x, slant_y = (rng.uniform(-most, most) for most in (self.rotate, self.shear, self.shear))
        x, y = (rng.uniform(-self.translate, self.translate) * side for side in image_size[::-1])
        change = geometry.scaling(zoom, zoom)
        if self.rotate or self.shear:
            change = geometry.rotation(angle) @ geometry.shearing(slant_x, slant_y) @ change
        if focus is None:
            return geometry.shifted(geometry.about_centre(change, image_size), x, y)
        x, y = (
            min(max(at + by, 0.5), side - 0.5) for at, by, side in zip(focus, (x, y), image_size[::-1], strict=True)
        )
        return geometry.shifted(change @ geometry.translation(-focus[0], -focus[1]), x, y)


_PROBABILITIES = ("flip", "flip_vertical", "blur", "erase", "mosaic", "mixup")
_HIGHEST: dict[str, float] = {
    **dict.fromkeys(_PROBABILITIES, 1),
    **{"rotate": 180, "translate": 1, "shear": 60, "hue": 0.5, "noise": 255},
    **{"saturation": 1, "brightness": 1, "contrast": 1},
}
_PAIRS: dict[str, tuple[float, float]] = {"crop_ratio": (0.01, 100), "blur_sigma": (0.01, 100), "erase_area": (0, 1)}

DEFAULTS: dict[str, dict[str, Any]] = {
    "classification": {"crop_area": (0.35, 1.0), "hue": 0.015, "saturation": 0.3, "brightness": 0.25, "contrast": 0.25},
    "segmentation": {
        **{"scale": (0.7, 1.5), "rotate": 10.0, "translate": 0.1},
        **{"hue": 0.01, "saturation": 0.25, "brightness": 0.25, "contrast": 0.25},
    },
    "instances": {
        **{"flip_vertical": 0.5, "quarter_turns": True, "rotate": 15.0, "scale": (0.8, 1.25), "translate": 0.05},
        **{"brightness": 0.25, "contrast": 0.25},
    },
    "detection": {
        **{"scale": (0.6, 1.5), "translate": 0.1},
        **{"hue": 0.015, "saturation": 0.5, "brightness": 0.35, "contrast": 0.1},
    },
}


def _offset(side: int, wanted: int, rng: np.random.Generator, focus: float | None) -> int:
    if side < wanted:
        return (wanted - side) // 2
    drawn = int(rng.integers(side - wanted + 1))
    return -(drawn if focus is None else min(max(int(focus - wanted / 2), 0), side - wanted))


def _random_crop(
    area: tuple[float, float],
    ratio: tuple[float, float],
    size: Size,
    image_size: Size,
    rng: np.random.Generator,
    focus: Sequence[float | None],
) -> Matrix:
    """Crop of a random share and shape, stretched to the input (Szegedy et al. 2014, arXiv:1409.4842, section 6)."""
    height, width = size
    pixels = rng.uniform(area[0], area[1]) * height * width
    shape = float(np.exp(rng.uniform(*np.log(ratio)))) * image_size[1] / image_size[0]
    w, h = min(width, np.sqrt(pixels * shape)), min(height, np.sqrt(pixels / shape))
    x, y = rng.uniform(0, 1, 2) * (width - w, height - h)
    if focus[0] is not None and focus[1] is not None:
        x, y = np.clip((focus[0] - w / 2, focus[1] - h / 2), 0, (width - w, height - h))
    return geometry.scaling(image_size[1] / w, image_size[0] / h) @ geometry.translation(-x, -y)


def _require_number(name: str, value: Any, highest: float) -> None:
    if not isinstance(value, int | float) or not 0 <= value <= highest:
        raise UserError(f"augmentation.{name} is {value!r}; give a number from 0 to {highest:g}")


def _require_pair(name: str, value: Any, lowest: float, highest: float) -> None:
    numbers = isinstance(value, Sequence) and len(value) == 2 and all(isinstance(v, int | float) for v in value)
    if not numbers or not lowest <= value[0] <= value[1] <= highest:
        raise UserError(f"augmentation.{name} is {value!r}; give [smallest, largest] within {lowest:g} to {highest:g}")
