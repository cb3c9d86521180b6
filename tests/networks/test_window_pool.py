"""A classifier run over a whole picture, against the same classifier run on each window."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from lit_vision.data.decode import read_image
from lit_vision.networks.backbones import create_classifier
from lit_vision.networks.window_pool import Cells, NotConvolutionalError, WindowPool, find_cells, window_logits

SHARED = Path(__file__).parents[3] / "shared"
MOBILENET, DOG = SHARED / "weights" / "mobilenetv1_025_imagenet.safetensors", SHARED / "data" / "photos" / "dog.jpg"


class Plain(nn.Module):
    """Convolutions without padding, a global mean and a linear layer, all weights whole numbers."""

    def __init__(self, *layers: nn.Module, classes: int = 3, keepdim: bool = False) -> None:
        super().__init__()
        self.body, self.keepdim = nn.Sequential(*layers), keepdim
        self.head = nn.Linear(4, classes)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randint(-2, 3, parameter.shape, generator=torch.Generator().manual_seed(1)))

    def forward(self, images: Tensor) -> Tensor:
        pooled = self.body(images).mean((2, 3), keepdim=self.keepdim)
        return self.head(pooled.flatten(1))  # type: ignore[no-any-return]


def whole_numbers(*shape: int) -> Tensor:
    return torch.randint(0, 8, shape, generator=torch.Generator().manual_seed(0)).float()


def windows_of(picture: Tensor, size: tuple[int, int], step: tuple[int, int]) -> list[Tensor]:
    rows = range(0, picture.shape[2] - size[0] + 1, step[0])
    columns = range(0, picture.shape[3] - size[1] + 1, step[1])
    return [picture[:, :, y : y + size[0], x : x + size[1]] for y in rows for x in columns]


@pytest.mark.parametrize("keepdim", [False, True])
def test_logits_of_pixels_are_those_of_each_window_to_the_bit(keepdim: bool) -> None:
    network = Plain(nn.Conv2d(3, 4, 1), nn.ReLU(), keepdim=keepdim).eval()
    assert find_cells(network, (8, 4), 3) == Cells((8, 4), (1, 1))
    picture = whole_numbers(1, 3, 20, 22)  # means of 32 cells of whole numbers are exact
    together = window_logits(network, picture, (8, 4), (4, 3))
    alone = torch.cat([network(window) for window in windows_of(picture, (8, 4), (4, 3))])
    assert together.shape == (4 * 7, 3)
    assert torch.equal(together, alone)
    assert together.std() > 1


def test_convolutions_without_padding_are_exact_as_well() -> None:
    network = Plain(nn.Conv2d(3, 4, 3, stride=2), nn.ReLU(), nn.Conv2d(4, 4, 3, stride=2)).eval()
    cells = find_cells(network, (19, 19), 3)
    assert cells == Cells((4, 4), (4, 4))  # (19 - 7) / 4 + 1
    picture = whole_numbers(1, 3, 19 + 3 * 8, 19 + 2 * 4)
    together = window_logits(network, picture, cells.count, (2, 1))
    alone = torch.cat([network(window) for window in windows_of(picture, (19, 19), (8, 4))])
    assert torch.equal(together, alone)


@pytest.mark.parametrize(
    ("name", "cells"),
    [
        ("mobilenetv1_025", Cells((4, 4), (32, 32))),
        ("resnet10t", Cells((4, 4), (32, 32))),
        ("convnext_atto", Cells((4, 4), (32, 32))),
        ("torchvision/squeezenet1_0", Cells((7, 7), (16, 16))),
        ("torchvision/shufflenet_v2_x0_5", Cells((4, 4), (32, 32))),
    ],
)
def test_networks_of_both_libraries(name: str, cells: Cells) -> None:
    torch.manual_seed(0)
    network = create_classifier(name, 5).eval()
    assert find_cells(network, (128, 128), 3) == cells
    picture = torch.rand(1, 3, 128, 128)
    with torch.no_grad():
        torch.testing.assert_close(window_logits(network, picture, cells.count, (1, 1)), network(picture))
        assert window_logits(network, torch.rand(1, 3, 192, 160), cells.count, (1, 1)).shape[1] == 5


@pytest.mark.parametrize(
    ("name", "args", "reason"),
    [
        ("test_vit", {}, "from every place"),
        ("efficientnet_lite0", {"global_pool": "max"}, "adaptive_max_pool2d"),
        ("efficientnet_b0", {}, "squeeze-and-excite"),
        ("torchvision/squeezenet1_1", None, ""),
        ("torchvision/alexnet", {}, "adaptive_avg_pool2d"),
        ("resnet18", {"norm_layer": "groupnorm"}, "group_norm"),
    ],
)
def test_networks_whose_windows_are_not_parts_of_a_picture(name: str, args: dict[str, str] | None, reason: str) -> None:
    network = create_classifier(name, 2, **(args or {})).eval()
    size = (160, 160) if name == "test_vit" else (96, 96)
    if args is None:  # the control: the same library, a network that can
        assert find_cells(network, size, 3).stride == (16, 16)
        return
    with pytest.raises(NotConvolutionalError, match=reason):
        find_cells(network, size, 3)


def test_a_head_of_one_size_is_refused() -> None:
    network = nn.Sequential(nn.Conv2d(3, 2, 8, stride=8), nn.Flatten(), nn.Linear(2 * 16, 3)).eval()
    with pytest.raises(NotConvolutionalError, match="no global average pool"):
        find_cells(network, (32, 32), 3)


def test_the_pool_is_itself_again_afterwards() -> None:
    network = Plain(nn.Conv2d(3, 4, 1)).eval()
    picture = whole_numbers(1, 3, 8, 8)
    with WindowPool((4, 4), (4, 4)):
        assert network(picture).shape == (4, 3)
    assert network(picture).shape == (1, 3)


@pytest.mark.skipif(not MOBILENET.exists() or not DOG.exists(), reason="real weights and photos in ../shared")
def test_a_real_network_sees_nearly_the_same_in_a_window_of_a_photo() -> None:
    """What differs is what convolutions see beyond a window's border: its neighbours, or padding."""
    network = create_classifier("mobilenetv1_025", 1000, weights=str(MOBILENET)).eval()
    photo = torch.from_numpy(read_image(DOG)).permute(2, 0, 1)[None, :, :320, :384].float() / 127.5 - 1
    with torch.inference_mode():
        together = window_logits(network, photo, (4, 4), (2, 2))
        windows = windows_of(photo, (128, 128), (64, 64))
        alone = torch.cat([network(window) for window in windows])
    shared = torch.corrcoef(torch.stack([together.flatten(), alone.flatten()]))[0, 1]
    shifted = torch.corrcoef(torch.stack([together.roll(1, 0).flatten(), alone.flatten()]))[0, 1]
    assert float(shared) > 0.75
    assert float(shifted) < float(shared) - 0.1  # the control: every window's neighbour
