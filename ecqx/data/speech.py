"""Google Speech Commands v0.02 in the 12-class protocol: ten words, unknown and silence."""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from ecqx.data.archives import members, names
from ecqx.data.audio import RATE, Clip, Disturbance, Mfcc, decode, one_second, versions
from ecqx.data.downloads import Source, provide
from ecqx.data.tensors import SPLITS, Preparation, Split, TensorData
from ecqx.errors import InputError
from ecqx.progress import announced

SILENCE, UNKNOWN, BACKGROUND = "_silence_", "_unknown_", "_background_noise_"
WORDS = ("down", "go", "left", "no", "off", "on", "right", "stop", "up", "yes")
CLASSES = (SILENCE, UNKNOWN, *WORDS)
LISTS = {"validation": "validation_list.txt", "test": "testing_list.txt"}
# Number of unknown and of silence clips, each relative to the ten words (TensorFlow's protocol).
SHARE = 0.1
SPEAKER = re.compile(r"([0-9a-f]+)_nohash_")
SOUNDS = (".wav", ".flac")
CHUNK = 128

_HOST = "https://storage.googleapis.com/download.tensorflow.org/data"
SOURCES = {
    "full": Source(
        title="Google Speech Commands v0.02",
        found_as=("speech_commands_v0.02", "speech_commands_v0.02.tar.gz"),
        url=f"{_HOST}/speech_commands_v0.02.tar.gz",
        file="speech_commands_v0.02.tar.gz",
        checksum="sha256:af14739ee7dc311471de98f5f9d2c9191b18aedfe957f4a6ff791c709868ff58",
    ),
    "test": Source(
        title="the test archive of Google Speech Commands v0.02",
        found_as=(
            "speech_commands_test_set_v0.02",
            "speech_commands_test_set_v0.02.flac.zip",
            "speech_commands_test_set_v0.02.tar.gz",
        ),
        url=f"{_HOST}/speech_commands_test_set_v0.02.tar.gz",
        file="speech_commands_test_set_v0.02.tar.gz",
        checksum="sha256:cc2a00c1147c2254e9be3fa0f779d8c17421dc349b86366567a8edfa9acd51df",
    ),
}
LABELS = {
    "full": "Speech Commands v0.02",
    # Silence clips name no recording, so clips of one recording may be in two splits.
    "test": "Speech Commands v0.02, test archive (split by speaker; silence by clip)",
}


@dataclass(frozen=True)
class Selected:
    """A clip that is used: its name in the archive, its class and its split."""

    name: str
    label: int
    split: str


class _Selection(NamedTuple):
    """The clips that are used, and noise of shape (M, ≥ 16000) for the augmentation."""

    clips: list[Clip]
    selected: list[Selected]
    noise: Clip


def speech_commands(
    root: Path,
    archive: Literal["full", "test"] = "test",
    draws: int = 16,
    seed: int = 0,
    disturbance: Disturbance | None = None,
    mfcc: Mfcc | None = None,
    processes: int = 1,
) -> TensorData:
    """Load MFCC features of the 12-class protocol.

    Parameters
    ----------
    root : Path
        Folder with the archive, packed or not, or to download it to.
    archive : {"full", "test"}
        The full archive has lists of validation and test clips, and background noise. The test
        archive (4,890 clips) is split 80/10/10 by a hash of the speaker; its silence clips, which
        name no speaker, by a hash of their name. Its noise is the training split's silence.
    draws : int
        Augmented versions of each training clip.
    seed : int
        Draws the augmentation and, for the full archive, unknown words and silence.
    disturbance : Disturbance, optional
    mfcc : Mfcc, optional
    processes : int
        Number of worker processes; it does not change the result.

    Returns
    -------
    TensorData
        Inputs (N, versions, coefficients, frames), float32, divided by the standard deviation of
        each coefficient over the training split; targets (N,), int64.

    Raises
    ------
    InputError
        If the archive is missing, damaged or has another layout, or lacks a file that one of its
        lists names.
    """
    path = provide(speech_source(archive), root)
    with announced(f"reading {path.name}"):
        selection = _full(path, seed) if archive == "full" else _test_archive(path)
    features, targets = {}, {}
    for split in SPLITS:
        chosen = [i for i, clip in enumerate(selection.selected) if clip.split == split]
        augmentation = disturbance or Disturbance()
        if split != "train":
            augmentation = Disturbance(noise=0.0, shift=0.0)
        compute = partial(
            versions,
            draws=draws if split == "train" else 1,
            seed=seed,
            recordings=selection.noise,
            disturbance=augmentation,
            mfcc=mfcc or Mfcc(),
        )
        features[split] = _in_chunks(compute, selection.clips, chosen, processes)
        targets[split] = torch.tensor([selection.selected[i].label for i in chosen])
    deviation = features["train"].std(axis=(0, 1, 3), keepdims=True)[0]
    splits = {
        split: Split(
            torch.from_numpy(features[split] / deviation), targets[split], Preparation(draws=True)
        )
        for split in SPLITS
    }
    return TensorData(**splits, classes=CLASSES, label=LABELS[archive])


def speech_source(archive: Literal["full", "test"]) -> Source:
    """Where an archive is downloaded from."""
    return SOURCES[archive]


def _in_chunks(
    compute: Callable[[Clip, NDArray[Any]], Clip],
    clips: Sequence[Clip],
    chosen: list[int],
    processes: int,
) -> Clip:
    """Features of the chosen clips, by several processes."""
    from joblib import Parallel, delayed
    from tqdm import tqdm

    chunks = [chosen[i : i + CHUNK] for i in range(0, len(chosen), CHUNK)]
    jobs = (delayed(compute)(np.stack([clips[i] for i in c]), np.array(c)) for c in chunks)
    done = Parallel(n_jobs=processes, return_as="generator")(jobs)
    return np.concatenate(list(tqdm(done, total=len(chunks), desc="features", disable=None)))


def _test_archive(path: Path) -> _Selection:
    """Clips of the test archive, which has one folder per class."""
    clips, selected = [], []
    for name, content in sorted(dict(members(path, _is_sound)).items()):
        folder = name.split("/")[0]
        if folder not in CLASSES:
            raise InputError(f"{path}: {name} is in none of the folders {', '.join(CLASSES)}")
        clips.append(one_second(decode(f"{path}: {name}", content)))
        selected.append(Selected(name, CLASSES.index(folder), split_of(name)))
    _check_complete(path, selected)
    silence = [
        clip
        for clip, which in zip(clips, selected, strict=True)
        if which.split == "train" and CLASSES[which.label] == SILENCE
    ]
    return _Selection(clips, selected, np.stack(silence))


def split_of(name: str) -> str:
    """Split of a clip of the test archive, by a hash of its speaker or else of its name."""
    file = name.split("/")[-1]
    speaker = SPEAKER.search(file)
    key = speaker.group(1) if speaker else file.split(".")[0]
    return _split_at(int(hashlib.sha256(key.encode()).hexdigest()[:8], 16) / 2**32)


def _split_at(share: float) -> str:
    """Split at a position from 0 to 1: 80 % training, 10 % validation, 10 % test."""
    return "train" if share < 0.8 else "validation" if share < 0.9 else "test"


def _full(path: Path, seed: int) -> _Selection:
    """Clips of the full archive, with silence cut from its background noise."""
    by_word = _by_split_and_word(path)
    generator = np.random.default_rng(seed)
    selected: list[Selected] = []
    silent: dict[str, int] = {}
    for split in SPLITS:
        known = [Selected(n, CLASSES.index(w), split) for w in WORDS for n in by_word[split, w]]
        extra = silent[split] = round(SHARE * len(known))
        unknown = by_word[split, UNKNOWN]
        drawn = sorted(generator.permutation(len(unknown))[:extra])
        selected += known + [Selected(unknown[i], CLASSES.index(UNKNOWN), split) for i in drawn]
    wanted = {clip.name for clip in selected}
    sounds: dict[str, Clip] = {}
    recordings: dict[str, Clip] = {}
    for name, content in members(path, lambda n: n in wanted or _is_background(n)):
        sound = decode(f"{path}: {name}", content)
        if _is_background(name):
            recordings[name] = sound
        else:
            sounds[name] = one_second(sound)
    clips = [sounds[clip.name] for clip in selected]
    noise = _seconds(path, [recordings[name] for name in sorted(recordings)])
    for split in SPLITS:
        for i in range(silent[split]):
            second = noise[split][generator.integers(len(noise[split]))]
            clips.append(np.float32(generator.uniform()) * second)
            selected.append(Selected(f"{SILENCE}/{i}", CLASSES.index(SILENCE), split))
    _check_complete(path, selected)
    return _Selection(clips, selected, noise["train"])


def _by_split_and_word(path: Path) -> dict[tuple[str, str], list[str]]:
    """Names of the clips by split and word; all words but the ten are unknown."""
    listed = _listed(path)
    stored = sorted(filter(_is_sound, names(path)))
    if missing := sorted(listed.keys() - set(map(_listed_name, stored))):
        where = LISTS[listed[missing[0]]]
        raise InputError(f"{path}: has no {missing[0]}.wav, but its {where} names it")
    by_word: dict[tuple[str, str], list[str]] = defaultdict(list)
    for name in stored:
        word = name.split("/")[0]
        if word != BACKGROUND:
            kind = word if word in WORDS else UNKNOWN
            by_word[listed.get(_listed_name(name), "train"), kind].append(name)
    return by_word


def _listed(path: Path) -> dict[str, str]:
    """Split of each clip in the archive's lists."""
    contents = dict(members(path, lambda name: name in LISTS.values()))
    for file in LISTS.values():
        if file not in contents:
            raise InputError(f"{path}: has no {file}, the official list of a split")
    return {
        _listed_name(line): split
        for split, file in LISTS.items()
        for line in contents[file].decode(errors="replace").split()
    }


def _listed_name(name: str) -> str:
    """A clip's name without suffix: the clip may be stored as WAV or FLAC."""
    return name.split(".")[0]


def _seconds(path: Path, recordings: list[Clip]) -> dict[str, Clip]:
    """Background noise in seconds by split; each recording is split 80/10/10 in time."""
    parts: dict[str, list[Clip]] = defaultdict(list)
    for recording in recordings:
        seconds = [recording[i : i + RATE] for i in range(0, len(recording) - RATE + 1, RATE)]
        for i, second in enumerate(seconds):
            parts[_split_at(i / len(seconds))].append(second)
    if len(parts) < len(SPLITS):
        raise InputError(f"{path}: needs a recording of 10 seconds or more in {BACKGROUND}")
    return {split: np.stack(parts[split]) for split in SPLITS}


def _is_sound(name: str) -> bool:
    return name.lower().endswith(SOUNDS) and "/" in name


def _is_background(name: str) -> bool:
    return _is_sound(name) and name.split("/")[0] == BACKGROUND


def _check_complete(path: Path, selected: Sequence[Selected]) -> None:
    """Check that every class has a training clip and every split a clip."""
    trained = {clip.label for clip in selected if clip.split == "train"}
    for number, word in enumerate(CLASSES):
        if number not in trained:
            raise InputError(f"{path}: has no clip of {word} for training")
    for split in SPLITS:
        if not any(clip.split == split for clip in selected):
            raise InputError(f"{path}: has no clip for {split}")
