"""From a section of a Darknet .cfg to a layer: defaults as in Darknet, and what would not fit together is refused."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from lit_vision.networks.darknet_kinds import (
    ACTIVATIONS,
    Convolution,
    Dropout,
    Head,
    Kind,
    Layer,
    MaxPool,
    Route,
    Shortcut,
    Upsample,
)
from lit_vision.networks.darknet_text import Section

MOST_FILTERS = 2**16  # of a convolution: more is a slip, and would ask for all memory there is


def read_layer(
    section: Section, following: Section | None, before: Sequence[Layer], channels: int, classes: int | None
) -> Layer:
    """The layer of a section.

    Args:
        section: of the layer.
        following: the next one; a convolution before [yolo] is a head.
        before: all layers above.
        channels: of the picture.
        classes: instead of those of the .cfg.

    Raises:
        UserError: names file, line and section, and says what to mend.
    """
    if section.name == "net":
        raise section.fault("stands twice: the first section alone is [net]")
    inputs = _inputs(section, len(before))
    for number in inputs:
        if number >= 0 and isinstance(before[number].kind, Head):
            raise section.fault(f"takes layer {number}, a [yolo], which gives no features: begin with a [route]")
    shapes = [(channels, 1) if number < 0 else (before[number].channels, before[number].stride) for number in inputs]
    kind = _READERS[section.name](section)
    in_channels, stride = shapes[0]
    if isinstance(kind, Convolution) and following is not None and following.name == "yolo":
        kind = _head_convolution(section, kind, following, classes)
    if isinstance(kind, Head):
        kind = kind if classes is None else replace(kind, classes=classes)
        if not (before and isinstance(before[-1].kind, Convolution)):
            raise section.fault("needs a [convolutional] before it, which gives its raw outputs")
    out, stride = _shape(section, kind, shapes)
    return Layer(kind, inputs, in_channels, out, stride, section)


def _inputs(section: Section, number: int) -> tuple[int, ...]:
    """Numbers of the layers that a section takes; negative ones count back from it."""
    if section.name not in ("route", "shortcut"):
        return (number - 1,)
    key = "layers" if section.name == "route" else "from"
    given = section.integers(key)
    found = [number + one if one < 0 else one for one in given]
    for said, absolute in zip(given, found, strict=True):
        if not 0 <= absolute < number:
            raise section.fault(
                f"{key}={said} means layer {absolute}, but this is layer {number}: give one of 0 to {number - 1}, or "
                f"-1 to -{number}",
                key,
            )
    return tuple(found) if section.name == "route" else (number - 1, *found)


def _shape(section: Section, kind: Kind, shapes: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """Channels and stride of the output."""
    channels, stride = shapes[0]
    if isinstance(kind, Route | Shortcut):
        return _joined(section, kind, shapes)
    if isinstance(kind, Upsample):
        if stride % kind.stride:
            raise section.fault(f"stride={kind.stride} makes more pixels than the picture has: the input's is {stride}")
        return channels, stride // kind.stride
    if isinstance(kind, Convolution):
        reach = kind.dilation * (kind.size - 1) + 1
        _check_size(section, 2 * kind.padding - reach, kind.stride)
        if channels % kind.groups or kind.filters % kind.groups:
            raise section.fault(
                f"groups={kind.groups} must divide the {channels} channels of the input and filters={kind.filters}",
                "groups",
            )
        return kind.filters, stride * kind.stride
    if isinstance(kind, MaxPool):
        _check_size(section, kind.padding - kind.size, kind.stride)
        return channels, stride * kind.stride
    return channels, stride


def _check_size(section: Section, slack: int, stride: int) -> None:
    """Heights and widths must become 1 / stride of what they were: then routes fit at every size of the picture."""
    if slack // stride != -1:
        raise section.fault(
            f"size, padding and stride do not divide the input's height by exactly {stride}: give pad=1, an odd size"
        )


def _joined(section: Section, kind: Route | Shortcut, shapes: Sequence[tuple[int, int]]) -> tuple[int, int]:
    strides = {stride for _, stride in shapes}
    if len(strides) > 1:
        raise section.fault(f"joins layers of different sizes, at strides {sorted(strides)}: name layers of one size")
    if isinstance(kind, Shortcut):
        if len({channels for channels, _ in shapes}) > 1:
            raise section.fault(
                f"adds layers of {' and '.join(str(c) for c, _ in shapes)} channels: they must be equal"
            )
        return shapes[0]
    if kind.group_id >= kind.groups:
        raise section.fault(f"group_id={kind.group_id} must be below groups={kind.groups}", "group_id")
    if any(channels % kind.groups for channels, _ in shapes):
        raise section.fault(f"groups={kind.groups} must divide the channels of each layer it takes", "groups")
    return sum(channels // kind.groups for channels, _ in shapes), strides.pop()


def _stride(section: Section, default: int = 1) -> int:
    stride = section.integer("stride", default, least=1)
    x, y = section.integer("stride_x", stride, least=1), section.integer("stride_y", stride, least=1)
    if x != y:
        raise section.fault(f"stride_x={x} and stride_y={y} must be equal", "stride_x")
    return x


def _activation(section: Section, default: str) -> str:
    name = section.text("activation", default)
    if name not in ACTIVATIONS:
        raise section.fault(f"activation={name} is not supported; there are {', '.join(ACTIVATIONS)}", "activation")
    return name


def _convolution(section: Section) -> Convolution:
    size = section.integer("size", 1, least=1)
    dilation = section.integer("dilation", 1, least=1) if size > 1 else 1
    padding = size // 2 if section.integer("pad", 0) else section.integer("padding", 0, least=0)
    return Convolution(
        filters=section.integer("filters", 1, least=1, most=MOST_FILTERS),
        size=size,
        stride=_stride(section),
        padding=padding * dilation,
        dilation=dilation,
        groups=section.integer("groups", 1, least=1),
        batch_normalize=bool(section.integer("batch_normalize", 0)),
        activation=_activation(section, "logistic"),
    )


def _head_convolution(section: Section, kind: Convolution, yolo: Section, classes: int | None) -> Convolution:
    """The convolution before a [yolo], for the classes wanted."""
    head = _head(yolo)
    wanted = len(head.mask) * (5 + head.classes)
    if kind.filters != wanted:
        raise section.fault(
            f"filters={kind.filters}, but the [yolo] in line {yolo.line} wants {len(head.mask)} anchors * (5 + "
            f"{head.classes} classes) = {wanted}",
            "filters",
        )
    if (kind.size, kind.stride, kind.groups, kind.activation, kind.batch_normalize) != (1, 1, 1, "linear", False):
        raise section.fault("before a [yolo] it must have size=1, stride=1, activation=linear and no batch_normalize")
    filters = len(head.mask) * (5 + (head.classes if classes is None else classes))
    return replace(kind, filters=filters)


def _head(section: Section) -> Head:
    numbers = section.numbers("anchors")
    if len(numbers) % 2 or min(numbers) <= 0:
        raise section.fault("anchors must be pairs of width and height in pixels, all above 0", "anchors")
    anchors = tuple(zip(numbers[::2], numbers[1::2], strict=True))
    num = section.integer("num", len(anchors), least=1)
    if num != len(anchors):
        raise section.fault(f"num={num}, but anchors has {len(anchors)} pairs: make them equal", "num")
    mask = tuple(section.integers("mask")) if "mask" in section.options else tuple(range(num))
    if any(not 0 <= i < num for i in mask) or len(set(mask)) < len(mask):
        raise section.fault(f"mask={section.text('mask')} must name different anchors, from 0 to {num - 1}", "mask")
    scale, ignore = section.number("scale_x_y", 1.0), section.number("ignore_thresh", 0.5)
    if scale < 1:
        raise section.fault(f"scale_x_y={scale:g} must be at least 1", "scale_x_y")
    if not 0 <= ignore <= 1:
        raise section.fault(f"ignore_thresh={ignore:g} must be from 0 to 1", "ignore_thresh")
    return Head(section.integer("classes", 20, least=1), mask, anchors, scale, ignore)


def _maxpool(section: Section) -> MaxPool:
    stride = _stride(section)
    size = section.integer("size", stride, least=1)
    return MaxPool(size, stride, section.integer("padding", size - 1, least=0))


def _dropout(section: Section) -> Dropout:
    probability = section.number("probability", 0.2)
    if not 0 <= probability < 1:
        raise section.fault(f"probability={probability:g} must be from 0 to below 1", "probability")
    return Dropout(probability)


def _route(section: Section) -> Route:
    return Route(section.integer("groups", 1, least=1), section.integer("group_id", 0, least=0))


_READERS: dict[str, Callable[[Section], Kind]] = {
    "convolutional": _convolution,
    "maxpool": _maxpool,
    "upsample": lambda section: Upsample(section.integer("stride", 2, least=1)),
    "route": _route,
    "shortcut": lambda section: Shortcut(_activation(section, "linear")),
    "dropout": _dropout,
    "yolo": _head,
}
