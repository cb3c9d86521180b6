import re
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from torch import Tensor

from lit_vision.errors import UserError
from lit_vision.networks.backbones import create_classifier
from lit_vision.networks.nearest_fit import TABLE, key_of, nearest_fit
from lit_vision.networks.timm_names import without_memory

WEIGHTS = Path(__file__).resolve().parents[3] / "shared/weights"


def tensors_of(name: str, **args: object) -> dict[str, Tensor]:
    return dict(without_memory(timm.create_model, name, **args).state_dict())


@pytest.mark.parametrize(
    ("own", "name", "first"),
    [
        ("resnet18", "resnet50", "resnet50"),
        ("torchvision/resnet18", "resnet50", "torchvision/resnet50"),  # the same tensors
        ("vit_tiny_patch16_224", "resnet50", "resnet50"),
        ("vit_small_patch16_224", "vit_tiny_patch16_224", "vit_tiny_patch16_224"),
        ("convnext_tiny", "convnext_atto", "convnext_atto"),
        ("efficientnet_b0", "lcnet_050", "lcnet_050"),
    ],
)
def test_names_whose_tensors_they_are(own: str, name: str, first: str) -> None:
    names = nearest_fit(own, tensors_of(name, num_classes=7))
    assert names[0] == first
    assert len(names) <= 3


def test_prefixes_and_counters_do_not_matter_but_shapes_do() -> None:
    tensors = {f"network.{name}": tensor for name, tensor in tensors_of("resnet34").items()}
    assert nearest_fit("resnet18", tensors)[0] == "resnet34"
    uncounted = {name: tensor for name, tensor in tensors.items() if not name.endswith("num_batches_tracked")}
    assert nearest_fit("resnet18", uncounted)[0] == "resnet34"
    assert nearest_fit("resnet18", {**tensors, "network.conv1.weight": torch.zeros(64, 3, 3, 3)}) == []
    assert nearest_fit("resnet18", {}) == []


def test_the_table_knows_the_installed_networks() -> None:
    """Where timm or torchvision have others, `python -m lit_vision.networks.nearest_fit` writes it anew."""
    lines = [line.split() for line in TABLE.read_text().splitlines()]
    known = {name: key for key, name in lines}
    assert len(known) == len(lines)
    installed = set(timm.list_models())
    assert len(installed - known.keys()) < len(installed) / 20
    for name in ("resnet18", "mobilenetv3_small_100", "regnetx_002", "swin_tiny_patch4_window7_224"):
        assert known[name] == key_of(tensors_of(name)), name
    squeezenet = torchvision.models.squeezenet1_0(weights=None)
    assert known["torchvision/squeezenet1_0"] == key_of(squeezenet.state_dict())


def refused(name: str, file: Path, **args: object) -> str:
    with pytest.raises(UserError) as caught:
        create_classifier(name, 2, weights=str(file), **args)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_file_of_another_library_and_of_none(tmp_path: Path) -> None:
    network = torchvision.models.mobilenet_v2(weights=None)
    torch.save(network.state_dict(), tmp_path / "w.pth")
    said = refused("mobilenetv2_100", tmp_path / "w.pth")
    assert said.endswith(
        "the file fits torchvision/mobilenet_v2: set backbone: torchvision/mobilenet_v2, or give other weights."
    )
    assert re.search(
        r"260 of the network's tensors are missing \(conv_stem.weight, .*; 260 of the file's are unknown", said
    )
    torch.save({"a.weight": torch.ones(2, 2)}, tmp_path / "own.pth")
    assert "no network we know has these tensors, so give other weights" in refused("resnet18", tmp_path / "own.pth")


def test_torchvisions_resnet_fits_timms_as_it_is(tmp_path: Path) -> None:
    source = torchvision.models.resnet18(weights=None)
    torch.save(source.state_dict(), tmp_path / "w.pth")
    network = create_classifier("resnet18", 2, weights=str(tmp_path / "w.pth"))
    assert torch.equal(network.get_parameter("layer4.1.conv2.weight"), source.get_parameter("layer4.1.conv2.weight"))


def test_width_is_said_as_an_argument(tmp_path: Path) -> None:
    torch.save(create_classifier("mobilenetv1_025", 3).state_dict(), tmp_path / "w.pth")
    words = (
        "the file fits mobilenetv1_025 (mobilenetv1_100 with backbone_args: {channel_multiplier: 0.25, pad_type: same})"
    )
    assert words in refused("mobilenetv1_100", tmp_path / "w.pth")
    said = refused("mobilenetv1_100", tmp_path / "w.pth", channel_multiplier=0.5)
    assert "does not fit mobilenetv1_100 with {'channel_multiplier': 0.5}: " in said
    assert words in said


@pytest.mark.skipif(not WEIGHTS.exists(), reason="real weights in ../shared")
def test_real_files_name_their_networks() -> None:
    assert "fits torchvision/squeezenet1_0: set" in refused("resnet18", WEIGHTS / "squeezenet1_0_imagenet.safetensors")
    assert "fits mobilenetv1_025 (" in refused("resnet18", WEIGHTS / "mobilenetv1_025_imagenet.safetensors")
