"""The .cfg of a Darknet network as it is now: for its classes, channels and anchors, and for a size of pictures."""

import numpy as np

from lit_vision.networks.darknet import DarknetYOLO
from lit_vision.networks.darknet_text import Section


def config_text(network: DarknetYOLO, height: int, width: int, fit: str | None = None) -> str:
    """The text that Darknet and OpenCV read together with what `darknet_weights.write_weights` writes.

    All other lines, comments and training options too, stay as they were; of an option that stands twice one is left.

    Args:
        network: of any number of classes, its anchors clustered or not.
        height: of the network's input, pixels.
        width: likewise.
        fit: how pictures get that size: letter_box follows "letterbox" and "stretch"; others Darknet does not have.
    """
    config = network.config
    lines = config.text.splitlines()
    changes: list[tuple[Section, str, object]] = [
        (config.net, "width", width),
        (config.net, "height", height),
        (config.net, "channels", config.channels),
    ]
    for number, anchors in zip(config.heads, _anchor_lists(network), strict=True):
        changes.append((config.layers[number - 1].section, "filters", config.layers[number - 1].channels))
        changes.append((config.layers[number].section, "classes", config.classes))
        changes.append((config.layers[number].section, "anchors", ", ".join(f"{w},{h}" for w, h in anchors)))
    if fit in ("letterbox", "stretch") and (fit == "letterbox") != bool(config.net.integer("letter_box", 0)):
        changes.append((config.net, "letter_box", int(fit == "letterbox")))
    dropped: set[int] = set()
    for section, key, value in sorted(changes, key=lambda change: change[1]):
        if key in section.options:
            lines[section.options[key][1] - 1] = f"{key}={value}"
            dropped.update(section.again.get(key, ()))
        else:
            lines[section.line - 1] += f"\n{key}={value}"
    return "".join(f"{line}\n" for number, line in enumerate(lines, 1) if number not in dropped)


def _anchor_lists(network: DarknetYOLO) -> list[list[tuple[str, str]]]:
    """All anchors of each [yolo], coarsest scale first; where sections shared a list they still do."""
    heads = [network.config.head(number) for number in network.config.heads]
    scales = zip(heads, network.anchors.tolist(), strict=True)  # those of a short mask end with 0 x 0
    now = [{i: _pair(pair) for i, pair in zip(head.mask, own, strict=False)} for head, own in scales]
    lists = []
    for k, head in enumerate(heads):
        kin = [own for own, other in zip(now, heads, strict=True) if other.all_anchors == head.all_anchors]
        known = {i: pair for own in (*kin, now[k]) for i, pair in own.items()}
        lists.append([known.get(i, _pair(values)) for i, values in enumerate(head.all_anchors)])
    return lists


def _pair(values: tuple[float, float] | list[float]) -> tuple[str, str]:
    """The shortest decimals that are the same float32 again."""
    width, height = (np.format_float_positional(np.float32(value), trim="-") for value in values)
    return width, height
