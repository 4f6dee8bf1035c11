"""Speech Commands from made archives in the official layout: splits, features, faults."""

from __future__ import annotations

import hashlib
import io
import shutil
import tarfile
import zipfile
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import librosa
import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from ecqx.data import Disturbance, Mfcc, Split, TensorData, speech, speech_commands
from ecqx.data.archives import members, names
from ecqx.data.audio import decode, one_second, versions
from ecqx.data.speech import CLASSES, SOURCES, WORDS, split_of
from ecqx.errors import InputError

Sound = NDArray[np.float32]
Sounds = dict[str, Sound]
RATE = 16_000
Archive = Literal["full", "test", "extra"]
Trust = Callable[[Path, Archive], None]
SPLITS = ("train", "validation", "test")
# Speakers of every split: seven that train, two that validate, two that test.
SPEAKERS = [
    speaker
    for split, count in zip(SPLITS, (5, 2, 2), strict=True)
    for speaker in [
        s for s in (f"{i:08x}" for i in range(300)) if split_of(f"x/{s}_nohash_0.wav") == split
    ][:count]
]


def encoded(sound: Sound, kind: str = "WAV", rate: int = RATE) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, sound, rate, format=kind, subtype="PCM_16")
    return file.getvalue()


def noise(seed: int, length: int = RATE, loudness: float = 1) -> Sound:
    """Noise of its own colour and loudness; 16-bit values, which every format keeps."""
    rng = np.random.default_rng(seed)
    rough = np.convolve(rng.standard_normal(length + 8), rng.standard_normal(8), "same")[:length]
    volume = loudness * rng.uniform(100, 2000)
    return (np.round(rough * volume) / 2**15).clip(-1, 0.99).astype(np.float32)


def sine(frequency: float, length: int = RATE, rate: int = RATE) -> Sound:
    return (0.5 * np.sin(2 * np.pi * frequency * np.arange(length) / rate)).astype(np.float32)


def loudest(sound: Sound) -> float:
    """Frequency in Hz."""
    return float(np.abs(np.fft.rfft(sound)).argmax() * RATE / len(sound))


def write(root: Path, files: Mapping[str, bytes]) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def pack(path: Path, files: Mapping[str, bytes], prefix: str) -> Path:
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in files.items():
                archive.writestr(prefix + name, content)
        return path
    with tarfile.open(path, "w:gz", compresslevel=1) as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(prefix + name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return path


def refusal(function: Callable[..., object], *arguments: Any) -> str:
    with pytest.raises(InputError) as caught:
        function(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def trusted(
    monkeypatch: pytest.MonkeyPatch,
) -> Trust:
    """Take a made file for the official one."""

    def trust(path: Path, archive: Archive) -> None:
        checksum = "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()
        monkeypatch.setitem(SOURCES, archive, replace(SOURCES[archive], checksum=checksum))

    return trust


# -- the test archive ------------------------------------------------------------------------------

OTHERS = {"LICENSE": b"a text\n", "README.md": b"# Speech Commands\n"}
JUNK = {"down/._00000000_nohash_0.wav": b"junk", "__MACOSX/down/x_nohash_0.wav": b"junk"}


def clips() -> Sounds:
    """Two clips of every word, unknown ones and silence, by the names that the archive has."""
    found: Sounds = {}
    for word in WORDS:
        for i, speaker in enumerate(SPEAKERS):
            found[f"{word}/{speaker}_nohash_{i % 2}.wav"] = noise(len(found))
    for i, speaker in enumerate(SPEAKERS):
        word = ("five", "bed", "visual")[i % 3]
        found[f"_unknown_/{word}_{speaker}_nohash_0.wav"] = noise(len(found))
    for number in range(12):
        found[f"_silence_/{number}.wav"] = noise(len(found), loudness=0.1)
    return found


CLIPS = clips()
WAVS = {name: encoded(sound) for name, sound in CLIPS.items()}
FOLDER = "speech_commands_test_set_v0.02"


def flac_name(name: str) -> str:
    """The FLAC archive has kept the old ending of unknown words."""
    return f"{name}.flac" if name.startswith("_unknown_") else name.replace(".wav", ".flac")


def load(root: Path, **options: Any) -> TensorData:
    return speech_commands(root, "test", **({"draws": 2} | options))


def splits(data: TensorData) -> tuple[Split, Split, Split]:
    return data.train, data.validation, data.test


def same(a: TensorData, b: TensorData) -> bool:
    return (a.classes, a.label) == (b.classes, b.label) and all(
        torch.equal(x.inputs, y.inputs) and torch.equal(x.targets, y.targets)
        for x, y in zip(splits(a), splits(b), strict=True)
    )


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("root")
    write(path / FOLDER, WAVS | OTHERS)
    return path


@pytest.fixture(scope="module")
def data(root: Path) -> TensorData:
    return load(root)


def expected_names(split: str) -> list[str]:
    return [name for name in sorted(CLIPS) if split_of(name) == split]


def test_the_deviation_of_each_coefficient_is_known(data: TensorData) -> None:
    mean, deviation = data.standardized
    assert mean == ()
    assert len(deviation) == 15
    assert min(deviation) > 0


def test_shapes_and_labels(data: TensorData) -> None:
    assert data.classes == CLASSES
    assert "test archive" in data.label
    for name, split in zip(SPLITS, splits(data), strict=True):
        wanted = expected_names(name)
        drawn = 2 if name == "train" else 1
        assert split.inputs.shape == (len(wanted), drawn, 15, 26)
        assert (split.inputs.dtype, split.targets.dtype) == (torch.float32, torch.int64)
        assert [CLASSES[label] for label in split.targets] == [n.split("/")[0] for n in wanted]
        assert split.preparation.draws
        assert not split.preparation.flip
        assert not split.preparation.mean


@pytest.mark.parametrize("layout", ["zip of FLAC", "tar.gz of WAV", "folder of FLAC", "with junk"])
def test_every_layout_gives_the_same(
    tmp_path: Path,
    data: TensorData,
    layout: str,
    trusted: Trust,
) -> None:
    flacs = {flac_name(name): encoded(sound, "FLAC") for name, sound in CLIPS.items()}
    shuffled = dict(reversed(flacs.items()))
    if layout == "zip of FLAC":
        pack(tmp_path / f"{FOLDER}.flac.zip", OTHERS | shuffled, f"{FOLDER}/")
    elif layout == "tar.gz of WAV":
        trusted(pack(tmp_path / f"{FOLDER}.tar.gz", WAVS | OTHERS, "./"), "test")
    elif layout == "with junk":
        pack(tmp_path / f"{FOLDER}.flac.zip", JUNK | shuffled | OTHERS, "")
    else:
        write(tmp_path / FOLDER, flacs)
    before = set(tmp_path.rglob("*"))
    assert same(load(tmp_path), data)
    assert set(tmp_path.rglob("*")) == before


# -- splits ----------------------------------------------------------------------------------------

SPEAKER = st.text("0123456789abcdef", min_size=8, max_size=8)
WORD = st.sampled_from([*WORDS, "_unknown_/five", "_unknown_/bed", "_unknown_/face"])


@given(speaker=SPEAKER, words=st.lists(st.tuples(WORD, st.integers(0, 9)), min_size=2))
def test_a_speaker_is_in_one_split(speaker: str, words: list[tuple[str, int]]) -> None:
    found = set()
    for word, number in words:
        start = f"{word}_" if word.startswith("_") else f"{word}/"
        for ending in (".wav", ".flac", ".wav.flac"):
            found.add(split_of(f"{start}{speaker}_nohash_{number}{ending}"))
    assert len(found) == 1


def test_about_a_tenth_each_validates_and_tests() -> None:
    speakers = np.random.default_rng(0).integers(0, 2**32, 4000)
    of_speakers = Counter(split_of(f"yes/{s:08x}_nohash_0.wav") for s in speakers.tolist())
    of_silence = Counter(split_of(f"_silence_/{number}.wav") for number in range(4000))
    for counts in (of_speakers, of_silence):
        shares = [counts[split] / 4000 for split in SPLITS]
        assert shares == pytest.approx([0.8, 0.1, 0.1], abs=0.02)


def test_silence_is_split_by_name() -> None:
    for number in range(50):
        found = {split_of(f"_silence_/{number}{ending}") for ending in (".wav", ".flac")}
        assert len(found) == 1
    assert {split_of(f"_silence_/{number}.wav") for number in range(50)} == set(SPLITS)


def test_the_noise_is_silence_that_trains(root: Path) -> None:
    _, _, recordings = speech._test_archive(root / FOLDER, CLASSES)
    expected = [CLIPS[n] for n in expected_names("train") if n.startswith("_silence_")]
    assert np.array_equal(recordings, np.stack(expected))


# -- features --------------------------------------------------------------------------------------


def direct(sound: Sound, **options: int) -> Sound:
    """One clip's coefficients by librosa's own shortcut, without their mean."""
    settings = {"n_mfcc": 15, "n_fft": 4096, "hop_length": 640, "n_mels": 40} | options
    features: Sound = librosa.feature.mfcc(y=sound, sr=RATE, **settings)
    return features - features.mean(axis=-1, keepdims=True)


def test_features_are_those_of_librosa(data: TensorData) -> None:
    for name, split in zip(SPLITS[1:], splits(data)[1:], strict=True):
        expected = np.stack([direct(CLIPS[clip]) for clip in expected_names(name)])
        scale = expected.std(axis=(0, 2)) / split.inputs[:, 0].numpy().std(axis=(0, 2))
        found = split.inputs[:, 0].numpy() * scale[:, None]
        np.testing.assert_allclose(found, expected, atol=2e-3)
    # The scale is the deviation of the training split, one a coefficient.
    deviation = data.train.inputs.double().std(dim=(0, 1, 3), correction=0)
    np.testing.assert_allclose(deviation, np.ones(15), atol=1e-4)


@pytest.mark.parametrize(
    ("mfcc", "options"),
    [
        (Mfcc(coefficients=8), {"n_mfcc": 8}),
        (Mfcc(window=1024, hop=400), {"n_fft": 1024, "hop_length": 400}),
        (Mfcc(mels=64), {"n_mels": 64}),
    ],
)
def test_settings_of_the_features(mfcc: Mfcc, options: dict[str, int]) -> None:
    batch = np.stack([noise(1), noise(2)])
    found = mfcc(batch)
    assert found.dtype == np.float32
    assert found.shape == (2, mfcc.coefficients, 1 + RATE // mfcc.hop)
    np.testing.assert_allclose(found, [direct(sound, **options) for sound in batch], atol=2e-3)


def test_the_mean_over_time_is_zero() -> None:
    features = Mfcc()(np.stack([noise(1), sine(440), np.zeros(RATE, np.float32)]))
    np.testing.assert_allclose(features.mean(axis=-1), 0, atol=1e-4)
    assert np.abs(features[2]).max() < 1e-4  # no sound, no features
    assert np.abs(features[0]).max() > 1


def test_a_clip_does_not_depend_on_its_neighbours() -> None:
    quiet, loud = noise(1) / 1000, noise(2)
    alone, together = Mfcc()(quiet[None]), Mfcc()(np.stack([loud, quiet, sine(300)]))
    np.testing.assert_allclose(together[1], alone[0], atol=1e-3)


def test_the_number_of_threads_changes_no_bit() -> None:
    batch = np.stack([noise(i) for i in range(40)])
    results = []
    for threads in (1, 2, 4):
        with threadpool_limits(threads):
            results.append(Mfcc()(batch))
    assert np.array_equal(results[0], results[1])
    assert np.array_equal(results[0], results[2])


def test_the_number_of_processes_changes_no_bit(
    root: Path, data: TensorData, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speech, "CHUNK", 16)
    one = load(root, processes=1)
    assert same(one, load(root, processes=2))
    # Nor does it matter, but for rounding, which clips are worked on together.
    for a, b in zip(splits(one), splits(data), strict=True):
        np.testing.assert_allclose(a.inputs, b.inputs, atol=1e-3)


def test_the_seed_draws_the_disturbances(root: Path, data: TensorData) -> None:
    np.random.seed(5)
    assert same(load(root, seed=0), data)
    other = load(root, seed=1)
    changed = (other.train.inputs - data.train.inputs).abs().amax(dim=(1, 2, 3))
    assert float((changed > 0.01).double().mean()) > 0.9
    # Validation and test are never disturbed: they differ by the training split's deviation.
    for a, b in ((data.validation, other.validation), (data.test, other.test)):
        ratio = (a.inputs / b.inputs).flatten(2).nanmedian(-1).values
        assert torch.equal(a.targets, b.targets)
        assert float(ratio.std()) < 0.05


def test_every_version_is_another_one(data: TensorData) -> None:
    first, second = data.train.inputs.unbind(1)
    assert float(((first - second).abs().amax(dim=(1, 2)) > 0.01).double().mean()) > 0.9


def test_versions_belong_to_their_clip() -> None:
    sounds, numbers = np.stack([noise(i) for i in range(6)]), np.array([3, 5, 8, 13, 21, 34])
    how = (3, 0, np.stack([noise(90), noise(91)]), Disturbance(), Mfcc())
    together = versions(sounds, numbers, *how)
    assert together.shape == (6, 3, 15, 26)
    for chosen in ([2], [5, 0], [4, 3, 1]):
        apart = versions(sounds[chosen], numbers[chosen], *how)
        np.testing.assert_allclose(apart, together[chosen], atol=1e-3)
    renumbered = versions(sounds[:1], numbers[1:2], *how)
    assert np.abs(renumbered - together[:1]).max() > 0.1


# -- disturbances ----------------------------------------------------------------------------------


def impulse(at: int) -> Sound:
    clip = np.zeros(RATE, np.float32)
    clip[at] = 1
    return clip


def disturbed(how: Disturbance, clip: Sound, recordings: Sound, count: int) -> list[Sound]:
    rng = np.random.default_rng(0)
    return [how(clip, recordings, rng) for _ in range(count)]


RECORDINGS = np.stack([noise(70, 2 * RATE), noise(71, 2 * RATE)])


def test_a_shift_moves_every_sample_alike() -> None:
    how = Disturbance(noise=0, shift=1, shift_ms=100)
    places = [int(clip.argmax()) for clip in disturbed(how, impulse(8000), RECORDINGS, 400)]
    assert min(places) >= 8000 - 1600
    assert max(places) <= 8000 + 1600
    assert min(places) < 8000 - 1500
    assert max(places) > 8000 + 1500
    ramp = np.arange(1, RATE + 1, dtype=np.float32)
    for moved in disturbed(how, ramp, RECORDINGS, 20):
        by = int(np.flatnonzero(moved)[0]) - int(moved[moved > 0][0]) + 1
        kept = moved[moved > 0]
        assert len(kept) == RATE - abs(by)
        assert np.array_equal(np.diff(kept), np.ones(len(kept) - 1))
        assert (moved[:by] == 0).all() if by > 0 else (moved[RATE + by :] == 0).all()


def test_the_largest_shift_may_be_one_sample() -> None:
    places = {
        int(clip.argmax())
        for ms in (0, 1)
        for clip in disturbed(Disturbance(0, 0, 1, ms), impulse(100), RECORDINGS, 300)
    }
    assert places == set(range(100 - 16, 100 + 17))


@pytest.mark.parametrize("probability", [0.0, 0.5, 1.0])
def test_shifts_are_as_frequent_as_told(probability: float) -> None:
    how = Disturbance(noise=0, shift=probability)
    moved = [clip.argmax() != 8000 for clip in disturbed(how, impulse(8000), RECORDINGS, 400)]
    assert np.mean(moved) == pytest.approx(probability, abs=0.08 if 0 < probability < 1 else 0.01)


@pytest.mark.parametrize("probability", [0.0, 0.8, 1.0])
def test_noise_is_as_frequent_as_told(probability: float) -> None:
    how = Disturbance(noise=probability, shift=0)
    noisy = [bool(clip.any()) for clip in disturbed(how, impulse(0) * 0, RECORDINGS, 400)]
    assert np.mean(noisy) == pytest.approx(probability, abs=0.06 if probability == 0.8 else 0)


@pytest.mark.parametrize("volume", [0.0, 0.1, 0.5])
def test_noise_is_a_piece_of_a_recording_up_to_the_volume(volume: float) -> None:
    clip = noise(1)
    factors, places = [], set()
    for noisy in disturbed(Disturbance(1, volume, 0), clip, RECORDINGS, 40):
        assert noisy.dtype == np.float32
        added = (noisy - clip).astype(np.float64)
        # The piece, its place and its factor, from where the recordings fit best.
        spectrum = np.fft.rfft(added, RECORDINGS.shape[1]).conj()
        fits = np.fft.irfft(np.fft.rfft(RECORDINGS) * spectrum)
        which, at = np.unravel_index(np.abs(fits).argmax(), fits.shape)
        piece = np.roll(RECORDINGS[which], -at)[:RATE]
        factor = float(added @ piece / (piece @ piece))
        np.testing.assert_allclose(added, factor * piece, atol=1e-5)
        factors.append(factor)
        places.add((int(which), int(at)))
    assert min(factors) >= 0
    assert max(factors) <= volume + 1e-6
    assert max(factors) >= 0.85 * volume
    assert min(factors) <= 0.15 * volume
    if volume:
        assert {which for which, _ in places} == {0, 1}
        assert len(places) > 35
        assert max(at for _, at in places) > RATE  # the end of a recording goes on at its start


def test_the_generator_alone_draws() -> None:
    def drawn(seed: int) -> Sound:
        return Disturbance()(noise(1), RECORDINGS, np.random.default_rng(seed))

    assert np.array_equal(drawn(4), drawn(4))
    assert not np.array_equal(drawn(4), drawn(5))


# -- decoding --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["WAV", "FLAC"])
def test_every_sample_is_kept(kind: str) -> None:
    sound = noise(3)
    decoded = decode("x", encoded(sound, kind))
    assert decoded.dtype == np.float32
    assert np.array_equal(decoded, sound)


def test_channels_are_averaged() -> None:
    left, right = noise(1), noise(2)
    decoded = decode("x", encoded(np.stack([left, right], axis=1)))
    np.testing.assert_allclose(decoded, (left + right) / 2, atol=1e-6)


@pytest.mark.parametrize("rate", [8000, 22_050, 44_100])
def test_other_rates_keep_the_frequency(rate: int) -> None:
    decoded = decode("x", encoded(sine(440, rate, rate), rate=rate))
    assert len(decoded) == RATE
    assert loudest(decoded) == pytest.approx(440, abs=1)
    assert np.abs(decoded[1000:-1000]).max() == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("length", [1, 5000, RATE - 1, RATE, RATE + 1, 3 * RATE])
def test_a_second_is_cut_or_filled_up(length: int) -> None:
    sound = noise(1, length) + 1
    second = one_second(sound)
    assert second.shape == (RATE,)
    assert np.array_equal(second[:length], sound[:RATE])
    assert not second[length:].any()


FLAC = encoded(noise(1), "FLAC")


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"no sound\n", bytes(100), encoded(noise(1))[:20]),
        *(FLAC[: len(FLAC) // 2], FLAC[:-1], FLAC[:60]),
    ],
)
def test_what_is_no_sound_is_refused(content: bytes) -> None:
    assert refusal(decode, "a: b.wav", content) == "a: b.wav: damaged, or not a WAV or FLAC file"


def test_sounds_of_no_length() -> None:
    empty = encoded(np.zeros(0, np.float32))
    assert refusal(decode, "a: b.wav", empty) == "a: b.wav: holds no sound"


# -- faults of the test archive --------------------------------------------------------------------


def test_missing_and_unknown_folders(tmp_path: Path, root: Path) -> None:
    path = shutil.copytree(root / FOLDER, tmp_path / FOLDER)
    shutil.rmtree(path / "left")
    assert refusal(load, tmp_path) == f"{path}: has no clip of left for training"
    (path / "right").rename(path / "left")
    (path / "go").rename(path / "gone")
    message = refusal(load, tmp_path)
    assert message.startswith(f"{path}: gone/")
    assert "is in none of the folders _silence_, _unknown_, down, " in message


@pytest.mark.parametrize("lacking", SPLITS)
def test_a_split_without_clips(tmp_path: Path, lacking: str) -> None:
    kept = {name: wav for name, wav in WAVS.items() if split_of(name) != lacking}
    path = write(tmp_path / FOLDER, kept)
    problem = "of _silence_ for training" if lacking == "train" else f"for {lacking}"
    assert refusal(load, tmp_path) == f"{path}: has no clip {problem}"


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"no sound", "damaged, or not a WAV or FLAC file"),
        (b"", "damaged, or not a WAV or FLAC file"),
        (encoded(np.zeros(0, np.float32)), "holds no sound"),
    ],
)
def test_clips_that_cannot_be_read_are_named(tmp_path: Path, content: bytes, problem: str) -> None:
    name = next(iter(WAVS))
    path = pack(tmp_path / f"{FOLDER}.flac.zip", WAVS | {name: content}, f"{FOLDER}/")
    assert refusal(load, tmp_path) == f"{path}: {name}: {problem}"


def test_archives_that_are_cut_off(tmp_path: Path, trusted: Trust) -> None:
    path = pack(tmp_path / f"{FOLDER}.flac.zip", WAVS, f"{FOLDER}/")
    path.write_bytes(path.read_bytes()[:-1000])
    assert refusal(load, tmp_path).startswith(f"{path}: not a readable folder, or whole zip")
    path.unlink()
    path = pack(tmp_path / f"{FOLDER}.tar.gz", WAVS, "./")
    trusted(path, "test")
    path.write_bytes(path.read_bytes()[:-1000])
    assert f"{path}: cut off, or not the file of https://" in refusal(load, tmp_path)
    trusted(path, "test")
    assert refusal(load, tmp_path).startswith(f"{path}: not a readable folder, or whole zip")


# -- the full archive ------------------------------------------------------------------------------

FULL = "speech_commands_v0.02"
# Of each of the ten words, and of the three other words together ten times as many.
COUNTS = {"train": 6, "validation": 3, "test": 2}
OTHER_WORDS = ("bed", "five", "cat")
SECONDS = 20


def full_clips() -> tuple[Sounds, dict[str, str]]:
    """Clips by name, short ones since only their names matter, and the split of each."""
    found: Sounds = {}
    split_by_name = {}
    for word in (*WORDS, *OTHER_WORDS):
        for split, count in COUNTS.items():
            for i in range(count):
                # Not as the hash of the test archive would split them: the lists decide.
                name = f"{word}/{SPEAKERS[i]}_nohash_{SPLITS.index(split)}.wav"
                found[name], split_by_name[name] = noise(len(found), 800), split
    return found, split_by_name


FULL_CLIPS, SPLIT_BY_NAME = full_clips()


def frequency(recording: int, second: int) -> int:
    """Tells a second of background noise by its tone."""
    return 100 * (second + 1) + 50 * recording


def full_files() -> dict[str, bytes]:
    files = {name: encoded(sound) for name, sound in FULL_CLIPS.items()}
    for i, title in enumerate(("doing_the_dishes", "running_tap")):
        # The rest of a second at the end belongs to no clip.
        tones = [sine(frequency(i, second)) for second in range(SECONDS)]
        files[f"_background_noise_/{title}.wav"] = encoded(np.concatenate([*tones, tones[0][:99]]))
    for split, title in (("validation", "validation_list.txt"), ("test", "testing_list.txt")):
        listed = [name for name in SPLIT_BY_NAME if SPLIT_BY_NAME[name] == split]
        files[title] = ("\n".join(listed) + "\n").encode()
    return files | OTHERS | {"_background_noise_/README.md": b"a text\n"}


FULL_FILES = full_files()


def load_full(root: Path, seed: int = 0) -> TensorData:
    return speech_commands(root, "full", draws=2, seed=seed)


@pytest.fixture(scope="module")
def full_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("full")
    write(path / FULL, FULL_FILES)
    return path


def chosen(root: Path, seed: int = 0) -> dict[tuple[str, str], list[tuple[str, Sound]]]:
    """Names and sounds of the protocol by split and class."""
    sounds, selected, _ = speech._by_lists(root / FULL, CLASSES, SPLITS, speech.LISTS, seed)
    found = defaultdict(list)
    for sound, clip in zip(sounds, selected, strict=True):
        found[clip.split, CLASSES[clip.label]].append((clip.name, sound))
    return found


def test_the_lists_decide_on_the_split(full_root: Path) -> None:
    found = chosen(full_root)
    for split in SPLITS:
        for word in WORDS:
            expected = {n for n, s in SPLIT_BY_NAME.items() if s == split and n.startswith(word)}
            assert {name for name, _ in found[split, word]} == expected
        for name, sound in (pair for word in WORDS for pair in found[split, word]):
            assert np.array_equal(sound[:800], FULL_CLIPS[name])
            assert not sound[800:].any()


def test_there_are_as_many_unknown_and_silent_clips_as_of_a_word(full_root: Path) -> None:
    found = chosen(full_root)
    for split, count in COUNTS.items():
        assert len(found[split, "_unknown_"]) == count
        assert len(found[split, "_silence_"]) == count
        unknown = {name for name, _ in found[split, "_unknown_"]}
        assert len(unknown) == count
        assert {SPLIT_BY_NAME[name] for name in unknown} == {split}
        assert {name.split("/")[0] for name in unknown} <= set(OTHER_WORDS)


def test_the_seed_draws_unknown_words_and_silence(full_root: Path) -> None:
    once, again, other = chosen(full_root, 0), chosen(full_root, 0), chosen(full_root, 1)
    for kind in ("_unknown_", "_silence_"):
        a, b, c = (
            [found[split, kind][i] for split in SPLITS for i in range(COUNTS[split])]
            for found in (once, again, other)
        )
        assert [name for name, _ in a] == [name for name, _ in b]
        assert all(np.array_equal(x, y) for (_, x), (_, y) in zip(a, b, strict=True))
        assert not all(np.array_equal(x, y) for (_, x), (_, y) in zip(a, c, strict=True))
    assert [n for n, _ in once["train", "down"]] == [n for n, _ in other["train", "down"]]


def test_silence_of_different_splits_is_from_different_parts(full_root: Path) -> None:
    heard: dict[str, set[float]] = {split: set() for split in SPLITS}
    for seed in range(15):
        found = chosen(full_root, seed)
        for split in SPLITS:
            for _, sound in found[split, "_silence_"]:
                assert np.abs(sound).max() <= 0.5
                heard[split].add(loudest(sound))
    seconds = {"train": range(16), "validation": range(16, 18), "test": range(18, 20)}
    for split in SPLITS:
        tones = {frequency(i, second) for i in range(2) for second in seconds[split]}
        assert heard[split] <= tones
        assert len(heard[split]) > len(tones) / 2


def test_noise_is_from_the_parts_that_train(full_root: Path) -> None:
    _, _, recordings = speech._by_lists(full_root / FULL, CLASSES, SPLITS, speech.LISTS, 0)
    tones = {loudest(recording) for recording in recordings}
    assert tones == {frequency(i, second) for i in range(2) for second in range(16)}


def test_the_full_archive_as_data(
    tmp_path: Path,
    full_root: Path,
    trusted: Trust,
) -> None:
    data = load_full(full_root)
    assert data.label == "Speech Commands v0.02"
    for split, count in zip(splits(data), COUNTS.values(), strict=True):
        assert torch.bincount(split.targets, minlength=12).tolist() == [count] * 12
        assert split.inputs.shape[1:] == (2 if split is data.train else 1, 15, 26)
        assert bool(split.inputs.isfinite().all())
    trusted(pack(tmp_path / f"{FULL}.tar.gz", FULL_FILES, "./"), "full")
    assert same(load_full(tmp_path), data)


@pytest.mark.parametrize("title", ["validation_list.txt", "testing_list.txt"])
def test_the_lists_are_needed(tmp_path: Path, title: str) -> None:
    path = write(tmp_path / FULL, FULL_FILES)
    (path / title).unlink()
    expected = f"{path}: has no {title}, the official list of a split"
    assert refusal(load_full, tmp_path) == expected
    (path / title).write_bytes(b"")
    split = "test" if title == "testing_list.txt" else "validation"
    assert refusal(load_full, tmp_path) == f"{path}: has no clip for {split}"
    (path / title).write_bytes(b"\xff\xfe\x00 ")
    assert refusal(load_full, tmp_path).endswith(f"but its {title} names it")


def test_what_a_list_names_must_be_there(tmp_path: Path) -> None:
    path = write(tmp_path / FULL, FULL_FILES)
    name = next(n for n in SPLIT_BY_NAME if SPLIT_BY_NAME[n] == "test")
    (path / name).unlink()
    assert (
        refusal(load_full, tmp_path) == f"{path}: has no {name}, but its testing_list.txt names it"
    )
    # As a FLAC file it is there again.
    (path / name).with_suffix(".flac").write_bytes(encoded(FULL_CLIPS[name], "FLAC"))
    assert len(load_full(tmp_path).test) == 12 * COUNTS["test"]


def test_background_noise_is_needed(tmp_path: Path) -> None:
    path = write(tmp_path / FULL, FULL_FILES)
    expected = f"{path}: needs a recording of 10 seconds or more in _background_noise_"
    for file in (path / "_background_noise_").glob("*.wav"):
        file.write_bytes(encoded(sine(440, 9 * RATE)))
    assert refusal(load_full, tmp_path) == expected
    file.write_bytes(encoded(sine(440, 10 * RATE)))
    assert len(load_full(tmp_path).test) == 12 * COUNTS["test"]
    shutil.rmtree(path / "_background_noise_")
    assert refusal(load_full, tmp_path) == expected


def test_words_that_are_missing(tmp_path: Path) -> None:
    files = {name: c for name, c in FULL_FILES.items() if not name.startswith("yes/")}
    for title in ("validation_list.txt", "testing_list.txt"):
        lines = files[title].decode().split()
        files[title] = "\n".join(line for line in lines if not line.startswith("yes/")).encode()
    path = write(tmp_path / FULL, files)
    assert refusal(load_full, tmp_path) == f"{path}: has no clip of yes for training"


# -- the real archive ------------------------------------------------------------------------------


@pytest.fixture
def real(shared: Path) -> Path:
    path = shared / "data" / "speech_commands_test_set_v0.02.flac.zip"
    if not path.exists():
        pytest.skip(f"{path} is not there")
    return path


def test_the_real_archive_has_the_layout(real: Path) -> None:
    found = [name for name in names(real) if name.endswith(".flac")]
    assert len(found) == 4890
    counts = Counter(name.split("/")[0] for name in found)
    assert set(counts) == set(CLASSES)
    assert 390 < min(counts.values()) <= max(counts.values()) < 430
    # Any other split would make earlier results incomparable.
    by_split = Counter(map(split_of, found))
    assert by_split == {"train": 3714, "validation": 434, "test": 742}


def test_real_clips_are_a_second_long(real: Path) -> None:
    some = set(names(real)[5::400])
    sounds = [decode(name, content) for name, content in members(real, some.__contains__)]
    assert len(sounds) == len(some)
    for sound in sounds:
        assert sound.shape == (RATE,)
        assert np.isfinite(Mfcc()(sound[None])).all()


# -- five words, in the official partitions --------------------------------------------------------

FIVE = ("down", "go", "left", "right", "up")
SEVEN = ("_silence_", "_unknown_", *FIVE)
EXTRA = "speech_commands_extra"


def extra_files() -> dict[str, bytes]:
    """The full archive without its test clips, and with a list of the training clips."""
    tested = {name for name, split in SPLIT_BY_NAME.items() if split == "test"}
    files = {name: content for name, content in FULL_FILES.items() if name not in tested}
    trained = [name for name, split in SPLIT_BY_NAME.items() if split == "train"]
    files["training_list.txt"] = ("\n".join(trained) + "\n").encode()
    del files["testing_list.txt"]
    return files


def load_five(root: Path, archive: Archive) -> TensorData:
    return speech_commands(root, archive, draws=2, words=FIVE)


def test_five_words_of_the_full_archive(full_root: Path) -> None:
    data = load_five(full_root, "full")
    assert data.classes == SEVEN
    for split, found in zip(SPLITS, splits(data), strict=True):
        assert Counter(found.targets.tolist()) == dict.fromkeys(range(7), COUNTS[split])


def test_training_clips_of_one_archive_and_test_clips_of_the_other(
    full_root: Path, root: Path, tmp_path: Path
) -> None:
    write(tmp_path / EXTRA, extra_files())
    shutil.copytree(root / FOLDER, tmp_path / FOLDER)
    data, whole = load_five(tmp_path, "extra"), load_five(full_root, "full")
    assert "in part" in data.label
    scale, whole_scale = (torch.tensor(d.standardized[1])[:, None] for d in (data, whole))
    for found, expected in ((data.train, whole.train), (data.validation, whole.validation)):
        assert torch.equal(found.targets, expected.targets)
        # Other silence is drawn: without test clips the generator is drawn from less often.
        spoken = found.targets > 0
        features = found.inputs[spoken] * scale, expected.inputs[spoken] * whole_scale
        torch.testing.assert_close(*features)
    tested = [name.split("/")[0] for name in sorted(CLIPS) if name.split("/")[0] in SEVEN]
    assert [SEVEN[label] for label in data.test.targets] == tested


def test_the_archive_in_part_is_found_or_named(tmp_path: Path) -> None:
    message = refusal(load_five, tmp_path, "extra")
    assert "cannot be downloaded; put speech_commands_extra or" in message
    assert message.endswith("use the full archive (archive: full)")
    pack(tmp_path / f"{EXTRA}.flac.zip", extra_files(), f"{EXTRA}/")
    assert f"{EXTRA}.flac.zip: cut off, or not the file of" in refusal(load_five, tmp_path, "extra")


def test_a_word_that_is_none_of_the_ten(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^words must be some of down, .* not bed$"):
        speech_commands(tmp_path, words=("down", "bed"))
