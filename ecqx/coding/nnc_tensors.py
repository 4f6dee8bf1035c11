"""Tensors as the layers of an NNC bitstream: levels, a step, and a codebook.

A quantized tensor is coded without loss: by its integers where the step has 8 significant bits,
which is all that the standard's uniform reconstruction can hold, else by a codebook of multiples of
a power of two. Other floats are rounded to multiples of a power of two.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from nncodec.extensions import deepCABAC
from numpy.typing import NDArray

from ecqx.coding.entropy_coder import Coding, before_zeros
from ecqx.coding.nnc_units import ParameterSet, Unit

# Seven bits after the leading one of a step. The steps that a layer can have then reach from
# 2 ** -64 to below 1.
DENSITY = 7
PARAMETERS = ParameterSet(DENSITY, -(1 << 12))
LOWEST_EXPONENT, HIGHEST_EXPONENT = -64, -1
MOST_BITS = 31
# Bits that even the smallest value of a tensor of plain floats keeps, where 31 allow that.
_LEAST_BITS = 12
# The magnitude that is too large for a level and such a step.
TOO_LARGE = 2.0 ** (MOST_BITS + HIGHEST_EXPONENT)
# Flags of a layer are counted in eight bits. Levels of plain floats hardly ever are small.
_MAX_FLAGS, _FLAGS_OF_FLOATS = 256, 1
_MAX_ELEMENTS = (1 << 31) - 1


@dataclass(frozen=True)
class Levels:
    """A tensor as integers: each value is its level, or the codebook's entry, times the step.

    Attributes
    ----------
    levels : array of int32
        With a codebook positions relative to ``zero``.
    step : float
        Zero for a tensor of integers.
    codebook : tuple of int, optional
    zero : int
        Position of level 0 in the codebook.
    """

    levels: NDArray[np.int32]
    step: float = 0.0
    codebook: tuple[int, ...] | None = None
    zero: int = 0

    def values(self) -> NDArray[np.float32] | NDArray[np.int32]:
        """The tensor as NNCodec reconstructs it: float32, or int32 for integers."""
        if not self.step:
            return self.levels
        if self.codebook is not None:
            book, position = np.array(self.codebook, np.int32), self.levels + self.zero
            if not 0 <= position.min() <= position.max() < len(book):
                raise ValueError("a level is outside the codebook")
            # NNCodec multiplies in float64; a model in float32 gets this.
            values: NDArray[np.float32] = (book * self.step)[position].astype(np.float32)
        else:
            values = np.float32(self.step) * self.levels.astype(np.float32)
        return values


def uniform(levels: NDArray[np.int32], step: float) -> Levels | None:
    """Multiples of a step, or None if the standard cannot hold this step exactly."""
    mantissa, exponent = math.frexp(step)
    has_eight_bits = (mantissa * (2 << DENSITY)).is_integer()
    if has_eight_bits and LOWEST_EXPONENT <= exponent - 1 <= HIGHEST_EXPONENT:
        return Levels(levels, step)
    return None


def fixed_point(values: NDArray[np.float32], bits: int = MOST_BITS) -> tuple[Levels, bool]:
    """Floats as multiples of a power of two, and whether that is exact.

    Parameters
    ----------
    values : array of float32
    bits : int
        Bits of the largest magnitude, at most 31. As many more as the smallest one needs for 12.

    Raises
    ------
    ValueError
        If a value is not finite, or `TOO_LARGE`.
    """
    wide = values.astype(np.float64)
    magnitude = np.abs(wide)
    largest = float(magnitude.max(initial=0.0))
    if not largest < TOO_LARGE:
        raise ValueError(f"NNC holds finite values below {TOO_LARGE:g}")
    smallest = float(magnitude.min(initial=largest, where=magnitude > 0))
    highest, lowest = math.frexp(largest)[1], math.frexp(smallest)[1]
    finest = max(highest - MOST_BITS, LOWEST_EXPONENT)
    exponent = max(finest, min(highest - bits, lowest - _LEAST_BITS))
    levels, is_exact = _multiples(wide, finest)
    # Few bits may be enough for all values: those of half precision, or of an earlier rounding.
    spare = _trailing_zeros(levels)
    if not is_exact or finest + spare < exponent:
        finest = exponent
        levels, is_exact = _multiples(wide, exponent)
        spare = _trailing_zeros(levels)
    shift = min(spare, HIGHEST_EXPONENT - finest)
    return Levels((levels >> shift).astype(np.int32), math.ldexp(1.0, finest + shift)), is_exact


def _multiples(wide: NDArray[np.float64], exponent: int) -> tuple[NDArray[np.int64], bool]:
    """The nearest multiples of a power of two, and whether these are the values."""
    scaled = np.ldexp(wide, -exponent)
    levels = np.rint(scaled)
    return levels.astype(np.int64), bool((levels == scaled).all())


def _trailing_zeros(integers: NDArray[np.int64]) -> int:
    """Number of low bits that are zero in all integers; 63 if all are zero."""
    together = int(np.bitwise_or.reduce(integers, axis=None)) if integers.size else 0
    return (together & -together).bit_length() - 1 if together else 63


def with_codebook(values: NDArray[np.float32]) -> tuple[Levels, bool]:
    """The same as `fixed_point`, each distinct value as an entry of a codebook."""
    fixed, is_exact = fixed_point(values)
    entries, positions = np.unique(fixed.levels, return_inverse=True)
    zero = int(np.abs(entries.astype(np.int64)).argmin())
    levels = (positions.reshape(values.shape) - zero).astype(np.int32)
    return replace(fixed, levels=levels, codebook=tuple(map(int, entries)), zero=zero), is_exact


def encode(name: str, coded: Levels, is_weight: bool) -> Unit:
    """One tensor as a unit; the flags of a weight reach up to its largest level."""
    levels = np.atleast_1d(coded.levels)
    highest = int(np.abs(levels.astype(np.int64)).max())
    flags = min(max(highest, 1), _MAX_FLAGS) if is_weight else _FLAGS_OF_FLOATS
    coding = Coding(flags, len(coded.codebook or ()), coded.zero)
    encoder = deepCABAC.Encoder()
    if coded.step:
        encoder.iae_v(_qp_bits(PARAMETERS), _qp(coded.step) - PARAMETERS.qp)
    coding.encode(encoder, np.ascontiguousarray(levels.reshape(len(levels), -1)))
    return Unit(
        *(name, levels.shape, bytes(encoder.finish()), flags),
        is_float=bool(coded.step),
        codebook=coded.codebook,
        zero=coded.zero,
    )


def decode(unit: Unit, parameters: ParameterSet) -> Levels:
    """Inverse of `encode`; ``ValueError`` if the payload is not that of the unit."""
    elements = math.prod(unit.shape)
    if not 0 < elements <= _MAX_ELEMENTS:
        raise ValueError(f"has the impossible shape {unit.shape}")
    coding = Coding(unit.flags, len(unit.codebook or ()), unit.zero, int(unit.dependent))
    levels = np.zeros((unit.shape[0], elements // unit.shape[0]), np.int32)
    decoder = deepCABAC.Decoder()
    decoder.setStream(before_zeros(unit.payload, coding.max_bytes(*levels.shape)))
    qp = decoder.iae_v(_qp_bits(parameters)) + parameters.qp if unit.is_float else None
    if coding.decode(decoder, levels) != len(unit.payload):
        raise ValueError("its payload does not end where its levels end")
    step = 0.0 if qp is None else _step(qp, parameters.density)
    return Levels(levels.reshape(unit.shape), step, unit.codebook, unit.zero)


def _qp_bits(parameters: ParameterSet) -> int:
    return 6 + parameters.density


def _qp(step: float) -> int:
    """Inverse of `_step` for `DENSITY`."""
    mantissa, exponent = math.frexp(step)
    return int(mantissa * (2 << DENSITY)) - (1 << DENSITY) + (exponent - 1 << DENSITY)


def _step(qp: int, density: int) -> float:
    whole = 1 << density
    return math.ldexp(whole + qp % whole, qp // whole - density)
