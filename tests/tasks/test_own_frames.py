"""Pictures of different sizes in one batch: what is found in one does not depend on the others."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lit_vision.data.dataset import Collate
from lit_vision.tasks.detection import YOLODetector
from lit_vision.tasks.instances import InstanceSegmenter
from lit_vision.tasks.own_frames import maps_in_own_frames, own_frames, part_of
from lit_vision.tasks.segmentation import SemanticSegmenter

SIZES = [(40, 70), (100, 33), (64, 96), (33, 90)]
SMALL: dict[str, Any] = {"encoder": "test_resnet", "decoder_args": {"decoder_channels": [8] * 5}}


def batch_of(sizes: list[tuple[int, int]], first: int = 0) -> Any:
    samples = []
    for k, (height, width) in enumerate(sizes):
        image = torch.randint(0, 256, (3, height, width), generator=torch.Generator().manual_seed(first + k))
        frame = torch.eye(3)[:2]
        samples.append({"image": image.to(torch.uint8), "frame": frame, "size": torch.tensor([height, width])})
    return Collate(multiple=32)(samples)


def seen(fit: str, **more: Any) -> Any:
    return SimpleNamespace(data={"fit": fit}, **{"device_mesh": None, **more})


def test_groups_are_of_the_pictures_own_sizes() -> None:
    batch = batch_of(SIZES)
    assert batch["image"].shape[-2:] == (128, 96)
    assert own_frames(seen("native"), batch) == [([0, 2, 3], (64, 96)), ([1], (128, 64))]
    assert own_frames(seen("letterbox"), batch) == [([0, 1, 2, 3], (128, 96))]
    # FSDP2's processes wait for each other in every run of the network: all of them have to run it as often.
    assert own_frames(seen("native", device_mesh=object()), batch) == [([0, 1, 2, 3], (128, 96))]
    part = part_of({**batch, "paths": list("abcd")}, [1], (128, 64))
    assert part["image"].shape == (1, 3, 128, 64)
    assert (part["paths"], part["size"].tolist()) == (["b"], [[100, 33]])


def test_maps_are_those_of_a_picture_alone() -> None:
    """A map that is the mean of all that the network sees says so most clearly."""

    def mean_of(images: torch.Tensor) -> torch.Tensor:
        return images.float().mean((1, 2, 3), keepdim=True).expand(-1, 1, *images.shape[-2:])

    batch = batch_of(SIZES)
    maps = maps_in_own_frames(seen("native"), batch, mean_of)
    for k, (height, width) in enumerate(SIZES):
        alone = mean_of(batch_of([SIZES[k]], first=k)["image"])
        assert torch.equal(maps[k, :, :height, :width], alone[0, :, :height, :width])
    assert maps[0, 0, 64:].abs().max() == 0
    assert not torch.equal(mean_of(batch["image"])[0, :, :40, :70], maps[0, :, :40, :70])  # the others' padding tells


@pytest.fixture(params=["segmenter", "instances", "detector"])
def task(request: pytest.FixtureRequest) -> Any:
    makers: dict[str, Callable[[], Any]] = {
        "segmenter": lambda: SemanticSegmenter(["ground", "thing"], **SMALL),
        "instances": lambda: InstanceSegmenter(["thing"], border_threshold=0.9, min_area=1, **SMALL),
        "detector": lambda: YOLODetector(
            ["a", "b"], backbone="csp_n", neck="pan", head="anchor_free", score_threshold=0.0, max_detections=30
        ),
    }
    made = makers[request.param]().eval()
    with torch.no_grad():
        for parameter in made.network.parameters():  # heads begin nearly blind
            parameter.add_(0.1 * torch.randn_like(parameter))
    made.data = {"fit": "native", "in_channels": 3, "depth": "full"}
    return made


def test_predictions_do_not_depend_on_the_batch(task: Any) -> None:
    with torch.inference_mode():
        together = task.predict_step(batch_of(SIZES), 0)
        alone = [task.predict_step(batch_of([size], first=k), 0)[0] for k, size in enumerate(SIZES)]
        task.data["fit"] = "letterbox"  # as if the batch's size were the pictures' own
        padded = task.predict_step(batch_of(SIZES), 0)
    assert [one.keys() for one in together] == [one.keys() for one in alone]
    for one, other in zip(together, alone, strict=True):
        for key, value in one.items():
            torch.testing.assert_close(value, other[key], rtol=1e-4, atol=1e-4)
    names = {"mask": "confidence", "instances": "instances", "boxes": "scores"}
    key = next(name for kind, name in names.items() if kind in together[0])
    differ = [one[key].shape != other[key].shape or not torch.allclose(one[key], other[key], rtol=1e-3, atol=1e-3)
              for one, other in zip(together, padded, strict=True)]  # fmt: skip
    assert any(differ)  # negative control
