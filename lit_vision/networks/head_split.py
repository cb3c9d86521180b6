"""A network cut in two: a body that stands still, whose outputs can be kept, and the head that is trained on them."""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from lit_vision.errors import UserError

CHECK_SEED = 0x5EED


class HeadSplit:
    """Divides a classifier at the input of its last layer.

    Features are that input in evaluation mode. The head is the dropout that acts on it in training, the layer, and
    what follows the layer. `verify` finds the dropout and proves that the two parts together are the network.

    Args:
        network: maps images (B, C, H, W) to logits (B, K).
        head: names of its parameters that do not belong to the backbone.

    Raises:
        UserError: those do not lie in one layer.
    """

    def __init__(self, network: nn.Module, head: Collection[str]) -> None:
        self.network = network
        self.name = _common_module(network, head)
        self.layer = network.get_submodule(self.name)
        self.tail = _followers(network, self.name)
        self.dropouts: list[float] = []
        self._format = torch.contiguous_format

    def features(self, images: Tensor) -> Tensor:
        """What the last layer gets for preprocessed images, without dropout: (B, ...)."""
        with _evaluating(self.network):
            return self._reach(images)

    def logits(self, features: Tensor) -> Tensor:
        """Features -> logits (B, K), as the network gives them in its present mode."""
        if features.ndim == 4:
            features = features.contiguous(memory_format=self._format)
        for share in self.dropouts:
            features = F.dropout(features, share, self.network.training)
        for module in (self.layer, *self.tail):
            features = module(features)
        return features.flatten(1)

    def verify(self, images: Tensor) -> Tensor:
        """Proves on preprocessed images, in the network's present mode, that the parts are the whole to the last bit.

        Returns:
            The images' features.

        Raises:
            UserError: something in the body draws random numbers, or the head does not begin at its layer.
        """
        devices = [images.device] if images.device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            self.dropouts = self._dropouts_before_layer(images)
            features = self.features(images)
            channels_last = features.ndim == 4 and not features.is_contiguous()
            self._format = torch.channels_last if channels_last else torch.contiguous_format
            logits = []
            for whole in (True, False):
                torch.manual_seed(CHECK_SEED)
                logits.append(self.network(images) if whole else self.logits(features))
        if not torch.equal(*logits):
            raise self._unlike("computes otherwise in training than in evaluation")
        return features

    def _dropouts_before_layer(self, images: Tensor) -> list[float]:
        """Shares of the dropouts that act on the last layer's input and on nothing else; no other chance is left."""
        before = _random_state(images.device)
        with _Dropouts() as found:
            reached = self._reach(images, lambda: found.close())
        shares = [share for kept, share in found.calls if kept.data_ptr() == reached.data_ptr()]
        if len(shares) < len(found.calls) or not torch.equal(before, _random_state(images.device)):
            raise self._unlike("draws random numbers in training (drop_path, or dropout inside the backbone)")
        return shares

    def _reach(self, images: Tensor, then: Callable[[], None] = lambda: None) -> Tensor:
        """The tensor that goes into the last layer."""
        seen: list[Tensor] = []

        def look(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            seen.append(inputs[0])
            then()

        hook = self.layer.register_forward_pre_hook(look)
        try:
            self.network(images)
        finally:
            hook.remove()
        if len(seen) != 1:
            raise self._unlike(f"runs {len(seen)} times")
        return seen[0]

    def _unlike(self, what: str) -> UserError:
        return UserError(
            f"model.cache_features: {type(self.network).__name__} {what}, in front of its last layer {self.name}: set "
            "what is random there to 0 in model.backbone_args (such as drop_path_rate: 0), or leave cache_features out"
        )


def _random_state(device: torch.device) -> Tensor:
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()


class _Dropouts(TorchFunctionMode):
    """Leaves dropout out, and notes until it is closed what it would have acted on and its share."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Tensor, float]] = []
        self.open = True

    def close(self) -> None:
        """The last layer is reached: dropout inside it is its own."""
        self.open = False

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        options = kwargs or {}
        if func is not F.dropout:
            return func(*args, **options)
        if self.open and options["training"] and options["p"] > 0:
            self.calls.append((args[0], float(options["p"])))
        return args[0]


def _common_module(network: nn.Module, names: Collection[str]) -> str:
    """The smallest module that holds all these parameters."""
    paths = [name.split(".")[:-1] for name in names]
    common: list[str] = []
    for parts in zip(*paths, strict=False):
        if len(set(parts)) > 1:
            break
        common.append(parts[0])
    if not common:
        shown = ", ".join(sorted({path[0] for path in paths if path})) or "none"
        raise UserError(
            f"model.cache_features needs a network with one last layer, and {type(network).__name__} has "
            f"{shown}: leave cache_features out"
        )
    return ".".join(common)


def _followers(network: nn.Module, name: str) -> list[nn.Module]:
    """What the nn.Sequentials around a module run after it."""
    following: list[nn.Module] = []
    while name:
        parent, _, child = name.rpartition(".")
        around = network.get_submodule(parent)
        if not isinstance(around, nn.Sequential):
            break
        children = list(around._modules)
        following += list(around)[children.index(child) + 1 :]
        name = parent
    return following


@contextmanager
def _evaluating(network: nn.Module) -> Iterator[None]:
    """Evaluation mode inside; afterwards each module has its own mode again, held norms theirs."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
