"""Encoder-decoder networks for a class per pixel: decoders of segmentation_models_pytorch over any timm encoder."""

import difflib
import inspect
import sys
from collections.abc import Mapping
from typing import Any

import segmentation_models_pytorch as smp
import timm
from torch import Tensor, nn
from torch.nn import functional as F

from lit_vision.errors import UserError
from lit_vision.networks.backbones import check_backbone, timm_arguments
from lit_vision.networks.decoder_args import check_decoder_args
from lit_vision.networks.recomputing import recompute_blocks
from lit_vision.networks.timm_names import pretrained_config
from lit_vision.networks.torchvision_names import refuse_torchvision
from lit_vision.networks.unused import drop_unused
from lit_vision.networks.weights import load_weights

DECODERS = (
    "unet",
    "unetplusplus",
    "manet",
    "linknet",
    "fpn",
    "pspnet",
    "deeplabv3",
    "deeplabv3plus",
    "pan",
    "upernet",
    "segformer",
    "dpt",
)
BILINEAR = (
    "unet",
    "unetplusplus",
    "manet",
    "fpn",
    "pan",
)  # the others upsample bilinearly, or learn to, without being told
SMALLEST = {"pan": 8}  # PAN halves its deepest map three times: smaller images are padded to as many strides
WHOLE = 6  # maps of an encoder, the picture among them, of which no layer is left over
_SIZES = {"upsampling", "encoder_output_stride"}
HALVED_AGAIN = ("dpt",)  # halves its coarsest map and doubles it back, so that one must have even sides


class Segmenter(nn.Module):
    """Maps normalised images (B, C, H, W) of any H and W to logits (B, K, H, W).

    Args:
        network: an encoder-decoder of segmentation_models_pytorch.
        stride: images are padded to a multiple of it.
        smallest: images are padded to at least this height and width.
    """

    def __init__(self, network: smp.base.SegmentationModel, stride: int, smallest: int = 1) -> None:
        super().__init__()
        self.network = network
        self.stride, self.smallest = stride, smallest

    @property
    def backbone(self) -> nn.Module:
        """The timm model inside the encoder: what pretrained weights fill, and what can be frozen."""
        backbone: nn.Module = self.network.get_submodule("encoder.model")
        return backbone

    def forward(self, images: Tensor) -> Tensor:
        """Logits of the padded images, cropped back."""
        height, width = images.shape[-2:]
        logits: Tensor = self.network(self.padded(images))
        return logits[..., :height, :width]

    def padded(self, images: Tensor) -> Tensor:
        """The images padded at the right and below to a multiple of the stride."""
        below, right = (self._padding(length) for length in images.shape[-2:])
        return F.pad(images, (0, right, 0, below)) if below or right else images

    def _padding(self, length: int) -> int:
        return -(-max(length, self.smallest) // self.stride) * self.stride - length


class PooledBatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation that uses its running statistics where a channel holds a single value.

    Decoders that pool the whole image (DeepLab, PSPNet, UPerNet, PAN), and encoders whose attention does (ResNeSt),
    meet that in a batch of one image, where torch's own layer stops the training.
    """

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, H, W) in, the same out."""
        if self.training and input.numel() == input.shape[1]:
            return F.batch_norm(input, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        return super().forward(input)


def create_segmenter(
    decoder: str,
    encoder: str,
    classes: int,
    in_channels: int = 3,
    pretrained: bool = False,
    weights: str | None = None,
    encoder_args: Mapping[str, Any] | None = None,
    decoder_args: Mapping[str, Any] | None = None,
    grad_checkpointing: bool = False,
) -> Segmenter:
    """Build a segmentation network.

    Args:
        decoder: one of DECODERS, such as "unet" or "deeplabv3plus".
        encoder: any timm model with a feature pyramid ("resnest269e", "convnext_tiny", ...); any ViT for "dpt".
        classes: number of logits per pixel, background included.
        in_channels: channels of the images.
        pretrained: download the encoder's weights through timm.
        weights: a local .safetensors or .pth file with the encoder's weights, instead of downloading.
        encoder_args: passed to timm, such as {channel_multiplier: 0.25}.
        decoder_args: passed to segmentation_models_pytorch, such as {decoder_channels: [64, 32, 16, 8, 8]}.
        grad_checkpointing: see `recompute_blocks`.

    Returns:
        The network without what the decoder does not use of the encoder, as blocks behind its depth.

    Raises:
        UserError: an unknown name, an encoder that the decoder cannot use, arguments that they do not take.
    """
    check_decoder(decoder)
    check_decoder_args(decoder, decoder_args or {})
    refuse_torchvision(encoder)
    check_backbone(encoder)
    if pretrained and weights is not None:
        raise UserError(f"encoder '{encoder}' was given both pretrained: true and weights: {weights}; give one of them")
    encoder, known = timm_arguments(encoder, encoder_args or {})
    arguments = {"in_channels": in_channels, "classes": classes, **_any_size(encoder), **known}
    network = _build(decoder, encoder, pretrained, {**arguments, **(decoder_args or {})})
    _hold_pooled_norms(network)
    stride = int(network.encoder.output_stride) * (2 if decoder in HALVED_AGAIN else 1)
    segmenter = Segmenter(network, stride, SMALLEST.get(decoder, 0) * stride)
    if weights is not None:
        load_weights(segmenter.backbone, weights)
    if len(network.encoder.out_channels) < WHOLE or _SIZES & (decoder_args or {}).keys():
        _drop_unused(segmenter, in_channels, decoder)
    if grad_checkpointing:
        recompute_blocks(segmenter.backbone)
    return segmenter


def _drop_unused(segmenter: Segmenter, in_channels: int, decoder: str) -> None:
    for side in (max(segmenter.smallest, 2 * segmenter.stride), _own_size(segmenter.backbone)):
        try:
            shape = drop_unused(segmenter.network, (in_channels, side, side))
        except Exception:  # a network of fixed size raises errors of every kind
            continue
        if shape[2] != side:
            raise UserError(
                f"model.decoder_args: decoder '{decoder}' gives logits of {shape[2]} by {shape[3]} pixels for pictures "
                f"of {side} by {side}: multiply upsampling by {side / shape[2]:g}, or leave it and encoder_depth out"
            )
        return


def _own_size(backbone: nn.Module) -> int:
    size: int = pretrained_config(backbone).get("input_size", (3, 224, 224))[-1]
    return size


def _build(decoder: str, encoder: str, pretrained: bool, arguments: dict[str, Any]) -> smp.base.SegmentationModel:
    if decoder in BILINEAR:
        arguments = {"decoder_interpolation": "bilinear", **arguments}
    try:
        network = smp.create_model(decoder, f"tu-{encoder}", "timm" if pretrained else None, **arguments)
    except Exception as error:  # timm's builders and the hub's clients raise errors of every kind
        raise UserError(_why(decoder, encoder, pretrained, error)) from error
    info = getattr(network.encoder.model, "feature_info", None)
    # Before timm 1.0.31, what has no dilation is built without a word.
    if isinstance(info, timm.models.FeatureInfo) and info.reduction()[-1] > network.encoder.output_stride:
        raise UserError(_undilated(decoder, encoder))
    return network


def check_decoder(decoder: str) -> None:
    """Raises a UserError with the nearest name if no decoder is called so."""
    if decoder not in DECODERS:
        near = difflib.get_close_matches(decoder, DECODERS, n=1)
        hint = f"; did you mean '{near[0]}'?" if near else ":"
        raise UserError(f"there is no decoder '{decoder}'{hint} there are {', '.join(DECODERS)}")


def _any_size(encoder: str) -> dict[str, bool]:
    """What frees transformers of the one image size they were trained at."""
    home = sys.modules[timm.models.model_entrypoint(encoder.split(".")[0]).__module__]
    networks = [value for value in vars(home).values() if inspect.isclass(value) and hasattr(value, "forward_features")]
    taken = {name for network in networks for name in inspect.signature(network).parameters}
    free = {"dynamic_img_size": True, "strict_img_size": False}
    return {name: value for name, value in free.items() if name in taken}


def _why(decoder: str, encoder: str, pretrained: bool, error: Exception) -> str:
    """One sentence for what timm and segmentation_models_pytorch say in several."""
    text = str(error).strip().split("\n")[0] or type(error).__name__
    if "downsampling pattern" in text or "features_only" in text:
        return (
            f"encoder '{encoder}' has no feature pyramid (maps at 1/4 to 1/32), which decoder '{decoder}' needs: "
            "take a convolutional or hierarchical one such as 'resnet34' or 'convnext_tiny', or decoder 'dpt' for a ViT"
        )
    if "output_stride" in text or (isinstance(error, AssertionError) and not str(error)):
        return _undilated(decoder, encoder)
    if pretrained and not isinstance(error, TypeError):
        return f"the weights of encoder '{encoder}' cannot be had: {text}; give weights: <file>, or pretrained: false"
    return f"decoder '{decoder}' over encoder '{encoder}' cannot be built: {text}"


def _undilated(decoder: str, encoder: str) -> str:
    return (
        f"encoder '{encoder}' cannot be dilated, which decoder '{decoder}' needs: "
        "take decoder 'unet', 'fpn', 'upernet' or 'segformer', or another encoder"
    )


def _hold_pooled_norms(module: nn.Module) -> None:
    for name, child in module.named_children():
        if type(child) is nn.BatchNorm2d:
            held = PooledBatchNorm2d(child.num_features, child.eps, child.momentum, child.affine)
            held.load_state_dict(child.state_dict())
            setattr(module, name, held)
        else:
            _hold_pooled_norms(child)
