import pytest
import torch

from lit_vision.errors import UserError
from lit_vision.ops.anchors import (
    PAPER_ANCHORS,
    TINY_ANCHORS,
    anchor_fit,
    arrange_anchors,
    cluster_anchors,
    deal_anchors,
    refine_anchors,
)
from lit_vision.ops.boxes import size_iou


def groups(seed: int = 0) -> torch.Tensor:
    centres = torch.tensor([[10.0, 12.0], [40.0, 20.0], [90.0, 120.0]])
    noise = torch.rand(300, 2, generator=torch.Generator().manual_seed(seed)) * 0.2 + 0.9
    return centres.repeat(100, 1) * noise


def test_clusters_of_separate_groups_are_their_means() -> None:
    sizes = groups()
    anchors, overlap = cluster_anchors(sizes, 3)
    expected = torch.stack([sizes[k::3].mean(dim=0) for k in range(3)])
    torch.testing.assert_close(anchors, expected, rtol=1e-5, atol=0)
    assert overlap == pytest.approx(size_iou(sizes, expected).amax(dim=1).mean().item(), abs=1e-6)


def test_same_seed_same_anchors_sorted_by_area() -> None:
    sizes = torch.rand(500, 2, generator=torch.Generator().manual_seed(1)) * 200 + 5
    first, overlap = cluster_anchors(sizes, 9, seed=3)
    again, _ = cluster_anchors(sizes, 9, seed=3)
    assert torch.equal(first, again)
    areas = first.prod(dim=1)
    assert torch.equal(areas, areas.sort().values)
    assert overlap > size_iou(sizes, torch.tensor(PAPER_ANCHORS)).amax(dim=1).mean() > 0.5


def test_of_very_many_boxes_a_sample_is_clustered(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = groups(seed=4)
    expected, overlap = cluster_anchors(sizes, 3)
    monkeypatch.setattr("lit_vision.ops.anchors.MOST_CLUSTERED", 100)
    first, found = cluster_anchors(sizes, 3)
    assert torch.equal(cluster_anchors(sizes, 3)[0], first)
    assert not torch.equal(first, expected)
    torch.testing.assert_close(first, expected, rtol=0.03, atol=0)
    assert found == pytest.approx(size_iou(sizes.double(), first.double()).amax(dim=1).mean().item(), abs=1e-6)
    assert found == pytest.approx(overlap, abs=0.01)


@pytest.mark.slow
def test_more_boxes_than_torch_draws_from() -> None:
    sizes = groups().repeat(2**24 // 300 + 1, 1)
    anchors, overlap = cluster_anchors(sizes, 3)
    expected, mean = cluster_anchors(groups(), 3)
    torch.testing.assert_close(anchors, expected, rtol=1e-3, atol=0)
    assert overlap == pytest.approx(mean, abs=1e-3)
    assert anchor_fit(sizes, anchors).mean_iou == pytest.approx(overlap, abs=1e-6)


def test_clusters_are_a_fixed_point() -> None:
    sizes = torch.rand(200, 2, generator=torch.Generator().manual_seed(2)) * 100 + 5
    anchors, _ = cluster_anchors(sizes, 4)
    owner = size_iou(sizes, anchors).argmax(dim=1)
    means = torch.stack([sizes[owner == k].mean(dim=0) for k in range(4)])
    torch.testing.assert_close(anchors, means, rtol=1e-4, atol=0)


def test_too_few_sizes_are_refused() -> None:
    with pytest.raises(UserError, match="9 anchors cannot be clustered from 2 different box sizes"):
        cluster_anchors(torch.tensor([[4.0, 4.0], [4.0, 4.0], [5.0, 5.0], [0.0, 3.0]]), 9)


def test_as_many_anchors_as_sizes_are_the_sizes() -> None:
    sizes = torch.tensor([[10.0, 10.0], [20.0, 40.0], [10.0, 10.0]])
    anchors, overlap = cluster_anchors(sizes, 2)
    assert anchors.tolist() == [[10.0, 10.0], [20.0, 40.0]]
    assert overlap == 1.0


def test_a_cluster_that_loses_all_its_boxes_stays_where_it_was() -> None:
    drawn = torch.randint(1, 40, (10, 2), generator=torch.Generator().manual_seed(328))
    sizes = drawn.unique(dim=0)  # one of their clusters does on the way
    anchors, _ = cluster_anchors(sizes, 6)
    assert (anchors >= sizes.amin()).all(), "no anchor of size 0 is left"


def test_largest_anchors_go_to_the_coarsest_scale() -> None:
    arranged = arrange_anchors(PAPER_ANCHORS, 3)
    assert arranged[0].tolist() == [[116.0, 90.0], [156.0, 198.0], [373.0, 326.0]]
    assert arranged[2].tolist() == [[10.0, 13.0], [16.0, 30.0], [33.0, 23.0]]
    assert torch.equal(arrange_anchors(PAPER_ANCHORS[::-1], 3), arranged)
    assert arrange_anchors(TINY_ANCHORS, 2)[0].tolist() == [[81.0, 82.0], [135.0, 169.0], [344.0, 319.0]]


def test_scales_with_fewer_anchors_end_with_none() -> None:
    dealt = deal_anchors(TINY_ANCHORS[::-1], [3, 1, 2])
    assert dealt.tolist() == [
        [[81.0, 82.0], [135.0, 169.0], [344.0, 319.0]],
        [[37.0, 58.0], [0.0, 0.0], [0.0, 0.0]],
        [[10.0, 14.0], [23.0, 27.0], [0.0, 0.0]],
    ]


@pytest.mark.parametrize(
    ("anchors", "says"),
    [
        ([[10, 10]] * 4, "cannot share evenly"),
        ([[10, 10, 3]] * 3, "all above 0"),
        ([[10, -1]] * 3, "all above 0"),
        ([], "all above 0"),
    ],
)
def test_wrong_anchors_are_refused(anchors: list[list[float]], says: str) -> None:
    with pytest.raises(UserError, match=says):
        arrange_anchors(anchors, 3)


# --- how well they suit, and better ones ------------------------------------------------------------------------
def test_fit_by_hand() -> None:
    """IoUs with the best anchor: 1, a quarter, a half (not above it), 0.8; the last has no height."""
    sizes = torch.tensor([[10.0, 10.0], [5.0, 5.0], [10.0, 20.0], [40.0, 50.0], [3.0, 0.0]])
    anchors = torch.tensor([[10.0, 10.0], [50.0, 50.0]])
    assert anchor_fit(sizes, anchors) == pytest.approx((2.55 / 4, 0.5))
    assert anchor_fit(sizes, anchors, threshold=0.2) == pytest.approx((2.55 / 4, 1.0))


@pytest.mark.parametrize("seed", range(5))
def test_refinement_never_worsens_and_mostly_betters(seed: int) -> None:
    sizes = torch.rand(400, 2, generator=torch.Generator().manual_seed(seed)).square() * 200 + 4
    start, overlap = cluster_anchors(sizes, 6, seed=seed)
    refined = refine_anchors(sizes, start, 300, seed=seed)
    assert torch.equal(refined, refine_anchors(sizes, start, 300, seed=seed))
    assert refined.dtype == torch.float32
    areas = refined.prod(dim=1)
    assert torch.equal(areas, areas.sort().values)
    assert anchor_fit(sizes, refined).mean_iou > overlap + 0.001


def test_refinement_finds_the_best_single_anchor() -> None:
    """Of boxes 10 x 10 (three) and 20 x 20 (one) the mean is 12.5; the best single square is 10."""
    sizes = torch.tensor([[10.0, 10.0]] * 3 + [[20.0, 20.0]])
    refined = refine_anchors(sizes, torch.tensor([[12.5, 12.5]]), 500)
    torch.testing.assert_close(refined, torch.tensor([[10.0, 10.0]]), rtol=0.02, atol=0)
    assert anchor_fit(sizes, refined).mean_iou == pytest.approx((3 + 0.25) / 4, abs=0.01)


def test_what_is_best_stays() -> None:
    sizes = torch.tensor([[10.0, 20.0], [40.0, 30.0]])
    assert torch.equal(refine_anchors(sizes, sizes, 200), sizes)
    assert torch.equal(refine_anchors(sizes, sizes.flip(0), 0), sizes)


def test_boxes_outside_the_sample_count_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Evolved for one box alone, anchors would suit the many others worse: the first ones are given back."""
    monkeypatch.setattr("lit_vision.ops.anchors.MOST_BOXES", 1)
    sizes = torch.cat([torch.tensor([[30.0, 30.0]]).repeat(50, 1), torch.tensor([[10.0, 10.0]])])
    start = torch.tensor([[30.0, 30.0]])
    for seed in range(200):
        if int(torch.randperm(51, generator=torch.Generator().manual_seed(seed))[0]) == 50:
            assert torch.equal(refine_anchors(sizes, start, 200, seed), start)
            return
    pytest.fail("no seed draws the one")
