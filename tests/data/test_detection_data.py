"""DetectionDataModule: what samples and batches hold, in training and in evaluation."""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from lit_vision.data.augmentation import Augmentation
from lit_vision.data.detection import DetectionDataModule
from lit_vision.data.detection_dataset import place_boxes
from lit_vision.data.restore import restore_boxes
from lit_vision.data.shapes import draw_shapes
from lit_vision.data.transforms import Transform
from lit_vision.errors import UserError


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_shapes(tmp_path_factory.mktemp("drawn") / "set", train=6, val=3, test=2, size=96) / "detection"


def module(root: Path, **settings: Any) -> DetectionDataModule:
    return DetectionDataModule(str(root), **{"image_size": 64, "batch_size": 3, "num_workers": 0, **settings})


def test_boxes_move_with_a_frame() -> None:
    frame = np.array([[2.0, 0.0, 5.0], [0.0, 3.0, -1.0]], np.float32)
    moved = place_boxes(np.array([[1.0, 2.0, 3.0, 4.0]], np.float32), frame)
    assert moved.tolist() == [[7.0, 5.0, 11.0, 11.0]]
    assert moved.dtype == np.float32


def test_a_batch_holds_lists_of_boxes(root: Path) -> None:
    batch = next(iter(module(root).train_dataloader()))
    assert batch["image"].shape == (3, 3, 64, 64)
    assert batch["image"].dtype == torch.uint8
    for boxes, labels, crowd in zip(batch["boxes"], batch["labels"], batch["crowd"], strict=True):
        assert boxes.dtype == torch.float32
        assert boxes.shape == (len(labels), 4)
        assert (labels.dtype, crowd.dtype) == (torch.int64, torch.bool)
        assert bool((boxes >= 0).all() and (boxes <= 64).all() and (boxes[:, 2:] > boxes[:, :2]).all())


@pytest.mark.parametrize("fit", ["letterbox", "stretch", "crop", "native"])
def test_evaluation_keeps_every_box_of_the_file(root: Path, fit: str) -> None:
    data = module(root, fit=fit, image_size=[32, 64])
    count = 0
    for batch in data.val_dataloader():
        for i, boxes, frame, size in zip(*(batch[key] for key in ("index", "boxes", "frame", "size")), strict=True):
            own = data.index.boxes[data.index.span(int(i))]  # type: ignore[index]
            np.testing.assert_allclose(restore_boxes(boxes, frame, size).numpy(), own, atol=1e-4)
            count += len(own)
        for i, boxes in zip(batch["index"], batch["original_boxes"], strict=True):
            assert boxes.tolist() == data.index.boxes[data.index.span(int(i))].tolist()  # type: ignore[index]
    assert count == sum(len(data.index.labels[data.index.span(int(i))]) for i in data.index.indices("val")) > 6


def test_boxes_that_no_check_has_clipped_end_with_the_picture(root: Path) -> None:
    data = module(root)
    first = data.index.span(int(data.index.indices("val")[0])).start
    data.index.boxes[first] = [-3.0, 5.0, 40.0, 99.0]  # type: ignore[index]
    sample = data.dataset("val")[0]
    assert sample["original_boxes"][0].tolist() == [0.0, 5.0, 40.0, 96.0]


def test_augmentation_depends_on_the_epoch_alone(root: Path) -> None:
    first, again = (module(root).dataset("train", augmented=True)[(2, 1)] for _ in range(2))
    other = module(root).dataset("train", augmented=True)[(3, 1)]
    assert torch.equal(first["image"], again["image"])
    assert torch.equal(first["boxes"], again["boxes"])
    assert not torch.equal(first["image"], other["image"])


def test_sizes_for_anchors_are_those_of_the_training_split_in_network_pixels(root: Path) -> None:
    data = module(root, image_size=[48, 96], fit="stretch")
    expected = np.concatenate([data.index.boxes[data.index.span(int(i))] for i in data.index.indices("train")])  # type: ignore[index]
    sizes = (expected[:, 2:] - expected[:, :2]) * np.array([1.0, 0.5], np.float32)
    np.testing.assert_allclose(data.training_box_sizes().numpy(), sizes, rtol=1e-6)
    assert data.training_box_sizes().dtype == torch.float32


@pytest.mark.parametrize("fit", ["letterbox", "stretch", "crop", "native"])
def test_sizes_for_anchors_are_those_of_the_boxes_that_the_network_sees(root: Path, fit: str) -> None:
    data = module(root, image_size=[50, 70], fit=fit)
    dataset = data.make_dataset(
        positions=data.index.indices("train"), transform=data.make_transform(None, []), seed=None
    )
    shown = torch.cat([dataset[k]["boxes"] for k in range(len(dataset))])
    torch.testing.assert_close(data.training_box_sizes(), shown[:, 2:] - shown[:, :2], rtol=1e-5, atol=1e-4)


def test_objects_of_less_than_a_pixel_are_said_and_give_no_anchors(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = module(root, image_size=[48, 96])
    whole = data.training_box_sizes()
    data.train_dataloader()
    assert "less than a pixel" not in caplog.text
    boxes = data.index.boxes
    assert boxes is not None
    first = data.index.offsets[data.index.indices("train")][:2]
    boxes[first, 2] = boxes[first, 0] + 0.5  # half a pixel wide
    assert torch.equal(
        data.training_box_sizes(), whole[[k for k in range(len(whole)) if k not in _places(data, first)]]
    )
    with caplog.at_level("INFO"):
        data.train_dataloader()
    assert f"2 of the {len(whole)} training objects of {root} are less than a pixel wide or high at" in caplog.text
    boxes[:, 2] = boxes[:, 0] + 0.5
    with pytest.raises(UserError, match=r"nothing to learn: set a larger data\.image_size"):
        data.train_dataloader()


def _places(data: DetectionDataModule, objects: np.ndarray) -> list[int]:  # type: ignore[type-arg]  # numbers
    """Where objects stand among those of the training split."""
    order = [k for i in data.index.indices("train").tolist() for k in range(*data.index.span(i).indices(10**9)[:2])]
    return [order.index(k) for k in objects.tolist()]


# --- as little padding as a batch needs -------------------------------------------------------------------------
@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten pictures of four shapes, one box each, in COCO's layout; the same for training and validation."""
    root = tmp_path_factory.mktemp("shapes")
    sizes = [(100, 200), (200, 100), (100, 100), (100, 200), (50, 200), (200, 100), (100, 100), (50, 200)] + [
        (90, 90)
    ] * 2
    for split in ("train", "val"):
        (root / split).mkdir()
        images, boxes = [], []
        for i, (height, width) in enumerate(sizes):
            cv2.imwrite(str(root / split / f"{i}.png"), np.full((height, width, 3), i, np.uint8))
            images.append({"id": i, "file_name": f"{i}.png", "height": height, "width": width})
            boxes.append({"id": i + 1, "image_id": i, "category_id": 1, "bbox": [10, 10, 20, 30], "iscrowd": 0})
        content = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "a"}]}
        (root / "annotations").mkdir(exist_ok=True)
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    return root


def test_rect_pads_each_batch_as_far_as_it_needs(shapes: Path) -> None:
    data = DetectionDataModule(str(shapes), "coco", image_size=128, rect=True, batch_size=2, num_workers=0)
    batches = list(data.val_dataloader())
    assert [tuple(batch["image"].shape[2:]) for batch in batches] == [
        (32, 128),
        (64, 128),
        (128, 64),
        *[(128, 128)] * 2,
    ]
    assert sorted(int(i) for batch in batches for i in batch["index"]) == data.index.indices("val").tolist()
    for batch in batches:
        for image, boxes, frame, size in zip(*(batch[k] for k in ("image", "boxes", "frame", "size")), strict=True):
            height, width = (round(float(side) * 128 / float(max(size))) for side in size)
            assert (image[:, height:] == 114).all()
            assert (image[:, :, width:] == 114).all()
            assert len(image[:, :height, :width].unique()) == 1
            np.testing.assert_allclose(restore_boxes(boxes, frame, size).numpy(), [[10, 10, 30, 40]], atol=1e-4)
    plain = DetectionDataModule(str(shapes), "coco", image_size=128, batch_size=2, num_workers=0)
    assert {tuple(batch["image"].shape[2:]) for batch in plain.val_dataloader()} == {(128, 128)}


def test_rect_leaves_training_and_prediction_as_they_are(shapes: Path) -> None:
    data = DetectionDataModule(str(shapes), "coco", image_size=128, rect=True, batch_size=5, num_workers=0)
    assert {tuple(batch["image"].shape[2:]) for batch in data.train_dataloader()} == {(128, 128)}
    batches = list(data.predict_dataloader())
    assert {tuple(batch["image"].shape[2:]) for batch in batches} == {(128, 128)}
    assert [int(i) for batch in batches for i in batch["index"]] == data.index.indices("val").tolist()


def test_rect_with_a_longer_stride(shapes: Path) -> None:
    data = DetectionDataModule(str(shapes), "coco", image_size=128, rect=True, stride=64, batch_size=2, num_workers=0)
    assert tuple(next(iter(data.val_dataloader()))["image"].shape[2:]) == (64, 128)


def test_a_stride_without_anything_to_round_is_remarked_on(shapes: Path, caplog: pytest.LogCaptureFixture) -> None:
    for settings in ({"rect": True}, {"multi_scale": 0.5}, {"fit": "native"}, {}):
        assert caplog.messages == []
        with caplog.at_level("INFO"):
            module(shapes, stride=64, **settings)
    assert caplog.messages == ["data.stride 64 has no effect: it is for multi_scale, rect and fit: native"]


def test_colours_of_other_pictures_than_rgb_are_remarked_on(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    own = Augmentation(hue=0.1, saturation=0.4, brightness=0.2)
    for settings in ({"augmentation": own}, {"in_channels": 1}, {"in_channels": 1, "augmentation": "mosaic"}):
        with caplog.at_level("INFO"):
            module(root, **settings).train_dataloader()
        assert "which need RGB" not in caplog.text
    with caplog.at_level("INFO"):
        module(root, in_channels=1, augmentation=own).train_dataloader()
    said = "without effect: augmentation.hue and augmentation.saturation, which need RGB, where data.in_channels is 1"
    assert said in caplog.messages


def test_close_mosaic_without_mosaic_is_remarked_on(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    said = "data.close_mosaic 5 has no effect: data.augmentation has no mosaic and no mixup"
    for augmentation, close_mosaic in (("mosaic", 5), ("none", 0), ("none", 5)):
        assert said not in caplog.messages
        with caplog.at_level("INFO"):
            module(root, augmentation=augmentation, close_mosaic=close_mosaic).train_dataloader()
    assert said in caplog.messages


def test_rect_needs_letterbox(shapes: Path) -> None:
    with pytest.raises(UserError, match=r"data\.rect leaves out .* letterbox, but data\.fit is stretch"):
        DetectionDataModule(str(shapes), "coco", image_size=128, rect=True, fit="stretch", num_workers=0)
    with pytest.raises(UserError, match="rect leaves out the padding of fit: letterbox, but fit is 'stretch'"):
        Transform((128, 128), "stretch", rect=True)
