"""Crops that hold rare classes, pixel counts of a data set, and masks with numbers that are no class."""

import json
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from lit_vision.data.augmentation import Augmentation
from lit_vision.data.segmentation import SegmentationDataModule, focus_on_class
from lit_vision.errors import UserError

NAMES = ["ground", "wall", "pole"]
PLAIN = Augmentation(flip=0.0)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six pictures of 120 x 160: below wall, above ground, and one pole of 2 x 2 pixels; the first picture has none."""
    root, rng = tmp_path_factory.mktemp("poles"), np.random.default_rng(0)
    (root / "classes.json").write_text(json.dumps({"classes": NAMES}))
    for split, count in (("train", 6), ("val", 1)):
        for folder in ("images", "masks"):
            (root / folder / split).mkdir(parents=True)
        for i in range(count):
            mask = np.zeros((120, 160), np.uint8)
            mask[60:] = 1
            if i:
                y, x = rng.integers(0, 118), rng.integers(0, 158)
                mask[y : y + 2, x : x + 2] = 2
            cv2.imwrite(str(root / "images" / split / f"{i}.png"), np.full((120, 160, 3), i, np.uint8))
            cv2.imwrite(str(root / "masks" / split / f"{i}.png"), mask)
    return root


def module(root: Path, **settings: Any) -> SegmentationDataModule:
    common = {"image_size": 32, "fit": "native", "num_workers": 0, "augmentation": PLAIN, "seed": 0}
    return SegmentationDataModule(str(root), **{**common, **settings})


def shares(data: SegmentationDataModule, epochs: int = 60) -> list[float]:
    """How many of the crops show each class."""
    dataset = data.dataset("train", augmented=True)
    seen = [set(dataset[epoch, i]["mask"].unique().tolist()) for epoch in range(epochs) for i in range(len(dataset))]
    return [sum(c in one for one in seen) / len(seen) for c in range(3)]


def test_pixels_are_counted_over_the_training_split(root: Path) -> None:
    masks = [cv2.imread(str(path), cv2.IMREAD_UNCHANGED) for path in (root / "masks" / "train").iterdir()]
    expected = np.bincount(np.stack(masks).ravel(), minlength=3)
    assert module(root).class_pixels == expected.tolist()
    assert expected[2] == 20


def test_rare_crops_hold_the_rare_class(root: Path) -> None:
    plain, half, always = (shares(module(root, rare_crops=share))[2] for share in (0.0, 0.5, 1.0))
    assert plain < 0.15  # a crop of 32 x 32 shows a given place of 120 x 160 in few of a hundred cases
    # In five of six pictures there is a pole, and it is drawn nearly always: its class is 2000 times as rare.
    assert always == pytest.approx(5 / 6, abs=0.02)
    assert half == pytest.approx((plain + always) / 2, abs=0.1)


def test_the_drawn_pixel_is_in_the_centre_where_the_edges_allow(root: Path) -> None:
    dataset = module(root, rare_crops=1.0).dataset("train", augmented=True)
    for epoch in range(5):
        for i in range(1, 6):
            sample = dataset[epoch, i]
            y, x = (values.float().mean() + 0.5 for values in (sample["mask"] == 2).nonzero(as_tuple=True))
            left, top = (-sample["frame"][:, 2]).tolist()  # of the crop, in the picture
            assert (16 - 1.5 <= x <= 16 + 1.5) or left in (0, 128)
            assert (16 - 1.5 <= y <= 16 + 1.5) or top in (0, 88)


def test_a_crop_is_a_function_of_seed_epoch_and_picture(root: Path) -> None:
    one, again, other = (
        module(root, rare_crops=0.7, augmentation="default", seed=seed).dataset("train", augmented=True)
        for seed in (0, 0, 1)
    )
    keys = [(epoch, i) for epoch in range(3) for i in range(6)]
    assert all(torch.equal(one[key]["mask"], again[key]["mask"]) for key in reversed(keys))
    assert any(not torch.equal(one[key]["mask"], other[key]["mask"]) for key in keys)
    assert any(not torch.equal(one[0, i]["mask"], one[1, i]["mask"]) for i in range(6))


def test_without_rare_crops_nothing_is_drawn_or_counted(root: Path) -> None:
    data = module(root)
    data.dataset("train", augmented=True)[0, 0]
    assert "class_pixels" not in data.__dict__
    evaluated = module(root, rare_crops=1.0)
    assert evaluated.dataset("val")[0]["mask"].shape == (120, 160)
    assert "class_pixels" not in evaluated.__dict__


def test_crops_of_a_share_of_the_area_and_mirrored_ones_are_centred_too(root: Path) -> None:
    turned = Augmentation(flip=0.5, flip_vertical=0.5, quarter_turns=True)
    assert shares(module(root, rare_crops=1.0, augmentation=turned), 20)[2] == pytest.approx(5 / 6, abs=0.02)
    resized = Augmentation(flip=0.5, crop_area=(0.05, 0.1))
    found = module(root, rare_crops=1.0, augmentation=resized, fit="stretch")
    assert shares(found, 20)[2] == pytest.approx(5 / 6, abs=0.02)


def test_classes_are_drawn_inversely_to_their_pixels_and_pixels_alike() -> None:
    mask = np.array([[0, 0, 1, 255], [2, 2, 2, 2]], np.uint8)
    rng = np.random.default_rng(0)
    drawn = [focus_on_class(mask, [100, 50, 10, 1], rng) for _ in range(6000)]  # class 3 is the rarest, but not here
    counts: dict[tuple[float, float], int] = {}
    for place in drawn:
        assert place is not None
        counts[place] = counts.get(place, 0) + 1
    chances = np.array([1 / 100, 1 / 50, 1 / 10]) / (1 / 100 + 1 / 50 + 1 / 10)
    assert counts[2.5, 0.5] / 6000 == pytest.approx(chances[1], abs=0.02)
    for x in (0.5, 1.5):
        assert counts[x, 0.5] / 6000 == pytest.approx(chances[0] / 2, abs=0.01)
    for x in (0.5, 1.5, 2.5, 3.5):
        assert counts[x, 1.5] / 6000 == pytest.approx(chances[2] / 4, abs=0.025)
    assert (3.5, 0.5) not in counts
    assert focus_on_class(np.full((2, 2), 255, np.uint8), [1, 1], rng) is None


def test_shares_and_fits_that_make_no_sense_are_refused(root: Path) -> None:
    with pytest.raises(UserError, match=r"rare_crops is 1\.5"):
        module(root, rare_crops=1.5)
    with pytest.raises(UserError, match="fit: letterbox makes no crops: set fit: native"):
        module(root, rare_crops=0.5, fit="letterbox")


def test_a_number_that_is_no_class_is_named_even_unchecked(root: Path, tmp_path: Path) -> None:
    shutil.copytree(root, tmp_path, dirs_exist_ok=True)
    cv2.imwrite(str(tmp_path / "images" / "train" / "a.png"), np.zeros((32, 32, 3), np.uint8))
    mask = np.full((32, 32), 255, np.uint8)
    mask[3, 4] = 3
    cv2.imwrite(str(tmp_path / "masks" / "train" / "a.png"), mask)
    data = module(tmp_path, check=False)
    with pytest.raises(UserError, match=r"mask of .*a.png has the value 3, but there are 3 classes, 0 to 2"):
        data.dataset("train", augmented=True)[0, 6]


def test_a_picture_smaller_than_the_crop_lies_in_unknown_padding(root: Path) -> None:
    sample = module(root, image_size=200, rare_crops=1.0).dataset("train", augmented=True)[0, 1]
    assert sample["mask"].shape == (200, 200)
    assert (sample["mask"] == 255).sum() == 200 * 200 - 120 * 160
    assert (sample["mask"] == 2).sum() == 4


def test_colours_of_other_pictures_than_rgb_are_remarked_on(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    own = Augmentation(hue=0.1, brightness=0.2)
    with caplog.at_level("INFO"):
        module(root, augmentation=own).train_dataloader()
        module(root, in_channels=1, augmentation="default").train_dataloader()
        assert "which need RGB" not in caplog.text
        module(root, in_channels=1, augmentation=own).train_dataloader()
    assert "without effect: augmentation.hue, which need RGB, where data.in_channels is 1" in caplog.messages
