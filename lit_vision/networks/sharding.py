"""Which parts of a network FSDP2 divides over the processes by themselves."""

from collections.abc import Iterator

from torch import nn

_LISTS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def blocks(network: nn.Module) -> Iterator[nn.Module]:
    """The outermost modules with parameters whose own forward is called.

    Lists of modules are looked into: networks that give features run through them, and a list that is not called
    itself would never gather its parameters.
    """
    for child in network.children():
        if isinstance(child, _LISTS):
            yield from blocks(child)
        elif next(child.parameters(), None) is not None:
            yield child
