import pytest
import torch

from lit_vision.ops.mixing import Mixing, cutmix, draw_box, draw_share, mixup

IMAGES = torch.stack([torch.full((1, 4, 4), value, dtype=torch.uint8) for value in (0, 100, 200)])
TARGETS = torch.eye(3)


def test_mixup_blends_pictures_and_targets_alike() -> None:
    images, targets = mixup(IMAGES, TARGETS, 0.75)
    assert images[:, 0, 0, 0].tolist() == pytest.approx([50.0, 75.0, 175.0])  # each with the one before it
    assert torch.allclose(targets, torch.tensor([[0.75, 0, 0.25], [0.25, 0.75, 0], [0, 0.25, 0.75]]))


def test_cutmix_shares_by_area() -> None:
    images, targets = cutmix(IMAGES, TARGETS, (1, 0, 3, 4))  # half of the picture
    assert images.dtype == torch.uint8
    assert images[1, 0].tolist() == [[100, 0, 0, 100]] * 4
    assert targets[1].tolist() == [0.5, 0.5, 0.0]
    assert IMAGES[1].unique().tolist() == [100], "the batch itself is untouched"
    _, targets = cutmix(IMAGES, TARGETS, (0, 0, 1, 4))  # a quarter of it
    assert targets[1].tolist() == [0.25, 0.75, 0.0]


def test_boxes_cover_what_is_not_kept() -> None:
    torch.manual_seed(0)
    areas = []
    for _ in range(200):
        x1, y1, x2, y2 = draw_box(40, 60, 0.75)
        assert 0 <= x1 <= x2 <= 60
        assert 0 <= y1 <= y2 <= 40
        areas.append((x2 - x1) * (y2 - y1))
    assert max(areas) == 600  # a quarter of 2400
    assert min(areas) >= 150  # centred on a corner


def test_shares_follow_torchs_seed_and_alpha() -> None:
    torch.manual_seed(3)
    first = [draw_share(1.0) for _ in range(400)]
    torch.manual_seed(3)
    assert [draw_share(1.0) for _ in range(400)] == first
    assert sum(first) / 400 == pytest.approx(0.5, abs=0.05)
    edges = [min(share, 1 - share) for share in (draw_share(0.1) for _ in range(400))]
    assert sum(edge < 0.1 for edge in edges) > 250


def test_off_changes_nothing() -> None:
    images, targets = Mixing()(IMAGES, TARGETS)
    assert images is IMAGES
    assert targets is TARGETS


def test_both_are_drawn() -> None:
    torch.manual_seed(0)
    mixing = Mixing(mixup=0.5, cutmix=1.0)
    kinds = {mixing(IMAGES, TARGETS)[0].dtype for _ in range(20)}
    assert kinds == {torch.uint8, torch.float32}
    sums = mixing(IMAGES, TARGETS)[1].sum(1)
    assert torch.allclose(sums, torch.ones(3))
