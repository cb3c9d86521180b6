"""YOLO networks built from Darknet .cfg files: yolov3, yolov3-tiny, yolov3-spp, and any other of the same layers.

YOLO v3: Redmon and Farhadi 2018, arXiv:1804.02767; the layers' semantics are those of https://github.com/pjreddie/darknet.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from lit_vision.errors import UserError
from lit_vision.networks.darknet_cfg import DarknetConfig, backbone_length, find_config
from lit_vision.networks.darknet_kinds import Head as HeadSection
from lit_vision.networks.darknet_layers import ConvBlock, LayerRun, make_layer
from lit_vision.networks.yolo_layers import Head
from lit_vision.networks.yolo_network import AnchorDecoder
from lit_vision.ops.anchors import arrange_anchors, deal_anchors

BN_EPS = 1e-5
NEVER = -200.0  # a logit whose sigmoid is 0 in float32


class DarknetYOLO(AnchorDecoder):
    """The network of a .cfg, in two parts: what `darknet_cfg.backbone_length` counts to the backbone, and the rest.

    Layers keep their Darknet numbers: layer 74 of yolov3.cfg is `backbone.layers.74`, layer 81 `head.layers.81`.

    Args:
        config: what to build, for the classes and channels wanted.
        bn_eps: of the batch normalisation: 1e-5 as in the programs that trained the published weights (pjreddie's on
            the GPU, AlexeyAB's), 1e-6 as in pjreddie's CPU code and OpenCV.
        anchors: instead of the .cfg's: as many pairs in all, the largest for the coarsest scale.

    Attributes:
        backbone: images (B, C, H, W) to the features that the head takes; its parameters fall into stages by stride.
        head: those features to raw outputs, coarsest first.
        strides: of the outputs, coarsest first.
        coarsest: stride of all layers; heights and widths of pictures are multiples of it.
        scale_x_y: of the outputs, see `ops.grid.decode`.
        ignore_thresholds: of the .cfg's heads, for the loss.
        anchors: a buffer (S, A, 2), pixels of the network input, so that it travels in the checkpoint. Where a mask
            names fewer than A, 0 x 0 stand at the end, and boxes that are none at the end of the output.
        heads_read: whether the heads are those of a file of weights, which learnt with its own anchors.
    """

    listed: Tensor
    heads_read = False

    def __init__(
        self, config: DarknetConfig, bn_eps: float = BN_EPS, anchors: Sequence[Sequence[float]] | None = None
    ) -> None:
        super().__init__()
        self.config = config
        kinds = [config.head(number) for number in config.heads]
        self.strides = tuple(config.layers[number].stride for number in config.heads)
        self.coarsest = config.coarsest
        self.scale_x_y = tuple(kind.scale_x_y for kind in kinds)
        self.ignore_thresholds = tuple(kind.ignore_threshold for kind in kinds)
        self.register_buffer("anchors", _padded([kind.anchors for kind in kinds]))
        if anchors is not None:
            counts = [len(kind.mask) for kind in kinds]
            pairs = arrange_anchors(anchors, 1)[0].tolist()
            if len(pairs) != sum(counts):
                found = f"`anchors` has {len(pairs)} pairs, but {config.source} wants {sum(counts)}"
                raise UserError(f"{found}: give as many")
            self.anchors = deal_anchors(pairs, counts)
        self.register_buffer("listed", _padded([kind.all_anchors for kind in kinds]), persistent=False)
        self.backbone, self.head = _parts(config, bn_eps)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Normalised images (B, C, H, W) to S raw outputs (B, A * (5 + classes), H / stride, W / stride).

        Coarsest first; channels are anchor-major, each anchor's being tx, ty, tw, th, objectness, classes. H and W are
        any multiples of the coarsest stride, whatever size the .cfg names.
        """
        height, width = images.shape[-2:]
        if height % self.coarsest or width % self.coarsest:
            raise UserError(f"image_size {height} x {width} is not a multiple of {self.coarsest}; choose one that is")
        outputs: list[Tensor] = self.head(*self.backbone(images))
        wanted = self.anchors.shape[1] * (5 + self.config.classes)
        return [output if output.shape[1] == wanted else self._filled(output, wanted) for output in outputs]

    def _filled(self, output: Tensor, wanted: int) -> Tensor:
        """The output of a head with fewer anchors than others, (B, wanted, H, W): what it lacks is never an object."""
        batch, channels, height, width = output.shape
        none = output.new_zeros(batch, wanted - channels, height, width)
        none[:, 4 :: 5 + self.config.classes] = NEVER
        return torch.cat([output, none], dim=1)

    @property
    def rivals(self) -> Tensor | None:
        """(S, M, 2) all anchors of each [yolo]: masks may share some and leave some out. None: the network has others.

        Where one has fewer, the last are 0 x 0, which are nobody's best.
        """
        known = (self.anchors[:, :, None] == self.listed[:, None]).all(dim=-1).any(dim=-1)
        return self.listed if (known | (self.anchors == 0).all(dim=-1)).all() else None

    def convolutions(self) -> list[tuple[int, nn.Conv2d, nn.BatchNorm2d | None]]:
        """Number, convolution and norm of each [convolutional], in the order of the .cfg."""
        found: list[tuple[int, nn.Conv2d, nn.BatchNorm2d | None]] = []
        for part in (self.backbone, self.head):
            for number, module in part.layers.items():
                if isinstance(module, ConvBlock):
                    found.append((int(number), module.conv, module.norm))
                elif isinstance(module, Head):
                    found.append((int(number), module, None))
        return found


def _padded(lists: Sequence[Sequence[tuple[float, float]]]) -> Tensor:
    """(S, M, 2) of lists of different lengths: 0 x 0 at the ends of the shorter ones."""
    return pad_sequence([torch.tensor(one, dtype=torch.float32) for one in lists], batch_first=True)


def _parts(config: DarknetConfig, bn_eps: float) -> tuple[LayerRun, LayerRun]:
    """Backbone and head."""
    layers = config.layers
    end = backbone_length(layers)
    raw = [number - 1 for number in config.heads]  # the convolutions before the [yolo] layers
    modules: dict[int, nn.Module] = {}
    for number, layer in enumerate(layers):
        if number in raw:
            kind = config.head(number + 1)
            modules[number] = Head(layer.in_channels, len(kind.mask), kind.classes)
        elif not isinstance(layer.kind, HeadSection):
            modules[number] = make_layer(layer, bn_eps)
    inputs = {number: layer.inputs for number, layer in enumerate(layers)}
    features = sorted({source for number in modules if number >= end for source in inputs[number] if source < end})
    if features[0] < 0:
        raise layers[end].section.fault("takes the picture itself beside the backbone: route from a layer instead")
    backbone = LayerRun({n: modules[n] for n in modules if n < end}, inputs, [-1], features)
    # Where the stride changes, a stage of the backbone ends: see networks/backbone_stages.py.
    ends = [n for n in range(end) if n == end - 1 or layers[n].stride != layers[n + 1].stride]
    info = [{"module": f"layers.{n}", "num_chs": layers[n].channels, "reduction": layers[n].stride} for n in ends]
    backbone.feature_info = info  # type: ignore[assignment]  # plain data, as timm's networks have it
    return backbone, LayerRun({n: modules[n] for n in modules if n >= end}, inputs, features, raw)


def create_darknet(
    architecture: str,
    num_classes: int | None = None,
    in_channels: int | None = None,
    bn_eps: float | None = None,
    anchors: Sequence[Sequence[float]] | None = None,
) -> DarknetYOLO:
    """A network by the name, path or text of its .cfg, with new weights.

    Args:
        architecture: "yolov3", "yolov3-tiny", "yolov3-spp", or the path or the text of a .cfg.
        num_classes: C; the convolutions before the [yolo] layers follow. None: those of the .cfg.
        in_channels: of the images. None: those of the .cfg.
        bn_eps: see `DarknetYOLO`; None: 1e-5.
        anchors: see `DarknetYOLO`.

    Raises:
        UserError: see `darknet_cfg.find_config`.
    """
    config = find_config(architecture).with_size(num_classes, in_channels)
    return DarknetYOLO(config, BN_EPS if bn_eps is None else bn_eps, anchors)
