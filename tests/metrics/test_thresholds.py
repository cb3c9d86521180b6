"""The joint search for thresholds: against trying each combination alone, over processes, and within its bounds."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from lit_vision.metrics import thresholds
from lit_vision.metrics.thresholds import KeptPicture, KeptPictures, ThresholdSearch, grid
from lit_vision.ops.separation import Maps, Separation

START = Separation(0.5, 0.3, 8)


def pair(gap: int, blur: int = 120) -> tuple[Maps, np.ndarray]:
    """Two squares of 12 pixels that touch; the border map is as sure as `gap`, its surroundings as `blur`."""
    truth = np.zeros((20, 40), np.int32)
    truth[4:16, 4:16], truth[4:16, 16:28] = 1, 2
    foreground = np.full(truth.shape, blur, np.uint8)  # an uncertain ground
    foreground[truth > 0] = 240
    border = np.zeros_like(foreground)
    border[4:16, 15:17] = gap
    return Maps(foreground, border, np.ones_like(foreground)), truth


def test_the_grid_holds_the_start_first_and_what_is_set_stays() -> None:
    whole = grid(START)
    assert whole[0] == START
    assert len(whole) == len(set(whole)) == len(thresholds.PIXEL) * len(thresholds.BORDER) * len(thresholds.AREA)
    fixed = grid(START, pixel=False, area=False)
    assert {(one.pixel_threshold, one.min_area) for one in fixed} == {(0.5, 8)}
    assert len(fixed) == len(thresholds.BORDER)
    assert grid(START, False, False, False) == [START]


def test_it_finds_the_only_border_threshold_that_parts_the_pair() -> None:
    search = ThresholdSearch([replace(START, border_threshold=t) for t in (0.7, 0.5, 0.2)])
    search.update(0, *pair(gap=77))  # 0.3
    scores = search.scores().tolist()
    assert int(search.compute()) == 2
    assert scores[2] == 1
    # Both objects as one: each has half of the union, so the one match counts at IoU .5 alone: 1 / (1 + 0 + 1).
    assert scores[0] == scores[1] == pytest.approx(0.5 / 10)


def test_scores_are_as_exact_as_they_say() -> None:
    search = ThresholdSearch([START])
    search.objects[0], search.hits[0] = 3, 1
    assert search.scores().tolist() == [pytest.approx(1 / 3, rel=1e-15)]  # thirds of float32 would be 1e-8 off


def test_thresholds_are_found_together() -> None:
    """Neither the best pixel threshold at the first border threshold nor the reverse leads to the best of both."""
    choices = [Separation(p, b, 8) for p in (0.3, 0.6) for b in (0.7, 0.2)]
    search = ThresholdSearch(choices)
    search.update(0, *pair(gap=77, blur=120))
    assert choices[int(search.compute())] == Separation(0.6, 0.2, 8)


def test_counts_of_processes_add_up_and_ignored_pixels_count_neither_way() -> None:
    pictures = [pair(gap) for gap in (40, 77, 120, 200)]
    whole, ranks = ThresholdSearch(grid(START)), [ThresholdSearch(grid(START)) for _ in range(2)]
    for k, (maps, truth) in enumerate(pictures):
        whole.update(k, maps, truth)
        ranks[k % 2].update(k, maps, truth)
    for state in ("hits", "false", "objects"):  # what dist_reduce_fx="sum" does
        assert torch.equal(getattr(ranks[0], state) + getattr(ranks[1], state), getattr(whole, state))
    maps, truth = pair(200)
    only = ThresholdSearch([START])
    only.update(0, maps, np.where(truth == 2, 0, truth).astype(np.int32), truth == 2)
    assert only.false.sum() == 0
    assert only.scores().tolist() == [1.0]


def test_without_objects_the_start_stays() -> None:
    search = ThresholdSearch(grid(START))
    assert search.choices[int(search.compute())] == START
    nothing = np.zeros((9, 9), np.uint8)
    search.update(0, Maps(nothing, nothing, nothing), nothing.astype(np.int32))
    assert search.choices[int(search.compute())] == START


def one_with_a_line(level: int) -> tuple[Maps, np.ndarray]:
    """One object, through the middle of which the border map sees a line."""
    maps, truth = pair(gap=level)
    return maps, (truth > 0).astype(np.int32)


def asked(pictures: list[tuple[Maps, np.ndarray]]) -> ThresholdSearch:
    search = ThresholdSearch([replace(START, border_threshold=t) for t in (0.7, 0.2)])
    for k, one in enumerate(pictures):
        search.update(3 * k, *one)
    return search


def test_the_error_of_a_gain_is_that_of_leaving_each_picture_out() -> None:
    pictures = [pair(77), one_with_a_line(77), pair(77), pair(200), pair(20)]
    without = [asked([*pictures[:k], *pictures[k + 1 :]]).scores() for k in range(5)]
    differences = np.array([float(one[1] - one[0]) for one in without])
    gain, error = asked(pictures).gains()
    assert gain.tolist() == (asked(pictures).scores() - asked(pictures).scores()[0]).tolist()
    expected = np.sqrt(4 / 5 * ((differences - differences.mean()) ** 2).sum())
    assert error.tolist() == [0, pytest.approx(expected, rel=1e-12)]
    assert expected > 0.1


def test_what_may_be_luck_leaves_the_first_as_it_is() -> None:
    parted, cut = pair(77), one_with_a_line(77)
    lucky = asked([parted, cut])
    assert lucky.gains()[0][1] > 0.05
    assert int(lucky.compute()) == 0
    assert int(lucky.scores().argmax()) == 1  # negative control: the best would be another
    assert int(asked([parted] * 4 + [cut]).compute()) == 0  # a gain of 1.9 errors
    assert int(asked([parted] * 5 + [cut]).compute()) == 1  # of 2.4
    assert int(asked([parted]).compute()) == 1  # of a single picture nothing is known of chance


def test_groups_hold_several_pictures() -> None:
    """Two pictures of one group count as one."""
    search, pictures = ThresholdSearch([START, replace(START, border_threshold=0.2)]), [pair(70), pair(200), pair(65)]
    for k, index in enumerate([5, 6, 5 + thresholds.GROUPS]):
        search.update(index, *pictures[k])
    assert search.objects.tolist() == [{5: 4, 6: 2}.get(k, 0) for k in range(thresholds.GROUPS)]
    # Without the group of 6 the gain is that of two pairs that only the second one parts, 0.95; without that of 5 none.
    _, error = search.gains()
    assert float(error[1]) == pytest.approx(0.95 / 2, abs=1e-9)


def picture(index: int) -> KeptPicture:
    maps, truth = pair(77)
    return KeptPicture(index, maps, truth - 1, np.array([0, 0]), truth == 2)


def test_pictures_come_back_as_they_were() -> None:
    kept = KeptPictures()
    assert kept.add(picture(3))
    found, expected = kept[0], picture(3)
    for one, other in zip(
        (*found.maps, found.truth, found.ignored), (*expected.maps, expected.truth, expected.ignored), strict=True
    ):
        assert one.dtype == other.dtype
        assert np.array_equal(one, other)
    assert (found.index, found.labels.tolist()) == (3, [0, 0])


def test_memory_and_time_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thresholds, "MOST_KEPT", 800 * 10)
    monkeypatch.setattr(thresholds, "MOST_SEARCHED", 800 * 5)
    kept = KeptPictures()
    assert [kept.add(picture(i)) for i in range(12)] == [True] * 10 + [False] * 2
    assert kept.searched() == [0, 2, 4, 6, 8]
    assert KeptPictures().searched() == []


GAPS = [[60, 62, 64, 66], [120]]  # of the pictures of two processes


def searched(gaps: list[int]) -> int:
    search = ThresholdSearch(grid(START))
    for gap in gaps:
        search.update(gap, *pair(gap))
    return int(search.compute())  # of all processes, where there are several


def as_a_process(rank: int, address: str) -> None:
    """Prints the choice of this process of two; a process without any picture takes part."""
    torch.distributed.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    print(json.dumps([searched(GAPS[rank]), searched([*GAPS[0], *GAPS[1]] if rank == 0 else [])]))
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_choose_what_one_chooses(tmp_path: Path) -> None:
    command = [sys.executable, __file__, f"file://{tmp_path / 'meeting'}"]
    processes = [subprocess.Popen([*command, str(rank)], stdout=subprocess.PIPE, text=True) for rank in range(2)]
    try:
        outputs = [json.loads(process.communicate(timeout=300)[0]) for process in processes]
    finally:
        for process in processes:
            process.kill()
    expected = searched([*GAPS[0], *GAPS[1]])
    assert outputs == [[expected, expected]] * 2
    assert expected != searched(GAPS[1])  # negative control: a process alone would choose another


if __name__ == "__main__":
    as_a_process(int(sys.argv[2]), sys.argv[1])
