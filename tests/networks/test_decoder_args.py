import re

import pytest

from lit_vision.errors import UserError
from lit_vision.networks.decoder_args import check_decoder_args
from lit_vision.networks.segmentation import create_segmenter


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("activation", "softmax", "losses and metrics take logits"),
        ("aux_params", {"classes": 2}, "there is no second head, for classes of whole pictures"),
        ("classes", 5, "they come from the data"),
        ("in_channels", 7, "they come from data.in_channels"),
        ("encoder_name", "resnet18", "give the name as model.encoder"),
        ("encoder_weights", "imagenet", "give model.pretrained: true, or model.weights: <file>"),
    ],
)
def test_what_the_task_decides_is_refused(name: str, value: object, reason: str) -> None:
    with pytest.raises(UserError) as caught:
        create_segmenter("unet", "mobilenetv3_small_050", 2, decoder_args={name: value})
    assert str(caught.value) == f"model.decoder_args has {name}: leave it out, {reason}"


def test_a_slip_has_its_nearest_name_and_the_encoder_its_own_place() -> None:
    taken = (
        "pan' does not take{} it takes encoder_depth, encoder_output_stride, decoder_channels, decoder_interpolation"
    )
    with pytest.raises(UserError) as caught:
        check_decoder_args("pan", {"decoder_channls": 8})
    assert str(caught.value) == (
        f"model.decoder_args has decoder_channls, which decoder '{taken.format('; did you mean decoder_channels?')}, "
        "upsampling; arguments of the encoder belong into model.encoder_args"
    )
    with pytest.raises(UserError, match=re.escape(f"has drop_path_rate, which decoder '{taken.format(':')}")):
        check_decoder_args("pan", {"encoder_depth": 4, "drop_path_rate": 0.1})


@pytest.mark.parametrize(
    ("decoder", "args", "sides", "factor"),
    [("fpn", {"upsampling": 8}, (128, 64), "0.5"), ("pspnet", {"encoder_depth": 4}, (16, 32), "2")],
)
def test_logits_of_another_size_are_refused(
    decoder: str, args: dict[str, int], sides: tuple[int, int], factor: str
) -> None:
    found, side = sides
    said = (
        f"gives logits of {found} by {found} pixels for pictures of {side} by {side}: multiply upsampling by {factor},"
    )
    with pytest.raises(UserError, match=re.escape(f"model.decoder_args: decoder '{decoder}' {said}")):
        create_segmenter(decoder, "mobilenetv3_small_050", 2, decoder_args=args)
