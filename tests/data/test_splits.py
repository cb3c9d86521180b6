from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lit_vision.data.index import Index, Packed
from lit_vision.data.splits import split
from lit_vision.errors import DataError, UserError


def make(root: Path, labels: list[list[int]], splits: list[int] | None = None, names: list[str] | None = None) -> Index:
    count = len(labels)
    return Index(
        root=root,
        format="csv",
        class_names=tuple("abc"),
        files=Packed.pack(names or [f"p{i % 10}/{i}.png" for i in range(count)]),
        sizes=np.zeros((count, 2), np.int32),
        splits=np.array(splits or [-1] * count, np.int8),
        offsets=np.cumsum([0, *map(len, labels)]).astype(np.int64),
        labels=np.array([label for row in labels for label in row], np.int32),
    )


def shares(index: Index, value: int) -> list[int]:
    chosen = [index.labels[index.span(int(i))] for i in np.flatnonzero(index.splits == value)]
    return np.bincount(np.concatenate(chosen), minlength=3).tolist()


def test_fractions_keep_the_share_of_every_class(tmp_path: Path) -> None:
    index = split(make(tmp_path, [[0]] * 60 + [[1]] * 30 + [[2]] * 10), val_fraction=0.2, test_fraction=0.1)
    for value, expected in ((0, [42, 21, 7]), (1, [12, 6, 2]), (2, [6, 3, 1])):
        np.testing.assert_allclose(shares(index, value), expected, atol=1)
    assert np.bincount(index.splits).tolist() == [70, 20, 10]


def test_the_same_seed_draws_the_same(tmp_path: Path) -> None:
    index = make(tmp_path, [[k % 3] for k in range(90)])
    first, again, other = (split(index, val_fraction=0.3, seed=seed).splits for seed in (1, 1, 2))
    assert (first == again).all()
    assert (first != other).any()


def test_unstratified_draws_differ_from_stratified(tmp_path: Path) -> None:
    index = make(tmp_path, [[0]] * 80 + [[1]] * 20)
    assert shares(split(index, val_fraction=0.5), 1)[:2] == [40, 10]
    assert any(
        shares(split(index, val_fraction=0.5, stratify=False, seed=seed), 1)[:2] != [40, 10] for seed in range(5)
    )


def test_the_only_image_of_a_class_is_for_training(tmp_path: Path) -> None:
    for seed in range(20):
        index = split(make(tmp_path, [[0]] * 9 + [[0, 2]]), val_fraction=0.4, seed=seed)
        assert index.splits[9] == 0


def test_folds_are_disjoint_and_complete(tmp_path: Path) -> None:
    index = make(tmp_path, [[k % 3] for k in range(50)], splits=[2] * 5 + [0] * 30 + [1] * 15)
    held = np.zeros(50, int)
    for fold in range(5):
        part = split(index, folds=5, fold=fold)
        assert (part.splits[:5] == 2).all()
        assert (part.splits == 1).sum() == 9
        held += part.splits == 1
    assert held.tolist() == [0] * 5 + [1] * 45


def test_groups_stay_together(tmp_path: Path) -> None:
    index = make(tmp_path, [[k % 3] for k in range(100)])
    for settings in ({"folds": 4, "fold": 1}, {"val_fraction": 0.3, "test_fraction": 0.2}):
        part = split(index, group=r"^p(\d)/", **settings)  # type: ignore[arg-type]  # a mapping of mixed types
        for name in range(10):
            assert len(set(part.splits[name::10].tolist())) == 1
        assert (part.splits == 1).any()
    columns = replace(index, groups=Packed.pack(str(k // 20) for k in range(100)))
    part = split(columns, val_fraction=0.2)
    assert (part.splits == 1).sum() == 20
    assert len(set((np.flatnonzero(part.splits == 1) // 20).tolist())) == 1


def test_list_files(tmp_path: Path) -> None:
    index = make(tmp_path, [[0]] * 4, names=["x/a.png", "x/b.png", "y/b.png", "y/c.png"])
    (tmp_path / "val.txt").write_text("a\n\ny/b.png\n")
    assert split(index, files={"val": "val.txt"}).splits.tolist() == [1, 0, 1, 0]
    (tmp_path / "train.txt").write_text("c.png\n")
    part = split(index, files={"train": "train.txt", "val": "val.txt"})
    assert part.splits.tolist() == [1, -1, 1, 0]
    assert part.notes == ("1 images are in no list and are not used.",)


def test_bad_list_files(tmp_path: Path) -> None:
    index = make(tmp_path, [[0]] * 3, names=["x/a.png", "x/b.png", "y/b.png"])
    (tmp_path / "val.txt").write_text("a\nb\nnobody\n")
    (tmp_path / "train.txt").write_text("a\n")
    with pytest.raises(DataError) as error:
        split(index, files={"val": "val.txt", "train": "train.txt"})
    assert error.value.problems == (
        "val.txt, line 2: b is the name of 2 images: write the path from the data set's folder.",
        "val.txt, line 3: nobody is no image of the data set: correct or delete the line.",
        "train.txt, line 1: a is in the list of val too: delete it from one.",
    )


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, "no images to validate on: set val_fraction"),
        ({"val_fraction": 0.2, "folds": 5, "fold": 0}, "folds and by val_fraction"),
        ({"val_fraction": 1.0}, "below 1 in sum"),
        ({"folds": 5}, "set both"),
        ({"folds": 5, "fold": 5}, "fold must be 0 to 4"),
        ({"val_fraction": 0.2, "group": "column"}, "group_column"),
        ({"val_fraction": 0.2, "group": "("}, "no regular expression"),
        ({"val_fraction": 0.2, "group": "p"}, "exactly one"),
        ({"val_fraction": 0.2, "group": "(q)"}, "does not match 10 paths, the first is p0/0.png"),
        ({"files": {"vla": "x.txt"}}, "split 'vla'"),
        ({"files": {"val": "gone.txt"}}, "gone.txt cannot be read"),
    ],
)
def test_settings_that_cannot_be(tmp_path: Path, settings: dict[str, object], words: str) -> None:
    with pytest.raises(UserError, match=words):
        split(make(tmp_path, [[0]] * 10), **settings)  # type: ignore[arg-type]  # wrong on purpose


def test_a_fraction_beside_a_folder_is_refused(tmp_path: Path) -> None:
    index = make(tmp_path, [[0]] * 4, splits=[0, 0, 0, 1])
    with pytest.raises(UserError, match="val split of 1 images already: remove val_fraction"):
        split(index, val_fraction=0.5)
    assert split(index).splits.tolist() == [0, 0, 0, 1]
    assert split(make(tmp_path, [[0]] * 4, splits=[2] * 4)).splits.tolist() == [2] * 4
