"""What `decoder_args` may say: the decoder's own arguments, not what the task decides."""

import difflib
import inspect
from collections.abc import Mapping
from typing import Any

import segmentation_models_pytorch as smp

from lit_vision.errors import UserError

OWNED = {
    "activation": "losses and metrics take logits",
    "aux_params": "there is no second head, for classes of whole pictures",
    "classes": "they come from the data",
    "in_channels": "they come from data.in_channels",
    "encoder_name": "give the name as model.encoder",
    "encoder_weights": "give model.pretrained: true, or model.weights: <file>",
}


def check_decoder_args(decoder: str, args: Mapping[str, Any], key: str = "decoder_args") -> None:
    """Refuses arguments that are the task's, the encoder's or nobody's.

    Args:
        decoder: one of `networks.segmentation.DECODERS`.
        args: by name.
        key: what errors call them.

    Raises:
        UserError: the first of them that the decoder cannot take, with the nearest one that it can.
    """
    signature = inspect.signature(smp.MODEL_ARCHITECTURES_MAPPING[decoder]).parameters.values()
    own = [one.name for one in signature if one.kind is not one.VAR_KEYWORD and one.name not in OWNED]
    for name in args:
        if name in OWNED:
            raise UserError(f"model.{key} has {name}: leave it out, {OWNED[name]}")
        if name not in own:
            near = difflib.get_close_matches(name, own, n=1)
            hint = f"; did you mean {near[0]}?" if near else ":"
            encoder = key.replace("decoder", "encoder")
            raise UserError(
                f"model.{key} has {name}, which decoder '{decoder}' does not take{hint} it takes {', '.join(own)}; "
                f"arguments of the encoder belong into model.{encoder}"
            )
