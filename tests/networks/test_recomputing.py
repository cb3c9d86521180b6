"""Recomputed blocks give the very results of kept ones, running statistics included, for less memory."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lit_vision.errors import UserError
from lit_vision.networks.recomputing import recompute_blocks
from lit_vision.networks.segmentation import create_segmenter


def step(network: nn.Module) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
    """Output, gradients and buffers of a training step."""
    torch.manual_seed(1)  # of what is dropped
    output = network(torch.randn(2, 3, 64, 64))
    output.square().mean().backward()
    gradients = {name: p.grad for name, p in network.named_parameters() if p.grad is not None}
    return output.detach(), gradients, dict(network.named_buffers())


@pytest.mark.parametrize(
    ("decoder", "encoder", "args"),
    [
        ("unet", "resnet18", {"drop_path_rate": 0.2}),
        ("deeplabv3plus", "mobilenetv3_small_050", {}),
        ("unet", "efficientnet_b0", {"drop_path_rate": 0.2}),
        ("unet", "resnest14d", {}),
        ("unet", "hrnet_w18_small", {}),  # its blocks change the list that they are given
        ("unet", "densenet121", {}),  # its callers add to the list that they gave
        ("segformer", "convnext_atto", {}),
        ("dpt", "vit_tiny_patch16_224", {}),
    ],
)
def test_a_step_is_the_same_to_the_bit(decoder: str, encoder: str, args: dict[str, Any]) -> None:
    torch.manual_seed(0)
    kept = create_segmenter(decoder, encoder, 3, encoder_args=args).train()
    recomputed = copy.deepcopy(kept)
    recompute_blocks(recomputed.backbone)
    recomputed = copy.deepcopy(recomputed)  # an average of the weights is made so: it must not call the first one's
    (output, gradients, buffers), again = step(kept), step(recomputed)
    assert torch.equal(output, again[0])
    assert gradients.keys() == again[1].keys()
    assert all(torch.equal(gradient, again[1][name]) for name, gradient in gradients.items())
    assert all(torch.equal(buffer, again[2][name]) for name, buffer in buffers.items())


def test_activations_inside_blocks_are_not_kept() -> None:
    saved = []
    for grad_checkpointing in (False, True):
        network = create_segmenter("unet", "resnet50", 2, grad_checkpointing=grad_checkpointing).train()
        sizes: list[int] = []

        def pack(tensor: Tensor, sizes: list[int] = sizes) -> Tensor:
            sizes.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            network.network.encoder(torch.randn(1, 3, 64, 64))
        saved.append(sum(sizes))
    assert saved[1] < saved[0] / 5


def test_names_of_weights_stay_and_evaluation_does_not_recompute() -> None:
    plain = create_segmenter("unet", "resnet18", 2)
    network = create_segmenter("unet", "resnet18", 2, grad_checkpointing=True).eval()
    assert plain.state_dict().keys() == network.state_dict().keys()
    with torch.no_grad():
        assert network(torch.randn(1, 3, 32, 32)).shape == (1, 2, 32, 32)


def test_an_encoder_without_blocks_is_refused() -> None:
    with pytest.raises(UserError, match="has no blocks to recompute"):
        create_segmenter("unet", "vgg11", 2, grad_checkpointing=True)
