from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from lit_vision.data.classification import ClassificationDataModule

COLOURS = {"blue": (0, 0, 255), "green": (0, 255, 0), "red": (255, 0, 0)}


def write(path: Path, rgb: tuple[int, int, int], size: tuple[int, int] = (30, 40)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full((*size, 3), rgb[::-1], np.uint8))


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    for split, count in (("train", 3), ("val", 2)):
        for k, (name, rgb) in enumerate(COLOURS.items()):
            for i in range(count + k):
                write(tmp_path / split / name / f"{i}.png", rgb)
    return tmp_path


def module(root: Path, **args: object) -> ClassificationDataModule:
    settings = {"image_size": 16, "batch_size": 4, "num_workers": 0, "augmentation": "none", **args}
    return ClassificationDataModule(str(root), **settings)  # type: ignore[arg-type]  # several kinds in one dict


def test_a_folder_for_each_class(folders: Path) -> None:
    data = module(folders, fit="stretch")
    assert data.class_names == ["blue", "green", "red"]
    assert data.multi_label is False
    assert data.class_counts == [3, 4, 5]
    seen = 0
    for batch in data.val_dataloader():
        assert batch["image"].dtype == torch.uint8
        assert batch["image"].shape[1:] == (3, 16, 16)
        assert batch["label"].dtype == torch.int64
        assert batch["size"].tolist() == [[30, 40]] * len(batch["label"])
        for image, label in zip(batch["image"], batch["label"], strict=True):
            expected = torch.tensor(COLOURS[data.class_names[int(label)]], dtype=torch.uint8)
            assert torch.equal(image, expected[:, None, None].expand(3, 16, 16))
            seen += 1
    assert seen == 2 + 3 + 4


def test_several_labels_from_a_table(tmp_path: Path) -> None:
    rows = ["path,label,split"]
    for i, (labels, split) in enumerate(
        [("red|blue", "train"), ("green", "train"), ("blue", "train"), ("", "train"), ("green|blue", "val")]
    ):
        write(tmp_path / f"{i}.png", (9, 9, 9))
        rows.append(f"{i}.png,{labels},{split}")
    (tmp_path / "labels.csv").write_text("\n".join(rows) + "\n")
    data = module(tmp_path)
    assert data.multi_label is True
    counts = dict(zip(data.class_names, data.class_counts, strict=True))
    assert counts == {"blue": 2, "green": 1, "red": 1}
    batch = next(iter(data.val_dataloader()))
    assert batch["label"].dtype == torch.float32
    assert {data.class_names[k] for k in batch["label"][0].nonzero().flatten().tolist()} == {"blue", "green"}


def test_every_channel_count(folders: Path) -> None:
    batch = next(iter(module(folders, in_channels=1).train_dataloader()))
    assert batch["image"].shape == (4, 1, 16, 16)
