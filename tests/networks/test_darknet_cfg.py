"""What is wrong with a .cfg is said in one sentence with file, line and section; what is right gets its layers."""

from pathlib import Path

import pytest
import torch
from torch import nn

from lit_vision.errors import UserError
from lit_vision.networks.backbone_stages import stages
from lit_vision.networks.darknet import DarknetYOLO, create_darknet
from lit_vision.networks.darknet_cfg import BUILT_IN, FOLDER, backbone_length, find_config, parse
from lit_vision.networks.darknet_export import config_text
from lit_vision.networks.darknet_kinds import Convolution, MaxPool, Route
from lit_vision.networks.darknet_layers import DarknetPool, activation

SMALL = """\
[net]
width=64
height=32
channels=3

[convolutional]
batch_normalize=1
filters=8
size=3
stride=2
pad=1
activation=leaky

[convolutional]
filters=8
size=3
stride=1
pad=1
activation=linear

[shortcut]
from=-2
activation=linear

[convolutional]
size=1
filters=14
activation=linear

[yolo]
mask = 0,1
anchors = 10,13, 16,30
classes=2
num=2
"""

FAULTS = [
    ("[shortcut]", "[reorg3d]", "a.cfg:21: [reorg3d] is not supported; there are [net], [convolutional]"),
    ("[yolo]", "[region]", "a.cfg:30: [region] is not supported (the head of YOLO v2)"),
    ("stride=2", "strid=2", "a.cfg:10: [convolutional] strid=2 is not known (did you mean stride?)"),
    ("stride=2", "stride=two", "a.cfg:10: [convolutional] stride=two is not a whole number"),
    ("stride=2", "stride=0", "a.cfg:10: [convolutional] stride=0 must be at least 1"),
    ("stride=2", "stride_x=2\nstride_y=1", "a.cfg:10: [convolutional] stride_x=2 and stride_y=1 must be equal"),
    ("stride=2", "stride=2\nstride=1", "a.cfg:10: [convolutional] stride stands twice, as 2 and in line 11 as 1"),
    ("pad=1\nactivation=leaky", "activation=leaky", "a.cfg:6: [convolutional] size, padding and stride"),
    ("activation=leaky", "activation=gelu", "a.cfg:12: [convolutional] activation=gelu is not supported"),
    ("activation=leaky", "activation=leaky\nxnor=1", "a.cfg:13: [convolutional] xnor=1 is not supported: only 0"),
    ("activation=leaky", "groups=3\nactivation=leaky", "a.cfg:12: [convolutional] groups=3 must divide the 3 channels"),
    ("from=-2", "from=-4", "a.cfg:22: [shortcut] from=-4 means layer -2, but this is layer 2: give one of 0 to 1"),
    ("from=-2", "from=61", "a.cfg:22: [shortcut] from=61 means layer 61, but this is layer 2"),
    ("from=-2\n", "", "a.cfg:21: [shortcut] has no from: add from=..."),
    ("filters=8\nsize=3\nstride=1", "filters=9\nsize=3\nstride=1", "[shortcut] adds layers of 9 and 8 channels"),
    (
        "filters=14",
        "filters=18",
        "a.cfg:27: [convolutional] filters=18, but the [yolo] in line 30 wants 2 anchors *",
    ),
    ("filters=14\nactivation=linear", "filters=14\nactivation=leaky", "before a [yolo] it must have size=1"),
    ("mask = 0,1", "mask = 0,2", "a.cfg:31: [yolo] mask=0,2 must name different anchors, from 0 to 1"),
    ("num=2", "num=3", "a.cfg:34: [yolo] num=3, but anchors has 2 pairs"),
    ("10,13, 16,30", "10,13, 16", "a.cfg:32: [yolo] anchors must be pairs"),
    ("10,13, 16,30", "10,13, 16,x", "a.cfg:32: [yolo] anchors=10,13,16,x must be numbers parted by commas"),
    ("num=2", "num=2\nscale_x_y=0.5", "a.cfg:35: [yolo] scale_x_y=0.5 must be at least 1"),
    ("num=2", "num=2\nnew_coords=1", "a.cfg:35: [yolo] new_coords=1 is not supported"),
    ("num=2", "num=2\n[convolutional]\n", "takes layer 4, a [yolo], which gives no features: begin with a [route]"),
    ("num=2", "num=2\n[route]\nlayers=-2,-1", "takes layer 4, a [yolo], which gives no features"),
    ("num=2", "num=2\n[route]\nlayers=0\n[upsample]\nstride=4", "[upsample] stride=4 makes more pixels than the"),
    ("num=2", "num=2\n[route]\nlayers=0\n[upsample]\n[route]\nlayers=-1,0", "[route] joins layers of different sizes"),
    ("num=2", "num=2\n[route]\nlayers=0\ngroups=2\ngroup_id=2", "[route] group_id=2 must be below groups=2"),
    ("channels=3", "channels=3\nGIF89", "a.cfg:5: 'GIF89' is neither [section] nor key=value"),
    ("[net]", "[convolutional]", "a.cfg: does not begin with [net]"),
    ("height=32", "height=-1", "a.cfg:3: [net] height=-1 must be at least 1"),
    ("channels=3", "channels=3\nletter_box=yes", "a.cfg:5: [net] letter_box=yes is not a whole number"),
    ("filters=8", "filters=99999999", "[convolutional] filters=99999999 must be at most 65536"),
    (
        SMALL[SMALL.index("[convolutional]") : SMALL.rindex("[convolutional]")],
        "",
        "only its own [convolutional] stands",
    ),
    (SMALL[SMALL.index("[yolo]") :], "", "a.cfg: has no [yolo] section: give the .cfg of a detector"),
]


@pytest.mark.parametrize(("old", "new", "says"), FAULTS, ids=[fault[1].replace("\n", " ")[:40] for fault in FAULTS])
def test_a_fault_is_one_sentence(old: str, new: str, says: str) -> None:
    assert old in SMALL
    with pytest.raises(UserError) as error:
        parse(SMALL.replace(old, new, 1), "a.cfg")
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_heads_must_agree() -> None:
    second = "\n[route]\nlayers=0\n[convolutional]\nsize=1\nfilters={}\nactivation=linear\n[yolo]\nanchors=1,2\n"
    with pytest.raises(UserError, match=r"a\.cfg:42: \[yolo\] classes=3, but another \[yolo\] has 2"):
        parse(SMALL + second.format(8) + "classes=3", "a.cfg")


def test_files_that_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("picture.cfg").write_bytes(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR")
    Path("empty.cfg").touch()
    for name, says in [
        ("yolov3-tinny", "there is no network or file yolov3-tinny; did you mean yolov3-tiny?"),
        ("no/file.cfg", "there is no network or file no/file.cfg; give yolov3, yolov3-tiny, yolov3-spp or a Darknet"),
        ("picture.cfg", "picture.cfg is not text"),
        ("empty.cfg", "does not begin with"),
        ("$NOT_SET_ANYWHERE/a.cfg", "environment variable is not set"),
    ]:
        with pytest.raises(UserError, match=says):
            find_config(name)
    monkeypatch.setenv("HERE", str(tmp_path))
    Path("a.cfg").write_text(SMALL)
    assert find_config("$HERE/a.cfg").coarsest == 2


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbf" + SMALL.encode(),
        SMALL.replace("[yolo]", "# t\xeate \x85\n[yolo]").encode("latin-1"),
        SMALL.replace("\n", "\r\n").encode("utf-8-sig"),
    ],
    ids=["with a byte order mark", "with a comment in Latin-1", "from Windows"],
)
def test_text_of_any_editor(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.cfg").write_bytes(content)
    config = find_config(str(tmp_path / "a.cfg"))
    assert [layer.kind for layer in config.layers] == [layer.kind for layer in parse(SMALL, "a.cfg").layers]
    config_text(DarknetYOLO(config), 32, 64).encode("utf-8")


def test_a_finer_head_that_comes_too_early() -> None:
    head = SMALL[SMALL.index("[convolutional]\nsize=1") :]
    text = f"[net]\nchannels=3\n{head}[route]\nlayers=-2\n[convolutional]\nfilters=4\nstride=2\n{head}"
    with pytest.raises(UserError, match=r"^a\.cfg:8: \[yolo\] only its own \[convolutional\] stands before this head"):
        parse(text, "a.cfg")


def test_an_option_that_stands_twice_is_exported_once() -> None:
    """Where both lines say the same; otherwise the .cfg is refused."""
    text = SMALL
    for line in ("width=64", "filters=14", "classes=2", "anchors = 10,13, 16,30", "stride=2"):
        text = text.replace(f"{line}\n", f"{line}\n{line}\n", 1)
    network = create_darknet(text, num_classes=4, anchors=[[5, 6], [50, 60]])
    found = config_text(network, 96, 128)
    config = parse(found, "b.cfg")
    assert (config.classes, config.net.integer("width"), config.head(4).anchors) == (4, 128, [(5.0, 6.0), (50.0, 60.0)])
    assert len(found.splitlines()) == len(text.splitlines()) - 4  # stride is none of what an export sets
    assert found == config_text(create_darknet(SMALL, 4, anchors=[[5, 6], [50, 60]]), 96, 128).replace(
        "stride=2\n", "stride=2\nstride=2\n", 1
    )


def test_yolov3_has_its_published_layers() -> None:
    config = find_config("yolov3")
    assert len(config.layers) == 107
    assert config.heads == [82, 94, 106]
    assert [config.layers[n].stride for n in (36, 61, 74, 82, 94, 106)] == [8, 16, 32, 32, 16, 8]
    assert config.head(82).anchors == [(116.0, 90.0), (156.0, 198.0), (373.0, 326.0)]
    assert config.layers[86].inputs == (85, 61)  # upsampled first, backbone second
    assert backbone_length(config.layers) == 75
    tiny = find_config("yolov3-tiny")
    assert (tiny.heads, backbone_length(tiny.layers)) == ([16, 23], 13)
    assert tiny.layers[17].inputs == (13,)
    assert tiny.layers[11].kind == MaxPool(size=2, stride=1, padding=1)
    spp = find_config("yolov3-spp")
    assert spp.layers[83].inputs == (82, 80, 78, 77)
    assert [spp.layers[n].kind for n in (78, 80, 82)] == [MaxPool(5, 1, 4), MaxPool(9, 1, 8), MaxPool(13, 1, 12)]


@pytest.mark.parametrize(
    ("name", "parameters"), zip(BUILT_IN, (61_949_149, 8_852_366, 62_998_749), strict=True), ids=BUILT_IN
)
def test_built_in_networks_for_other_classes_and_channels(name: str, parameters: int) -> None:
    with torch.device("meta"):
        assert sum(p.numel() for p in create_darknet(name).parameters()) == parameters
        network = create_darknet(name, num_classes=3, in_channels=5).eval()
    outputs = network(torch.zeros(2, 5, 96, 160, device="meta"))
    assert [tuple(o.shape) for o in outputs] == [(2, 24, 96 // s, 160 // s) for s in network.strides]
    assert {m.negative_slope for m in network.modules() if isinstance(m, nn.LeakyReLU)} == {0.1}
    assert (FOLDER / f"{name}.cfg").read_text() == network.config.text


def test_stages_end_where_the_stride_changes() -> None:
    with torch.device("meta"):
        network = create_darknet("yolov3")
    layers = [sorted({int(name.split(".")[1]) for name in names}) for names in stages(network.backbone)]
    assert [(own[0], own[-1]) for own in layers] == [(62, 73), (37, 60), (12, 35), (5, 10), (1, 3), (0, 0)]


def test_a_fine_head_first_still_gives_outputs_coarsest_first() -> None:
    text = (
        SMALL
        + "[route]\nlayers=0\n[convolutional]\nsize=3\npad=1\nstride=2\nfilters=4\n"
        + SMALL[SMALL.index("[convolutional]\nsize=1") :].replace("mask = 0,1", "mask = 1,0")
    )
    network = create_darknet(text).eval()
    assert network.strides == (4, 2)
    assert [tuple(o.shape[2:]) for o in network(torch.zeros(1, 3, 32, 64))] == [(8, 16), (16, 32)]
    assert network.anchors.tolist() == [[[16, 30], [10, 13]], [[10, 13], [16, 30]]]
    with pytest.raises(UserError, match="34 x 64 is not a multiple of 4"):
        network(torch.zeros(1, 3, 34, 64))


def test_a_new_network_sees_nothing_and_every_parameter_learns() -> None:
    torch.manual_seed(0)
    network = create_darknet("yolov3-tiny", num_classes=4)
    outputs = network(torch.rand(2, 3, 64, 64))
    decoded = network.decode(outputs)
    assert decoded.objectness.mean().item() == pytest.approx(0.01, rel=0.2)
    assert decoded.probabilities.mean().item() == pytest.approx(0.25, rel=0.2)
    sum(output.square().sum() for output in outputs).backward()
    assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in network.parameters())


def test_shortcuts_and_routes_do_not_write_into_what_others_read() -> None:
    """In-place activations must not change a tensor that a later layer takes."""
    text = SMALL.replace("activation=linear", "activation=leaky", 2)
    network = create_darknet(text).eval()
    layers = network.backbone.layers
    x = torch.randn(1, 3, 8, 8)
    with torch.no_grad():
        first = layers["0"](x).clone()
        expected = nn.functional.leaky_relu(first + layers["1"](first.clone()), 0.1)
        assert torch.equal(network.backbone(x)[0], expected)


def test_own_anchors() -> None:
    anchors = [[50, 60], [5, 6]]
    assert create_darknet(SMALL, anchors=anchors).anchors.tolist() == [[[5, 6], [50, 60]]]
    with pytest.raises(UserError, match="`anchors` has 3 pairs, but the checkpoint's cfg wants 2"):
        create_darknet(SMALL, anchors=[*anchors, [7, 8]])


def test_dropout_drops_in_training_alone() -> None:
    text = SMALL.replace("[shortcut]\nfrom=-2\nactivation=linear", "[dropout]\nprobability=.25")
    network = create_darknet(text)
    layer = network.backbone.layers["2"]
    ones = torch.ones(100_000)
    assert torch.equal(layer.eval()(ones), ones)
    torch.manual_seed(0)
    dropped = layer.train()(ones)
    assert dropped.unique().tolist() == pytest.approx([0.0, 1 / 0.75])  # kept values grow, as in Darknet
    assert (dropped == 0).float().mean().item() == pytest.approx(0.25, abs=0.01)


def window_maxima(x: torch.Tensor, size: int, stride: int, padding: int) -> torch.Tensor:
    """Darknet's loop: windows begin at -padding // 2, and what lies outside does not count."""
    side = (x.shape[-1] + padding - size) // stride + 1
    result = torch.empty(side, side)
    for i in range(side):
        for j in range(side):
            top, left = i * stride - padding // 2, j * stride - padding // 2
            result[i, j] = x[max(top, 0) : top + size, max(left, 0) : left + size].max()
    return result


@pytest.mark.parametrize(
    ("size", "stride", "padding"), [(2, 2, 1), (2, 1, 1), (3, 1, 2), (3, 2, 2), (5, 1, 4), (4, 1, 3)]
)
@pytest.mark.parametrize("side", [7, 8])
def test_pools_equal_darknets_loop(size: int, stride: int, padding: int, side: int) -> None:
    x = torch.randn(1, 1, side, side, generator=torch.Generator().manual_seed(0)) - 3  # below 0: a padded 0 would win
    found = DarknetPool(MaxPool(size, stride, padding))(x)
    assert torch.equal(found[0, 0], window_maxima(x[0, 0], size, stride, padding))


def test_padding_and_dilation() -> None:
    layers = parse(SMALL.replace("pad=1\nactivation=linear", "pad=1\ndilation=2\nactivation=linear"), "a.cfg").layers
    assert isinstance(layers[1].kind, Convolution)
    assert (layers[1].kind.padding, layers[1].kind.dilation) == (2, 2)
    padding = parse(SMALL.replace("pad=1", "pad=0\npadding=1"), "a.cfg").layers[0].kind
    assert isinstance(padding, Convolution)
    assert padding.padding == 1
    route = parse(SMALL + "[route]\nlayers=0,-5\ngroups=2\ngroup_id=1", "a.cfg").layers[5]
    assert (route.kind, route.inputs, route.channels) == (Route(2, 1), (0, 0), 8)


def test_a_dilated_convolution_is_a_larger_one_with_gaps() -> None:
    """OpenCV's reader leaves dilation out, so it is no oracle here."""
    network = create_darknet(SMALL.replace("pad=1\nactivation=linear", "pad=1\ndilation=2\nactivation=linear"))
    conv = network.convolutions()[1][1]
    wide = torch.zeros(8, 8, 5, 5)
    wide[:, :, ::2, ::2] = conv.weight.detach()
    x = torch.randn(1, 8, 6, 7, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(conv(x), nn.functional.conv2d(x, wide, conv.bias, padding=2))


def test_activations_by_hand() -> None:
    x = torch.tensor([-2.0, 0.5, 8.0])
    expected = {
        "linear": [-2.0, 0.5, 8.0],
        "leaky": [-0.2, 0.5, 8.0],
        "relu": [0.0, 0.5, 8.0],
        "relu6": [0.0, 0.5, 6.0],
        "swish": [-0.238406, 0.311230, 7.997317],
        "logistic": [0.119203, 0.622459, 0.999665],
        "mish": [-0.252501, 0.375245, 7.999998],
    }
    for name, values in expected.items():
        assert activation(name)(x.clone()).tolist() == pytest.approx(values, abs=1e-5), name


def test_a_text_of_a_cfg_is_a_network_too() -> None:
    assert isinstance(create_darknet(SMALL), DarknetYOLO)
