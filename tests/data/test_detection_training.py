"""Training samples of detection: the same whatever process makes them, wherever a run was cut, and however it ends."""

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
import torch
from tiny import to_bands
from torchvision.transforms import v2

from lit_vision.data import detection_training
from lit_vision.data.augmentation import DEFAULTS, Augmentation
from lit_vision.data.classification import ClassificationDataModule
from lit_vision.data.detection import DetectionDataModule
from lit_vision.data.detection_training import TrainingDataset
from lit_vision.data.sampler import Turn
from lit_vision.data.shapes import draw_shapes
from lit_vision.errors import UserError

MIXED = {**DEFAULTS["detection"], "mosaic": 0.8, "mixup": 0.4, "rotate": 5.0}
EVERYTHING = {"multi_scale": 0.5, "repeat_threshold": 0.9}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_shapes(tmp_path_factory.mktemp("drawn") / "set", train=40, val=6, test=2, size=96)


def module(root: Path, ranges: dict[str, Any] | None = None, **settings: Any) -> DetectionDataModule:
    settings = {"image_size": 64, "batch_size": 10, "num_workers": 0, "seed": 3, **settings}
    augmentation = Augmentation(**(MIXED if ranges is None else ranges))
    return DetectionDataModule(str(root / "detection"), augmentation=augmentation, **settings)


def training(data: DetectionDataModule) -> TrainingDataset:
    dataset = data.dataset("train", augmented=True)
    assert isinstance(dataset, TrainingDataset)
    return dataset


def epoch(loader: Any, number: int = 1) -> Iterator[dict[str, Any]]:
    loader.sampler.set_epoch(number)
    return iter(loader)


def same(one: Any, other: Any) -> bool:
    lists = all(
        len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
        for a, b in ((one[key], other[key]) for key in ("boxes", "labels", "crowd"))
    )
    return lists and all(torch.equal(one[key], other[key]) for key in ("image", "index", "frame", "size"))


def equal(first: Any, second: Any) -> bool:
    return len(first) == len(second) > 0 and all(same(a, b) for a, b in zip(first, second, strict=True))


# --- the same whatever makes it ---------------------------------------------------------------------------------
@pytest.mark.parametrize("cache_gib", [0.0, 1.0])
@pytest.mark.parametrize("workers", [1, 2])
def test_workers_make_what_the_main_process_makes(root: Path, workers: int, cache_gib: float) -> None:
    settings = {**EVERYTHING, "cache_gib": cache_gib}
    alone, shared = module(root, **settings).train_dataloader(), module(root, num_workers=workers, **settings)
    loader = shared.train_dataloader()
    for number in (1, 2, 1):  # the last one from a cache that is full
        assert equal(list(epoch(alone, number)), list(epoch(loader, number)))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_cut_inside_an_epoch_goes_on_with_the_same_batches(root: Path, workers: int) -> None:
    whole = list(epoch(module(root, **EVERYTHING).train_dataloader()))
    assert len({batch["image"].shape for batch in whole}) > 1
    cut = module(root, num_workers=workers, **EVERYTHING).train_dataloader()
    cut.done = lambda: 2  # type: ignore[attr-defined]  # an EpochLoader
    assert equal(list(epoch(cut)), whole[2:])


def test_epochs_and_seeds_differ(root: Path) -> None:
    first = list(epoch(module(root).train_dataloader()))
    assert not equal(first, list(epoch(module(root).train_dataloader(), 2)))
    assert not equal(first, list(epoch(module(root, seed=4).train_dataloader())))


def test_a_cache_changes_no_sample(root: Path) -> None:
    """Full, half full, none; empty and filled."""
    given = []
    for cache_gib in (1.0, 20 * 96 * 96 * 3 / 2**30, 0.0):
        loader = module(root, cache_gib=cache_gib).train_dataloader()
        dataset: Any = loader.dataset
        dataset.partners_from_all = False
        given += [list(epoch(loader)), list(epoch(loader))]
    assert all(equal(given[0], other) for other in given[1:])


# --- who is in a mosaic -----------------------------------------------------------------------------------------
def partners(dataset: TrainingDataset, batch: list[int], draws: int = 60) -> list[list[int]]:
    rng = np.random.default_rng(0)
    return [dataset._partners(4, 3, batch, rng) for _ in range(draws)]


def test_partners_come_from_the_batch_where_decoding_costs(root: Path) -> None:
    dataset = training(module(root, cache_gib=0.0))
    assert not dataset.partners_from_all
    drawn = partners(dataset, [1, 3, 4, 8, 9, 12, 20, 31])
    assert {one for group in drawn for one in group} == {1, 3, 8, 9, 12, 20, 31}
    assert all(len(set(group)) == 3 for group in drawn)


@pytest.mark.parametrize("settings", [{"cache_gib": 1.0, "batch": 10}, {"cache_gib": 0.0, "batch": 4}])
def test_partners_come_from_the_split_where_all_is_cached_or_batches_are_small(root: Path, settings: Any) -> None:
    dataset = training(module(root, cache_gib=settings["cache_gib"]))
    drawn = partners(dataset, list(range(settings["batch"])), 400)
    assert {one for group in drawn for one in group} == set(range(40)) - {4}
    assert all(len(set(group)) == 3 for group in drawn)


def test_batches_decode_each_picture_once(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = training(module(root, {**MIXED, "mosaic": 1.0, "mixup": 1.0}, cache_gib=0.0))
    read: list[int] = []
    plain = TrainingDataset._read
    monkeypatch.setattr(
        TrainingDataset, "_read", lambda self, position: (read.append(position), plain(self, position))[1]
    )
    dataset.__getitems__([Turn(0, position, 0, position) for position in range(10)])
    assert sorted(read) == list(range(10))
    cached = training(module(root, {**MIXED, "mosaic": 1.0}))
    read.clear()
    for _ in range(2):
        cached.__getitems__([Turn(0, position, 0, position) for position in range(40)])
    assert sorted(read) == list(range(40))


def test_two_pictures_are_enough_for_a_mosaic(root: Path) -> None:
    dataset = training(module(root, cache_gib=0.0))
    dataset.positions = dataset.positions[:2]
    assert dataset._partners(1, 3, [0, 1], np.random.default_rng(0)) == [0, 0, 0]
    dataset.positions = dataset.positions[:1]
    assert dataset._partners(0, 3, [0], np.random.default_rng(0)) == [0, 0, 0]


def test_repeats_of_a_picture_differ(root: Path) -> None:
    dataset = training(module(root, {"scale": 0.5}))
    first, again, other = (dataset[Turn(1, 2, repeat, 0)] for repeat in (0, 0, 1))
    assert torch.equal(first["image"], again["image"])
    assert not torch.equal(first["image"], other["image"])


# --- the end of a run -------------------------------------------------------------------------------------------
@pytest.mark.parametrize("workers", [0, 2])
def test_the_last_epochs_show_pictures_alone(root: Path, workers: int) -> None:
    """Also in workers that live through the whole run."""
    data = module(root, num_workers=workers, close_mosaic=2)
    data.trainer = planned(5)
    loader = data.train_dataloader()
    assert loader.persistent_workers == (workers > 0)
    alone = module(root, {**MIXED, "mosaic": 0.0, "mixup": 0.0}).train_dataloader()
    assert [equal(list(epoch(loader, n)), list(epoch(alone, n))) for n in range(5)] == [False] * 3 + [True] * 2


def test_a_sample_says_which_pictures_it_shows(root: Path) -> None:
    data = module(root, {**MIXED, "mosaic": 1.0, "mixup": 0.5})
    dataset = training(data)
    samples = [dataset[Turn(1, k, 0, 0)] for k in range(12)]
    assert {len(sample["shown"]) for sample in samples} > {4}  # more where two mosaics are blended
    in_training = set(data.index.indices("train").tolist())
    for sample in samples:
        assert int(sample["shown"][0]) == sample["index"]
        assert set(sample["shown"].tolist()) <= in_training
    dataset.closing_epoch = 1
    assert dataset[Turn(1, 3, 0, 0)]["shown"].tolist() == [int(dataset.positions[3])]


def planned(epochs: int | None, steps: int = -1) -> Any:
    strategy = SimpleNamespace(root_device=torch.device("cpu"))
    loop = SimpleNamespace(epoch_loop=SimpleNamespace(restarting=False))
    return SimpleNamespace(
        max_epochs=epochs,
        max_steps=steps,
        limit_train_batches=1.0,
        accumulate_grad_batches=1,
        global_rank=0,
        world_size=1,
        strategy=strategy,
        fit_loop=loop,
    )


def test_a_run_without_a_planned_end_says_so(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = module(root)
    data.trainer = planned(None)
    with caplog.at_level("INFO"):
        loader: Any = data.train_dataloader()
    assert loader.dataset.closing_epoch is None
    assert "mosaic stays on to the end" in caplog.text


# --- kinds of pictures ------------------------------------------------------------------------------------------
@pytest.mark.parametrize("bands", [1, 5])
def test_pictures_of_other_than_three_bands(root: Path, tmp_path: Path, bands: int) -> None:
    folder = root if bands == 1 else to_bands(root, tmp_path / "bands", bands)
    data = module(folder, in_channels=bands)
    batch = next(epoch(data.train_dataloader()))
    assert batch["image"].shape == (10, bands, 64, 64)
    assert len(batch["image"].unique()) > 100


def test_pictures_of_sixteen_bits(root: Path, tmp_path: Path) -> None:
    """257 times the 8-bit values: the very same samples."""
    copy = to_bands(root, tmp_path / "eight", 3)
    deep = to_bands(root, tmp_path / "sixteen", 3)
    for path in deep.rglob("*.tif"):
        values = tifffile.imread(path).astype(np.uint16) * 257
        tifffile.imwrite(path, values, photometric="minisblack", planarconfig="contig")
    eight, sixteen = (list(epoch(module(folder).train_dataloader())) for folder in (copy, deep))
    assert equal(eight, sixteen)


def test_own_transforms_come_last(root: Path) -> None:
    """An upside-down mosaic, with its boxes."""
    plain, turned = module(root), module(root, transforms=[v2.RandomVerticalFlip(1.0)])
    for one, other in zip(epoch(plain.train_dataloader()), epoch(turned.train_dataloader()), strict=True):
        assert torch.equal(one["image"].flip(2), other["image"])
        for boxes, flipped in zip(one["boxes"], other["boxes"], strict=True):
            torch.testing.assert_close(flipped[:, [1, 3]], 64 - boxes[:, [3, 1]], atol=1e-3, rtol=0)


def enlarge(source: Path, target: Path, times: int) -> Path:
    """The drawn pictures with their boxes, so many times as large."""
    for path in source.rglob("*.jpg"):
        picture = cv2.imread(str(path))
        copy = target / path.relative_to(source)
        copy.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(copy), cv2.resize(picture, None, fx=times, fy=times, interpolation=cv2.INTER_CUBIC))
    for path in source.rglob("*.json"):
        content = json.loads(path.read_text())
        for image in content["images"]:
            image["width"], image["height"] = image["width"] * times, image["height"] * times
        for one in content["annotations"]:
            one["bbox"] = [value * times for value in one["bbox"]]
            one.pop("segmentation", None)
        (target / path.relative_to(source)).parent.mkdir(parents=True, exist_ok=True)
        (target / path.relative_to(source)).write_text(json.dumps(content))
    return target


def test_large_photos_are_decoded_small(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """960 x 960 for 64 pixels and a zoom of 1.5 at most: an eighth of the detail is enough."""
    enlarge(root / "detection", tmp_path / "detection", 10)
    ranges = {"scale": 0.5, "flip": 0.0, "mosaic": 1.0}
    for cache_gib in (1.0, 0.0):
        dataset = training(module(tmp_path, ranges, cache_gib=cache_gib))
        taken = dataset._picture(0)
        assert taken.pixels.shape == (120, 120, 3)
        assert (taken.factor, taken.size) == (8, (960, 960))
        assert dataset.store.holds_all == (cache_gib > 0)
    small = list(epoch(module(tmp_path, ranges).train_dataloader()))
    monkeypatch.setattr(detection_training, "largest_reduction", lambda *_: 1.0)
    full = list(epoch(module(tmp_path, ranges).train_dataloader()))
    for one, other in zip(small, full, strict=True):
        assert not torch.equal(one["image"], other["image"])
        assert float((one["image"].float() - other["image"].float()).abs().mean()) < 4
        # Shown are whole pixels of what was decoded, so an object at an edge may be kept in one of the two.
        alike = [(a, b) for a, b in zip(one["boxes"], other["boxes"], strict=True) if len(a) == len(b)]
        assert len(alike) >= len(one["boxes"]) - 3
        for boxes, others in alike:
            torch.testing.assert_close(boxes, others, atol=1.0, rtol=0)


# --- settings ---------------------------------------------------------------------------------------------------
def test_the_mosaic_preset_is_the_default_with_mosaics(root: Path) -> None:
    data = DetectionDataModule(str(root / "detection"), augmentation="mosaic")
    assert data.augmentation == Augmentation(**{**DEFAULTS["detection"], "mosaic": 1.0})
    assert DetectionDataModule(str(root / "detection")).augmentation == Augmentation.for_task("detection")


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"close_mosaic": -1}, "data.close_mosaic is -1; give 0 or more"),
        ({"cache_gib": -0.5}, "data.cache_gib is -0.5; give 0 or more"),
        ({"stride": 0}, "data.stride is 0"),
        ({"repeat_threshold": 5}, "data.repeat_threshold is 5; give a share of the pictures"),
        ({"multi_scale": [2, 1]}, "data.multi_scale is"),
    ],
)
def test_wrong_settings_are_refused(root: Path, settings: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        module(root, **settings)


def test_other_tasks_have_no_mosaics(root: Path) -> None:
    with pytest.raises(UserError, match=r"augmentation\.mosaic and augmentation\.mixup are for detection"):
        ClassificationDataModule(str(root / "classification"), augmentation=Augmentation(mosaic=0.5))
