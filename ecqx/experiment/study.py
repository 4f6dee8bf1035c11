"""What is tried next: Optuna's study of a search, in a file that several processes write.

Optuna (Akiba et al., KDD 2019): its tree-structured Parzen estimator, with the allowed loss as a
constraint.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ecqx.errors import InputError
from ecqx.experiment.search_settings import WITH_BITS, SearchSettings
from ecqx.experiment.settings import parsed_bits
from ecqx.experiment.trial import is_hopeless

NAME = "search"
# Trials that are drawn at random before the estimator has something to learn from.
RANDOM_TRIALS = 8
# Name of the constraint: a trial's bound minus the allowed loss, in points, must not be above 0.
EXCESS = "excess"
# Why a training failed.
FAILURE = "failure"
# The first trial, as far as the search allows it: the defaults of `ecqx run`.
FIRST = {"bits": 4, "lam": 0.05, "lr": 1e-3}


class Study:
    """The trials of a search, in the order in which they were begun.

    Parameters
    ----------
    path : Path
        File of Optuna's journal.
    settings : SearchSettings
    """

    def __init__(self, path: Path, settings: SearchSettings) -> None:
        self.optuna = imported_optuna()
        self.settings = settings
        journal = self.optuna.storages.journal
        self.study = self.optuna.create_study(
            storage=self.optuna.storages.JournalStorage(journal.JournalFileBackend(str(path))),
            study_name=NAME,
            direction="minimize",
            load_if_exists=True,
        )

    def begin(self) -> None:
        """Suggest the first trial; put what an earlier call left unfinished in front."""
        state = self.optuna.trial.TrialState
        if not self.study.trials:
            first = {name: _clipped(v, getattr(self.settings, name)) for name, v in FIRST.items()}
            self.study.enqueue_trial({"method": self.settings.methods[0], **first})
        for trial in self.study.get_trials(states=(state.RUNNING,)):
            self.study.tell(trial.number, state=state.FAIL)
            self.study.enqueue_trial(trial.params)

    def next(self) -> Any | None:
        """Optuna's next trial; None if as many as allowed were begun. Call it under a lock."""
        begun = len(self._begun())
        if begun >= self.settings.trials:
            return None
        # From the number of trials alone: a search that was interrupted goes on as it would have.
        seed = np.random.SeedSequence((self.settings.seed, begun)).generate_state(1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", self.optuna.exceptions.ExperimentalWarning)
            self.study.sampler = self.optuna.samplers.TPESampler(
                n_startup_trials=RANDOM_TRIALS, group=True, seed=int(seed[0])
            )
        return self.study.ask()

    def suggest(self, trial: Any) -> dict[str, Any]:
        """The setting of a trial, as `ecqx.methods.registry.build_method` takes it, and ``lr``."""
        known = self.settings
        method = trial.suggest_categorical("method", known.methods)
        lam, lr = (
            float(f"{trial.suggest_float(name, *getattr(known, name), log=True):.3g}")
            for name in ("lam", "lr")
        )
        setting = {"method": method, "lam": lam, "lr": lr}
        if method in WITH_BITS:
            own = {
                part: trial.suggest_int(f"bits of {part}", *known.bits)
                for part, width in parsed_bits(known.bits_of).items()
                if width is None
            }
            setting["bits"] = known.bits_by_part(trial.suggest_int("bits", *known.bits), own)
        return setting

    def report(self, trial: Any, losses: Sequence[float]) -> None:
        """Record the losses by epoch that are not recorded yet."""
        frozen = self.study.trials[trial.number]
        for epoch, loss in enumerate(losses):
            if epoch not in frozen.intermediate_values:
                trial.report(loss, epoch)

    def is_hopeless(self, losses: Sequence[float]) -> bool:
        """`ecqx.experiment.trial.is_hopeless`, beside the trials finished so far."""
        finished: list[Mapping[int, float]] = [
            trial.intermediate_values for trial in self._finished()
        ]
        return is_hopeless(losses, finished, self.settings.max_drop)

    def finish(self, trial: Any, key: str, record: Mapping[str, Any]) -> None:
        """Record a result."""
        trial.set_user_attr("key", key)
        trial.set_constraint(EXCESS, record["bound"] - self.settings.max_drop)
        self.study.tell(trial, record["bytes"])

    def give_up(self, trial: Any) -> tuple[int, float]:
        """Record that a trial was hopeless; returns its epochs, and its loss after them."""
        losses = self.study.trials[trial.number].intermediate_values
        loss = losses[max(losses)]
        trial.set_constraint(EXCESS, loss - self.settings.max_drop)
        self.study.tell(trial, state=self.optuna.trial.TrialState.PRUNED)
        return len(losses), loss

    def fail(self, trial: Any, reason: str) -> None:
        """Record that a training failed; it counts as one that lost all accuracy."""
        trial.set_user_attr(FAILURE, reason)
        trial.set_constraint(EXCESS, 100.0)
        trial.report(100.0, self.settings.epochs)
        self.study.tell(trial, state=self.optuna.trial.TrialState.PRUNED)

    def number(self, trial: Any) -> int:
        """The number of a trial, from 1; one that was begun anew counts once."""
        return [one.number for one in self._begun()].index(trial.number) + 1

    def keys(self) -> dict[int, str]:
        """The jobs of the finished trials, by number."""
        return {self.number(trial): trial.user_attrs["key"] for trial in self._finished()}

    def _finished(self) -> list[Any]:
        states = (self.optuna.trial.TrialState.COMPLETE,)
        found: list[Any] = self.study.get_trials(deepcopy=False, states=states)
        return found

    def _begun(self) -> list[Any]:
        state = self.optuna.trial.TrialState
        states = (state.COMPLETE, state.PRUNED, state.RUNNING)
        found: list[Any] = self.study.get_trials(deepcopy=False, states=states)
        return found

    def pruned_epochs(self) -> list[int]:
        """Epochs of each trial that was given up."""
        pruned = [trial for trial in self._pruned() if FAILURE not in trial.user_attrs]
        return [len(trial.intermediate_values) for trial in pruned]

    def failures(self) -> list[str]:
        """Why trials failed."""
        attributes = [trial.user_attrs for trial in self._pruned()]
        return [own[FAILURE] for own in attributes if FAILURE in own]

    def _pruned(self) -> list[Any]:
        found: list[Any] = self.study.get_trials(states=(self.optuna.trial.TrialState.PRUNED,))
        return found


def imported_optuna() -> Any:
    """The package; ``InputError`` if it is not installed."""
    try:
        import optuna
    except ModuleNotFoundError as error:
        raise InputError(
            f"a search needs {error.name}, which is not installed: pip install 'ecqx[search]'"
        ) from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def _clipped(value: float, ends: tuple[float, float]) -> float:
    return min(max(value, ends[0]), ends[1])
