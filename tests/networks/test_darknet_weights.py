"""Darknet's .weights files: bit for bit in and out, whole and partial, and what is wrong with one in a sentence."""

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from darknet_files import FILES, REAL, draw_weights, needs_files
from torch import nn

from lit_vision.errors import UserError
from lit_vision.networks.darknet import DarknetYOLO, create_darknet
from lit_vision.networks.darknet_cfg import FOLDER, find_config
from lit_vision.networks.darknet_file import layout, open_weights
from lit_vision.networks.darknet_weights import load_backbone, load_weights, plain_backbone_args, write_weights
from lit_vision.networks.fusion import InferenceCopy
from lit_vision.networks.yolo_choice import create_yolo

CFG = """\
[net]
channels=3
[convolutional]
batch_normalize=1
filters=4
size=3
stride=2
pad=1
activation=leaky
[convolutional]
batch_normalize=1
filters=6
size=3
stride=1
pad=1
groups=2
activation=leaky
[convolutional]
size=1
filters=7
activation=linear
[yolo]
anchors=10,13
classes=2
"""
NUMBERS = (4 * 4 + 4 * 3 * 9, 4 * 6 + 6 * 2 * 9, 7 + 7 * 6)


@pytest.fixture
def drawn(tmp_path: Path) -> Path:
    return draw_weights(CFG, tmp_path / "a.weights")


def numbers_of(path: Path) -> np.ndarray:
    return np.frombuffer(path.read_bytes()[20:], "<f4")


def test_every_number_goes_to_its_place(drawn: Path) -> None:
    network = create_darknet(CFG)
    assert load_weights(network, drawn) == [f"{drawn}: all 3 convolutions are read"]
    numbers = torch.from_numpy(numbers_of(drawn).copy())
    assert [shape.floats for shape in layout(network.config)] == list(NUMBERS)
    assert len(numbers) == sum(NUMBERS)
    first, second, head = numbers.split(NUMBERS)
    (_, conv, norm), (_, grouped, _), (number, last, none) = network.convolutions()
    assert norm is not None
    assert none is None
    assert number == 2
    assert torch.equal(norm.bias, first[:4])
    assert torch.equal(norm.weight, first[4:8])
    assert torch.equal(norm.running_mean, first[8:12])  # type: ignore[arg-type]
    assert torch.equal(norm.running_var, first[12:16])  # type: ignore[arg-type]
    assert torch.equal(conv.weight, first[16:].view(4, 3, 3, 3))
    assert conv.bias is None
    assert torch.equal(grouped.weight, second[24:].view(6, 2, 3, 3))
    assert torch.equal(last.bias, head[:7])  # type: ignore[arg-type]
    assert torch.equal(last.weight, head[7:].view(7, 6, 1, 1))


def test_a_network_that_has_predicted_goes_on_with_the_weights_that_are_read(drawn: Path) -> None:
    """Also where they are adapted to other channels."""
    for channels in (3, 5):
        network, inference = create_darknet(CFG, in_channels=channels).eval(), InferenceCopy()
        images = torch.rand(1, channels, 32, 32)
        with torch.no_grad():
            before = inference(network, images)
            load_weights(network, drawn)
            for found, expected, old in zip(inference(network, images), network(images), before, strict=True):
                assert (expected - old).abs().max() > 0.1
                torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
        changed = {name: tensor._version for name, tensor in network.state_dict().items()}
        load_weights(network, drawn)
        for name, tensor in network.state_dict().items():
            assert tensor._version > changed[name] or name.endswith(("anchors", "num_batches_tracked")), name


def test_the_way_back_is_bit_equal(drawn: Path, tmp_path: Path) -> None:
    network = create_darknet(CFG).to(memory_format=torch.channels_last)
    load_weights(network, drawn)
    written = write_weights(network, tmp_path / "b.weights", seen=64_000)
    assert written.read_bytes()[20:] == drawn.read_bytes()[20:]
    header, _ = open_weights(written)
    assert header == (0, 2, 5, 64_000)
    assert not list(tmp_path.glob("*.partial"))


def test_old_headers_have_four_bytes_less(tmp_path: Path) -> None:
    old = draw_weights(CFG, tmp_path / "old.weights", minor=1)
    new = draw_weights(CFG, tmp_path / "new.weights")
    assert old.stat().st_size == new.stat().st_size - 4
    (header, numbers), (_, same) = open_weights(old), open_weights(new)
    assert header == (0, 1, 0, 64_000)
    assert np.array_equal(numbers, same)
    assert isinstance(numbers, np.memmap)


@needs_files
@pytest.mark.parametrize("name", REAL)
def test_real_files_come_back_bit_equal(name: str, tmp_path: Path) -> None:
    original = FILES / f"{name}.weights"
    network = create_darknet(str(FILES / f"{name}.cfg"))
    load_weights(network, original)
    header, _ = open_weights(original)
    assert write_weights(network, tmp_path / "back.weights", header.seen).read_bytes() == original.read_bytes()


def test_other_classes_leave_the_head_new(drawn: Path) -> None:
    network = create_darknet(CFG, num_classes=5)
    head = network.convolutions()[2][1].weight.clone()
    notes = load_weights(network, drawn)
    assert notes == [
        f"{drawn}: all 3 convolutions are read",
        f"{drawn}: its heads are of 2 classes, not 5; new ones are drawn",
    ]
    (_, conv, _), (_, grouped, _), (_, last, _) = network.convolutions()
    assert torch.equal(last.weight, head)
    assert torch.equal(conv.weight.flatten(), torch.from_numpy(numbers_of(drawn)[16:124].copy()))
    assert torch.equal(grouped.weight.flatten(), torch.from_numpy(numbers_of(drawn)[148:256].copy()))


def test_the_file_says_its_classes_not_the_cfg(tmp_path: Path) -> None:
    """Someone's own three classes, with the cfg for two, into a network for three."""
    three = CFG.replace("filters=7", "filters=8").replace("classes=2", "classes=3")
    own = draw_weights(three, tmp_path / "three.weights")
    network = create_darknet(CFG, num_classes=3)
    assert load_weights(network, own) == [f"{own}: all 3 convolutions are read"]
    assert torch.equal(network.convolutions()[2][1].bias, torch.from_numpy(numbers_of(own)[256:264].copy()))  # type: ignore[arg-type]
    other = create_darknet(CFG, num_classes=4)
    assert "its heads are of 3 classes, not 4" in load_weights(other, own)[1]


@pytest.mark.parametrize("count", [1, 2])
def test_partial_files_end_after_a_convolution(count: int, drawn: Path) -> None:
    part = drawn.with_name("part.weights")
    part.write_bytes(drawn.read_bytes()[: 20 + 4 * sum(NUMBERS[:count])])
    network, whole = create_darknet(CFG), create_darknet(CFG)
    before = [conv.weight.clone() for _, conv, _ in network.convolutions()]
    load_weights(whole, drawn)
    assert load_weights(network, part) == [
        f"{part}: the first {count} of 3 convolutions are read; the others stay newly drawn"
    ]
    for k, (mine, all_read) in enumerate(zip(network.convolutions(), whole.convolutions(), strict=True)):
        assert torch.equal(mine[1].weight, all_read[1].weight if k < count else before[k])


def test_other_channels_adapt_the_first_convolution(drawn: Path) -> None:
    network = create_darknet(CFG, in_channels=5)
    assert load_weights(network, drawn)[1] == f"{drawn}: the first convolution is adapted from 3 to 5 channels"
    given = torch.from_numpy(numbers_of(drawn)[16:124].copy()).view(4, 3, 3, 3)
    expected = given[:, [0, 1, 2, 0, 1]] * 3 / 5  # as timm repeats
    torch.testing.assert_close(network.convolutions()[0][1].weight.detach(), expected)


def test_wrong_files_are_refused_in_one_sentence(drawn: Path) -> None:
    total, content = sum(NUMBERS), drawn.read_bytes()
    network = create_darknet(CFG)

    def refused(changed: bytes, says: str) -> None:
        wrong = drawn.with_name("wrong.weights")
        wrong.write_bytes(changed)
        with pytest.raises(UserError) as error:
            load_weights(network, wrong)
        assert says in str(error.value), error.value
        assert "\n" not in str(error.value)

    takes = f"numbers, but the checkpoint's cfg takes {total}:"
    refused(content[:-12], f"has {total - 3} {takes} 3 are missing, and it ends inside convolution 3 of 3; download")
    refused(content + b"\0" * 20, f"has {total + 5} {takes} 5 are left over; give the .cfg")
    refused(content[:-1], "ends in the middle of a number")
    refused(content[:20], "ends in the middle of a number")
    refused(b"", "does not begin as a Darknet file")
    refused(
        b"<!DOCTYPE html><html>" + content, "wrong.weights is a web page, not the weights: download the file itself"
    )
    refused(b"version https://git-lfs.github.com/spec/v1", "is a pointer of Git LFS")
    refused(b"PK\x03\x04" + content, "does not begin as a Darknet file (version 67324752.")
    with pytest.raises(UserError, match=r"there is no file nowhere\.weights"):
        load_weights(network, "nowhere.weights")
    floats = numbers_of(drawn)

    def changed(place: int, value: float) -> bytes:
        other = floats.copy()
        other[place] = value
        return content[:20] + other.tobytes()

    refused(changed(NUMBERS[0] + 18 + 2, -0.5), "convolution 2 has a variance of -0.5: the file is damaged, ends too")
    refused(changed(total - 1, np.nan), "convolution 3 has numbers that are not finite")
    (drawn.parent / "small.weights").write_bytes(changed(NUMBERS[0] + 18 + 2, -7e-44))  # as in real files
    load_weights(network, drawn.parent / "small.weights")


@pytest.mark.parametrize(("eps", "added"), [(1e-6, 0.0), (1e-5, 0.0), (1e-3, 1e-3 - 1e-5)])
def test_an_eps_beyond_that_of_all_readers_is_written_into_the_variances(
    eps: float, added: float, drawn: Path, tmp_path: Path
) -> None:
    network = create_darknet(CFG, bn_eps=eps)
    load_weights(network, drawn)
    before, after = numbers_of(drawn), numbers_of(write_weights(network, tmp_path / "b.weights"))
    variances = np.concatenate([np.arange(12, 16), NUMBERS[0] + np.arange(18, 24)])
    np.testing.assert_allclose(after[variances], before[variances] + added, rtol=1e-6)
    assert np.array_equal(np.delete(after, variances), np.delete(before, variances))
    again = create_darknet(CFG, bn_eps=min(eps, 1e-5))
    load_weights(again, tmp_path / "b.weights")
    images = torch.rand(1, 3, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(again.eval()(images), network.eval()(images), rtol=1e-4, atol=1e-4)


def test_notes_are_said_once_on_several_processes(
    drawn: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    load_weights(create_darknet(CFG), drawn)
    assert [record.message for record in caplog.records] == [f"{drawn}: all 3 convolutions are read"]
    caplog.clear()
    monkeypatch.setenv("LOCAL_RANK", "1")
    load_weights(create_darknet(CFG), drawn)
    assert not caplog.records


def as_classifier(drawn: Path) -> Path:
    """The two convolutions of the backbone and a last layer for ImageNet, as `darknet classifier train` writes them."""
    last = np.random.default_rng(0).normal(size=1000 * 7).astype("<f4")
    file = drawn.with_name("classifier.weights")
    file.write_bytes(drawn.read_bytes()[: 20 + 4 * sum(NUMBERS[:2])] + last.tobytes())
    return file


def test_of_a_classifiers_file_the_backbone_is_read(drawn: Path) -> None:
    # With one anchor, a head of 995 classes would have as many numbers.
    three = CFG.replace("filters=7", "filters=21").replace("anchors=10,13", "anchors=10,13, 20,26, 40,52")
    network, whole, file = create_darknet(three, num_classes=5), create_darknet(CFG), as_classifier(drawn)
    load_weights(whole, drawn)
    head = network.convolutions()[2][1].weight.clone()
    assert load_weights(network, file) == [
        f"{file}: the first 2 of 3 convolutions are read; the others stay newly drawn",
        f"{file}: its last layer, of an ImageNet classifier, is left out",
    ]
    for (_, mine, _), (_, other, _) in zip(network.convolutions()[:2], whole.convolutions(), strict=False):
        assert torch.equal(mine.weight, other.weight)
    assert torch.equal(network.convolutions()[2][1].weight, head)
    file.write_bytes(file.read_bytes()[:-4])
    with pytest.raises(UserError, match=r"are left over; give the \.cfg"):
        load_weights(network, file)


# --- into timm's Darknet-53 ------------------------------------------------------------------------------------------
@pytest.mark.slow  # 62 million weights
def test_timms_darknet53_takes_both_files(tmp_path: Path) -> None:
    """Its features are then those of layers 36, 61 and 74 of yolov3, with Darknet's slope and eps."""
    whole = draw_weights((FOLDER / "yolov3.cfg").read_text(), tmp_path / "yolov3.weights")
    part = tmp_path / "darknet53.conv.74"
    part.write_bytes(whole.read_bytes()[:162_482_580])  # the official file's size
    reference = create_darknet("yolov3", bn_eps=1e-6)
    load_weights(reference, whole)
    pictures = torch.rand(1, 3, 96, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = reference.eval().backbone(pictures)
        classifier = tmp_path / "darknet53.weights"
        classifier.write_bytes(part.read_bytes() + np.ones(1000 * 1025, "<f4").tobytes())
        assert classifier.stat().st_size == 166_582_580
        for file in (whole, part, classifier):
            network = create_yolo(3, backbone="darknet53", weights=str(file), bn_eps=1e-6).eval()
            for own, other in zip(network.backbone(pictures), expected, strict=True):
                assert other.std() > 0.1
                torch.testing.assert_close(own, other, rtol=1e-4, atol=1e-4)
        timms = timm.create_model("darknet53", features_only=True, out_indices=(3, 4, 5)).eval()
        load_backbone(timms, part, [find_config("yolov3")])
        assert (timms(pictures)[-1] - expected[-1]).abs().max() > 0.01  # its own slope is 0.01


def test_backbones_refuse_files_of_other_networks(drawn: Path) -> None:
    def backbone() -> nn.Module:
        layers = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4))
        return nn.Sequential(layers, nn.Conv2d(4, 6, 3, groups=2, bias=False), nn.BatchNorm2d(6))

    known = find_config(CFG)
    file = as_classifier(drawn)
    assert load_backbone(backbone(), file, []) == [
        f"{file}: 2 convolutions of the backbone are read; its last layer, of an ImageNet classifier, is left out"
    ]
    assert load_backbone(backbone(), drawn, [known]) == [
        f"{drawn}: 2 convolutions of the backbone are read; 49 numbers behind the backbone are left out"
    ]
    with pytest.raises(UserError, match=r"49 are left over, and it is no whole file that we know"):
        load_backbone(backbone(), drawn, [])
    part = drawn.with_name("part.weights")
    part.write_bytes(drawn.read_bytes()[: 20 + 4 * sum(NUMBERS[:1])])
    with pytest.raises(UserError, match=r"the backbone takes 256: 132 are missing"):
        load_backbone(backbone(), part, [known])
    grey = nn.Sequential(nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4), *list(backbone())[1:])
    load_backbone(grey, drawn, [known])
    given = torch.from_numpy(numbers_of(drawn)[16:124].copy()).view(4, 3, 3, 3)
    torch.testing.assert_close(grey[0].weight.detach(), given.sum(1, keepdim=True))


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (
            {"architecture": "yolov3-tiny", "weights": "a.safetensors"},
            "is no .weights file of Darknet, which yolov3-tiny",
        ),
        ({"architecture": "yolov3-tiny", "pretrained": True}, "`backbone: darknet53` with `pretrained: true`"),
        ({"architecture": "yolov3-tiny", "backbone_args": {"slope": 0.1}}, "go with a `backbone`"),
        ({"backbone": "darknet53", "pretrained": True, "weights": "a.weights"}, "give one of them"),
        ({"architecture": "yolov3-tiny", "weights": "nowhere.weights"}, "there is no file nowhere.weights"),
    ],
)
def test_arguments_that_do_not_go_together(settings: dict[str, object], says: str) -> None:
    with pytest.raises(UserError, match=says):
        create_yolo(3, **settings)  # type: ignore[arg-type]


def test_a_network_is_what_create_yolo_gives() -> None:
    assert isinstance(create_yolo(3, architecture=CFG), DarknetYOLO)


def test_darknets_slope_goes_with_darknets_weights() -> None:
    assert plain_backbone_args(None, "darknet53.conv.74") == {"slope": 0.1}
    assert plain_backbone_args({"slope": 0.2, "drop_rate": 0.1}, "a.weights") == {"slope": 0.2, "drop_rate": 0.1}
    assert plain_backbone_args({"drop_rate": 0.1}, "a.safetensors") == {"drop_rate": 0.1}
    assert plain_backbone_args(None, None) is None
