"""What ProgressiveUnfreezing tells of its stages: a table, gradient norms, the distance from where they began."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import takewhile

import torch
from rich.table import Table
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from lit_vision.networks.stages import Stages

HEAD, NEVER = "head", "never"


class UnfreezingLog:
    """Describes and measures the stages of a module.

    To be made before a checkpoint is loaded: distances are measured from the weights of that moment.

    Args:
        stages: of the module's backbones.
        module: holds them; its other parameters are its head.
        distances: keep a copy of the stages' weights on the CPU, for `distances`.
    """

    def __init__(self, stages: Stages, module: nn.Module, distances: bool = True) -> None:
        self.stages = stages
        parameters = dict(module.named_parameters())
        staged = [name for names in (*stages.names, stages.never) for name in names]
        self._members = {HEAD: sorted(parameters.keys() - set(staged), key=list(parameters).index)}
        self._members |= {f"stage{k}": names for k, names in enumerate(stages.names)} | {NEVER: stages.never}
        self._sizes = {name: parameter.numel() for name, parameter in parameters.items()}
        self._inside = Counter(path for name in parameters for path in _paths(name))
        self._first: dict[str, Tensor] = {}
        if distances:
            self._first = {name: _whole(parameters[name]).detach().to("cpu", copy=True) for name in staged}

    # --- measures -----------------------------------------------------------------------------------------------
    def grad_norms(self, module: nn.Module) -> dict[str, float]:
        """L2 norm of the gradients of "head", "stage0" ...; what has none is left out.

        The gradients are taken as they are: in 16-mixed, call it after the scaler has divided them.
        """
        norms: dict[str, Tensor] = {}
        for group, parameters in self._groups(module):
            gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
            if gradients:
                norms[group] = _norm(_norms(gradients))
        return _read(norms)

    @torch.no_grad()
    def distances(self, module: nn.Module) -> dict[str, float]:
        """How far each stage is from its first weights, relative to their length: ||w - w0|| / ||w0||.

        Where the first weights are all 0 it is ||w||. If parameters are divided among processes (FSDP2), all of them
        have to call it.
        """
        found: dict[str, Tensor] = {}
        for group, parameters in self._groups(module):
            moved, first = [], []
            for name, parameter in zip(self._members[group], parameters, strict=True):
                if name in self._first and group != NEVER:
                    now = _whole(parameter)
                    then = self._first[name].to(now.device, now.dtype, non_blocking=True)
                    moved.append(torch.linalg.vector_norm(now - then, dtype=_wide([now])))
                    first.append(torch.linalg.vector_norm(then, dtype=_wide([now])))
            if moved:
                length = _norm(first)
                found[group] = _norm(moved) / torch.where(length > 0, length, 1)
        return _read(found)

    def _groups(self, module: nn.Module) -> Iterator[tuple[str, list[nn.Parameter]]]:
        # By name: layers may have been replaced or wrapped since.
        return ((group, [module.get_parameter(name) for name in names]) for group, names in self._members.items())

    # --- words --------------------------------------------------------------------------------------------------
    def label(self, stage: int) -> str:
        """A stage in words: "stage 1 (layer3, 2.1 M parameters)"."""
        names = self.stages.names[stage]
        return f"stage {stage} ({self._modules(names)}, {self._size(names)} parameters)"

    def table(self, stages_when: Sequence[str], lrs: Mapping[str, float]) -> Table:
        """The head, the stages and what never trains: their modules, parameters, learning rates, and when they open.

        Args:
            stages_when: when each stage opens, in words.
            lrs: learning rates of "head", "stage0" ..., as from `learning_rates`.
        """
        table = Table(title="Progressive unfreezing", title_justify="left")
        for title in ("part", "modules", "parameters", "learning rate", "trains"):
            table.add_column(title, justify="right" if title in ("parameters", "learning rate") else "left")
        opens = {HEAD: "from the start", **{f"stage{k}": when for k, when in enumerate(stages_when)}, NEVER: "never"}
        for group, names in self._members.items():
            if names:
                table.add_row(group, self._modules(names), self._size(names), _rates(group, lrs), opens[group])
        return table

    def _size(self, names: Sequence[str]) -> str:
        count = sum(self._sizes[name] for name in names)
        return f"{count / 1e6:.1f} M" if count >= 1e6 else f"{count / 1e3:.1f} k" if count >= 1000 else str(count)

    def _modules(self, names: Sequence[str]) -> str:
        """The largest modules that these parameters fill, from the first to the last one, below their backbone."""
        within = Counter(path for name in names for path in _paths(name))
        filled = [next(path for path in _paths(name) if within[path] == self._inside[path]) for name in names]
        by_backbone: dict[str, list[str]] = {}
        for path in dict.fromkeys(filled):
            shared, prefix = max((_shared(path, prefix), prefix) for prefix in ("", *self.stages.by_backbone))
            by_backbone.setdefault(prefix.split(".")[0], []).append(".".join(path.split(".")[shared:]))
        spans = {network: _span(paths) for network, paths in by_backbone.items()}
        if len(self.stages.by_backbone) > 1:
            return "; ".join(f"{network}: {span}" if network else span for network, span in spans.items())
        return ", ".join(spans.values())


def _rates(group: str, lrs: Mapping[str, float]) -> str:
    """The learning rate of a part in words: "0.004; border_network 0.002"."""
    of_others = {name.removesuffix(f"/{group}"): rate for name, rate in lrs.items() if name.endswith(f"/{group}")}
    own = [f"{lrs[group]:.3g}"] if group in lrs else []
    return "; ".join(own + [f"{network} {rate:.3g}" for network, rate in of_others.items()])


def _shared(path: str, prefix: str) -> int:
    """How many names two paths begin with alike."""
    pairs = zip(path.split("."), prefix.split("."), strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def _paths(name: str) -> list[str]:
    """Of a parameter: the modules around it, the largest first, and itself."""
    parts = name.split(".")
    return [".".join(parts[: i + 1]) for i in range(len(parts))]


def _span(paths: Sequence[str]) -> str:
    if paths == [""]:
        return "all"
    return ", ".join(paths) if len(paths) < 3 else f"{paths[0]} .. {paths[-1]}"


def learning_rates(optimizer: Optimizer, initial: bool = False) -> dict[str, float]:
    """Learning rates by "head", "stage0" ..., of an optimizer with the groups of `tasks.optimization`.

    Where another network's group has a rate of its own, it has an entry such as "border_network/head".

    Args:
        optimizer: groups without such a name are left out.
        initial: those that the scheduler began with, before it warmed up.
    """
    rates: dict[str, float] = {}
    first: dict[str, str] = {}  # part -> the network whose rate it is
    for group in optimizer.param_groups:
        parts = str(group.get("name", "")).split("/")
        network = parts[0].split(".")[0]
        for part in parts:
            if part == HEAD or part.startswith("stage"):
                rate = float(group.get("initial_lr", group["lr"]) if initial else group["lr"])
                if rates.setdefault(part, rate) != rate and first[part] != network:
                    rates[f"{network}/{part}"] = rate
                first.setdefault(part, network)
    return rates


def _whole(tensor: Tensor) -> Tensor:
    whole: Tensor = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    return whole


def _wide(tensors: Sequence[Tensor]) -> torch.dtype:
    """A type in which squares of half floats neither overflow nor vanish."""
    return torch.float64 if any(tensor.dtype == torch.float64 for tensor in tensors) else torch.float32


def _norms(tensors: Sequence[Tensor]) -> Sequence[Tensor]:
    wide = _wide(tensors)
    if any(isinstance(tensor, DTensor) for tensor in tensors):  # the fused norm does not take them with a dtype
        return [_whole(torch.linalg.vector_norm(tensor.to(wide))) for tensor in tensors]
    return torch._foreach_norm(list(tensors), dtype=wide)


def _norm(norms: Sequence[Tensor]) -> Tensor:
    """L2 norm of all that these are the norms of."""
    whole: Tensor = torch.linalg.vector_norm(torch.stack(list(norms)))
    return whole


def _read(values: Mapping[str, Tensor]) -> dict[str, float]:
    """Numbers on a device, fetched all at once."""
    if not values:
        return {}
    numbers: list[float] = torch.stack(list(values.values())).tolist()
    return dict(zip(values, numbers, strict=True))
