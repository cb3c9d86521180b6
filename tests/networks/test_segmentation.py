"""Segmentation networks: every decoder, any size, any timm encoder, local weights, clear refusals."""

from pathlib import Path

import pytest
import torch
from torch import nn

from lit_vision.errors import UserError
from lit_vision.networks.backbone_stages import stages
from lit_vision.networks.segmentation import DECODERS, create_segmenter

WEIGHTS = Path(__file__).parents[3] / "shared" / "weights" / "mobilenetv1_025_imagenet.safetensors"
SMALL = {"unet": {"decoder_channels": [32, 16, 8, 8, 4]}, "unetplusplus": {"decoder_channels": [16, 8, 8, 8, 4]}}


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.mark.parametrize("decoder", [name for name in DECODERS if name != "dpt"])
def test_every_decoder_gives_logits_at_any_input_size(decoder: str) -> None:
    network = create_segmenter(decoder, "mobilenetv3_small_050", 3, in_channels=4, decoder_args=SMALL.get(decoder))
    with torch.no_grad():
        assert network.eval()(torch.randn(1, 4, 45, 70)).shape == (1, 3, 45, 70)


def test_dpt_takes_vision_transformers_at_any_size() -> None:
    args = {"decoder_intermediate_channels": [16, 16, 16, 16], "decoder_fusion_channels": 16}
    network = create_segmenter("dpt", "vit_tiny_patch16_224", 2, decoder_args=args)
    with torch.no_grad():
        assert network.eval()(torch.randn(1, 3, 40, 70)).shape == (1, 2, 40, 70)


def test_windowed_transformers_are_freed_of_their_size() -> None:
    args = {"embed_dim": 16, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 1, 1]}
    network = create_segmenter("segformer", "swin_tiny_patch4_window7_224", 2, encoder_args=args)
    with torch.no_grad():
        assert network.eval()(torch.randn(1, 3, 64, 96)).shape == (1, 2, 64, 96)


@pytest.mark.parametrize("decoder", ["unet", "deeplabv3plus"])
def test_resnest269_under_both_decoders_of_the_goal(decoder: str) -> None:
    with torch.device("meta"):  # 110 million parameters without memory
        network = create_segmenter(decoder, "resnest269e", 21)
    assert (
        sum(p.numel() for p in network.backbone.parameters()) == 110_929_480 - 2048 * 1000 - 1000
    )  # less the classifier
    assert network.network.segmentation_head[0].out_channels == 21


@pytest.mark.parametrize("decoder", ["unet", "unetplusplus", "manet", "fpn", "pan"])
def test_upsampling_is_bilinear(decoder: str) -> None:
    network = create_segmenter(decoder, "mobilenetv3_small_050", 2, decoder_args=SMALL.get(decoder))
    modes = {
        getattr(module, "interpolation_mode", None) or getattr(module, "interpolation", None)
        for module in network.network.decoder.modules()
    } - {None}
    assert modes == {"bilinear"}


def test_padding_does_not_shift_the_picture() -> None:
    network = create_segmenter("unet", "mobilenetv3_small_050", 2, decoder_args=SMALL["unet"]).eval()
    picture = torch.zeros(1, 3, 64, 64)
    picture[..., :50, :40] = torch.randn(1, 3, 50, 40)
    with torch.no_grad():
        whole, cropped = network(picture), network(picture[..., :50, :40])
    assert torch.equal(whole[..., :50, :40], cropped)


@pytest.mark.skipif(not WEIGHTS.exists(), reason=f"{WEIGHTS} is absent")
@pytest.mark.parametrize("decoder", ["unet", "deeplabv3plus"])
@pytest.mark.parametrize(
    ("encoder", "args"),
    [("mobilenetv1_025", {}), ("mobilenetv1_100", {"channel_multiplier": 0.25, "pad_type": "same"})],
)
def test_local_weights_fill_the_whole_encoder(decoder: str, encoder: str, args: dict[str, object]) -> None:
    from safetensors.torch import load_file

    network = create_segmenter(decoder, encoder, 2, weights=str(WEIGHTS), encoder_args=args)
    given = load_file(WEIGHTS)
    state = network.backbone.state_dict()
    loaded = {name.replace("blocks_", "blocks.") for name in state}
    missing = {name for name in given if name not in loaded} - {"classifier.weight", "classifier.bias"}
    assert not missing
    stem = given["conv_stem.weight"]
    assert torch.equal(state["conv_stem.weight"], stem)
    untrained = create_segmenter(decoder, encoder, 2, encoder_args=args)
    assert not torch.equal(untrained.backbone.state_dict()["conv_stem.weight"], stem)


@pytest.mark.parametrize("decoder", [*DECODERS, "depth of 3"])
def test_whatever_trains_gets_a_gradient(decoder: str) -> None:
    encoder, args = "mobilenetv3_small_050", SMALL.get(decoder)
    if decoder == "dpt":
        encoder, args = "test_vit", {"decoder_fusion_channels": 16, "encoder_output_indices": [0, 1, 2, 4]}
    if decoder == "depth of 3":
        decoder, args = "unet", {"encoder_depth": 3, "decoder_channels": [8, 8, 4]}
    network = create_segmenter(decoder, encoder, 2, decoder_args=args).train()
    network(torch.randn(2, 3, 64, 64)).mean().backward()
    assert [name for name, p in network.named_parameters() if p.grad is None or not p.requires_grad] == []


@pytest.mark.parametrize(
    ("decoder", "encoder", "args"),
    [
        ("pspnet", "mobilenetv3_small_050", {}),
        ("pspnet", "lcnet_050", {}),
        ("unet", "tinynet_e", {"encoder_depth": 2, "decoder_channels": [8, 4]}),
        ("dpt", "test_vit", {"decoder_fusion_channels": 16, "encoder_output_indices": [0, 1, 2, 4]}),
    ],
)
def test_without_unused_layers_the_logits_are_the_same(
    decoder: str, encoder: str, args: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    lean = create_segmenter(decoder, encoder, 2, decoder_args=args).eval()
    monkeypatch.setattr("lit_vision.networks.segmentation.drop_unused", lambda network, shape: (1, 2, *shape[1:]))
    whole = create_segmenter(decoder, encoder, 2, decoder_args=args).eval()
    assert not whole.load_state_dict(lean.state_dict(), strict=False).unexpected_keys
    assert len(list(whole.parameters())) > len(list(lean.parameters()))
    images = torch.randn(1, 3, 50, 64)
    with torch.no_grad():
        assert torch.equal(whole(images), lean(images))


def test_stages_are_those_of_the_layers_that_are_used() -> None:
    network = create_segmenter("pspnet", "mobilenetv3_small_050", 2)
    nearest = stages(network.backbone)[0]
    assert {name.split(".")[1] for name in nearest if name.startswith("blocks.")} == {"1"}


def test_pan_takes_small_pictures_at_any_stride_of_its_encoder() -> None:
    network = create_segmenter("pan", "mobilenetv3_small_050", 2, decoder_args={"encoder_output_stride": 32}).eval()
    with torch.no_grad():
        assert network(torch.randn(1, 3, 45, 70)).shape == (1, 2, 45, 70)


@pytest.mark.parametrize("decoder", ["deeplabv3", "deeplabv3plus", "pspnet", "upernet", "pan"])
def test_a_batch_of_one_trains_where_the_whole_picture_is_pooled(decoder: str) -> None:
    network = create_segmenter(decoder, "mobilenetv3_small_050", 2).train()
    network(torch.randn(1, 3, 128, 128)).mean().backward()
    assert all(module.training for module in network.modules() if isinstance(module, nn.BatchNorm2d))


def test_the_backbone_is_the_encoders_timm_model() -> None:
    network = create_segmenter("fpn", "resnet18", 2)
    outside = [name for name, _ in network.named_parameters() if not name.startswith("network.encoder.model.")]
    assert outside
    assert all(name.startswith(("network.decoder.", "network.segmentation_head.")) for name in outside)


@pytest.mark.parametrize(
    ("decoder", "encoder", "sentence"),
    [
        ("unett", "resnet18", "no decoder 'unett'; did you mean 'unet'"),
        ("unet", "resnet81", "no backbone called 'resnet81'; did you mean"),
        ("unet", "vit_tiny_patch16_224", "has no feature pyramid .* decoder 'dpt' for a ViT"),
        ("unet", "mixer_s32_224", "has no feature pyramid|cannot be built"),
        ("deeplabv3plus", "swin_tiny_patch4_window7_224", "cannot be dilated"),
        ("deeplabv3plus", "vgg11", "cannot be dilated"),
    ],
)
def test_what_cannot_be_built_is_said_in_one_sentence(decoder: str, encoder: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence) as caught:
        create_segmenter(decoder, encoder, 2)
    assert "\n" not in str(caught.value)


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(UserError, match="channel_multiplyer"):
        create_segmenter("unet", "mobilenetv3_small_050", 2, encoder_args={"channel_multiplyer": 2})
    with pytest.raises(UserError, match="decoder_chanels"):
        create_segmenter("unet", "mobilenetv3_small_050", 2, decoder_args={"decoder_chanels": [1]})
    with pytest.raises(UserError, match="give one of them"):
        create_segmenter("unet", "mobilenetv3_small_050", 2, pretrained=True, weights="x.pth")


def test_weights_that_cannot_be_downloaded_are_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    import timm

    def unreachable(name: str, pretrained: bool = False, **args: object) -> nn.Module:
        if pretrained:
            raise OSError("We couldn't connect to the hub\nand more")
        return create(name, **args)

    create = timm.create_model
    monkeypatch.setattr(timm, "create_model", unreachable)
    with pytest.raises(
        UserError, match=r"weights of encoder 'resnet18' cannot be had: We couldn't .* give weights: <file>"
    ):
        create_segmenter("unet", "resnet18", 2, pretrained=True)


@pytest.mark.slow
@pytest.mark.parametrize("decoder", ["unet", "deeplabv3plus"])
@pytest.mark.parametrize("encoder", ["resnet34", "mobilenetv3_large_100", "efficientnet_b5", "resnest269e"])
def test_the_encoders_of_the_goal_load_timm_s_files_and_train(decoder: str, encoder: str, tmp_path: Path) -> None:
    import timm
    from safetensors.torch import save_file

    torch.manual_seed(0)
    published = timm.create_model(encoder).state_dict()  # a classifier, named as in the files on the hub
    save_file(published, tmp_path / "model.safetensors")
    network = create_segmenter(
        decoder, encoder, 3, weights=str(tmp_path / "model.safetensors"), grad_checkpointing=True
    )
    state = {name.replace(".", "_"): value for name, value in network.backbone.state_dict().items()}
    shared = {name.replace(".", "_"): value for name, value in published.items()}
    assert state.keys() <= shared.keys()  # all that the encoder has came from the file
    assert all(torch.equal(value, shared[name]) for name, value in state.items())
    images = torch.randn(2, 3, 64, 64)
    logits = network.train()(images)
    assert logits.shape == (2, 3, 64, 64)
    logits.square().mean().backward()
    gradients = [p.grad for p in network.parameters()]
    assert all(gradient is not None and torch.isfinite(gradient).all() for gradient in gradients)


def test_an_encoder_that_pools_trains_with_one_picture() -> None:
    network = create_segmenter("unet", "resnest14d", 2, decoder_args=SMALL["unet"]).train()
    network(torch.randn(1, 3, 64, 64)).mean().backward()
    assert all(torch.isfinite(p.grad).all() for p in network.parameters())
