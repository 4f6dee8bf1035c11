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

from ecqx.experiment.search_result import Candidate
from ecqx.experiment.search_settings import WITH_BITS, SearchSettings

# Trials that are drawn at random before the estimator has something to learn from.
RANDOM_TRIALS = 8
# Finished trials that hopeless ones are known by, at least.
ENOUGH = 5
# The first trial, as far as the search allows it: the defaults of `ecqx run`.
FIRST = {"bits": 4, "lam": 0.05, "lr": 1e-3}
# Name of the constraint: a trial's bound minus the allowed loss, in points, must not be above 0.
EXCESS = "excess"
# Attributes of a trial: its number from 1, which it keeps when it is begun again, and its setting,
# as `ecqx.methods.registry.build_method` takes it, with ``lr``; then its result, or why it failed.
NUMBER, SETTING, RESULT, FAILURE = "number", "setting", "result", "failure"


class Study:
    """The trials of a search.

    Parameters
    ----------
    path : Path
        File of Optuna's journal.
    settings : SearchSettings
    """

    def __init__(self, path: Path, settings: SearchSettings) -> None:
        # Imported late: it is an extra, whose absence is one line of `ecqx.search`.
        import optuna
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.optuna, self.settings = optuna, settings
        storage = JournalStorage(JournalFileBackend(str(path)))
        self.study = optuna.create_study(storage=storage, study_name="search", load_if_exists=True)

    def begin(self) -> None:
        """Suggest the first trial; put what an earlier call left unfinished in front."""
        if not self.study.trials:
            first = {}
            for name, value in FIRST.items():
                low, high = getattr(self.settings, name)
                first[name] = min(max(value, low), high)
            self.study.enqueue_trial({"method": self.settings.methods[0], **first})
        for trial in self._in_state("RUNNING"):
            self.study.tell(trial.number, state=self.optuna.trial.TrialState.FAIL)
            self.study.enqueue_trial(trial.params, user_attrs=trial.user_attrs)

    def next(self) -> Any | None:
        """Optuna's next trial; None if as many as allowed were begun. Call it under a lock."""
        begun = len(self._in_state("COMPLETE", "PRUNED", "RUNNING"))
        if begun >= self.settings.trials:
            return None
        # From the number of trials alone: a search that was interrupted goes on as it would have.
        seed = np.random.SeedSequence((self.settings.seed, begun)).generate_state(1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", self.optuna.exceptions.ExperimentalWarning)
            self.study.sampler = self.optuna.samplers.TPESampler(
                n_startup_trials=RANDOM_TRIALS, group=True, seed=int(seed[0])
            )
        if begun < RANDOM_TRIALS and not self._in_state("WAITING"):
            # The random ones have each method in turn.
            methods = self.settings.methods
            self.study.enqueue_trial({"method": methods[begun % len(methods)]})
        trial = self.study.ask()
        trial.set_user_attr(NUMBER, trial.user_attrs.get(NUMBER, begun + 1))
        trial.set_user_attr(SETTING, self._suggested(trial))
        return trial

    def _suggested(self, trial: Any) -> dict[str, Any]:
        known = self.settings
        method = trial.suggest_categorical("method", known.methods)
        lam, lr = (
            float(f"{trial.suggest_float(name, *getattr(known, name), log=True):.3g}")
            for name in ("lam", "lr")
        )
        setting = {"method": method, "lam": lam, "lr": lr}
        if method in WITH_BITS:
            own = {p: trial.suggest_int(f"bits of {p}", *known.bits) for p in known.searched_parts}
            setting["bits"] = known.bits_by_part(trial.suggest_int("bits", *known.bits), own)
        return setting

    def report(self, trial: Any, losses: Sequence[float]) -> None:
        """Record the losses by epoch that are not recorded yet."""
        recorded = self.study.get_trials(deepcopy=False)[trial.number].intermediate_values
        for epoch in range(len(recorded), len(losses)):
            trial.report(losses[epoch], epoch)

    def is_hopeless(self, losses: Sequence[float]) -> bool:
        """`is_hopeless`, beside the trials finished so far."""
        finished = [trial.intermediate_values for trial in self._in_state("COMPLETE")]
        return is_hopeless(losses, finished, self.settings.max_drop)

    def finish(self, trial: Any, result: Mapping[str, Any]) -> None:
        """Record the result of `ecqx.experiment.trial.run_trial`."""
        trial.set_user_attr(RESULT, result)
        trial.set_constraint(EXCESS, result["bound"] - self.settings.max_drop)
        self.study.tell(trial, result["bytes"])

    def give_up(self, trial: Any, loss: float) -> None:
        """Record that a trial was hopeless, with its loss so far."""
        trial.set_constraint(EXCESS, loss - self.settings.max_drop)
        self.study.tell(trial, state=self.optuna.trial.TrialState.PRUNED)

    def fail(self, trial: Any, reason: str) -> None:
        """Record that a training failed; it counts as one that lost all accuracy."""
        trial.set_user_attr(FAILURE, reason)
        trial.report(100.0, self.settings.epochs)
        self.give_up(trial, 100.0)

    def candidates(self) -> list[Candidate]:
        """The finished trials by number."""
        found = [trial.user_attrs for trial in self._in_state("COMPLETE")]
        return sorted(
            (Candidate(own[NUMBER], own[SETTING], **own[RESULT]) for own in found),
            key=lambda one: one.number,
        )

    def pruned_epochs(self) -> list[int]:
        """Epochs of each trial that was given up."""
        pruned = self._in_state("PRUNED")
        return [len(one.intermediate_values) for one in pruned if FAILURE not in one.user_attrs]

    def failures(self) -> list[str]:
        """Why trials failed."""
        attributes = [trial.user_attrs for trial in self._in_state("PRUNED")]
        return [own[FAILURE] for own in attributes if FAILURE in own]

    def _in_state(self, *names: str) -> list[Any]:
        states = [self.optuna.trial.TrialState[name] for name in names]
        found: list[Any] = self.study.get_trials(deepcopy=False, states=states)
        return found


def losses_by_epoch(accuracies: Sequence[float], accuracy: float) -> list[float]:
    """The smallest loss of validation accuracy up to each epoch, in points.

    ``accuracy`` is that of full precision; all are fractions of one.
    """
    best: list[float] = np.maximum.accumulate(accuracies).tolist()
    return [100 * (accuracy - one) for one in best]


def is_hopeless(
    losses: Sequence[float], finished: Sequence[Mapping[int, float]], max_drop: float
) -> bool:
    """Whether a trial will lose more than allowed, even if it gains as much as others did.

    That is the largest gain that any finished trial made from this epoch on, in points.

    Parameters
    ----------
    losses : sequence of float
        `losses_by_epoch` of the trial so far.
    finished : sequence of mapping
        Those of the finished trials, by epoch from 0.
    """
    if len(finished) < ENOUGH:
        return False
    last = len(losses) - 1
    # A training may have ended before this epoch.
    gains = [one[min(last, max(one))] - one[max(one)] for one in finished]
    return losses[last] - max(gains) > max_drop
