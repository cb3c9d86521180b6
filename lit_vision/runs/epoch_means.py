"""The sums behind a training epoch's means, which Lightning does not keep: an epoch that was cut has them whole."""

from collections.abc import Mapping, Sequence
from typing import Any

import pytorch_lightning as pl
from torch import Tensor, distributed, zeros_like

Sums = dict[str, dict[str, Tensor]]


def epoch_sums(trainer: pl.Trainer) -> list[Sums]:
    """What has been logged for the mean (sum, extreme) over the current epoch, by process; the same on all."""
    results: Mapping[str, Any] = trainer.fit_loop.epoch_loop._results
    own: Sums = {}
    for key, metric in results.items():
        if metric.is_tensor and metric.meta.on_epoch and not metric.has_reset:
            own[key] = {"value": metric.value.detach().cpu()}
            if metric.meta.is_mean_reduction:
                own[key]["size"] = metric.cumulated_batch_size.cpu()
    if trainer.world_size == 1:
        return [own]
    every: list[Any] = [None] * trainer.world_size
    distributed.all_gather_object(every, own)
    return every


def own_sums(every: Sequence[Sums], trainer: pl.Trainer) -> Sums:
    """This process's part; with another number of processes than before, rank 0 takes what all had."""
    if len(every) == trainer.world_size:
        return dict(every[trainer.global_rank])
    total: Sums = {}
    for sums in every:
        for key, parts in sums.items():
            if "size" in parts:  # only a mean can be added up without knowing what it is of
                before = total.get(key, {name: zeros_like(part) for name, part in parts.items()})
                total[key] = {name: before[name] + part for name, part in parts.items()}
    return total if trainer.is_global_zero else {}


def add_sums(trainer: pl.Trainer, sums: Sums) -> Sums:
    """Adds earlier sums to those that have begun again; gives back those that have not yet.

    To be called after the first batch: the order of additions is then that of an uncut epoch, to the last bit.
    """
    results: Mapping[str, Any] = trainer.fit_loop.epoch_loop._results
    left: Sums = {}
    for key, parts in sums.items():
        metric = results.get(key)
        if metric is None or metric.has_reset:
            left[key] = parts
            continue
        value = parts["value"].to(metric.value.device)
        if metric.meta.is_max_reduction or metric.meta.is_min_reduction:
            metric.value = metric.meta.reduce_fx(value, metric.value)
        else:
            metric.value = value + metric.value
        if "size" in parts:
            metric.cumulated_batch_size = parts["size"].to(metric.value.device) + metric.cumulated_batch_size
    return left
