"""Slices of backbones that freeze, thaw and get their learning rate together. Stage 0 is nearest the head."""

from collections.abc import Collection, Mapping, Sequence, Set
from dataclasses import dataclass
from itertools import accumulate, pairwise

from torch import nn

from lit_vision.errors import UserError
from lit_vision.networks.backbone_stages import stages
from lit_vision.networks.name_patterns import matching


@dataclass(frozen=True)
class Stages:
    """What of some backbones thaws when; the classifiers among them are in none.

    Attributes:
        names: of the parameters of each stage, with the prefix of their backbone, stage 0 nearest the head.
        never: parameters that stay frozen.
        by_backbone: prefix -> those of `names` that lie in this backbone, stage by stage; empty where it has none.
    """

    names: list[list[str]]
    never: list[str]
    by_backbone: dict[str, list[list[str]]]


def divide(
    backbones: Mapping[str, nn.Module],
    patterns: Sequence[str] | None = None,
    max_stages: int | None = None,
    never: Sequence[str] = (),
    module: nn.Module | None = None,
) -> Stages:
    """The stages of all backbones together: stage k holds the k-th stage of each backbone that has one.

    Every parameter but those of the heads is in exactly one stage or in `never`. One that is used in several places
    belongs to the stage nearest the head, or with a head to none.

    Args:
        backbones: prefix of the parameters' names -> network.
        patterns: names of parameters or modules within the backbones, or regular expressions that match the beginning
            of names; one stage each, nearest the head first. What two of them match belongs to the first. Of several
            backbones, names that begin with a backbone's prefix, or part of it, mean that one alone. None: as the
            networks are built.
        max_stages: neighbouring stages join until there are this many, in the way in which the sum of the squares of
            their numbers of parameters is least; of equal ways, in the one whose stages near the head are smallest.
        never: as patterns; what they match stays frozen.
        module: what the backbones are parts of. What its other parts use, too, belongs to the head.

    Raises:
        UserError: a pattern matches nothing, or nothing that is left; patterns leave parameters out; max_stages < 1.
    """
    if max_stages is not None and max_stages < 1:
        raise UserError(f"max_stages is {max_stages}, but there is at least one stage: give 1 or more, or null.")
    named = _named(backbones) if module is None else dict(module.named_parameters())
    stage_of = _as_built(backbones, named, _outside(module, backbones))
    known = _known(backbones, named, stage_of)
    frozen = {name for pattern in never for name in _meant("never", pattern, known)}
    if patterns is not None:
        stage_of = _by_patterns(patterns, known, frozen)
        _check_complete(known, stage_of.keys() | frozen, backbones)
    names: list[list[str]] = [[] for _ in range(max(stage_of.values(), default=-1) + 1)]
    for name in named:
        if name in stage_of and name not in frozen:
            names[stage_of[name]].append(name)
    names = _joined(list(filter(None, names)), named, max_stages)
    owner = {id(p): prefix for prefix, backbone in reversed(list(backbones.items())) for p in backbone.parameters()}
    own = {
        prefix: [[name for name in stage if owner[id(named[name])] == prefix] for stage in names]
        for prefix in backbones
    }
    return Stages(names, [name for name in named if name in frozen], own)


def _named(backbones: Mapping[str, nn.Module]) -> dict[str, nn.Parameter]:
    """All parameters, tied ones under the first of their names."""
    every = [(f"{prefix}.{name}", p) for prefix, net in backbones.items() for name, p in net.named_parameters()]
    first = {id(parameter): name for name, parameter in reversed(every)}
    return {name: parameter for name, parameter in every if first[id(parameter)] == name}


def _outside(module: nn.Module | None, backbones: Mapping[str, nn.Module]) -> set[int]:
    """Parameters that parts of `module` beside the backbones use."""
    inside = tuple(f"{prefix}." for prefix in backbones)
    named = module.named_parameters(remove_duplicate=False) if module is not None else ()
    return {id(parameter) for name, parameter in named if not name.startswith(inside)}


def _as_built(
    backbones: Mapping[str, nn.Module], named: Mapping[str, nn.Parameter], heads: Collection[int]
) -> dict[str, int]:
    """Name -> stage, without what is in `heads` or the head of any backbone."""
    nearest: dict[int, int] = {}
    for backbone in backbones.values():
        slices = [[backbone.get_parameter(name) for name in names] for names in stages(backbone)]
        body = {id(parameter) for parameters in slices for parameter in parameters}
        heads = {*heads, *(id(parameter) for parameter in backbone.parameters() if id(parameter) not in body)}
        for stage, parameters in enumerate(slices):
            for parameter in parameters:
                nearest[id(parameter)] = min(stage, nearest.get(id(parameter), stage))
    return {
        name: nearest[id(parameter)]
        for name, parameter in named.items()
        if id(parameter) in nearest and id(parameter) not in heads
    }


def _known(
    backbones: Mapping[str, nn.Module], named: Mapping[str, nn.Parameter], staged: Collection[str]
) -> dict[str, list[str]]:
    """Every name within a backbone, tied parameters having several -> the staged parameters that it stands for.

    Of several backbones the names with the prefix, too: else networks of one kind could only thaw together.
    """
    names = {id(parameter): name for name, parameter in named.items() if name in staged}
    known: dict[str, list[str]] = {}
    for prefix, backbone in backbones.items():
        for inner, parameter in backbone.named_parameters(remove_duplicate=False):
            for name in (inner, f"{prefix}.{inner}")[: len(backbones)] if id(parameter) in names else ():
                known.setdefault(name, []).append(names[id(parameter)])
    return known


def _meant(key: str, pattern: str, known: Mapping[str, list[str]]) -> list[str]:
    return [name for inner in matching(key, pattern, list(known)) for name in known[inner]]


def _by_patterns(patterns: Sequence[str], known: Mapping[str, list[str]], frozen: Collection[str]) -> dict[str, int]:
    stage_of: dict[str, int] = {}
    for stage, pattern in enumerate(patterns):
        left = [n for n in _meant("stages", pattern, known) if n not in stage_of and n not in frozen]
        if not left:
            raise UserError(
                f"stages: all that {pattern!r} matches belongs to the patterns before it or to never; leave it out."
            )
        stage_of.update(dict.fromkeys(left, stage))
    return stage_of


def _check_complete(known: Mapping[str, list[str]], placed: Set[str], backbones: Collection[str]) -> None:
    missing = [name for name, meant in known.items() if not set(meant) <= placed]
    if len(backbones) > 1:
        missing = [name for name in missing if name.startswith(tuple(f"{prefix}." for prefix in backbones))]
    if missing:
        some = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
        raise UserError(f"stages: no pattern matches {some}; add a pattern for them, or put them under never.")


def _joined(names: list[list[str]], named: Mapping[str, nn.Parameter], most: int | None) -> list[list[str]]:
    """Neighbouring stages in at most `most` groups, see `divide`; names stay in the order of `named`."""
    total = [0, *accumulate(sum(named[name].numel() for name in stage) for stage in names)]
    ends = _ends(total, len(names) if most is None else min(most, len(names)))
    order = {name: i for i, name in enumerate(named)}
    return [
        sorted((name for stage in names[start:end] for name in stage), key=order.__getitem__)
        for start, end in pairwise([0, *ends])
    ]


def _ends(total: Sequence[int], groups: int) -> list[int]:
    """Ends of `groups` groups of neighbours with the least sum of squared sizes; `total` sums the sizes up, from 0."""
    count = len(total) - 1
    if groups in (0, count):
        return list(range(1, count + 1))
    best = {start: ((total[count] - total[start]) ** 2, [count]) for start in range(count)}
    for _ in range(groups - 1):
        best = {
            start: min(((total[i] - total[start]) ** 2 + best[i][0], [i, *best[i][1]]) for i in best if i > start)
            for start in range(max(best))
        }
    return best[0][1]
