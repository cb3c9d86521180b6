import pickle
from pathlib import Path

import numpy as np
import pytest
import segmentation_models_pytorch as smp
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from lit_vision.errors import UserError
from lit_vision.networks.backbones import create_classifier, create_features, preprocessing_of
from lit_vision.networks.preprocess import Preprocess
from lit_vision.networks.weights import load_weights
from lit_vision.networks.weights_file import read_tensors

SHARED = Path(__file__).resolve().parents[3] / "shared"
MOBILENET = SHARED / "weights/mobilenetv1_025_imagenet.safetensors"
PHOTOS = SHARED / "data/cls_imagenet_sample250"


def randomised(network: nn.Module) -> nn.Module:
    """Statistics and scales too, so that a tensor left unloaded shows."""
    generator = torch.Generator().manual_seed(1)
    for name, tensor in network.state_dict().items():
        if tensor.is_floating_point():
            noise = torch.rand(tensor.shape, generator=generator)
            tensor.copy_(noise + 0.5 if "running_var" in name else (noise - 0.5) * 0.2)
    return network.eval()


def saved(network: nn.Module, path: Path, prefix: str = "") -> str:
    tensors = {prefix + name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    if path.suffix == ".safetensors":
        save_file(tensors, path)
    else:
        torch.save(tensors, path)
    return str(path)


def picture(channels: int = 3) -> Tensor:
    return torch.rand(1, channels, 32, 32, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize(
    ("name", "kind"),
    [(name, kind) for name in ("resnet18", "convnext_atto") for kind in ("classifier", "features", "encoder")]
    + [("vit_tiny_patch16_224", "classifier"), ("vit_tiny_patch16_224", "features")],
)
def test_same_features_whatever_wraps_the_network(name: str, kind: str, tmp_path: Path) -> None:
    args = {"img_size": 32} if name.startswith("vit") else {}
    source = randomised(create_classifier(name, 4, **args))
    file = saved(source, tmp_path / "w.safetensors")
    if kind == "classifier":
        network = create_classifier(name, 4, weights=file, **args).eval()
        assert torch.equal(network(picture()), source(picture()))
    elif kind == "features":
        network = create_features(name, weights=file, **args).eval()
        expected = source.forward_intermediates(picture(), intermediates_only=True)  # type: ignore[operator]  # timm's
        assert torch.equal(network(picture())[-1], expected[-1])
    else:
        encoder = smp.encoders.get_encoder(f"tu-{name}", weights=None).eval()
        load_weights(encoder, file)
        features = create_features(name, weights=file).eval()
        assert torch.equal(encoder(picture())[-1], features(picture())[-1])


def test_features_load_from_features(tmp_path: Path) -> None:
    source = randomised(create_features("convnext_atto"))
    network = create_features("convnext_atto", weights=saved(source, tmp_path / "w.pth")).eval()
    assert torch.equal(network(picture())[-1], source(picture())[-1])


@pytest.mark.parametrize("prefix", ["network.", "module.", "model.backbone.", "_orig_mod."])
def test_prefixes_of_wrappers_are_found(prefix: str, tmp_path: Path) -> None:
    source = randomised(create_classifier("mobilenetv1_025", 4))
    content = {prefix + name: tensor for name, tensor in source.state_dict().items()}
    content["loss.weight"] = torch.ones(4)
    torch.save({"state_dict": content, "epoch": 3, "hyper_parameters": {"a": 1}}, tmp_path / "last.ckpt")
    network = create_classifier("mobilenetv1_025", 4)
    notes = load_weights(network, tmp_path / "last.ckpt")
    assert torch.equal(network.eval()(picture()), source(picture()))
    assert any("1 tensors outside" in note for note in notes)


def test_last_layer_of_another_size_stays_and_is_said(tmp_path: Path) -> None:
    source = randomised(create_classifier("resnet18", 4))
    network = create_classifier("resnet18", 6)
    before = network.get_parameter("fc.weight").clone()
    notes = load_weights(network, saved(source, tmp_path / "w.safetensors"))
    assert torch.equal(network.get_parameter("fc.weight"), before)
    assert torch.equal(network.get_parameter("conv1.weight"), source.get_parameter("conv1.weight"))
    assert len(notes) == 1
    assert "4 outputs, not 6" in notes[0]


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_first_convolution_is_adapted_as_timm_does(channels: int, tmp_path: Path) -> None:
    source = randomised(create_classifier("resnet18", 4))
    file = saved(source, tmp_path / "w.safetensors")
    network = create_classifier("resnet18", 4, in_channels=channels, weights=file).eval()
    weight = source.get_parameter("conv1.weight")
    expected = weight.sum(1, keepdim=True) if channels == 1 else weight[:, [0, 1, 2, 0, 1][:channels]] * 3 / channels
    assert torch.allclose(network.get_parameter("conv1.weight"), expected, atol=1e-6)
    assert torch.equal(network.get_parameter("fc.weight"), source.get_parameter("fc.weight"))


def test_one_channel_gives_what_three_equal_ones_gave(tmp_path: Path) -> None:
    source = randomised(create_classifier("convnext_atto", 4))
    file = saved(source, tmp_path / "w.safetensors")
    network = create_classifier("convnext_atto", 4, in_channels=1, weights=file).eval()
    grey = picture(1)
    assert torch.allclose(network(grey), source(grey.expand(-1, 3, -1, -1)), atol=1e-5)


def test_weights_of_another_network_are_refused_by_name(tmp_path: Path) -> None:
    file = saved(create_classifier("resnet34", 4), tmp_path / "w.safetensors")
    with pytest.raises(
        UserError, match=r"does not fit resnet18: 80 of the file's .*layer1\.2.*; the file fits resnet34"
    ):
        create_classifier("resnet18", 4, weights=file)


def test_features_refuse_layers_that_their_network_does_not_have(tmp_path: Path) -> None:
    source = create_features("test_resnet", out_indices=(0, 1))  # without the last layers
    tensors = dict(create_classifier("test_resnet", 4).state_dict())
    torch.save(tensors, tmp_path / "whole.pth")
    notes = load_weights(source, tmp_path / "whole.pth")
    assert len(notes) == 1
    assert "after the last feature are left out" in notes[0]
    torch.save({**tensors, "layer9.0.conv.weight": torch.ones(1)}, tmp_path / "more.pth")
    with pytest.raises(UserError, match=r"1 of the file's are unknown to it \(layer9.0.conv.weight\)"):
        load_weights(source, tmp_path / "more.pth")


def test_tensors_missing_or_of_another_shape(tmp_path: Path) -> None:
    tensors = dict(create_classifier("mobilenetv1_025", 4).state_dict())
    del tensors["bn1.weight"]
    tensors["blocks.0.0.bn1.bias"] = torch.zeros(3)
    torch.save(tensors, tmp_path / "w.pth")
    words = (
        r"does not fit mobilenetv1_025: 1 of .* missing \(bn1.weight\); 1 have another shape .*bias \(3,\) for \(8,\)\)"
    )
    with pytest.raises(UserError, match=words):
        create_classifier("mobilenetv1_025", 4, weights=str(tmp_path / "w.pth"))


def test_authors_own_names_are_converted(tmp_path: Path) -> None:
    source = randomised(create_classifier("convnext_atto", 4))
    tensors: dict[str, Tensor] = {}
    for name, tensor in source.state_dict().items():  # back to the names of facebookresearch/ConvNeXt
        name = name.replace("stem.", "downsample_layers.0.").replace("head.norm", "norm").replace("head.fc", "head")
        for i in range(4):
            name = name.replace(f"stages.{i}.downsample", f"downsample_layers.{i}")
        name = name.replace(".blocks.", ".").replace("conv_dw", "dwconv")
        tensors[name.replace("mlp.fc1", "pwconv1").replace("mlp.fc2", "pwconv2")] = tensor
    torch.save({"model": tensors}, tmp_path / "facebook.pth")
    network = create_classifier("convnext_atto", 4, weights=str(tmp_path / "facebook.pth")).eval()
    assert torch.equal(network(picture()), source(picture()))


def test_positions_of_another_image_size_are_resampled(tmp_path: Path) -> None:
    file = saved(create_classifier("vit_tiny_patch16_224", 4, img_size=96), tmp_path / "w.safetensors")
    network = create_classifier("vit_tiny_patch16_224", 4, img_size=32, weights=file).eval()
    assert network(picture()).shape == (1, 4)


class _Sly:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (Path.touch, (Path("pwned"),))


def test_pickles_of_code_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": {"a": torch.ones(1)}, "extra": _Sly()}, "sly.pth")
    with pytest.raises(UserError, match=r"sly.pth holds Python objects .* save `model.state_dict\(\)`"):
        read_tensors("sly.pth")
    assert not Path("pwned").exists()


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("none.pth", None, "there is no file"),
        ("w.onnx", b"abc", "is none of .safetensors"),
        ("w.safetensors", b"abc", "cannot be read as safetensors"),
        ("w.pth", b"", "is damaged"),
        ("w.pth", b"abc", "is damaged"),
        ("w.pth", pickle.dumps([1, 2], protocol=2), "not tensors by name|is damaged"),
    ],
)
def test_bad_files(name: str, content: bytes | None, words: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=words):
        read_tensors(tmp_path / name)


def test_truncated_checkpoint(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(1000)}, tmp_path / "w.pth")
    content = (tmp_path / "w.pth").read_bytes()
    (tmp_path / "w.pth").write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match="is damaged"):
        read_tensors(tmp_path / "w.pth")


def test_averaged_weights_come_before_those_of_the_last_step(tmp_path: Path) -> None:
    last, averaged = {"weight": torch.zeros(2)}, {"weight": torch.ones(2)}
    torch.save({"state_dict": last, "state_dict_ema": averaged, "epoch": 3}, tmp_path / "w.pth")
    assert read_tensors(tmp_path / "w.pth")["weight"].tolist() == [1.0, 1.0]


def test_files_without_tensors(tmp_path: Path) -> None:
    torch.save([torch.ones(1)], tmp_path / "list.pth")
    with pytest.raises(UserError, match="holds a list"):
        read_tensors(tmp_path / "list.pth")
    torch.save({"epoch": 1}, tmp_path / "empty.pth")
    with pytest.raises(UserError, match="holds no tensors"):
        read_tensors(tmp_path / "empty.pth")


@pytest.mark.skipif(not MOBILENET.exists() or not PHOTOS.exists(), reason="real weights and photos in ../shared")
def test_real_weights_classify_real_photos() -> None:
    network = create_classifier("mobilenetv1_025", 1000, weights=str(MOBILENET)).eval()
    preprocess = Preprocess(preprocessing_of(network).mean, preprocessing_of(network).std)
    right = total = 0
    for line in (PHOTOS / "labels.txt").read_text().splitlines()[::4]:
        name, label = line.split()
        photo = Image.open(PHOTOS / name).convert("RGB")
        scale = 256 / min(photo.size)
        photo = photo.resize((round(photo.width * scale), round(photo.height * scale)), Image.Resampling.BILINEAR)
        left, top = (photo.width - 224) // 2, (photo.height - 224) // 2
        square = np.array(photo.crop((left, top, left + 224, top + 224)))
        with torch.no_grad():
            logits = network(preprocess(torch.from_numpy(square).permute(2, 0, 1)[None]))
        right += int(logits.argmax()) == int(label)
        total += 1
    assert total == 63
    assert right >= 37  # 39 where these weights were made; another Pillow scales a little otherwise
