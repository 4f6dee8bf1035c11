"""The smallest file for an allowed loss of accuracy: many trainings from one network."""

from __future__ import annotations

import json
import math
import shutil
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from torch import nn

from ecqx.coding import bitstream
from ecqx.coding.container import code_metadata
from ecqx.coding.tensor_files import read_tensors, write_tensors
from ecqx.data.tensors import TensorData
from ecqx.errors import InputError, input_errors
from ecqx.experiment.jobs import run_all
from ecqx.experiment.kept import digest
from ecqx.experiment.metadata import metadata_of
from ecqx.experiment.prepare import constrain, new_folders_removed
from ecqx.experiment.remarks import interruption_explained, remark, remarks_before_search
from ecqx.experiment.search_result import (
    Candidate,
    SearchResult,
    file_of_trial,
    loss_in_words,
)
from ecqx.experiment.search_settings import WITH_BITS, SearchSettings
from ecqx.experiment.start import Build, as_if_trained, taking
from ecqx.experiment.study import NUMBER, SETTING, Study, losses_by_epoch
from ecqx.experiment.trial import (
    PROGRESS,
    classified_correctly,
    drop_with_bound,
    method_of,
    run_trial,
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
# Results, and what a search is continued from: its settings, the network in full precision, and
# Optuna's journal.
SMALLEST, RECORD, PAGE = "smallest.ecqx", "search.json", "search.html"
SETTINGS, START, JOURNAL = "settings.json", "full_precision.safetensors", "study.journal"
# Packages of the extra, for the search and for its page.
PACKAGES = ("optuna", "altair", "jinja2", "pikepdf", "scipy", "vl_convert")
# What an interruption ends with.
GOES_ON = (
    "the same search goes on after the last finished epoch; with --minutes 0.01 it ends with the "
    "trials that have finished"
)


class _HopelessError(Exception):
    """Ends the training of a hopeless trial."""


class _TimeIsUpError(Exception):
    """Ends a training that a later call continues."""


def search(
    build: Build | nn.Module,
    data: TensorData,
    folder: str | Path = "search",
    *,
    device: str = "auto",
    say: Say = lambda line: None,
    metadata: Mapping[str, Any] | None = None,
    **settings: Any,
) -> SearchResult:
    """Search the smallest file whose loss of accuracy is within an allowed one.

    Each trial quantizes the same full-precision network by another method, bit width, Λ and
    learning rate, in a training of its own. Of the files whose loss of validation accuracy has a
    95 % upper bound (paired bootstrap over the samples) of at most ``max_drop`` points the smallest
    is chosen; if there is none, the one with the smallest bound. Only the chosen one is evaluated
    on the test data. What a person should look at again is a warning of one line.

    Parameters
    ----------
    build : Module or callable
        The network in full precision, trained unless there are ``pretrain_epochs``; or a callable
        that returns it, called in each process after torch's generators are seeded.
    data : TensorData
        With one label a sample.
    folder : path
        For the results, ``smallest.ecqx``, ``search.json`` and ``search.html``, and for what a
        search is continued from: by the same call after an interruption, or with more trials.
    device : {"auto", "cpu", "cuda"}
    say : callable
        Gets a line for each trial that has ended.
    metadata : mapping, optional
        Of the files, beside classes and normalization, such as ``{"model": "resnet20"}``.
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
    if not isinstance(data, TensorData):
        raise InputError(f"data must be an ecqx.data.TensorData, not a {type(data).__name__}")
    known = SearchSettings(**settings)
    missing = next((name for name in PACKAGES if find_spec(name) is None), None)
    if missing:
        raise InputError(
            f"a search needs {missing}, which is not installed: pip install 'ecqx[search]'"
        )
    place = find_device(device)
    if objective_of(data.validation.targets) is not CLASSIFICATION:
        raise InputError(
            f"{data.label}: a search compares files sample by sample, which needs data with one "
            "label a sample"
        )
    # As JSON has them; what JSON cannot hold is refused before any training.
    about = json.loads(code_metadata(metadata_of(data, metadata or {})))
    if isinstance(build, nn.Module):
        build = partial(copied, build)
    searched = _Search(expanded(folder), known, build, data, place, about, say)
    network = searched.build_network()
    remarks = _check_fit(known, network, data)
    with new_folders_removed(searched.folder), searched.locked(), interruption_explained(GOES_ON):
        searched.check_identity(network)
        searched.train_start(network)
        return searched.run(remarks)


def _check_fit(settings: SearchSettings, network: nn.Module, data: TensorData) -> list[str]:
    """Remarks on relevance; ``InputError`` if network and data, or one of the methods, do not fit.

    What else warns here does so again in training.
    """
    with input_errors(""):
        for name in ("exclude", "include"):
            used_parts(network, name, getattr(settings, name))
    x, y = next(data.train.batches(2))
    start = as_if_trained(network, settings.pretrain_epochs).to(x.device).eval()
    splits = [split.targets for split in (data.train, data.validation, data.test)]
    with taking("the network", data), torch.no_grad():
        check_fit(main_output(start(x)), y, splits)
    with warnings.catch_warnings(record=True) as caught:
        for name in settings.methods:
            setting: dict[str, Any] = {"method": name, "lam": settings.lam[0]}
            if name in WITH_BITS:
                setting["bits"] = settings.bits_by_part(settings.bits[0], {})
            with input_errors(f"{name}: "):
                quantizer = constrain(method_of(setting, settings), copied(start), steps=1)
                # Measures relevance, where the method does.
                quantizer.update(x, y)
    unruled = [str(one.message) for one in caught if one.category is RelevanceWarning]
    return list(dict.fromkeys(unruled))


@dataclass(frozen=True)
class _Search:
    """A search in one folder, or a process that takes part in it."""

    folder: Path
    settings: SearchSettings
    build: Build
    data: TensorData
    device: torch.device
    metadata: Mapping[str, Any]
    say: Say
    # Validation accuracy in full precision.
    accuracy: float = 0.0
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
            "network": digest(network),
            "metadata": self.metadata,
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
            other = f"other {name}"
            if name in self.settings.lasting:
                other += f" ({earlier.get(name)}, not {identity[name]})"
            raise InputError(
                f"{self.folder}: holds a search with {other}; name another folder, where a search "
                f"can start from {self.folder / START}"
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

    def run(self, remarks: Sequence[str]) -> SearchResult:
        """Run trials until as many as allowed have ended, or time is up; then choose."""
        network, data = self.load_start(), self.data.to(self.device)
        accuracy = float(classified_correctly(network, data.validation).mean())
        remarks = [*remarks, *remarks_before_search(self.settings, data, accuracy)]
        for line in remarks:
            remark(line)
        study = Study(self.folder / JOURNAL, self.settings)
        study.begin()
        minutes, processes = self.settings.minutes, self.settings.processes
        until = time.time() + 60 * minutes if minutes else math.inf
        searched = replace(self, accuracy=accuracy, until=until)
        if processes == 1:
            searched.run_trials()
        else:
            run_all(_Search.run_trials, [searched] * processes, "search")
        return searched.conclude(study, network, remarks)

    def run_trials(self) -> None:
        """Run trials, one after the other."""
        network, data = self.load_start(), self.data.to(self.device)
        study = Study(self.folder / JOURNAL, self.settings)
        while time.time() < self.until:
            with FileLock(self.folder / ".next.lock"):
                trial = study.next()
            if trial is None:
                return
            with suppress(_TimeIsUpError):
                outcome = self._run_trial(study, trial, network, data)
                self.say(f"trial {trial.user_attrs[NUMBER]}{outcome}")

    def _run_trial(self, study: Study, trial: Any, network: nn.Module, data: TensorData) -> str:
        """Train by the trial's setting, and record the result; returns that in words."""
        number, setting = (trial.user_attrs[name] for name in (NUMBER, SETTING))
        losses: list[float] = []

        def report(history: Sequence[Epoch]) -> None:
            losses[:] = losses_by_epoch([epoch.accuracy for epoch in history], self.accuracy)
            study.report(trial, losses)

        def after_epoch(history: Sequence[Epoch]) -> None:
            report(history)
            if len(history) < self.settings.epochs:
                if study.is_hopeless(losses):
                    raise _HopelessError
                if time.time() >= self.until:
                    raise _TimeIsUpError

        path = file_of_trial(self.folder, number)
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with warnings.catch_warnings():
                # One of the remarks says it already.
                warnings.simplefilter("ignore", RelevanceWarning)
                result, history = run_trial(
                    path, network, data, setting, self.settings, self.metadata, after_epoch
                )
        except _HopelessError:
            shutil.rmtree(path.parent)
            study.give_up(trial, losses[-1])
            return f": given up after epoch {len(losses)}: loses {losses[-1]:.2f} points"
        except ValueError as error:
            # A training that diverged, for example.
            shutil.rmtree(path.parent)
            study.fail(trial, str(error))
            return f": failed ({error})"
        report(history)
        study.finish(trial, result)
        path.with_name(PROGRESS).unlink(missing_ok=True)
        one = Candidate(number, setting, **result)
        return f", {one.words}: {one.bytes:,} bytes, {loss_in_words(one.drop, one.bound)}"

    def conclude(self, study: Study, network: nn.Module, remarks: Sequence[str]) -> SearchResult:
        """Choose a file, evaluate it on the test data, and write the results."""
        # Imported late: it draws.
        from ecqx.experiment.search_page import search_page

        candidates, failures = study.candidates(), study.failures()
        if not candidates and failures:
            raise InputError(f"{self.folder}: all trials failed: {failures[0]}")
        if not candidates:
            raise InputError(
                f"{self.folder}: no trial has ended yet; the same search goes on from there"
            )
        state = network.state_dict().values()
        found = SearchResult(
            settings=self.settings,
            path=self.folder / SMALLEST,
            data=self.data.label,
            parameters=sum(t.numel() for t in state if t.is_floating_point()),
            accuracy=self.accuracy,
            candidates=candidates,
            pruned=study.pruned_epochs(),
            failures=failures,
        )
        if found.chosen.bound < 0:
            line = (
                "the chosen file is more accurate than full precision, which was not trained to "
                "the end: more pretrain_epochs make a better start"
            )
            remark(line)
            remarks = [*remarks, line]
        source = found.file(found.chosen)
        write_atomically(found.path, lambda path: shutil.copyfile(source, path))
        with announced("evaluating on the test split"):
            split = self.data.test.to(self.device)
            before = classified_correctly(network, split)
            load_state(network, bitstream.load(found.path))
            after = classified_correctly(network, split)
        test = {"accuracy": after.mean(), "accuracy_full_precision": before.mean()}
        test = {name: float(value) for name, value in test.items()} | drop_with_bound(before, after)
        found = replace(found, test=test, remarks=remarks)
        write_text(self.folder / RECORD, json.dumps(found.record, indent=1) + "\n")
        write_text(self.folder / PAGE, search_page(found))
        return found
