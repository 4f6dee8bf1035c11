"""Several processes that train replicas of one model: what they measure and decide in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from ecqx.modules import wrapped

# A process group of torch, None for a process by itself, or "model": that of its wrapper.
Group = Any


class Processes:
    """The processes of a group. A deep copy is the same; a pickled one has lost its group."""

    def __init__(self, group: Any = None) -> None:
        self.group = group

    def __deepcopy__(self, memo: dict[int, Any]) -> Processes:
        return self

    def __reduce__(self) -> tuple[type[Processes], tuple[()]]:
        return Processes, ()

    @property
    def _present(self) -> Any:
        """The group; None if this process is the only one since the quantizer was pickled."""
        if self.group is None and _are_several():
            raise ValueError(
                "a quantizer that was pickled has no process group; make a new one with "
                "process_group and load its state_dict"
            )
        return self.group

    def take_values_of_first(self, model: nn.Module) -> None:
        """Give all processes the parameters and buffers of the first one."""
        group = self._present
        if group is None:
            return
        source = distributed.get_global_rank(group, 0)
        for tensor in (*model.parameters(), *model.buffers()):
            # As bytes, which every backend can send; a copy, since a parameter may be strided.
            values = tensor.detach().flatten().clone()
            distributed.broadcast(values.view(torch.uint8), source, group)
            tensor.detach().copy_(values.reshape(tensor.shape))

    def mean(self, relevances: Mapping[str, Tensor], samples: int) -> dict[str, Tensor]:
        """Mean relevances over the samples of all processes; this one has ``samples`` of them."""
        group = self._present
        if group is None:
            return dict(relevances)
        counted = next(iter(relevances.values())).new_tensor([float(samples)])
        flat = torch.cat([*(r.flatten() * samples for r in relevances.values()), counted])
        distributed.all_reduce(flat, group=group)
        sizes = [r.numel() for r in relevances.values()]
        parts = torch.split(flat[:-1].div_(flat[-1]), sizes)
        return {
            name: part.reshape(r.shape)
            for (name, r), part in zip(relevances.items(), parts, strict=True)
        }


def processes_of(model: nn.Module, group: Group) -> Processes | None:
    """The processes that decide together with this one; None if it decides by itself.

    Raises
    ------
    ValueError
        If there are several, but neither the model nor ``group`` says which belong together.
    """
    if not _are_several() or group is None:
        return None
    if group != "model":
        return Processes(group)
    for module in wrapped(model):
        if isinstance(module, DistributedDataParallel):
            return Processes(module.process_group)
    raise ValueError(
        "there are several processes, but the model is not in DistributedDataParallel: give "
        "process_group (torch.distributed.group.WORLD for all of them; None: each on its own)"
    )


def _are_several() -> bool:
    connected = distributed.is_available() and distributed.is_initialized()
    return connected and distributed.get_world_size() > 1
