"""What a Darknet .cfg describes: its layers with inputs, channels and strides, checked before anything is built."""

import difflib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from lit_vision.errors import UserError
from lit_vision.networks.darknet_kinds import Convolution, Head, Layer, Shortcut
from lit_vision.networks.darknet_sections import read_layer
from lit_vision.networks.darknet_text import Section, read_sections

FOLDER = Path(__file__).with_name("cfg")
BUILT_IN = ("yolov3", "yolov3-tiny", "yolov3-spp")


@dataclass(frozen=True)
class DarknetConfig:
    """A network as a .cfg describes it.

    Attributes:
        source: name or file, for errors.
        text: of the .cfg.
        net: the section [net].
        layers: numbered as in Darknet: the first after [net] is 0.
        channels: of the picture.
    """

    source: str
    text: str
    net: Section
    layers: tuple[Layer, ...]
    channels: int

    @cached_property
    def heads(self) -> list[int]:
        """Numbers of the [yolo] layers, coarsest first."""
        found = [i for i, layer in enumerate(self.layers) if isinstance(layer.kind, Head)]
        return sorted(found, key=lambda i: -self.layers[i].stride)

    @property
    def classes(self) -> int:
        """C."""
        return self.head(self.heads[0]).classes

    @property
    def coarsest(self) -> int:
        """Heights and widths of pictures are multiples of it."""
        return max(layer.stride for layer in self.layers)

    def head(self, number: int) -> Head:
        """What the [yolo] layer of this number says."""
        kind = self.layers[number].kind
        assert isinstance(kind, Head)
        return kind

    def with_size(self, classes: int | None = None, channels: int | None = None) -> "DarknetConfig":
        """The same network for another number of classes, its head convolutions following, or channels."""
        return parse(self.text, self.source, classes or self.classes, channels or self.channels)


def find_config(architecture: str) -> DarknetConfig:
    """The network that a user names.

    Args:
        architecture: one of BUILT_IN, the path of a .cfg (`~` and `$VARIABLES` are expanded), or, as checkpoints keep
            it, a .cfg's text.

    Raises:
        UserError: there is no such file, or it is not a .cfg of supported layers.
    """
    if "\n" in architecture:
        return parse(architecture, "the checkpoint's cfg")
    if architecture in BUILT_IN:
        return parse((FOLDER / f"{architecture}.cfg").read_text(), f"{architecture}.cfg")
    path = Path(os.path.expandvars(architecture)).expanduser()
    if "$" in str(path):
        raise UserError(f"architecture is {architecture}, but that environment variable is not set: export it")
    if not path.is_file():
        near = difflib.get_close_matches(architecture, BUILT_IN, n=1, cutoff=0.6)
        hint = f"did you mean {near[0]}?" if near else f"give {', '.join(BUILT_IN)} or a Darknet .cfg"
        raise UserError(f"architecture: there is no network or file {architecture}; {hint}")
    content = path.read_bytes()
    if b"\0" in content:
        raise UserError(f"architecture: {path} is not text: give a Darknet .cfg")
    return parse(content.decode("utf-8-sig", errors="replace"), str(path))  # comments come in any encoding


def parse(text: str, source: str, classes: int | None = None, channels: int | None = None) -> DarknetConfig:
    """Reads the text of a .cfg.

    Args:
        text: of the file.
        source: its name, for errors.
        classes: instead of those of the [yolo] sections; the convolutions before them follow.
        channels: instead of those of [net].

    Raises:
        UserError: names file, line and section, and says what to mend.
    """
    net, *sections = read_sections(text, source)
    own = net.integer("channels", 3, least=1)
    for side in ("height", "width"):
        net.integer(side, 416, least=1)
    net.integer("letter_box", 0, least=0, most=1)
    layers: list[Layer] = []
    for number, section in enumerate(sections):
        following = sections[number + 1] if number + 1 < len(sections) else None
        layers.append(read_layer(section, following, layers, channels or own, classes))
    config = DarknetConfig(source, text, net, tuple(layers), channels or own)
    _check_heads(config)
    return config


def _check_heads(config: DarknetConfig) -> None:
    if not config.heads:
        raise UserError(f"{config.source}: has no [yolo] section: give the .cfg of a detector, not of a classifier")
    if min(config.heads) < 2:
        section = config.layers[min(config.heads)].section
        raise section.fault("only its own [convolutional] stands before this head: a network has layers before it")
    first = config.head(config.heads[0])
    for number in config.heads[1:]:
        head, section = config.head(number), config.layers[number].section
        if head.classes != first.classes:
            raise section.fault(f"classes={head.classes}, but another [yolo] has {first.classes}: make them equal")


def backbone_length(layers: Sequence[Layer]) -> int:
    """How many layers from the picture on are the backbone; the rest are the neck and the heads.

    It ends with the last [shortcut] at the coarsest stride before the first [yolo] (layer 74 of yolov3.cfg). Networks
    without one there end before the first 1 x 1 convolution at that stride that has fewer outputs than inputs: the
    neck's first (layer 12 of yolov3-tiny.cfg is the last), or else before the first head.
    """
    end = next(i for i, layer in enumerate(layers) if isinstance(layer.kind, Head)) - 1
    coarsest = max(layer.stride for layer in layers[:end])
    deep = [i for i in range(end) if layers[i].stride == coarsest]
    for i in reversed(deep):
        if isinstance(layers[i].kind, Shortcut):
            return i + 1
    for i in deep:
        kind, layer = layers[i].kind, layers[i]
        if isinstance(kind, Convolution) and kind.size == 1 and layer.channels < layer.in_channels:
            return max(i, 1)
    return end
