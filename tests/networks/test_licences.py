from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from lit_vision.errors import UserError
from lit_vision.networks.backbones import create_classifier, create_features
from lit_vision.networks.licences import licence_of
from lit_vision.networks.segmentation import create_segmenter


def test_downloaded_weights_have_the_licence_that_timm_states() -> None:
    parts = [create_classifier("resnet18", 2), create_features("resnet18.fb_swsl_ig1b_ft_in1k")]
    assert licence_of(parts, pretrained=True) == (
        "apache-2.0 (timm/resnet18.a1_in1k); cc-by-nc-4.0 (timm/resnet18.fb_swsl_ig1b_ft_in1k)"
    )
    assert licence_of(parts, pretrained=False) is None  # timm describes weights that were never loaded, too


def test_encoders_alike_are_told_once() -> None:
    encoders = [create_segmenter("unet", "resnet18", classes).backbone for classes in (1, 2)]
    assert licence_of(encoders, pretrained=True) == "apache-2.0 (timm/resnet18.a1_in1k)"


def test_files_say_it_in_their_metadata_or_not_at_all(tmp_path: Path) -> None:
    tensors = {"weight": torch.zeros(1)}
    save_file(tensors, tmp_path / "a.safetensors", {"license": "mit"})
    save_file(tensors, tmp_path / "b.safetensors")
    torch.save(tensors, tmp_path / "c.pth")
    files = [str(tmp_path / name) for name in ("a.safetensors", "b.safetensors", "c.pth")]
    assert licence_of([nn.Identity()], False, *files, None) == (
        "mit (a.safetensors); no licence stated (b.safetensors); no licence stated (c.pth)"
    )
    with pytest.raises(UserError, match=r"there is no file .*d.pth"):
        licence_of([], False, str(tmp_path / "d.pth"))


def test_checkpoints_hand_it_on(tmp_path: Path) -> None:
    torch.save({"lit_vision": {"licence": "mit (x)"}, "state_dict": {}}, tmp_path / "best.ckpt")
    torch.save({"lit_vision": {}, "state_dict": {}}, tmp_path / "old.ckpt")
    assert licence_of([], False, str(tmp_path / "best.ckpt")) == "mit (x) (best.ckpt)"
    assert licence_of([], False, str(tmp_path / "old.ckpt")) == "no licence stated (old.ckpt)"
