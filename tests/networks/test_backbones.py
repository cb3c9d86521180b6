import pytest
import torch

from lit_vision.errors import UserError
from lit_vision.networks.backbones import (
    backbone_names,
    create_classifier,
    create_features,
    preprocessing_of,
    weights_source,
)


def test_classifier_has_as_many_logits_as_classes() -> None:
    network = create_classifier("resnet18", num_classes=7, in_channels=5).eval()
    assert network(torch.zeros(2, 5, 32, 32)).shape == (2, 7)


def test_last_layer_can_be_left_out() -> None:
    assert create_classifier("resnet18", num_classes=0).eval()(torch.zeros(1, 3, 32, 32)).shape == (1, 512)


def test_activations_can_be_named() -> None:
    network = create_classifier("resnet18", 2, act_layer="relu6")
    assert isinstance(network.get_submodule("act1"), torch.nn.ReLU6)


def test_features_have_the_sizes_that_their_information_states() -> None:
    network = create_features("mobilenetv1_025", in_channels=1, out_indices=(1, 2, 4))
    maps = network(torch.zeros(2, 1, 64, 96))
    info = network.feature_info
    assert info.channels() == [32, 64, 256]
    assert info.reduction() == [4, 8, 32]
    expected = [(2, c, 64 // s, 96 // s) for c, s in zip(info.channels(), info.reduction(), strict=True)]
    assert [tuple(one.shape) for one in maps] == expected


def test_mobilenet_of_any_width_under_timms_name() -> None:
    network = create_classifier("mobilenetv1_100", 10, channel_multiplier=0.5, pad_type="same", act_layer="relu6")
    assert network.get_parameter("conv_stem.weight").shape == (16, 3, 3, 3)
    assert type(network.get_submodule("conv_stem")).__name__ == "Conv2dSame"
    assert "mobilenetv1_025" in backbone_names("mobilenetv1*")


def test_width_alone_leaves_timms_padding() -> None:
    network = create_classifier("mobilenetv1_100", 10, channel_multiplier=0.5)
    assert type(network.get_submodule("conv_stem")) is torch.nn.Conv2d


@pytest.mark.parametrize(
    ("name", "args", "words"),
    [
        ("resnet19", {}, ["resnet19", "did you mean", "resnet18"]),
        ("hf-hub:timm/resnet18", {}, ["there is no backbone"]),
        ("resnet18.no_such_tag", {}, ["no_such_tag", "resnet18 has weights tagged", "a1_in1k"]),
        ("resnet18", {"drop_paht_rate": 0.1}, ["resnet18", "'drop_paht_rate'"]),
        ("resnet18", {"act_layer": "rleu"}, ["'rleu'", "act_layer"]),
        ("mobilenetv1_125", {"channel_multiplier": 2.0}, ["fixes 'channel_multiplier'"]),
        ("resnet18", {"pretrained": True, "weights": "a.pth"}, ["a.pth", "one of them"]),
    ],
)
def test_mistakes_are_told_in_one_sentence(name: str, args: dict[str, object], words: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        create_classifier(name, 2, **args)  # type: ignore[arg-type]  # mixed on purpose
    assert all(word in str(caught.value) for word in words), caught.value
    assert "\n" not in str(caught.value)


def test_features_that_a_network_does_not_have() -> None:
    with pytest.raises(UserError, match=r"resnet18 cannot give these features .* other out_indices"):
        create_features("resnet18", out_indices=(7,))


def test_download_that_fails_names_weights_and_mend(monkeypatch: pytest.MonkeyPatch) -> None:
    import timm.models._builder as builder

    def unreachable(*args: object, **kwargs: object) -> None:
        raise OSError("no route\nto host")

    monkeypatch.setattr(builder, "load_state_dict_from_hf", unreachable)
    with pytest.raises(UserError, match=r"^weights of resnet18 \(timm/resnet18.a1_in1k\) cannot .*: no route to host;"):
        create_classifier("resnet18", 2, pretrained=True)


def test_nothing_is_downloaded_unless_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("touched the network")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    create_classifier("resnet18", 2)
    create_features("resnet18.a1_in1k")


def test_untrained_networks_say_so() -> None:
    with pytest.raises(UserError, match="mobilenetv1_025 has no pretrained weights to download; give weights"):
        create_classifier("mobilenetv1_025", 2, pretrained=True)


def test_preprocessing_by_name_and_by_module() -> None:
    by_name = preprocessing_of("mobilenetv1_025")
    assert by_name.mean == by_name.std == (0.5, 0.5, 0.5)
    assert preprocessing_of(create_features("mobilenetv1_025")) == by_name
    assert preprocessing_of("resnet18").licence == "apache-2.0"
    assert preprocessing_of(torch.nn.Identity()).mean == (0.485, 0.456, 0.406)


def test_statistics_repeat_over_more_channels() -> None:
    found = preprocessing_of("resnet18", in_channels=5)
    assert found.mean == (0.485, 0.456, 0.406, 0.485, 0.456)
    assert found.std == (0.229, 0.224, 0.225, 0.229, 0.224)
    assert preprocessing_of("resnet18", in_channels=1).mean[0] == pytest.approx((0.485 + 0.456 + 0.406) / 3)


def test_source_of_weights() -> None:
    assert weights_source("resnet18") == "timm/resnet18.a1_in1k"
    assert weights_source("mobilenetv1_025") is None


@pytest.mark.parametrize("name", ["lcnet_050", "efficientnet_b0", "mobilenetv3_large_100", "resnet18"])
def test_every_parameter_of_a_feature_network_gets_a_gradient(name: str) -> None:
    network = create_features(name, out_indices=[2, 3])
    whole = create_features(name, out_indices=[2, 3, 4])
    images = torch.randn(2, 3, 64, 64)
    features = network(images)
    sum(feature.sum() for feature in features).backward()
    assert [n for n, parameter in network.named_parameters() if parameter.grad is None] == []
    assert [tuple(feature.shape[2:]) for feature in features] == [(8, 8), (4, 4)]
    assert len(list(network.parameters())) < len(list(whole.parameters()))  # it is not there at all


@pytest.mark.parametrize("indices", [(2, 3, 4), (0, 1), (4,)])
def test_scales_of_hrnet_that_nobody_asked_for_are_gone(indices: tuple[int, ...]) -> None:
    whole = create_features("hrnet_w18_small").eval()
    some = create_features("hrnet_w18_small", out_indices=indices).eval()
    missing, _ = some.load_state_dict(whole.state_dict(), strict=False)
    assert missing == []
    image = torch.rand(1, 3, 64, 64)
    expected = whole(image)
    maps = some(image)
    assert [torch.equal(one, expected[k]) for one, k in zip(maps, indices, strict=True)] == [True] * len(indices)
    sum(one.sum() for one in maps).backward()
    assert [name for name, parameter in some.named_parameters() if parameter.grad is None] == []
