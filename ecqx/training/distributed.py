"""One training on several processes, one a GPU or a machine, started by ``torchrun``.

Each process has the whole model and the whole data, and computes on its part of every batch.
Gradients and relevances are averaged over all samples of the batch, so that every process takes the
same step, computes the same λ and assigns the same centroids.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from ecqx.modules import MainOutput


@contextmanager
def connected() -> Iterator[None]:
    """Connect the processes that ``torchrun`` started, one GPU each if there are GPUs.

    Without ``torchrun`` this does nothing.
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
    """Whether this process is the one that writes files and messages."""
    return not is_connected() or distributed.get_rank() == 0


def wait_for_all() -> None:
    """Wait until all processes have called this."""
    if is_connected():
        distributed.barrier()


class Replicas:
    """The model of this process and its replicas in the others, all with the same weights.

    A process that is not connected is the only one. BatchNorm's running statistics are those of a
    process's own parts of the batches; before an evaluation all processes take those of the first.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.rank, self.size = 0, 1
        self.forward: nn.Module = MainOutput(model)
        if is_connected():
            self.rank, self.size = distributed.get_rank(), distributed.get_world_size()
            # An auxiliary head that the loss does not use gets no gradient.
            self.forward = DistributedDataParallel(self.forward, find_unused_parameters=True)

    def share(self, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, float]:
        """This process's inputs and targets of a batch, and the weight of their mean loss.

        They are every ``size``-th sample; the whole batch where a process would have a single one,
        which BatchNorm cannot be trained on. With the weight, the mean over the processes is the
        mean over the samples. (For a mean over labelled pixels this holds only where all parts
        have equally many.)
        """
        n = len(targets)
        if n < 2 * self.size:
            return inputs, targets, 1.0
        part = slice(self.rank, None, self.size)
        return inputs[part], targets[part], len(targets[part]) * self.size / n

    def mean(self, value: Tensor) -> Tensor:
        """The mean of a tensor over the processes."""
        if self.size == 1:
            return value.detach()
        total = value.detach().clone()
        distributed.all_reduce(total)
        return total / self.size

    def value_of_first(self, value: float) -> float:
        """The first process's value, in all of them."""
        if self.size == 1:
            return value
        device = next(self.model.parameters()).device
        shared = torch.tensor([value], dtype=torch.float64, device=device)
        distributed.broadcast(shared, src=0)
        return float(shared)

    def take_buffers_of_first(self) -> None:
        """Give all processes the first one's running statistics."""
        for buffer in self.model.buffers() if self.size > 1 else ():
            distributed.broadcast(buffer, src=0)
