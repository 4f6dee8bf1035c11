"""The smallest file for an allowed loss of accuracy: many trainings from one network."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout
from numpy.typing import NDArray
from torch import nn

from ecqx.coding import bitstream
from ecqx.coding.tensor_files import read_tensors, write_tensors
from ecqx.data.tensors import TensorData
from ecqx.errors import InputError, input_errors
from ecqx.experiment.jobs import checksum, key_of, read_record, run_all, run_job
from ecqx.experiment.prepare import constrain, new_folders_removed
from ecqx.experiment.search_result import Candidate, SearchResult, page_of
from ecqx.experiment.search_settings import WITH_BITS, SearchSettings
from ecqx.experiment.start import UNFIT, Build, as_if_trained
from ecqx.experiment.study import Study, imported_optuna
from ecqx.experiment.trial import (
    FILE,
    Trial,
    classified_correctly,
    drop_with_bound,
    losses_by_epoch,
    method_of,
)
from ecqx.files import expanded, write_atomically, write_text
from ecqx.modules import copied, load_state, main_output, state_of
from ecqx.progress import announced
from ecqx.quantizers.parameters import used_parts
from ecqx.relevance.settings import RelevanceWarning
from ecqx.training.device import find_device
from ecqx.training.objectives import CLASSIFICATION, check_fit, objective_of
from ecqx.training.trainer import Epoch, Trainer
from ecqx.version import __version__

Say = Callable[[str], object]
# Results, and what a search is continued from: its settings, the network in full precision,
# Optuna's journal, and a folder for each trial.
SMALLEST, RECORD, PAGE = "smallest.ecqx", "search.json", "search.html"
SETTINGS, START, JOURNAL = "settings.json", "full_precision.safetensors", "study.journal"
TRIALS = "trials"
# Packages of the extra that draw the page.
PACKAGES = ("altair", "jinja2", "pikepdf", "scipy", "vl_convert")


class _PrunedError(Exception):
    """Ends the training of a hopeless trial."""


class _TimeIsUpError(Exception):
    """Ends a training that a later call continues."""


def _silent(line: str) -> None:
    """Say nothing."""


def search(
    build: Build,
    data: TensorData,
    folder: str | Path = "search",
    *,
    device: str = "auto",
    say: Say = _silent,
    **settings: Any,
) -> SearchResult:
    """Search the smallest file whose loss of accuracy is within an allowed one.

    Each trial quantizes the same full-precision network by another method, bit width, Λ and
    learning rate, in a training of its own. Of the files whose loss of validation accuracy has a
    95 % upper bound (paired bootstrap over the samples) of at most ``max_drop`` points the smallest
    is chosen; if there is none, the one with the smallest bound. Only the chosen one is evaluated
    on the test data.

    Parameters
    ----------
    build : callable
        Returns the network in full precision, trained unless there are ``pretrain_epochs``. Called
        once in each process, after torch's generators are seeded.
    data : TensorData
        With one label a sample.
    folder : path
        For the results, ``smallest.ecqx``, ``search.json`` and ``search.html``, and for what a
        search is continued from: by the same call after an interruption, or with more trials.
    device : {"auto", "cpu", "cuda"}
    say : callable
        Gets a line for each trial that has ended.
    **settings
        See `ecqx.experiment.search_settings.SearchSettings`.

    Returns
    -------
    SearchResult

    Raises
    ------
    InputError
        Before any training: if a setting is out of range, a package is missing, a method, the
        network and the data do not fit, or the folder holds another search. Afterwards: if no trial
        has ended in ``minutes``, or all failed.
    TypeError
        If there is no such setting.

    Examples
    --------
    >>> import ecqx
    >>> from ecqx.data import digits
    >>> def build():
    ...     return ecqx.models.build("mlp_gsc", in_features=64, num_classes=10)
    >>> found = ecqx.search(build, digits(), pretrain_epochs=20, max_drop=2)  # doctest: +SKIP
    >>> print(found.summary)  # doctest: +SKIP
    """
    known = SearchSettings(**settings)
    _check_packages()
    place = find_device(device)
    if objective_of(data.validation.targets) is not CLASSIFICATION:
        raise InputError(
            f"{data.label}: a search compares files sample by sample, which needs data with one "
            "label a sample"
        )
    searched = _Search(expanded(folder), known, build, data, place, say)
    network = searched.build_network()
    _check_fit(known, network, data)
    with new_folders_removed(searched.folder), searched.locked():
        searched.check_identity(network)
        searched.train_start(network)
        searched.run_trials()
        return searched.conclude()


def _check_packages() -> None:
    imported_optuna()
    missing = next((name for name in PACKAGES if find_spec(name) is None), None)
    if missing:
        raise InputError(
            f"a search needs {missing}, which is not installed: pip install 'ecqx[search]'"
        )


def _check_fit(settings: SearchSettings, network: nn.Module, data: TensorData) -> None:
    """Raise ``InputError`` if network and data, or one of the methods, do not fit."""
    with input_errors(""):
        for name in ("exclude", "include"):
            used_parts(network, name, getattr(settings, name))
    x, y = next(data.train.batches(2))
    start = as_if_trained(network, settings.pretrain_epochs).to(x.device).eval()
    splits = [split.targets for split in (data.train, data.validation, data.test)]
    try:
        with torch.no_grad():
            check_fit(main_output(start(x)), y, splits)
    except InputError:
        raise
    except UNFIT as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"the network does not take {data.label} ({reason})") from error
    for name in settings.methods:
        setting: dict[str, Any] = {"method": name, "lam": settings.lam[0]}
        if name in WITH_BITS:
            setting["bits"] = settings.bits_by_part(settings.bits[0], {})
        with input_errors(f"{name}: "):
            quantizer = constrain(method_of(setting, settings), copied(start), steps=1)
            # Measures relevance, where the method does.
            quantizer.update(x, y)


@dataclass(frozen=True)
class _Search:
    """A search in one folder, or a process that takes part in it."""

    folder: Path
    settings: SearchSettings
    build: Build
    data: TensorData
    device: torch.device
    say: Say
    # When no further trial is begun, in seconds since the epoch.
    until: float = math.inf

    def build_network(self) -> nn.Module:
        """The network as ``build`` makes it, the same in each process and each call."""
        with torch.random.fork_rng():
            torch.manual_seed(self.settings.seed)
            return self.build().to(self.device)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """The folder, held against another search."""
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(self.folder / ".lock", timeout=0):
                yield
        except Timeout as error:
            raise InputError(f"{self.folder}: another search is running here") from error

    def check_identity(self, network: nn.Module) -> None:
        """Record what a continued search must share; ``InputError`` if the folder has another."""
        identity: dict[str, Any] = {
            **self.settings.lasting,
            "device": self.device.type,
            "data": self.data.checksum(),
            "network": _digest(network),
            "version": __version__,
        }
        path = self.folder / SETTINGS
        if not path.exists():
            write_text(path, json.dumps(identity, indent=1) + "\n")
            return
        with input_errors(f"{path}: "):
            earlier = json.loads(path.read_text("utf-8"))
        different = [name for name in identity if earlier.get(name) != identity[name]]
        if different:
            name = different[0]
            raise InputError(
                f"{self.folder}: holds a search with another setting of {name} "
                f"({earlier.get(name)}, not {identity[name]}); name another folder"
            )

    def train_start(self, network: nn.Module) -> None:
        """Write the network that all trials start from; train it before, if that is asked for."""
        if (self.folder / START).exists():
            return
        fit, data = self.settings.pretraining, self.data.to(self.device)
        progress = self.folder / ".pretraining.pt"
        trainer = Trainer(network, data.train, data.validation, fit, self.settings.seed)
        trainer.fit(progress=True, resume=progress)
        write_tensors(self.folder / START, state_of(network))
        progress.unlink(missing_ok=True)

    def load_start(self) -> nn.Module:
        """The network that all trials start from."""
        network = self.build_network()
        load_state(network, read_tensors(self.folder / START)[0])
        return network

    def study(self) -> Study:
        """Optuna's study of this search."""
        return Study(self.folder / JOURNAL, self.settings)

    def run_trials(self) -> None:
        """Run trials until as many as allowed have ended, or time is up."""
        self.study().begin()
        minutes, count = self.settings.minutes, self.settings.processes
        timed = replace(self, until=time.time() + 60 * minutes) if minutes else self
        if count == 1:
            _take_part(timed)
        else:
            run_all(_take_part, [timed] * count, "search")

    def conclude(self) -> SearchResult:
        """Choose a file, evaluate it on the test data, and write the results."""
        study, network = self.study(), self.load_start()
        candidates = []
        for number, key in study.keys().items():
            place = self.folder / TRIALS / key
            candidates.append(Candidate.of(number, read_record(place), place))
        failures = study.failures()
        if not candidates:
            if failures:
                raise InputError(f"{self.folder}: all trials failed: {failures[0]}")
            raise InputError(
                f"{self.folder}: no trial has ended yet; the same search goes on from there"
            )
        data = self.data.to(self.device)
        correct = classified_correctly(network, data.validation)
        state = network.state_dict().values()
        found = SearchResult(
            settings=self.settings,
            path=self.folder / SMALLEST,
            data=data.label,
            parameters=sum(t.numel() for t in state if t.is_floating_point()),
            accuracy=float(correct.mean()),
            candidates=candidates,
            pruned=study.pruned_epochs(),
            failures=failures,
        )
        source = found.chosen.folder / FILE
        write_atomically(found.path, lambda path: shutil.copyfile(source, path))
        with announced("evaluating on the test split"):
            before = classified_correctly(network, data.test)
            load_state(network, bitstream.load(found.path))
            after = classified_correctly(network, data.test)
        accuracies = {"accuracy": after.mean(), "accuracy_full_precision": before.mean()}
        test = {name: float(value) for name, value in accuracies.items()}
        found = replace(found, test=test | drop_with_bound(before, after))
        write_text(self.folder / RECORD, json.dumps(found.record, indent=1) + "\n")
        write_text(self.folder / PAGE, page_of(found))
        return found


def _digest(network: nn.Module) -> str:
    """Hash of a network's state."""
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(state_of(network).items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _take_part(searched: _Search) -> None:
    """Run trials of a search, one after the other."""
    network, data = searched.load_start(), searched.data.to(searched.device)
    correct = classified_correctly(network, data.validation)
    study = searched.study()
    while time.time() < searched.until:
        with FileLock(searched.folder / ".next.lock"):
            trial = study.next()
            if trial is None:
                return
            setting = study.suggest(trial)
        _Attempt(searched, study, trial, network, data, correct).run(setting)


@dataclass(frozen=True)
class _Attempt:
    """One of Optuna's trials, from its setting to its result."""

    searched: _Search
    study: Study
    trial: Any
    network: nn.Module
    data: TensorData
    correct: NDArray[np.bool_]

    def run(self, setting: dict[str, Any]) -> None:
        """Train by a setting, and record the result or why there is none."""
        searched, known = self.searched, self.searched.settings
        # All else is the same for all trials in the folder.
        key = key_of(start=checksum(searched.folder / START), setting=setting)
        folder = searched.folder / TRIALS / key
        folder.mkdir(parents=True, exist_ok=True)
        job = Trial(
            self.network, self.data, self.correct, setting, known, key, on_epoch=self.after_epoch
        )
        try:
            with warnings.catch_warnings():
                # `_check_fit` said it already.
                warnings.simplefilter("ignore", RelevanceWarning)
                run_job((job, folder))
        except _TimeIsUpError:
            return
        except _PrunedError:
            shutil.rmtree(folder)
            epochs, loss = self.study.give_up(self.trial)
            self.say(f"given up after epoch {epochs}: loses {loss:.2f} points")
            return
        except ValueError as error:
            # A training that diverged, for example.
            shutil.rmtree(folder)
            self.study.fail(self.trial, str(error))
            self.say(f"failed ({error})")
            return
        record = read_record(folder)
        self._report([Epoch(**epoch) for epoch in record["history"]])
        self.study.finish(self.trial, key, record)
        one = Candidate.of(self.study.number(self.trial), record, folder)
        self.say(f"{one.bytes:,} bytes, loses {one.drop:.2f}, at most {one.bound:.2f} points", one)

    def say(self, outcome: str, one: Candidate | None = None) -> None:
        """Say how the trial ended."""
        words = f", {one.words}" if one else ""
        self.searched.say(f"trial {self.study.number(self.trial)}{words}: {outcome}")

    def after_epoch(self, history: Sequence[Epoch]) -> None:
        """End the training if it is hopeless or time is up."""
        losses = self._report(history)
        if len(history) == self.searched.settings.epochs:
            return
        if self.study.is_hopeless(losses):
            raise _PrunedError
        if time.time() >= self.searched.until:
            raise _TimeIsUpError

    def _report(self, history: Sequence[Epoch]) -> list[float]:
        losses = losses_by_epoch(history, float(self.correct.mean()))
        self.study.report(self.trial, losses)
        return losses
