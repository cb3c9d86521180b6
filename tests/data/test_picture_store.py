"""Pictures kept in memory."""

import os
import pickle

import numpy as np

from lit_vision.data.picture_store import Decoded, RecentPictures, SharedPictures


class Reader:
    """Pictures of 2 x 3 that say who they are; counts."""

    def __init__(self) -> None:
        self.read: list[int] = []

    def __call__(self, position: int) -> Decoded:
        self.read.append(position)
        return np.full((2, 3, 3), position, np.uint8), 1 + position % 2


def shapes(count: int = 4) -> np.ndarray:
    return np.tile(np.array([[2, 3, 3]], np.int64), (count, 1))


def test_pictures_are_read_once_as_far_as_they_fit() -> None:
    reader, store = Reader(), SharedPictures(shapes(), 3 * 18)
    for _ in range(2):
        for position in range(4):
            pixels, factor = store.get(position, reader)
            assert (pixels == position).all()
            assert (pixels.shape, factor) == ((2, 3, 3), 1 + position % 2)
    assert reader.read == [0, 1, 2, 3, 3]
    assert not store.holds_all
    assert SharedPictures(shapes(), 4 * 18).holds_all


def test_a_picture_that_is_not_what_the_index_says_is_not_kept() -> None:
    wrong = shapes()
    wrong[1] = 2, 2, 3
    wrong[2] = 0
    reader, store = Reader(), SharedPictures(wrong, 1000)
    for _ in range(2):
        assert [int(store.get(position, reader)[0].mean()) for position in range(4)] == [0, 1, 2, 3]
    assert reader.read == [0, 1, 2, 3, 1, 2]
    assert not store.holds_all


def test_forked_processes_share_what_one_has_read() -> None:
    reader, store = Reader(), SharedPictures(shapes(), 1000)
    pid = os.fork()
    if pid == 0:
        store.get(2, reader)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    pixels, factor = store.get(2, reader)
    assert reader.read == []
    assert (pixels == 2).all()
    assert factor == 1


def test_workers_started_afresh_divide_the_limit() -> None:
    store = SharedPictures(shapes(), 4 * 18, workers=2)
    store.get(0, Reader())
    copy, reader = pickle.loads(pickle.dumps(store)), Reader()
    for _ in range(2):
        for position in range(4):
            copy.get(position, reader)
    assert reader.read == [0, 1, 2, 3, 2, 3]


def test_recent_pictures_go_in_the_order_of_their_use() -> None:
    reader, recent = Reader(), RecentPictures(2 * 18)
    for position in (0, 1, 0, 2, 0, 1):
        assert int(recent.get(position, reader)[0].mean()) == position
    assert reader.read == [0, 1, 2, 1]
    assert recent.used == 2 * 18


def test_no_room_keeps_nothing() -> None:
    reader, recent = Reader(), RecentPictures(0)
    assert [int(recent.get(position, reader)[0].mean()) for position in (3, 3)] == [3, 3]
    assert (reader.read, recent.used) == ([3, 3], 0)


def test_no_more_than_a_number_of_pictures_are_kept() -> None:
    reader, recent = Reader(), RecentPictures(most=2)
    for position in (0, 1, 0, 2, 0, 1):
        recent.get(position, reader)
    assert reader.read == [0, 1, 2, 1]
    assert recent.used == 2 * reader(0)[0].nbytes
