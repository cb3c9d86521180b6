"""A network's copy for prediction: batch normalisation and activation folded into the convolutions before them."""

import copy
from collections import Counter
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.utils.hooks import RemovableHandle

TOLERANCE = 1e-4  # of the largest output, between a network and its copy; more means that the copy is not one

# What oneDNN applies to a convolution's result while it is still in the cache.
POINTWISE: dict[type[nn.Module], str] = {
    nn.ReLU: "relu",
    nn.SiLU: "swish",
    nn.Hardswish: "hardswish",
    nn.Sigmoid: "sigmoid",
    nn.Tanh: "tanh",
    nn.Identity: "none",
}


class PackedConvolution(nn.Module):
    """A convolution and what follows it, in one call of oneDNN with weights in its own order; on CPUs.

    Args:
        convolution: its weights are taken over.
        activation: a key of `POINTWISE`, or LeakyReLU.
    """

    def __init__(self, convolution: nn.Conv2d, activation: nn.Module | None = None) -> None:
        super().__init__()
        self.convolution = convolution
        self.slope = [activation.negative_slope] if isinstance(activation, nn.LeakyReLU) else []
        self.kind = "leaky_relu" if self.slope else POINTWISE[type(activation or nn.Identity())]
        self._packed: Tensor | None = None

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) as the convolution takes it; the weights are put in order at the first call."""
        own, ops = self.convolution, torch.ops.mkldnn
        shape = [list(own.padding), list(own.stride), list(own.dilation), own.groups]
        if self._packed is None:
            self._packed = ops._reorder_convolution_weight(own.weight, *shape, list(images.shape))
        result: Tensor = ops._convolution_pointwise(images, self._packed, own.bias, *shape, self.kind, self.slope, "")
        return result


class _Flow:
    """Which module's output each module was given, in one run of a network."""

    def __init__(self, network: nn.Module, images: Tensor) -> None:
        self.calls: Counter[nn.Module] = Counter()
        self.readers: dict[nn.Module, list[nn.Module]] = {}
        # The tensor is kept, so that its id is not used again; its version tells whether it was changed in place since.
        self._made: dict[int, tuple[nn.Module, Tensor, int]] = {}
        parts = [
            one for one in network.modules() if isinstance(one, _BatchNorm) or not any(True for _ in one.children())
        ]
        handles: list[RemovableHandle] = [one.register_forward_pre_hook(self._read) for one in parts]
        handles += [one.register_forward_hook(self._write) for one in parts]
        try:
            self.outputs: list[Tensor] = list(network(images))
        finally:
            for handle in handles:
                handle.remove()

    def _read(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        self.calls[module] += 1
        maker, _, version = self._made.get(id(inputs[0]), (None, None, 0)) if inputs else (None, None, 0)
        if maker is not None and inputs[0]._version == version:
            self.readers.setdefault(maker, []).append(module)

    def _write(self, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        if isinstance(output, Tensor) and not isinstance(module, nn.Identity):  # which gives what it got
            self._made[id(output)] = (module, output, output._version)

    def after(self, module: nn.Module) -> nn.Module | None:
        """The one module that has read what this one made, where each ran once."""
        readers = [one for one in self.readers.get(module, []) if not isinstance(one, nn.Identity)]
        return readers[0] if len(readers) == 1 and self.calls[module] == self.calls[readers[0]] == 1 else None


@torch.inference_mode(False)  # whose tensors know no versions
@torch.no_grad()
def fuse(network: nn.Module, images: Tensor) -> nn.Module:
    """A copy of a network in evaluation mode whose convolutions also normalise and, on CPUs, activate.

    What follows what is seen in one run, and the copy's outputs are compared with the network's in the same run: a
    network in which a convolution's output goes elsewhere, too, is copied as it is.

    Args:
        network: gives a sequence of tensors; it is not changed.
        images: an input, (B, C, H, W); any size that the network takes. The copy takes others.

    Returns:
        The copy, without gradients; its outputs differ by less than 1e-4 of the largest.
    """
    if images.is_cuda:  # TF32 has three digits: too few to compare by
        with torch.backends.cudnn.flags(allow_tf32=False):
            return _fuse(network, images.clone())
    return _fuse(network, images.clone())


def _fuse(network: nn.Module, images: Tensor) -> nn.Module:
    plain = copy.deepcopy(network).eval().requires_grad_(False)
    flow = _Flow(plain, images)  # its modules are the copy's, so that nothing of the caller's is touched
    expected = [output.clone() for output in flow.outputs]
    for packed in [True, False] if images.device.type == "cpu" else [False]:
        fused = _replace(plain, flow, packed)
        if _agree(fused, images, expected):
            return fused
    return plain


def _agree(fused: nn.Module, images: Tensor, expected: list[Tensor]) -> bool:
    try:
        found = fused(images)
    except (RuntimeError, AttributeError, TypeError, NotImplementedError):  # oneDNN's calls are not promised to stay
        return False
    largest = max(float(output.abs().max()) for output in expected)
    return all(
        bool(((one - output).abs() <= TOLERANCE * max(largest, 1.0)).all())
        for one, output in zip(found, expected, strict=True)
    )


def _replace(network: nn.Module, flow: _Flow, packed: bool) -> nn.Module:
    replaced: dict[nn.Module, nn.Module] = {}
    for convolution in [one for one in network.modules() if _is_plain(one)]:
        _fold(convolution, flow, packed, replaced)
    # Modules listed here take the place of those in a copy that shares nothing else with the network.
    return _copied(network, replaced)


def _is_plain(module: nn.Module) -> bool:
    """An ordinary convolution, and no subclass that does something else."""
    return isinstance(module, nn.Conv2d) and (
        type(module).forward is nn.Conv2d.forward
        and module.padding_mode == "zeros"
        and not isinstance(module.padding, str)
    )


def _fold(convolution: nn.Module, flow: _Flow, packed: bool, replaced: dict[nn.Module, nn.Module]) -> None:
    assert isinstance(convolution, nn.Conv2d)
    result: nn.Conv2d = convolution
    last: nn.Module = convolution
    activation: nn.Module | None = None
    norm = flow.after(convolution)
    if isinstance(norm, nn.BatchNorm2d) and norm.running_mean is not None:
        result = fuse_conv_bn_eval(convolution, norm)
        own = getattr(norm, "act", None)  # timm's normalisation that activates as well
        activation = own if isinstance(own, nn.Module) else None
        replaced[norm] = activation or nn.Identity()
        last = norm
    if not packed:
        replaced[convolution] = result
        return
    if activation is None:
        follower = flow.after(last)
        activation = follower if follower is not None and _known(follower) else None
    if activation is not None and _known(activation):
        place = last if activation is getattr(last, "act", None) else activation
        replaced[place] = nn.Identity()
    else:
        activation = None
    replaced[convolution] = PackedConvolution(result, activation)


def _known(activation: nn.Module) -> bool:
    return isinstance(activation, nn.LeakyReLU) or type(activation) in POINTWISE


def _copied(network: nn.Module, replaced: dict[nn.Module, nn.Module]) -> nn.Module:
    """A deep copy with other modules in the place of some."""
    memo: dict[int, Any] = {id(old): new for old, new in replaced.items()}
    return copy.deepcopy(network, memo)


class InferenceCopy:
    """Keeps the fused copy of a network, and makes it again when a weight, the device or the precision has changed.

    It is no module: a task that holds it has no more parameters, and its copies and checkpoints are without it.
    """

    def __init__(self) -> None:
        self._copy: nn.Module | None = None
        self._state: tuple[Any, ...] = ()

    def __deepcopy__(self, memo: dict[int, Any]) -> "InferenceCopy":
        return InferenceCopy()

    def __reduce__(self) -> tuple[Any, ...]:
        return InferenceCopy, ()

    def __call__(self, network: nn.Module, images: Tensor) -> list[Tensor]:
        """The network's outputs for normalised images (B, C, H, W), float32 or, under bf16 autocast, bfloat16."""
        kind = images.device.type
        autocast = torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind) == torch.bfloat16
        dtype = torch.bfloat16 if autocast else images.dtype
        state = (dtype, images.device, id(network), _versions(network))
        if self._copy is None or state != self._state:
            with torch.autocast(kind, enabled=False):
                self._copy, self._state = fuse(network, images[:1]), state
            self._copy = _in_order(self._copy, dtype)
        # The copy has its own precision; autocast would convert its weights again at every call.
        with torch.autocast(kind, enabled=torch.is_autocast_enabled(kind) and not autocast):
            return list(self._copy(images.to(dtype)))


def _versions(network: nn.Module) -> list[tuple[int, int]]:
    """Changes whenever a weight or a statistic has been changed or exchanged."""
    tensors, modules = [], [network]
    for module in modules:  # which grows; parameters() takes four times as long, and this is asked at every picture
        modules += [one for one in module._modules.values() if one is not None]
        tensors += [*module._parameters.values(), *module._buffers.values()]
    return [(one.data_ptr(), 0 if one.is_inference() else one._version) for one in tensors if one is not None]


def _in_order(fused: nn.Module, dtype: torch.dtype) -> nn.Module:
    """In the precision wanted; convolutions pack their weights again."""
    for module in fused.modules():
        if isinstance(module, PackedConvolution):
            module._packed = None
    return fused.to(dtype)
