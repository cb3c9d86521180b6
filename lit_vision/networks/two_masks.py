"""Two networks for two masks of the same pictures, with an encoder each or one for both."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from lit_vision.errors import UserError
from lit_vision.networks.decoder_args import check_decoder_args
from lit_vision.networks.segmentation import Segmenter, check_decoder, create_segmenter

ALONE = ("dpt",)  # its decoder takes more than the encoder's maps


class SecondDecoder(nn.Module):
    """A decoder and a head over the encoder of another network: maps its features to logits (B, K, H, W).

    Args:
        decoder: of segmentation_models_pytorch.
        head: likewise.
    """

    def __init__(self, decoder: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.decoder, self.head = decoder, head

    def forward(self, features: list[Tensor]) -> Tensor:
        """The encoder's maps in, logits of the padded images out."""
        logits: Tensor = self.head(self.decoder(features))
        return logits


def border_segmenter(arguments: Mapping[str, Any], pretrained: bool, weights: str | None, own: bool) -> Segmenter:
    """The second network with an encoder of its own.

    Args:
        arguments: of `create_segmenter`.
        pretrained: likewise.
        weights: file of the encoder's weights.
        own: whether it was given for this network; else it is the first one's.

    Raises:
        UserError: as `create_segmenter`; that the weights do not fit is said of this network.
    """
    try:
        return create_segmenter(classes=1, pretrained=pretrained, weights=weights, **arguments)
    except UserError as error:
        if weights is None or not str(error).startswith("weights: "):
            raise
        args, reason = dict(arguments["encoder_args"] or {}), str(error)
        if not own:  # the file is right for the first network: what else would fit it is no mend
            mend = "model.weights are taken for it, too: give model.border_weights, or other border_encoder_args"
            reason = f"{reason.rpartition('; ')[0]}; {mend}"
        raise UserError(f"the border network, encoder {arguments['encoder']} with {args}: {reason}") from error


def second_decoder(first: Segmenter, arguments: Mapping[str, Any], classes: int) -> SecondDecoder:
    """A decoder for features of an encoder that another network has.

    Args:
        first: the other network; from now on it pads images to what the new decoder needs, too.
        arguments: of `create_segmenter`; the encoder is only looked at.
        classes: logits per pixel.

    Raises:
        UserError: the decoder needs an encoder of its own, or maps of other strides.
    """
    if arguments["decoder"] in ALONE:
        raise UserError(
            f"model.shared_encoder is true, but decoder '{arguments['decoder']}' needs an encoder of its own"
        )
    second = create_segmenter(classes=classes, **arguments)
    maps, own = ((len(one.network.encoder.out_channels), one.stride) for one in (first, second))
    if maps != own:
        raise UserError(
            f"model.shared_encoder is true, but decoder '{arguments['decoder']}' takes other maps than the first one: "
            f"down to 1/{own[1]} instead of 1/{maps[1]} of the picture; take the same decoder, or one such as 'unet', "
            "'fpn' or 'segformer' for both"
        )
    first.smallest = max(first.smallest, second.smallest)
    return SecondDecoder(second.network.decoder, second.network.segmentation_head)


def both_logits(first: Segmenter, second: SecondDecoder, images: Tensor, pixels: bool = True) -> tuple[Tensor, Tensor]:
    """Logits of two decoders from one pass through the first network's encoder.

    Args:
        first: whose encoder it is.
        second: the other decoder.
        images: (B, C, H, W), normalised.
        pixels: false where the first one's logits are not needed; an empty tensor takes their place.

    Returns:
        (B, K, H, W) of each.
    """
    height, width = images.shape[-2:]
    features = first.network.encoder(first.padded(images))
    border = second(features)[..., :height, :width]
    if not pixels:
        return border.new_zeros(0), border
    logits = first.network.segmentation_head(first.network.decoder(features))
    return logits[..., :height, :width], border


def second_arguments(first: Mapping[str, Any], **given: Any) -> dict[str, Any]:
    """Arguments of `create_segmenter` for the second network; what is not given is as in the first.

    Args:
        first: the first network's.
        given: decoder, encoder, decoder_args, encoder_args, None where not given. The `_args` of the first are taken
            over only where the names are the same.

    Raises:
        UserError: there is no such decoder, or it does not take the arguments that are given for it.
    """
    made = {key: given[key] or first[key] for key in ("decoder", "encoder")}
    check_decoder(made["decoder"])
    check_decoder_args(made["decoder"], given["decoder_args"] or {}, "border_decoder_args")
    for key in ("encoder", "decoder"):
        same = made[key] == first[key]
        made[f"{key}_args"] = given[f"{key}_args"] or (first[f"{key}_args"] if same else None)
    return {**made, "in_channels": first["in_channels"]}
