"""One training on several processes, one a GPU or a machine, started by ``torchrun``.

Each process has the whole model and the whole data, and computes on its part of every batch.
Gradients and relevances are averaged over all samples of the batch, so that every process takes the
same step, finds the same λ and assigns the same centroids.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from ecqx.modules import MainOutput


@contextmanager
def connected() -> Iterator[None]:
    """Connect the processes that ``torchrun`` started; nothing happens without it.

    On a machine with GPUs each process has one of its own from then on.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    gpu = int(os.environ.get("LOCAL_RANK", "0"))
    if gpu < torch.cuda.device_count():
        torch.cuda.set_device(gpu)
    distributed.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield
    finally:
        distributed.destroy_process_group()


def is_connected() -> bool:
    """Whether this is one of several processes."""
    return distributed.is_available() and distributed.is_initialized()


def is_first() -> bool:
    """Whether this process is the one that writes and speaks."""
    return not is_connected() or distributed.get_rank() == 0


def wait_for_all() -> None:
    """Go on when all processes have come here."""
    if is_connected():
        distributed.barrier()


class Replicas:
    """The model of one process among those of the others.

    BatchNorm's statistics are those of a process's own part of a batch; before an evaluation all
    take those of the first process.

    Parameters
    ----------
    model : Module
        The same in all processes.
    """

    def __init__(self, model: nn.Module) -> None:
        self.rank, self.size = distributed.get_rank(), distributed.get_world_size()
        self.model = model
        # A head that has no part in the loss gets no gradient.
        self.forward = DistributedDataParallel(MainOutput(model), find_unused_parameters=True)

    def share(self, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, float]:
        """This process's part of a batch.

        Returns
        -------
        inputs, targets : Tensor
            Every so many-th sample; the whole batch where a process would have one at most, which
            BatchNorm cannot be trained on.
        weight : float
            For the mean loss of the part: the mean of the weighted ones over the processes is the
            mean over the samples of the batch. (A loss that is a mean over labelled pixels weighs
            the pixels of one part like those of another.)
        """
        n = len(targets)
        if n < 2 * self.size:
            return inputs, targets, 1.0
        part = slice(self.rank, None, self.size)
        return inputs[part], targets[part], len(targets[part]) * self.size / n

    def mean(self, value: Tensor) -> Tensor:
        """The mean of a tensor over the processes."""
        total = value.detach().clone()
        distributed.all_reduce(total)
        return total / self.size

    def that_of_the_first(self, value: float) -> float:
        """The first process's number, in all of them."""
        device = next(self.model.parameters()).device
        shared = torch.tensor([value], dtype=torch.float64, device=device)
        distributed.broadcast(shared, src=0)
        return float(shared)

    def combined(self, relevances: Mapping[str, Tensor], samples: int) -> dict[str, Tensor]:
        """Relevances of the samples of all processes, from those of ``samples`` in this one."""
        counted = next(iter(relevances.values())).new_tensor([float(samples)])
        flat = torch.cat([*(r.flatten() * samples for r in relevances.values()), counted])
        distributed.all_reduce(flat)
        sizes = [r.numel() for r in relevances.values()]
        parts = torch.split(flat[:-1].div_(flat[-1]), sizes)
        return {
            name: part.reshape(r.shape)
            for (name, r), part in zip(relevances.items(), parts, strict=True)
        }

    def take_buffers_of_the_first(self) -> None:
        """Give all processes the first one's running statistics."""
        for buffer in self.model.buffers():
            distributed.broadcast(buffer, src=0)
