"""Google Speech Commands v0.02 in the 12-class protocol: ten words, unknown and silence."""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
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


# The clips that are used, where they belong, and noise of shape (M, ≥ 16000).
_Selection = tuple[list[Clip], list[Selected], Clip]


def speech_commands(
    root: Path,
    archive: Literal["full", "test"] = "test",
    draws: int = 16,
    seed: int = 0,
    disturbance: Disturbance | None = None,
    mfcc: Mfcc | None = None,
    processes: int = 1,
) -> TensorData:
    """Load MFCC features of the 12-class protocol, downloaded first if they are missing.

    The full archive has lists of validation and test clips, and background noise. The test archive
    (4,890 clips) is split 80/10/10 by a hash of the speaker; its silence clips, which name no
    speaker, by a hash of their name. Its noise is the training split's silence.

    Each training clip has ``draws`` augmented versions. ``seed`` draws the augmentation and, for
    the full archive, unknown words and silence. The number of ``processes`` does not change the
    result. Inputs are float32 of shape (N, versions, coefficients, frames), divided by the standard
    deviation of each coefficient over the training split.
    """
    path = provide(SOURCES[archive], root)
    with announced(f"reading {path.name}"):
        clips, selected, noise = _full(path, seed) if archive == "full" else _test_archive(path)
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
    return TensorData(**splits, classes=CLASSES, label=LABELS[archive], standardized=standardized)


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
    sounds = {}
    for name, content in members(path, lambda n: n in wanted or _is_background(n)):
        sound = decode(f"{path}: {name}", content)
        sounds[name] = sound if _is_background(name) else one_second(sound)
    clips = [sounds[clip.name] for clip in selected]
    noise = _seconds(path, [sounds[name] for name in sorted(filter(_is_background, sounds))])
    for split in SPLITS:
        for i in range(silent[split]):
            second = noise[split][generator.integers(len(noise[split]))]
            clips.append(np.float32(generator.uniform()) * second)
            selected.append(Selected(f"{SILENCE}/{i}", CLASSES.index(SILENCE), split))
    _check_complete(path, selected)
    return clips, selected, noise["train"]


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
