import pytest
import torch

from lit_vision.errors import UserError
from lit_vision.networks.preprocess import Preprocess, interleave

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def test_black_white_and_one_pixel() -> None:
    preprocess = Preprocess(*IMAGENET)
    images = torch.tensor([0, 255, 128], dtype=torch.uint8).view(1, 1, 1, 3).expand(1, 3, 1, 3)
    result = preprocess(images)[0, :, 0]
    assert result.dtype == torch.float32
    expected = [[(v / 255 - m) / s for v in (0, 255, 128)] for m, s in zip(*IMAGENET, strict=True)]
    assert torch.allclose(result, torch.tensor(expected), atol=1e-6)
    assert result[0, 0].item() == pytest.approx(-2.1179039)


def test_half_scaling_gives_minus_one_to_one() -> None:
    ends = Preprocess([0.5], [0.5])(torch.tensor([0, 255], dtype=torch.uint8).view(1, 1, 1, 2))
    assert ends.flatten().tolist() == pytest.approx([-1.0, 1.0], abs=2e-7)


def test_floats_from_0_to_255_are_as_bytes() -> None:
    images = torch.randint(0, 256, (2, 3, 4, 5), dtype=torch.uint8)
    assert torch.equal(Preprocess(*IMAGENET)(images), Preprocess(*IMAGENET)(images.float()))


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_any_number_of_channels(channels: int) -> None:
    result = Preprocess([0.1 * c for c in range(channels)], [0.5] * channels)(torch.zeros(1, channels, 1, 1))
    assert torch.allclose(result.flatten(), torch.tensor([-0.2 * c for c in range(channels)]))


def test_memory_format_is_kept() -> None:
    images = torch.zeros(2, 3, 8, 8, dtype=torch.uint8).contiguous(memory_format=torch.channels_last)
    result = Preprocess(*IMAGENET)(images)
    assert result.is_contiguous(memory_format=torch.channels_last)
    assert Preprocess(*IMAGENET)(torch.zeros(2, 3, 8, 8)).is_contiguous()


@pytest.mark.parametrize("shape", [(2, 3, 5, 7), (1, 1, 4, 4), (3, 5, 1, 9), (0, 3, 4, 4)])
def test_interleaved_images_are_the_same_ones(shape: tuple[int, ...]) -> None:
    images = torch.randint(0, 256, shape, dtype=torch.uint8)
    for given in (images, images.float(), images.contiguous(memory_format=torch.channels_last), images.flip(3)):
        result = interleave(given)
        assert torch.equal(result, given)
        assert result.is_contiguous(memory_format=torch.channels_last)
    preprocess = Preprocess([0.1 * c for c in range(shape[1])], [0.5 + c for c in range(shape[1])])
    torch.testing.assert_close(preprocess(interleave(images)), preprocess(images), rtol=1e-6, atol=1e-6)


def test_autocast_and_half_modules_lose_no_bits_of_a_pixel() -> None:
    images = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    preprocess = Preprocess([0.5], [0.25])
    expected = preprocess(images)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(preprocess(images), expected)
    assert len(expected.unique()) == 256


def test_statistics_are_not_in_checkpoints() -> None:
    assert Preprocess(*IMAGENET).state_dict() == {}


def test_mistakes() -> None:
    with pytest.raises(UserError, match="mean has 2 values and std 1"):
        Preprocess([0.5, 0.5], [0.5])
    with pytest.raises(UserError, match="std must be above 0"):
        Preprocess([0.5], [0.0])
    with pytest.raises(UserError, match=r"takes images of 3 channels but got 1; in_channels"):
        Preprocess(*IMAGENET)(torch.zeros(1, 1, 2, 2))
