"""The text of a Darknet .cfg: sections, their options with line numbers, and which options there are.

Written from the public-domain parsers of https://github.com/pjreddie/darknet and https://github.com/AlexeyAB/darknet
(`parser.c`, `option_list.c`).
"""

import difflib
from collections.abc import Iterable
from dataclasses import dataclass, field

from lit_vision.errors import UserError

_EVERY = "clip onlyforward dont_update burnin_update train_only_bn learning_rate stream wait_stream"

_VARIANTS = (
    *("antialiasing", "assisted_excitation", "cbn", "binary", "xnor", "bin_output", "sway", "rotate", "stretch"),
    *("stretch_sway", "flipped", "dot", "reverse", "coordconv"),
)

# Options that decide what a layer calculates.
USED: dict[str, str] = {
    "net": "width height channels letter_box",
    "convolutional": "filters size stride stride_x stride_y pad padding groups dilation batch_normalize activation",
    "maxpool": "size stride stride_x stride_y padding",
    "upsample": "stride",
    "route": "layers groups group_id",
    "shortcut": "from activation",
    "dropout": "probability",
    "yolo": "mask anchors classes num scale_x_y ignore_thresh",
}
# Options that change a layer in ways that are not supported, with the values that leave it as it is.
NEUTRAL: dict[str, dict[str, tuple[str, ...]]] = {
    "net": {"time_steps": ("1",)},
    "convolutional": dict.fromkeys(_VARIANTS, ("0",)),
    "maxpool": dict.fromkeys(("maxpool_depth", "antialiasing", "maxpool_zero_nonmax"), ("0",)),
    "upsample": {"scale": ("1", "1.0")},
    "route": {},
    "shortcut": {"weights_type": ("none",), "weights_normalization": ("none",)},
    "dropout": {"dropblock": ("0",)},
    "yolo": {"new_coords": ("0",), "nms_kind": ("default", "greedynms")},
}
_EVERY_NEUTRAL = dict.fromkeys(("stopbackward", "dontload", "dontloadscales"), ("0",))
# Options of Darknet's own training and display; here the experiment's YAML says how to train.
TRAINING: dict[str, str] = {
    "net": "batch subdivisions momentum decay angle saturation exposure hue aspect learning_rate learning_rate_min "
    "burn_in max_batches policy steps scales seq_scales step scale gamma power sgdr_cycle sgdr_mult max_crop min_crop "
    "inputs flip blur gaussian_noise mixup cutmix mosaic mosaic_bound label_smooth_eps resize_step adam B1 B2 eps "
    "track augment_speed sequential_subdivisions try_fix_nan weights_reject_freq equidistant_point ema_alpha "
    "badlabels_rejection_percentage num_sigmas_reject_badlabels use_cuda_graph loss_scale dynamic_minibatch "
    "optimized_memory workspace_size_limit_MB contrastive contrastive_jit_flip contrastive_color unsupervised "
    "attention adversarial_lr max_chart_loss",
    "convolutional": "angle grad_centr",
    "maxpool": "out_channels",
    "upsample": "",
    "route": "",
    "shortcut": "",
    "dropout": "dropblock_size_rel dropblock_size_abs",
    "yolo": "jitter resize truth_thresh random max focal_loss iou_thresh iou_loss iou_thresh_kind iou_normalizer "
    "obj_normalizer cls_normalizer delta_normalizer max_delta label_smooth_eps objectness_smooth counters_per_class "
    "beta_nms show_details track_history_size sim_thresh dets_for_track dets_for_show track_ciou_norm",
}
ALIASES = {"network": "net", "conv": "convolutional", "max": "maxpool"}
_OTHERS = {"region": "the head of YOLO v2", "detection": "the head of YOLO v1", "Gaussian_yolo": "another head"}


@dataclass(frozen=True)
class Section:
    """One [section] of a .cfg.

    Attributes:
        source: the file, as errors name it.
        name: without brackets; Darknet's short forms are written out.
        line: of the name, from 1.
        options: key -> value and line.
        again: key -> further lines that say the same.
    """

    source: str
    name: str
    line: int
    options: dict[str, tuple[str, int]] = field(default_factory=dict)
    again: dict[str, list[int]] = field(default_factory=dict)

    def fault(self, message: str, key: str | None = None) -> UserError:
        """The error that names file, line (of the key where it stands) and section."""
        line = self.options[key][1] if key in self.options else self.line
        return UserError(f"{self.source}:{line}: [{self.name}] {message}")

    def text(self, key: str, default: str | None = None) -> str:
        """The value of a key; without a default it must be there."""
        if key in self.options:
            return self.options[key][0]
        if default is None:
            raise self.fault(f"has no {key}: add {key}=...")
        return default

    def integer(self, key: str, default: int | None = None, least: int | None = None, most: int | None = None) -> int:
        """A whole number, from `least` to `most`."""
        value = self.text(key, None if default is None else str(default))
        try:
            number = int(value)
        except ValueError:
            raise self.fault(f"{key}={value} is not a whole number", key) from None
        if least is not None and number < least:
            raise self.fault(f"{key}={value} must be at least {least}", key)
        if most is not None and number > most:
            raise self.fault(f"{key}={value} must be at most {most}", key)
        return number

    def number(self, key: str, default: float) -> float:
        """A number."""
        return self._numbers(key, self.text(key, str(default)))[0]

    def numbers(self, key: str) -> list[float]:
        """Numbers parted by commas."""
        return self._numbers(key, self.text(key))

    def integers(self, key: str) -> list[int]:
        """Whole numbers parted by commas."""
        numbers = self.numbers(key)
        if any(number != int(number) for number in numbers):
            raise self.fault(f"{key}={self.text(key)} must be whole numbers", key)
        return [int(number) for number in numbers]

    def _numbers(self, key: str, text: str) -> list[float]:
        try:
            found = [float(word) for word in text.split(",") if word]
        except ValueError:
            found = []
        if not found or any(abs(number) == float("inf") or number != number for number in found):
            raise self.fault(f"{key}={text} must be numbers parted by commas", key)
        return found


def read_sections(text: str, source: str) -> list[Section]:
    """The sections of a .cfg in order, each with known options only.

    Raises:
        UserError: a line is neither a section nor an option, or a section or an option is not supported.
    """
    sections: list[Section] = []
    for number, line in enumerate(text.splitlines(), start=1):
        line = "".join(line.partition("#")[0].partition(";")[0].split())  # as Darknet, which drops all blanks
        if line.startswith("["):
            name = line.strip("[]")
            sections.append(Section(source, ALIASES.get(name, name), number))
        elif line:
            if not sections or "=" not in line:
                raise UserError(f"{source}:{number}: {line[:40]!r} is neither [section] nor key=value: is it a .cfg?")
            _add(sections[-1], line, number)
    if not sections or sections[0].name != "net":
        raise UserError(f"{source}: does not begin with [net]: give the .cfg of a Darknet network")
    for section in sections:
        _check(section)
    return sections


def _add(section: Section, line: str, number: int) -> None:
    key, _, value = line.partition("=")
    before = section.options.setdefault(key, (value, number))
    if before[0] != value:
        raise section.fault(f"{key} stands twice, as {before[0]} and in line {number} as {value}: keep one", key)
    if before[1] != number:
        section.again.setdefault(key, []).append(number)


def _check(section: Section) -> None:
    if section.name not in USED:
        what = f" ({_OTHERS[section.name]})" if section.name in _OTHERS else ""
        raise section.fault(f"is not supported{what}; there are {', '.join(f'[{name}]' for name in USED)}")
    neutral = {**NEUTRAL[section.name], **_EVERY_NEUTRAL}
    known = {*_words(section.name), *neutral}
    for key, (value, _) in section.options.items():
        if key not in known:
            raise section.fault(f"{key}={value} is not known{_nearest(key, known)}: mend it or take it out", key)
        if key in neutral and value not in neutral[key]:
            raise section.fault(f"{key}={value} is not supported: only {neutral[key][0]}, or take it out", key)


def _words(name: str) -> list[str]:
    return " ".join((USED[name], TRAINING[name], _EVERY)).split()


def _nearest(key: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(key, sorted(known), n=1, cutoff=0.6)
    return f" (did you mean {near[0]}?)" if near else ""
