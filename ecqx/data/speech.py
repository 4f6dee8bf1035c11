"""Google Speech Commands v0.02: ten words, or some of them, beside unknown and silence."""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

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
LISTS_OF_PARTS = {"train": "training_list.txt", "validation": "validation_list.txt"}
SPEAKER = re.compile(r"([0-9a-f]+)_nohash_")
SOUNDS = (".wav", ".flac")
CHUNK = 128

_HOST = "https://storage.googleapis.com/download.tensorflow.org/data"
SOURCES = {
    "full": Source(
        title="Google Speech Commands v0.02",
        found_as=("speech_commands_v0.02", "speech_commands_v0.02.tar.gz"),
        url=f"{_HOST}/speech_commands_v0.02.tar.gz",
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
        checksum="sha256:cc2a00c1147c2254e9be3fa0f779d8c17421dc349b86366567a8edfa9acd51df",
    ),
    "extra": Source(
        title="training and validation clips of five words of Google Speech Commands",
        found_as=("speech_commands_extra", "speech_commands_extra.flac.zip"),
        url="",
        checksum="sha256:0de62ac46f2224906891eebb82100fd0823130d6598223ec6ccfd62be6d894cc",
        otherwise="use the full archive (archive: full)",
    ),
}
LABELS = {
    "full": "Speech Commands v0.02",
    # Silence clips name no recording, so clips of one recording may be in two splits.
    "test": "Speech Commands v0.02, test archive (split by speaker; silence by clip)",
    "extra": "Speech Commands v0.02, official partitions, training clips in part",
}


@dataclass(frozen=True)
class Selected:
    """A clip that is used: its name in the archive, its class and its split."""

    name: str
    label: int
    split: str


# The clips that are used, where they belong, and noise of shape (M, ≥ 16000).
_Selection = tuple[list[Clip], list[Selected], Clip]


def speech_commands(
    root: Path,
    archive: Literal["full", "test", "extra"] = "test",
    draws: int = 16,
    seed: int = 0,
    disturbance: Disturbance | None = None,
    mfcc: Mfcc | None = None,
    processes: int = 1,
    words: Sequence[str] = WORDS,
) -> TensorData:
    """Load MFCC features of the words, unknown words and silence, downloaded first if missing.

    The full archive has lists of validation and test clips, and background noise. The test archive
    (4,890 clips) is split 80/10/10 by a hash of the speaker; its silence clips, which name no
    speaker, by a hash of their name. Its noise is the training split's silence. ``extra`` takes
    training and validation clips and noise from an archive that holds a part of the full one, and
    as test data the whole test archive: the official partitions.

    There are as many unknown clips, and as many of silence, as of a word on average (TensorFlow's
    protocol for ten words), but for the folders of the test archive, which are taken whole.

    Each training clip has ``draws`` augmented versions. ``seed`` draws the augmentation and, for
    the full archive, unknown words and silence. The number of ``processes`` does not change the
    result. Inputs are float32 of shape (N, versions, coefficients, frames), divided by the standard
    deviation of each coefficient over the training split.
    """
    if other := sorted(set(words) - set(WORDS)):
        raise InputError(f"words must be some of {', '.join(WORDS)}, not {other[0]}")
    classes = (SILENCE, UNKNOWN, *words)
    path = provide(SOURCES[archive], root)
    with announced(f"reading {path.name}"):
        if archive == "test":
            clips, selected, noise = _test_archive(path, classes)
        elif archive == "full":
            clips, selected, noise = _by_lists(path, classes, SPLITS, LISTS, seed)
        else:
            parts = tuple(LISTS_OF_PARTS)
            clips, selected, noise = _by_lists(path, classes, parts, LISTS_OF_PARTS, seed)
            tested, folders, _ = _test_archive(provide(SOURCES["test"], root), classes)
            clips += tested
            selected += [replace(clip, split="test") for clip in folders]
    _check_complete(path, selected, classes)
    compute = partial(versions, seed=seed, recordings=noise, mfcc=mfcc or Mfcc())
    train = partial(compute, draws=draws, disturbance=disturbance or Disturbance())
    others = partial(compute, draws=1, disturbance=Disturbance(noise=0.0, shift=0.0))
    deviation: Clip | None = None
    splits = {}
    for split in SPLITS:
        chosen = [i for i, clip in enumerate(selected) if clip.split == split]
        features = _in_chunks(train if split == "train" else others, clips, chosen, processes)
        if deviation is None:  # the training split is the first one
            deviation = features.std(axis=(0, 1, 3), keepdims=True)[0]
        targets = torch.tensor([selected[i].label for i in chosen])
        inputs = torch.from_numpy(features / deviation)
        splits[split] = Split(inputs, targets, Preparation(draws=True))
    assert deviation is not None
    standardized = ((), tuple(deviation.ravel().tolist()))
    label = LABELS[archive] + ("" if len(words) == len(WORDS) else f", {len(words)} words")
    return TensorData(**splits, classes=classes, label=label, standardized=standardized)


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


def _test_archive(path: Path, classes: Sequence[str]) -> _Selection:
    """Clips of the test archive, which has one folder per class."""
    clips, selected = [], []
    for name, content in sorted(dict(members(path, _is_sound)).items()):
        folder = name.split("/")[0]
        if folder not in CLASSES:
            raise InputError(f"{path}: {name} is in none of the folders {', '.join(CLASSES)}")
        if folder in classes:
            clips.append(one_second(decode(f"{path}: {name}", content)))
            selected.append(Selected(name, classes.index(folder), split_of(name)))
    silence = [
        clip
        for clip, which in zip(clips, selected, strict=True)
        if which.split == "train" and classes[which.label] == SILENCE
    ]
    if not silence:
        raise InputError(f"{path}: has no clip of {SILENCE} for training")
    return clips, selected, np.stack(silence)


def split_of(name: str) -> str:
    """Split of a clip of the test archive, by a hash of its speaker or else of its name."""
    file = name.split("/")[-1]
    speaker = SPEAKER.search(file)
    key = speaker.group(1) if speaker else file.split(".")[0]
    return _split_at(int(hashlib.sha256(key.encode()).hexdigest()[:8], 16) / 2**32)


def _split_at(share: float) -> str:
    """Split at a position from 0 to 1: 80 % training, 10 % validation, 10 % test."""
    return "train" if share < 0.8 else "validation" if share < 0.9 else "test"


def _by_lists(
    path: Path, classes: Sequence[str], splits: Sequence[str], lists: Mapping[str, str], seed: int
) -> _Selection:
    """Clips of an archive with lists of its splits, and silence cut from its background noise."""
    by_word = _by_split_and_word(path, classes, lists)
    generator = np.random.default_rng(seed)
    words = classes[2:]
    selected: list[Selected] = []
    silent: dict[str, int] = {}
    for split in splits:
        known = [Selected(n, classes.index(w), split) for w in words for n in by_word[split, w]]
        extra = silent[split] = round(len(known) / len(words))
        unknown = by_word[split, UNKNOWN]
        drawn = sorted(generator.permutation(len(unknown))[:extra])
        selected += known + [Selected(unknown[i], classes.index(UNKNOWN), split) for i in drawn]
    wanted = {clip.name for clip in selected}
    sounds = {}
    for name, content in members(path, lambda n: n in wanted or _is_background(n)):
        sound = decode(f"{path}: {name}", content)
        sounds[name] = sound if _is_background(name) else one_second(sound)
    clips = [sounds[clip.name] for clip in selected]
    noise = _seconds(path, [sounds[name] for name in sorted(filter(_is_background, sounds))])
    for split in splits:
        for i in range(silent[split]):
            second = noise[split][generator.integers(len(noise[split]))]
            clips.append(np.float32(generator.uniform()) * second)
            selected.append(Selected(f"{SILENCE}/{i}", classes.index(SILENCE), split))
    return clips, selected, noise["train"]


def _by_split_and_word(
    path: Path, classes: Sequence[str], lists: Mapping[str, str]
) -> dict[tuple[str, str], list[str]]:
    """Names of the clips by split and word; all words that are no class are unknown.

    A clip that no list names is one for training.
    """
    listed = _listed(path, lists)
    stored = sorted(filter(_is_sound, names(path)))
    if missing := sorted(listed.keys() - set(map(_listed_name, stored))):
        where = lists[listed[missing[0]]]
        raise InputError(f"{path}: has no {missing[0]}.wav, but its {where} names it")
    by_word: dict[tuple[str, str], list[str]] = defaultdict(list)
    for name in stored:
        word = name.split("/")[0]
        if word != BACKGROUND:
            kind = word if word in classes else UNKNOWN
            by_word[listed.get(_listed_name(name), "train"), kind].append(name)
    return by_word


def _listed(path: Path, lists: Mapping[str, str]) -> dict[str, str]:
    """Split of each clip in the archive's lists."""
    contents = dict(members(path, lambda name: name in lists.values()))
    for file in lists.values():
        if file not in contents:
            raise InputError(f"{path}: has no {file}, the official list of a split")
    return {
        _listed_name(line): split
        for split, file in lists.items()
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


def _check_complete(path: Path, selected: Sequence[Selected], classes: Sequence[str]) -> None:
    """Check that every class has a training clip and every split a clip."""
    trained = {clip.label for clip in selected if clip.split == "train"}
    for number, word in enumerate(classes):
        if number not in trained:
            raise InputError(f"{path}: has no clip of {word} for training")
    for split in SPLITS:
        if not any(clip.split == split for clip in selected):
            raise InputError(f"{path}: has no clip for {split}")
