"""One second of sound: decoded, disturbed and turned into MFCC."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecqx.errors import InputError

Clip = NDArray[np.float32]
RATE = 16_000
# What is fainter than this below the loudest moment of a clip counts as this faint, in dB.
DYNAMIC_RANGE = 80


@dataclass(frozen=True)
class Mfcc:
    """Mel-frequency cepstral coefficients, without their mean over the clip.

    The mean is what room, microphone and voice have in common over a clip. Without it the network
    depends less on who speaks.

    Attributes
    ----------
    coefficients : int
        The paper's 15.
    window, hop : int
        In samples of 1/16,000 s; the paper has a "long window" and does not name its length.
    mels : int
        Mel bands.
    """

    coefficients: int = 15
    window: int = 4096
    hop: int = 640
    mels: int = 40

    def __call__(self, clips: Clip) -> NDArray[np.float32]:
        """Shape (N, 16000) to (N, coefficients, 1 + 16000 // hop); each clip by itself."""
        import librosa
        from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

        # The last digits depend on the number of threads, which would be that of the processes.
        with threadpool_limits(1):
            spectrum = librosa.feature.melspectrogram(
                y=clips, sr=RATE, n_fft=self.window, hop_length=self.hop, n_mels=self.mels
            )
        decibel = librosa.power_to_db(spectrum, top_db=None)
        # librosa's own bound would lie below the loudest moment of all clips together.
        loudest = decibel.max(axis=(-2, -1), keepdims=True)
        decibel = np.maximum(decibel, loudest - DYNAMIC_RANGE)
        features = librosa.feature.mfcc(S=decibel, n_mfcc=self.coefficients)
        centred: NDArray[np.float32] = features - features.mean(axis=-1, keepdims=True)
        return centred.astype(np.float32)


@dataclass(frozen=True)
class Disturbance:
    """What training adds to a clip, so that the network does not rely on what is chance.

    Attributes
    ----------
    noise : float
        Probability of background noise (paper: 0.8).
    volume : float
        The noise is scaled by a factor that is uniform between 0 and this one.
    shift : float
        Probability of a shift in time (paper: 0.5).
    shift_ms : int
        Largest shift, both ways (paper: 100).
    """

    noise: float = 0.8
    volume: float = 0.1
    shift: float = 0.5
    shift_ms: int = 100

    def __call__(self, clip: Clip, recordings: Clip, generator: np.random.Generator) -> Clip:
        """Disturb one clip of shape (16000,) with one of the recordings, shape (M, ≥ 16000)."""
        if generator.random() < self.shift:
            most = self.shift_ms * RATE // 1000
            clip = _shifted(clip, int(generator.integers(-most, most + 1)))
        if generator.random() < self.noise:
            recording = recordings[generator.integers(len(recordings))]
            turned = np.roll(recording, generator.integers(len(recording)))[:RATE]
            clip = clip + np.float32(generator.uniform(0, self.volume)) * turned
        return clip


def _shifted(clip: Clip, samples: int) -> Clip:
    """Later by so many samples (earlier where negative); silence fills the gap."""
    moved = np.zeros_like(clip)
    if samples >= 0:
        moved[samples:] = clip[: len(clip) - samples]
    else:
        moved[:samples] = clip[-samples:]
    return moved


def decode(what: str, content: bytes) -> Clip:
    """One WAV or FLAC file as a single channel at 16 kHz, of its own length.

    Several channels are averaged, other rates are resampled.

    Raises
    ------
    InputError
        If it is no sound file, or an empty one.
    """
    import soundfile

    try:
        sound, rate = soundfile.read(io.BytesIO(content), dtype="float32", always_2d=True)
    except (RuntimeError, ValueError, MemoryError) as error:  # of memory, where a length is damaged
        raise InputError(f"{what}: damaged, or no WAV or FLAC file") from error
    if not len(sound):
        raise InputError(f"{what}: holds no sound")
    mono: Clip = sound.mean(axis=1, dtype=np.float32)
    if rate != RATE:
        import librosa

        mono = librosa.resample(mono, orig_sr=rate, target_sr=RATE)
    return mono


def one_second(sound: Clip) -> Clip:
    """Cut to the first second, or filled up with silence."""
    clip = np.zeros(RATE, dtype=np.float32)
    clip[: min(RATE, len(sound))] = sound[:RATE]
    return clip


def versions(
    clips: Clip,
    numbers: NDArray[Any],
    draws: int,
    seed: int,
    recordings: Clip,
    disturbance: Disturbance,
    mfcc: Mfcc,
) -> NDArray[np.float32]:
    """Features of several disturbed versions of each clip.

    Parameters
    ----------
    clips : array, shape (N, 16000)
    numbers : array, shape (N,)
        A number of its own for each clip, which together with ``seed`` and the version draws the
        disturbance: it does not depend on which clips are worked on together.
    draws : int
        Versions a clip.
    seed : int
    recordings : array, shape (M, ≥ 16000)
        Noise.
    disturbance, mfcc

    Returns
    -------
    array, shape (N, draws, coefficients, frames)
    """
    features = []
    for draw in range(draws):
        disturbed = [
            disturbance(clip, recordings, np.random.default_rng((seed, int(number), draw)))
            for clip, number in zip(clips, numbers, strict=True)
        ]
        features.append(mfcc(np.stack(disturbed)))
    return np.stack(features, axis=1)
