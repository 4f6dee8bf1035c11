"""Clips of one second: decoding, augmentation and MFCC features."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecqx.errors import InputError

Clip = NDArray[np.float32]
RATE = 16_000
# Levels lower than this below the maximum of a clip are clipped, in dB.
DYNAMIC_RANGE = 80


@dataclass(frozen=True)
class Mfcc:
    """Mel-frequency cepstral coefficients, minus their mean over the clip.

    The mean depends on room, microphone and voice; without it the network depends less on the
    speaker. ``window`` and ``hop`` are in samples at 16 kHz, ``mels`` is the number of mel bands.
    The paper has 15 coefficients and a "long window" of unknown length.
    """

    coefficients: int = 15
    window: int = 4096
    hop: int = 640
    mels: int = 40

    def __call__(self, clips: Clip) -> NDArray[np.float32]:
        """Shape (N, 16000) to (N, coefficients, 1 + 16000 // hop)."""
        import librosa
        from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

        # The last digits depend on the number of threads.
        with threadpool_limits(1):
            spectrum = librosa.feature.melspectrogram(
                y=clips, sr=RATE, n_fft=self.window, hop_length=self.hop, n_mels=self.mels
            )
        decibel = librosa.power_to_db(spectrum, top_db=None)
        # Not by librosa's top_db, which uses the maximum of all clips together.
        decibel = np.maximum(decibel, decibel.max(axis=(-2, -1), keepdims=True) - DYNAMIC_RANGE)
        features = librosa.feature.mfcc(S=decibel, n_mfcc=self.coefficients)
        centred: NDArray[np.float32] = features - features.mean(axis=-1, keepdims=True)
        return centred.astype(np.float32)


@dataclass(frozen=True)
class Disturbance:
    """Augmentation of a clip: background noise and a shift in time.

    Noise (paper: with probability 0.8) is scaled by a factor drawn uniformly from 0 to ``volume``.
    A shift (paper: with probability 0.5) is at most ``shift_ms`` in either direction (paper: 100).
    """

    noise: float = 0.8
    volume: float = 0.1
    shift: float = 0.5
    shift_ms: int = 100

    def __call__(self, clip: Clip, recordings: Clip, generator: np.random.Generator) -> Clip:
        """Augment a clip of shape (16000,) with noise of one of the recordings, (M, ≥ 16000)."""
        if generator.random() < self.shift:
            most = self.shift_ms * RATE // 1000
            clip = _shifted(clip, int(generator.integers(-most, most + 1)))
        if generator.random() < self.noise:
            recording = recordings[generator.integers(len(recordings))]
            noise = np.roll(recording, generator.integers(len(recording)))[:RATE]
            clip = clip + np.float32(generator.uniform(0, self.volume)) * noise
        return clip


def _shifted(clip: Clip, samples: int) -> Clip:
    """The clip later by ``samples`` (earlier if negative); silence fills the gap."""
    moved = np.roll(clip, samples)
    gap = slice(samples) if samples >= 0 else slice(samples, None)
    moved[gap] = 0
    return moved


def decode(what: str, content: bytes) -> Clip:
    """Decode a WAV or FLAC file to one channel at 16 kHz, averaged and resampled if necessary.

    ``what`` starts the message of an `InputError`.
    """
    import soundfile

    try:
        sound, rate = soundfile.read(io.BytesIO(content), dtype="float32", always_2d=True)
    except (RuntimeError, ValueError, MemoryError) as error:  # a damaged length
        raise InputError(f"{what}: damaged, or not a WAV or FLAC file") from error
    if not len(sound):
        raise InputError(f"{what}: holds no sound")
    if not np.isfinite(sound).all():
        raise InputError(f"{what}: holds samples that are NaN or infinite; remove or repair it")
    mono: Clip = sound.mean(axis=1, dtype=np.float32)
    if rate != RATE:
        import librosa

        mono = librosa.resample(mono, orig_sr=rate, target_sr=RATE)
    return mono


def one_second(sound: Clip) -> Clip:
    """The first second, padded with silence."""
    clip: Clip = np.pad(sound[:RATE], (0, max(0, RATE - len(sound))))
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
    """Features of ``draws`` augmented versions of each clip, (N, draws, coefficients, frames).

    The random numbers of a clip of shape (16000,) depend on ``seed``, its number and the version
    only, not on the clips that are processed with it. ``recordings``, (M, ≥ 16000), are noise.
    """
    features = []
    for draw in range(draws):
        augmented = [
            disturbance(clip, recordings, np.random.default_rng((seed, int(number), draw)))
            for clip, number in zip(clips, numbers, strict=True)
        ]
        features.append(mfcc(np.stack(augmented)))
    return np.stack(features, axis=1)
