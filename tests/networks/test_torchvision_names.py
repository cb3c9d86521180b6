import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torch import Tensor, nn

from lit_vision.errors import UserError
from lit_vision.networks.backbone_stages import stages
from lit_vision.networks.backbones import create_classifier, create_features, preprocessing_of, weights_source
from lit_vision.networks.freezing import frozen_parameters
from lit_vision.networks.licences import licence_of
from lit_vision.networks.preprocess import Preprocess
from lit_vision.networks.segmentation import create_segmenter
from lit_vision.networks.weights import load_weights
from lit_vision.tasks.checkpoints import load_task
from lit_vision.tasks.classification import TransferClassifier
from lit_vision.tasks.optimization import as_channels_last

SHARED = Path(__file__).resolve().parents[3] / "shared"
SQUEEZENET = SHARED / "weights/squeezenet1_0_imagenet.safetensors"
PHOTOS = SHARED / "data/cls_imagenet_sample250"
NAME = "torchvision/squeezenet1_0"


def picture(channels: int = 3, size: int = 64) -> Tensor:
    return torch.rand(1, channels, size, size, generator=torch.Generator().manual_seed(2))


def as_evaluated(task: TransferClassifier) -> TransferClassifier:
    as_channels_last(task)  # in which convolutions have other last bits
    return task


def saved(name: str, path: Path, **options: Any) -> nn.Module:
    """torchvision's own network with 1000 classes, drawn from a seed; its file is like those that torchvision ships."""
    torch.manual_seed(3)
    network: nn.Module = torchvision.models.get_model(name, weights=None, **options)
    torch.save(network.state_dict(), path)
    return network.eval()


def test_equals_torchvisions_own_network(tmp_path: Path) -> None:
    source = saved("squeezenet1_0", tmp_path / "w.pth")
    network = create_classifier(NAME, 1000, weights=str(tmp_path / "w.pth")).eval()
    assert torch.equal(network(picture()), source(picture()))
    other = create_classifier(NAME, 1000).eval()
    assert not torch.equal(other(picture()), source(picture()))


def test_last_layer_of_another_size_is_newly_drawn(tmp_path: Path) -> None:
    source = saved("squeezenet1_0", tmp_path / "w.pth")
    network = create_classifier(NAME, 7)
    head = network.get_parameter("classifier.1.weight").clone()
    notes = load_weights(network, tmp_path / "w.pth")
    assert [note.partition(": ")[2] for note in notes] == [
        "its last layer has 1000 outputs, not 7; it stays newly drawn."
    ]
    assert torch.equal(network.get_parameter("classifier.1.weight"), head)
    assert head.shape == (7, 512, 1, 1)
    for name, tensor in source.state_dict().items():
        assert name.startswith("classifier") or torch.equal(network.state_dict()[name], tensor)


# Last layer, first convolution, stages; and arguments with which torchvision's own network is built quickly.
FAMILIES: list[tuple[str, str, str, int, dict[str, Any]]] = [
    ("squeezenet1_0", "classifier.1", "features.0", 9, {}),
    ("resnet18", "fc", "conv1", 5, {}),
    ("densenet121", "classifier", "features.conv0", 8, {}),
    ("mobilenet_v3_small", "classifier.3", "features.0.0", 14, {}),
    ("mnasnet0_5", "classifier.1", "layers.0", 10, {}),
    ("shufflenet_v2_x0_5", "fc", "conv1.0", 5, {}),
    ("efficientnet_b0", "classifier.1", "features.0.0", 9, {}),
    ("regnet_y_400mf", "fc", "stem.0", 5, {}),
    ("googlenet", "fc", "conv1.conv", 12, {"init_weights": False}),
]


@pytest.mark.parametrize(("name", "head", "stem", "count", "options"), FAMILIES, ids=[one[0] for one in FAMILIES])
def test_every_family(name: str, head: str, stem: str, count: int, options: dict[str, Any], tmp_path: Path) -> None:
    source = saved(name, tmp_path / "w.pth", **options)
    network = create_classifier(f"torchvision/{name}", 5, in_channels=1, weights=str(tmp_path / "w.pth"))
    assert network.train()(torch.cat([picture(1), picture(1)])).shape == (2, 5)  # a tensor, in training too
    expected = source.get_parameter(f"{stem}.weight").sum(1, keepdim=True)
    assert torch.allclose(network.get_parameter(f"{stem}.weight"), expected, atol=1e-6)
    staged = {parameter for names in stages(network) for parameter in names}
    assert {parameter for parameter, _ in network.named_parameters()} - staged == {f"{head}.weight", f"{head}.bias"}
    assert len(stages(network)) == count


@pytest.mark.parametrize("channels", [1, 4])
def test_first_convolution_for_other_channels_spreads_as_before(channels: int) -> None:
    torch.manual_seed(0)
    network, usual = create_classifier(NAME, 2, in_channels=channels), create_classifier(NAME, 2)
    weight, three = network.get_parameter("features.0.weight"), usual.get_parameter("features.0.weight")
    assert weight.shape == (96, channels, 7, 7)
    ratio = float((weight.std() * channels**0.5 / (three.std() * 3**0.5)).detach())
    assert ratio == pytest.approx(1, abs=0.05)
    assert network.get_submodule("features.0").stride == (2, 2)
    assert network(picture(channels)).shape == (1, 2)


def test_last_layer_can_be_left_out() -> None:
    assert create_classifier(NAME, 0).eval()(picture()).shape == (1, 512)


def test_dropout_is_that_before_the_last_layer() -> None:
    assert create_classifier(NAME, 2, drop_rate=0.2).get_submodule("classifier.0").p == 0.2
    assert create_classifier(NAME, 2).get_submodule("classifier.0").p == 0.5  # torchvision's own
    with pytest.raises(UserError, match="torchvision/resnet18 has no dropout before its last layer; leave"):
        create_classifier("torchvision/resnet18", 2, drop_rate=0.2)


def test_arguments_go_to_torchvision() -> None:
    network = create_classifier("torchvision/resnet18", 2, zero_init_residual=True)
    assert not network.get_parameter("layer1.0.bn2.weight").any()


def test_freezing_counts_stages_from_the_image() -> None:
    network = create_classifier(NAME, 2)
    assert frozen_parameters(network, 1) == {"features.0.weight", "features.0.bias"}
    assert len(frozen_parameters(network, "backbone")) == len(list(network.parameters())) - 2


def test_old_names_of_torchvisions_densenet_files(tmp_path: Path) -> None:
    source = saved("densenet121", tmp_path / "new.pth")
    old = {
        name.replace("norm1.", "norm.1.").replace("conv2.", "conv.2."): tensor
        for name, tensor in source.state_dict().items()
    }
    torch.save(old, tmp_path / "old.pth")
    assert "features.denseblock1.denselayer1.norm.1.weight" in old
    network = create_classifier("torchvision/densenet121", 1000, weights=str(tmp_path / "old.pth")).eval()
    assert torch.equal(network(picture()), source(picture()))


def test_statistics_source_and_licence_are_as_torchvision_states_them() -> None:
    assert preprocessing_of(NAME).mean == (0.485, 0.456, 0.406)
    assert preprocessing_of(create_classifier(NAME, 2)) == preprocessing_of(NAME)
    assert preprocessing_of("torchvision/efficientnet_v2_l").std == (0.5, 0.5, 0.5)
    assert preprocessing_of(NAME, in_channels=4).std == (0.229, 0.224, 0.225, 0.229)
    assert weights_source(NAME) == "https://download.pytorch.org/models/squeezenet1_0-b66bff10.pth"
    assert (
        weights_source("torchvision/resnet50.IMAGENET1K_V1")
        == "https://download.pytorch.org/models/resnet50-0676ba61.pth"
    )
    assert licence_of([create_classifier(NAME, 2)], pretrained=True) == (
        "no licence stated (https://download.pytorch.org/models/squeezenet1_0-b66bff10.pth)"
    )
    assert "SWAG" in str(preprocessing_of("torchvision/vit_h_14").licence)


def test_inception_normalises_as_its_weights_were_trained() -> None:
    pixels = picture(size=96)
    own = torchvision.models.inception_v3(weights=None, init_weights=False, transform_input=True)
    imagenet = preprocessing_of("resnet18")
    half = preprocessing_of("torchvision/inception_v3")
    given = own._transform_input(Preprocess(imagenet.mean, imagenet.std)(pixels * 255))
    assert torch.allclose(Preprocess(half.mean, half.std)(pixels * 255), given, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "args", "words"),
    [
        ("torchvision/squeezenet10", {}, ["torchvision/squeezenet10", "did you mean torchvision/squeezenet1_0"]),
        ("squeezenet1_0", {}, ["there is no backbone called", "did you mean torchvision/squeezenet1_0"]),
        ("torchvision/fcn_resnet50", {}, ["networks for segmentation", "torchvision/resnet50"]),
        ("torchvision/fasterrcnn_resnet50_fpn", {}, ["networks for detection", "such as torchvision/"]),
        ("torchvision/quantized_resnet18", {}, ["networks for quantization", "such as torchvision/resnet18"]),
        ("torchvision/r3d_18", {}, ["networks for video", "such as torchvision/"]),
        ("torchvision/resnet50.V3", {}, ["weights tagged IMAGENET1K_V1, IMAGENET1K_V2"]),
        (NAME, {"drop_paht_rate": 0.1}, ["torchvision/squeezenet1_0", "'drop_paht_rate'", "leave it out"]),
        (NAME, {"pretrained": True, "weights": "a.pth"}, ["a.pth", "one of them"]),
    ],
)
def test_mistakes_are_told_in_one_sentence(name: str, args: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        create_classifier(name, 2, **args)
    assert all(word in str(caught.value) for word in words), caught.value
    assert "\n" not in str(caught.value)


def test_features_are_timms() -> None:
    with pytest.raises(UserError, match=r"'torchvision/resnet50' only .*; where .* give a timm name, such as resnet50"):
        create_features("torchvision/resnet50")
    with pytest.raises(UserError, match="such as resnet18"):
        create_segmenter("unet", NAME, 2)


def test_weights_are_torchvisions_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    source, asked = saved("squeezenet1_0", tmp_path / "w.pth"), []

    def download(url: str, **options: Any) -> Any:
        asked.append((url, options["weights_only"], options["check_hash"]))
        return source.state_dict()

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", download)
    network = create_classifier(NAME, 3, pretrained=True)
    assert asked == [("https://download.pytorch.org/models/squeezenet1_0-b66bff10.pth", True, True)]
    assert torch.equal(
        network.get_parameter("features.12.squeeze.weight"), source.get_parameter("features.12.squeeze.weight")
    )


def test_download_that_fails_names_weights_and_mend(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*args: object, **kwargs: object) -> None:
        raise OSError("no route\nto host")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", unreachable)
    words = r"^weights of torchvision/squeezenet1_0 \(https:.*b66bff10.pth\) cannot .*: no route to host; give weights"
    with pytest.raises(UserError, match=words):
        create_classifier(NAME, 2, pretrained=True)


def test_nothing_is_downloaded_unless_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("touched the network")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    create_classifier(NAME, 2)


def test_a_checkpoint_rebuilds_the_network(tmp_path: Path) -> None:
    task = TransferClassifier(["a", "b"], backbone=NAME, in_channels=1, dropout=0.1).eval()
    checkpoint: dict[str, Any] = {"state_dict": task.state_dict(), "hyper_parameters": dict(task.hparams)}
    task.on_save_checkpoint(checkpoint)
    torch.save(checkpoint, tmp_path / "best.ckpt")
    images = (picture(1) * 255).to(torch.uint8)
    loaded = load_task(tmp_path / "best.ckpt")
    assert torch.equal(loaded(images), as_evaluated(task)(images))
    assert loaded.get_submodule("network.classifier.0").p == 0.1


@pytest.mark.skipif(not SQUEEZENET.exists() or not PHOTOS.exists(), reason="real weights and photos in ../shared")
def test_real_weights_classify_real_photos() -> None:
    network = create_classifier(NAME, 1000, weights=str(SQUEEZENET)).eval()
    preprocess = Preprocess(preprocessing_of(network).mean, preprocessing_of(network).std)
    first = five = total = 0
    for line in (PHOTOS / "labels.txt").read_text().splitlines()[::4]:
        name, label = line.split()
        photo = Image.open(PHOTOS / name).convert("RGB")
        scale = 256 / min(photo.size)
        photo = photo.resize((round(photo.width * scale), round(photo.height * scale)), Image.Resampling.BILINEAR)
        left, top = (photo.width - 224) // 2, (photo.height - 224) // 2
        square = np.array(photo.crop((left, top, left + 224, top + 224)))
        with torch.no_grad():
            best = network(preprocess(torch.from_numpy(square).permute(2, 0, 1)[None])).topk(5).indices[0].tolist()
        first, five, total = first + (best[0] == int(label)), five + (int(label) in best), total + 1
    assert total == 63
    assert abs(first - 43) <= 2, (
        first
    )  # counted where these weights were made; another Pillow scales a little otherwise
    assert abs(five - 53) <= 2, five
