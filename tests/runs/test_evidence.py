"""per_image.npz: what is written comes back, without pickle; damage and later versions are named."""

import json
from pathlib import Path

import numpy as np
import pytest

from lit_vision.errors import UserError
from lit_vision.runs.evidence import Evidence, pooled, read

SEEN = Evidence(
    "segmentation",
    "miou",
    ["sky", "Straße"],
    ["a b/1.jpg", "ü.png"],
    np.array([2**63 + 1, 5], np.uint64),
    {
        "pixels": np.array([7, 9]),
        "cell/picture": np.array([0, 1, 1]),
        "cell/truth": np.array([0, 1, 0], np.int32),
        "cell/guess": np.array([0, 0, 1], np.int32),
        "cell/pixels": np.array([7, 4, 5]),
    },
    {"checkpoint": "best.ckpt"},
)


def same(one: Evidence, other: Evidence) -> bool:
    texts = [(x.kind, x.metric, list(x.class_names), list(x.files), x.labels.tolist(), x.facts) for x in (one, other)]
    arrays = one.arrays.keys() == other.arrays.keys()
    return texts[0] == texts[1] and arrays and all(np.array_equal(one.arrays[k], other.arrays[k]) for k in one.arrays)


def test_what_is_written_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "test" / "per_image.npz"
    SEEN.write(path)
    assert same(read(path), SEEN)
    assert [file.name for file in path.parent.iterdir()] == ["per_image.npz"]
    with np.load(path, allow_pickle=False) as file:
        assert all(file[name].dtype != object for name in file.files)


def test_pictures_are_chosen_and_pooled() -> None:
    first, second = SEEN.at(np.array([0])), SEEN.at(np.array([1]))
    assert (second.files, second.labels.tolist(), second.arrays["cell/pixels"].tolist()) == (["ü.png"], [5], [4, 5])
    assert same(pooled([first, second]), SEEN)
    assert not same(pooled([second, first]), SEEN)


@pytest.mark.parametrize("content", [b"", b"text", "half"])
def test_damage_is_named(content: bytes | str, tmp_path: Path) -> None:
    path = tmp_path / "per_image.npz"
    SEEN.write(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2] if isinstance(content, str) else content)
    with pytest.raises(UserError, match=r"per_image\.npz is damaged: delete it, and the run is tested again"):
        read(path)


def test_later_version_is_named(tmp_path: Path) -> None:
    path = tmp_path / "per_image.npz"
    SEEN.write(path)
    with np.load(path) as file:
        content = dict(file)
    content["header"] = np.array(json.dumps({**json.loads(str(content["header"])), "version": 99}))
    np.savez(path, **content)
    with pytest.raises(UserError, match="was written by a later version of lit_vision"):
        read(path)
