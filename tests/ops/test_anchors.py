import pytest
import torch

from lit_vision.errors import UserError
from lit_vision.ops.anchors import PAPER_ANCHORS, TINY_ANCHORS, arrange_anchors, cluster_anchors
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


def test_clusters_are_a_fixed_point() -> None:
    sizes = torch.rand(200, 2, generator=torch.Generator().manual_seed(2)) * 100 + 5
    anchors, _ = cluster_anchors(sizes, 4)
    owner = size_iou(sizes, anchors).argmax(dim=1)
    means = torch.stack([sizes[owner == k].mean(dim=0) for k in range(4)])
    torch.testing.assert_close(anchors, means, rtol=1e-4, atol=0)


def test_too_few_sizes_are_refused() -> None:
    with pytest.raises(UserError, match="9 anchors cannot be clustered from 2 different box sizes"):
        cluster_anchors(torch.tensor([[4.0, 4.0], [4.0, 4.0], [5.0, 5.0], [0.0, 3.0]]), 9)


def test_largest_anchors_go_to_the_coarsest_scale() -> None:
    arranged = arrange_anchors(PAPER_ANCHORS, 3)
    assert arranged[0].tolist() == [[116.0, 90.0], [156.0, 198.0], [373.0, 326.0]]
    assert arranged[2].tolist() == [[10.0, 13.0], [16.0, 30.0], [33.0, 23.0]]
    assert torch.equal(arrange_anchors(PAPER_ANCHORS[::-1], 3), arranged)
    assert arrange_anchors(TINY_ANCHORS, 2)[0].tolist() == [[81.0, 82.0], [135.0, 169.0], [344.0, 319.0]]


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
