"""`lit-vision import-darknet` and `export-darknet`: from Darknet's files to boxes on photos, and back to its files."""

from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from darknet_files import FILES, FOUND, OPENCV_EPS, SHARED, draw_weights, needs_files, needs_reader, opencv_rows
from quiet import quiet_trainer

from lit_vision.__main__ import main
from lit_vision.darknet import export_darknet, import_darknet, read_names
from lit_vision.errors import UserError
from lit_vision.networks.darknet_cfg import FOLDER, find_config
from lit_vision.tasks.checkpoints import load_task
from lit_vision.tasks.detection import YOLODetector

PHOTOS = SHARED / "data" / "photos"
XL = FILES / "yolo-fastest-1.1-xl"
needs_photos = pytest.mark.skipif(not PHOTOS.is_dir(), reason=f"{PHOTOS} with dog.jpg is not here")
TINY = """\
[net]
width=96
height=64
channels=3
[convolutional]
batch_normalize=1
filters=8
size=3
stride=2
pad=1
activation=leaky
[convolutional]
# the head
size=1
filters=14
activation=linear
[yolo]
mask=0,1
anchors=10,13, 16,30
classes=2
num=2
"""


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    (tmp_path / "a.cfg").write_text(TINY)
    (tmp_path / "a.names").write_text("cat\nbig dog\n\n")
    draw_weights(TINY, tmp_path / "a.weights")
    return tmp_path


@needs_files
@needs_photos
def test_photos_through_the_commands(tmp_path: Path) -> None:
    """Near what OpenCV finds (tests/networks/test_darknet_real.py); here photos that shrink are averaged down first."""
    checkpoint = tmp_path / "xl.ckpt"
    files = ["--cfg", f"{XL}.cfg", "--weights", f"{XL}.weights", "--names", str(FILES / "coco.names")]
    assert main(["import-darknet", *files, "--output", str(checkpoint)]) == 0
    words = ["--images", str(PHOTOS), "--output", str(tmp_path / "found"), "--threshold", "0.8"]
    assert main(["predict", "--ckpt_path", str(checkpoint), *words]) == 0
    content = msgspec.json.decode((tmp_path / "found" / "predictions.json").read_bytes())
    names = {category["id"]: category["name"] for category in content["categories"]}
    photos = {image["id"]: Path(image["file_name"]).name for image in content["images"]}
    for photo in ("dog.jpg", "person.jpg", "eagle.jpg", "giraffe.jpg"):
        rows = [row for row in content["annotations"] if photos[row["image_id"]] == photo]
        expected = [found for found in FOUND[photo] if found[1] > 0.8]
        assert [names[row["category_id"]] for row in rows] == [name for name, _, _ in expected], photo
        for row, (_, score, box) in zip(rows, expected, strict=True):
            x, y, w, h = row["bbox"]
            assert row["score"] == pytest.approx(score, abs=0.03), photo
            assert box is None or [x, y, x + w, y + h] == pytest.approx(box, abs=6.0), photo


def test_a_checkpoint_needs_no_cfg_any_more(tiny: Path) -> None:
    import_darknet(str(tiny / "a.cfg"), tiny / "a.weights", tiny / "a.names", tiny / "a.ckpt", bn_eps=1e-3)
    (tiny / "a.cfg").unlink()
    (tiny / "a.weights").unlink()
    task = load_task(tiny / "a.ckpt")
    assert isinstance(task, YOLODetector)
    assert task.class_names == ["cat", "big dog"]
    assert task.data["image_size"] == [64, 96]
    assert task.data["fit"] == "stretch"
    assert task.licence == "no licence stated (a.weights)"
    assert {m.eps for m in task.modules() if isinstance(m, torch.nn.BatchNorm2d)} == {1e-3}
    assert (task.preprocess.mean, task.preprocess.std) == ((0.0,) * 3, (1.0,) * 3)


def test_the_cfgs_letter_box_is_obeyed(tiny: Path) -> None:
    (tiny / "b.cfg").write_text(TINY.replace("channels=3", "channels=3\nletter_box=1"))
    for cfg, fit, size, expected in [("b.cfg", None, None, "letterbox"), ("b.cfg", "stretch", (32, 64), "stretch")]:
        files = (str(tiny / cfg), tiny / "a.weights", tiny / "a.names", tiny / "a.ckpt")
        import_darknet(*files, size, fit, overwrite=True)
        data = load_task(tiny / "a.ckpt").data
        assert (data["fit"], data["image_size"]) == (expected, list(size or (64, 96)))


@needs_reader
@pytest.mark.parametrize("classes", [2, 5])
def test_exported_files_are_the_network_that_opencv_reads(classes: int, tiny: Path) -> None:
    """With its own anchors and classes, whatever the cfg it came from said."""
    torch.manual_seed(0)
    names = [f"class {k}" for k in range(classes)]
    anchors = [[20.5, 11.25], [7.1, 33.0]]
    settings = {"architecture": str(tiny / "a.cfg"), "weights": str(tiny / "a.weights"), "bn_eps": OPENCV_EPS}
    task = YOLODetector(names, **settings, anchors=anchors)  # type: ignore[arg-type]
    torch.nn.init.normal_(task.network.convolutions()[1][1].weight)  # type: ignore[union-attr]
    task.data = {"task": "detection", "image_size": [32, 128], "fit": "stretch", "in_channels": 3, "depth": "full"}
    trainer = quiet_trainer()
    trainer.strategy.connect(task)
    trainer.save_checkpoint(tiny / "b.ckpt")
    assert main(["export-darknet", "--ckpt_path", str(tiny / "b.ckpt"), "--output", str(tiny / "b.weights")]) == 0
    text = (tiny / "b.cfg").read_text()
    assert f"filters={2 * (5 + classes)}\n" in text
    assert "width=128\nheight=32\n" in text
    assert "# the head\n" in text
    assert read_names(tiny / "b.names") == names
    images = np.random.default_rng(0).random((1, 3, 32, 128), np.float32)
    (rows,) = opencv_rows(tiny / "b.cfg", tiny / "b.weights", images, tiny)
    with torch.no_grad():
        decoded = task.eval().network.decode(task.network(torch.from_numpy(images)))
    scores = (decoded.objectness[..., None] * decoded.probabilities)[0]
    np.testing.assert_allclose(scores, rows[:, 5:], rtol=1e-4, atol=2e-5)
    sizes = (decoded.boxes[0, :, 2:] - decoded.boxes[0, :, :2]).double().numpy()
    np.testing.assert_allclose(sizes / [128, 32], rows[:, 2:4], rtol=1e-4, atol=2e-5)


def test_darknets_own_files_are_no_checkpoints_and_its_interim_ones_are_weights(tiny: Path) -> None:
    with pytest.raises(
        UserError, match=r"a\.weights is a file of Darknet: make a checkpoint of it by `lit-vision import"
    ):
        load_task(tiny / "a.weights")
    interim = (tiny / "a.weights").rename(tiny / "a.backup")
    task = YOLODetector(["cat", "big dog"], architecture=str(tiny / "a.cfg"), weights=str(interim))
    assert task.network.heads_read


def test_import_and_export_are_inverse(tiny: Path) -> None:
    import_darknet(str(tiny / "a.cfg"), tiny / "a.weights", tiny / "a.names", tiny / "a.ckpt")
    weights, cfg, names = export_darknet(tiny / "a.ckpt", tiny / "b.weights")
    assert weights.read_bytes()[20:] == (tiny / "a.weights").read_bytes()[20:]
    assert names.read_text() == "cat\nbig dog\n"
    assert find_config(str(cfg)).head(2) == find_config(str(tiny / "a.cfg")).head(2)
    with pytest.raises(UserError, match=r"b\.weights exists: name another --output, or add --overwrite"):
        export_darknet(tiny / "a.ckpt", tiny / "b.weights")
    export_darknet(tiny / "a.ckpt", tiny / "b.weights", overwrite=True)


@pytest.mark.parametrize(
    ("data", "tile", "says"),
    [
        ({"fit": "crop", "depth": "full"}, None, "fit: crop"),
        ({"fit": "native", "depth": "stretch"}, None, "fit: native, depth: stretch"),
        ({"fit": "stretch", "depth": "stretch_all"}, 64, "depth: stretch_all, tile: 64"),
        ({"fit": "letterbox", "depth": "full"}, None, ""),
        ({}, None, ""),
    ],
)
def test_an_export_says_what_darknet_does_otherwise(
    data: dict[str, str], tile: int | None, says: str, tiny: Path, caplog: pytest.LogCaptureFixture
) -> None:
    task = YOLODetector(["cat", "big dog"], architecture=str(tiny / "a.cfg"), tile=tile)
    task.data = {"task": "detection", "image_size": [64, 96], "in_channels": 3, **data}
    trainer = quiet_trainer()
    trainer.strategy.connect(task)
    trainer.save_checkpoint(tiny / "c.ckpt")
    with caplog.at_level("INFO"):
        export_darknet(tiny / "c.ckpt", tiny / "c.weights")
    expected = (
        f"c.ckpt was made with {says}, which Darknet does not have: it gives the network whole pictures" if says else ""
    )
    assert expected in caplog.text
    assert ("which Darknet does not have" in caplog.text) == bool(says)


def test_names_as_an_editor_on_windows_saves_them(tiny: Path) -> None:
    (tiny / "a.names").write_bytes("\ufeffKätzchen\r\nbig dog\r\n".encode())
    assert read_names(tiny / "a.names") == ["Kätzchen", "big dog"]
    (tiny / "a.names").write_bytes("Kätzchen\nbig dog\n".encode("latin-1"))
    with pytest.raises(
        UserError, match=r"^--names: .*a\.names is not text in UTF-8: give a file with a class name a line$"
    ):
        read_names(tiny / "a.names")


@pytest.mark.parametrize(("fit", "line"), [("letterbox", "letter_box=1"), ("stretch", "letter_box=0")])
def test_exported_files_say_how_pictures_get_their_size(fit: str, line: str, tiny: Path) -> None:
    """Where the .cfg that the network came from says otherwise."""
    wrong = TINY if fit == "letterbox" else TINY.replace("channels=3", "channels=3\nletter_box=1")
    (tiny / "a.cfg").write_text(wrong)
    import_darknet(str(tiny / "a.cfg"), tiny / "a.weights", tiny / "a.names", tiny / "a.ckpt", fit=fit)
    weights, cfg, names = export_darknet(tiny / "a.ckpt", tiny / "b.weights")
    assert line in cfg.read_text().splitlines()
    import_darknet(str(cfg), weights, names, tiny / "b.ckpt")
    assert load_task(tiny / "b.ckpt").data["fit"] == fit


def test_a_checkpoint_is_replaced_only_where_that_is_said(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tiny / "b.ckpt").write_text("mine")
    (tiny / "folder.ckpt").mkdir()
    words = ["--cfg", f"{tiny}/a.cfg", "--weights", f"{tiny}/a.weights", "--names", f"{tiny}/a.names"]
    for output, says in [
        ("b.ckpt", "b.ckpt exists: name another --output, or add --overwrite"),
        ("folder.ckpt", "folder.ckpt must be a file that ends in .ckpt"),
        ("b.weights", "b.weights must be a file that ends in .ckpt"),
    ]:
        assert main(["import-darknet", *words, "--output", str(tiny / output)]) == 2
        assert says in capsys.readouterr().err
    assert (tiny / "b.ckpt").read_text() == "mine"
    assert main(["import-darknet", *words, "--output", f"{tiny}/b.ckpt", "--overwrite"]) == 0
    assert load_task(tiny / "b.ckpt").class_names == ["cat", "big dog"]


@pytest.mark.parametrize("eps", ["nan", "-1", "0"])
def test_a_bn_eps_without_sense_is_refused(eps: str, tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--cfg", f"{tiny}/a.cfg", "--weights", f"{tiny}/a.weights", "--names", f"{tiny}/a.names"]
    assert main(["import-darknet", *words, "--output", f"{tiny}/b.ckpt", "--bn_eps", eps]) == 2
    assert "bn_eps is" in capsys.readouterr().err
    assert not (tiny / "b.ckpt").exists()


def test_anchors_shared_by_two_heads_stay_shared_when_exported(tmp_path: Path) -> None:
    task = YOLODetector(["a"], architecture="yolov3-tiny", anchors=[[k, 2 * k] for k in (1, 2, 4, 8, 16, 32)])
    trainer = quiet_trainer()
    trainer.strategy.connect(task)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    _, cfg, _ = export_darknet(tmp_path / "a.ckpt", tmp_path / "a.weights")
    assert cfg.read_text().count("anchors=1,2, 2,4, 4,8, 8,16, 16,32, 32,64\n") == 2
    assert (FOLDER / "yolov3-tiny.cfg").read_text().splitlines()[1] == cfg.read_text().splitlines()[1]  # a comment


def test_networks_that_no_cfg_describes_are_refused(tmp_path: Path) -> None:
    for name, settings, says in [
        ("a", {"backbone": "lcnet_050", "width": 16}, "whose network no .cfg describes"),
        ("b", {"architecture": "yolov3-tiny", "mean": [0.5] * 3}, "a mean or std of its own"),
    ]:
        task = YOLODetector(["x"], **settings)  # type: ignore[arg-type]
        trainer = quiet_trainer()
        trainer.strategy.connect(task)
        trainer.save_checkpoint(tmp_path / f"{name}.ckpt")
        with pytest.raises(UserError, match=says):
            export_darknet(tmp_path / f"{name}.ckpt", tmp_path / f"{name}.weights")
        assert not (tmp_path / f"{name}.cfg").exists()


def test_files_that_do_not_belong_together(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tiny / "three.names").write_text("a\nb\nc\n")
    (tiny / "twice.names").write_text("a\nb\na\n")
    (tiny / "binary.names").write_bytes(b"\x89PNG\xff\xfe")
    (tiny / "part.weights").write_bytes((tiny / "a.weights").read_bytes()[: 20 + 4 * (4 * 8 + 8 * 27)])
    (tiny / "page.weights").write_text("<html>not found</html>")
    good = {"--cfg": "a.cfg", "--weights": "a.weights", "--names": "a.names", "--output": "b.ckpt"}
    for option, value, says in [
        ("--names", "three.names", "three.names has 3 names, but {}/a.weights is of 2 classes: give the .names file"),
        ("--names", "twice.names", "twice.names:3: a stands twice"),
        ("--names", "binary.names", "binary.names is not text"),
        ("--names", "no.names", "--names: there is no file"),
        ("--weights", "part.weights", "holds the first 1 of 2 convolutions of"),
        ("--weights", "page.weights", "page.weights is a web page"),
        ("--weights", "no.weights", "--weights: there is no file"),
        ("--cfg", "no.cfg", "there is no network or file"),
        ("--output", "no/b.ckpt", "--output: there is no folder"),
    ]:
        words = [word for pair in {**good, option: value}.items() for word in (pair[0], f"{tiny}/{pair[1]}")]
        assert main(["import-darknet", *words]) == 2
        error = capsys.readouterr().err
        assert says.format(tiny) in error
        assert error.count("\n") == 1
    with pytest.raises(UserError, match="image size 33 x 96 must be a multiple of 2"):
        import_darknet(str(tiny / "a.cfg"), tiny / "a.weights", tiny / "a.names", tiny / "b.ckpt", (33, 96))
    assert not (tiny / "b.ckpt").exists()
