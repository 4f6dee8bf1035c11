"""The interface of a method of the comparison."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar, Literal

from torch import Tensor, nn

from ecqx.training.constraint import Constraint


class Method(ABC):
    """One way from a pre-trained model to a small file, with its settings.

    Attributes
    ----------
    suffix : str
        Of the names of its files.
    selection : {"best", "last"}
        Which epoch's state is kept, as in `ecqx.training.trainer.FitSettings`.
    is_trained : bool
        Whether weights are constrained in training. Where they are not, the model is trained on in
        full precision for as many epochs, and compressed afterwards.
    """

    suffix: ClassVar[str]
    selection: ClassVar[Literal["best", "last"]] = "best"
    is_trained: ClassVar[bool] = True

    def constrain(self, model: nn.Module, steps: int) -> Constraint | None:
        """Hold a model's weights to the method's form.

        Parameters
        ----------
        model : Module
            Changed in place.
        steps : int
            Of the whole training.

        Returns
        -------
        Constraint or None
            For `ecqx.training.trainer.Trainer`; None where weights are not constrained.
        """
        return None

    @abstractmethod
    def write(self, path: Path, model: nn.Module, constraint: Constraint | None) -> None:
        """Write the trained model to one file that `read` restores it from."""

    @abstractmethod
    def read(self, path: Path) -> dict[str, Tensor]:
        """The state_dict of a file that `write` wrote: every tensor of the model, on the CPU."""
