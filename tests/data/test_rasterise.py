from dataclasses import replace
from pathlib import Path

import numpy as np
import pycocotools.mask as oracle
import pytest

from lit_vision.data.formats.outlines import mask_box, mask_polygons
from lit_vision.data.index import NO_SEGMENT, POLYGONS, RLE, Index, Packed
from lit_vision.data.rasterise import class_mask, rasterise, refuse_more_than_bytes, renumber, segmentation_classes
from lit_vision.data.rle import (
    compress,
    counts_of,
    decode_rle,
    encode_label_map,
    encode_rle,
    faulty_rles,
    join_rings,
    polygon_rle,
)
from lit_vision.errors import DataError

SIZE = (9, 12)


def make(segments: list[tuple[int, bytes]], labels: list[int], crowd: list[bool] | None = None) -> Index:
    count = len(segments)
    return Index(
        root=Path("/nowhere"),
        format="coco",
        class_names=("a", "b"),
        files=Packed.pack(["x.png"]),
        sizes=np.array([SIZE], np.int32),
        splits=np.zeros(1, np.int8),
        offsets=np.array([0, count], np.int64),
        labels=np.array(labels, np.int32),
        boxes=np.zeros((count, 4), np.float32),
        crowd=np.array(crowd or [False] * count),
        segments=Packed.pack(raw for _, raw in segments),
        segment_kinds=np.array([kind for kind, _ in segments], np.uint8),
    )


def block(y1: int, x1: int, y2: int, x2: int) -> np.ndarray:  # type: ignore[type-arg]  # bool mask
    mask = np.zeros(SIZE, np.bool_)
    mask[y1:y2, x1:x2] = True
    return mask


def test_run_lengths_equal_pycocotools() -> None:
    rng = np.random.default_rng(0)
    for _ in range(100):
        height, width = rng.integers(1, 40, 2).tolist()
        mask = rng.random((height, width)) < rng.random()
        counts = oracle.encode(np.asfortranarray(mask, np.uint8))["counts"]
        assert encode_rle(mask) == counts
        assert (decode_rle(counts, (height, width)) == mask).all()
        assert compress(counts_of(counts), (height, width)) == counts
        assert faulty_rles([counts] * 3, np.array([mask.size, mask.size + 1, mask.size])) == [1]


def test_long_runs() -> None:
    size = (3000, 4000)
    counts = np.array([5_000_000, 7_000_000])
    assert counts_of(compress(counts, size)).tolist() == counts.tolist()


@pytest.mark.parametrize("raw", [b"", b"0", b"P", b"\x20\x20", b"nothing like it", "é".encode(), b"~~~~~~~~~~~~~"])
def test_malformed_run_lengths_are_found_and_never_crash(raw: bytes) -> None:
    assert faulty_rles([raw, encode_rle(block(0, 0, 2, 2))], np.array([108, 108])) == [0]
    with pytest.raises(ValueError, match=r"."):
        decode_rle(raw, SIZE)


def test_polygons_equal_pycocotools() -> None:
    rng = np.random.default_rng(1)
    for _ in range(100):
        rings = [rng.uniform(-3, 15, (int(rng.integers(3, 8)), 2)).astype(np.float32) for _ in range(2)]
        plain = [ring.astype(float).ravel().tolist() for ring in rings]
        expected = oracle.decode(oracle.merge(oracle.frPyObjects(plain, *SIZE))).astype(bool)
        assert (decode_rle(polygon_rle(join_rings(rings), SIZE), SIZE) == expected).all()
        instances = rasterise(make([(POLYGONS, join_rings(rings).tobytes())], [0]), 0, SIZE)[0]
        assert ((instances == 1) == expected).all()


def test_a_polygon_round_whole_pixels_is_half_open() -> None:
    ring = np.array([[2, 1], [6, 1], [6, 4], [2, 4]], np.float32)
    instances, labels, crowd = rasterise(make([(POLYGONS, ring.tobytes())], [1]), 0, SIZE)
    assert ((instances == 1) == block(1, 2, 4, 6)).all()
    assert labels.tolist() == [1]
    assert labels.dtype == np.int64
    assert instances.dtype == np.int32
    assert not crowd.any()


def test_the_smaller_object_is_seen_and_hidden_ones_get_no_number() -> None:
    segments = [block(0, 0, 2, 2), block(0, 0, 5, 5), block(0, 0, 2, 2), block(7, 7, 9, 9)]
    index = make([(RLE, encode_rle(mask)) for mask in segments], [0, 1, 1, 0])
    instances, labels, _ = rasterise(index, 0, SIZE)
    expected = block(0, 0, 5, 5).astype(int)
    expected[:2, :2] = 2
    expected[7:9, 7:9] = 3
    # The first block lies under the third of the same size: no pixel, no number.
    assert instances.tolist() == expected.tolist()
    assert labels.tolist() == [1, 1, 0]


def test_crowds_and_boxes_without_outline() -> None:
    segments = [(RLE, encode_rle(block(0, 0, 4, 4))), (RLE, encode_rle(block(2, 2, 5, 5))), (NO_SEGMENT, b"")]
    index = make(segments, [0, 1, 1], crowd=[True, False, False])
    instances, labels, crowd = rasterise(index, 0, SIZE)
    assert labels.tolist() == [1]
    assert (instances == -1).sum() == 16 - 4
    assert (instances == 1).sum() == 9
    assert (crowd == block(0, 0, 4, 4)).all()
    mask = class_mask(index, 0, SIZE)
    assert np.unique(mask, return_counts=True)[0].tolist() == [0, 2, 255]
    assert ((mask == 255) == (instances == -1)).all()
    assert segmentation_classes(index) == ("background", "a", "b")


def test_no_objects() -> None:
    instances, labels, _ = rasterise(make([], []), 0, SIZE)
    assert instances.max() == 0
    assert labels.shape == (0,)
    assert class_mask(make([], []), 0, SIZE).max() == 0


def test_classes_that_a_byte_cannot_hold_are_refused() -> None:
    ring = np.array([[0, 0], [2, 0], [2, 2], [0, 2]], np.float32)
    index = replace(make([(POLYGONS, ring.tobytes())], [253]), class_names=tuple(map(str, range(254))))
    refuse_more_than_bytes(index)
    assert class_mask(index, 0, SIZE)[1, 1] == 254
    with pytest.raises(DataError, match="/nowhere has 255 classes, but a class mask holds at most 254 beside the back"):
        refuse_more_than_bytes(replace(index, class_names=tuple(map(str, range(255)))))
    painted = replace(index, mask_kind="classes", class_names=tuple(map(str, range(255))))
    refuse_more_than_bytes(painted)
    with pytest.raises(DataError, match="has 256 classes, but a class mask holds at most 255: leave some out"):
        refuse_more_than_bytes(replace(painted, class_names=tuple(map(str, range(256)))))


def test_renumber_leaves_no_gaps() -> None:
    instances, old = renumber(np.array([[0, 9, 4], [-1, 4, 70000]], np.int32))
    assert instances.tolist() == [[0, 2, 1], [0, 1, 3]]
    assert old.tolist() == [4, 9, 70000]


def test_outlines_of_masks_give_the_same_pixels_back() -> None:
    rng = np.random.default_rng(2)
    for _ in range(50):
        mask = np.zeros(SIZE, np.bool_)
        for _ in range(3):
            y, x = rng.integers(0, 6, 2)
            mask[y : y + 3, x : x + 4] = True
        rings, _ = mask_polygons(mask)
        again = np.zeros(SIZE, np.bool_)
        for ring in rings:
            again |= decode_rle(polygon_rle(ring, SIZE), SIZE)
        assert (again & ~mask).sum() <= 1
        assert (mask & ~again).sum() <= 1
    (ring,), holes = mask_polygons(block(2, 3, 4, 7))
    assert not holes
    assert sorted(map(tuple, ring.tolist())) == [(3, 2), (3, 4), (7, 2), (7, 4)]


def test_holes_of_masks_are_found_however_small() -> None:
    mask = block(1, 1, 8, 9)
    mask[4, 5] = False
    rings, holes = mask_polygons(mask)
    assert holes
    assert [ring.min(0).tolist() + ring.max(0).tolist() for ring in rings] == [[1, 1, 9, 8]]
    mask[2:7, 3:8], mask[4, 5] = False, True  # an island in the hole is covered by the filled outline
    assert (len(mask_polygons(mask)[0]), mask_polygons(mask)[1]) == (1, True)
    mask[4, 1:4] = False  # an open bay is none
    mask[4, 5] = False
    assert not mask_polygons(mask)[1]
    assert mask_polygons(np.zeros(SIZE, np.bool_)) == ([], False)


def test_mask_box() -> None:
    assert mask_box(block(2, 3, 4, 7)) == (3, 2, 7, 4)
    assert mask_box(np.zeros(SIZE, np.bool_)) == (0, 0, 0, 0)


def test_label_maps_are_encoded_as_pycocotools_does() -> None:
    rng = np.random.default_rng(3)
    for count in (1, 5, 40):
        instances = rng.integers(-1, count + 1, SIZE).astype(np.int32)
        instances[instances == 2] = 0  # a number without pixels
        assert encode_label_map(instances, count) == [encode_rle(instances == k + 1) for k in range(count)]
    assert encode_label_map(np.full(SIZE, 1, np.int32), 1) == [encode_rle(np.ones(SIZE, np.bool_))]
    assert encode_label_map(np.zeros(SIZE, np.int32), 0) == []
