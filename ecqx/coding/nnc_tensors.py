"""Tensors as the layers of an NNC bitstream: levels, a step, and a codebook.

A quantized tensor is coded without loss: by its integers where the step has 8 significant bits,
which is all that the standard's uniform reconstruction can hold, else by a codebook of multiples of
such a step. Other floats are rounded to multiples of a power of two.
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
# Bits that even the smallest value of a tensor of plain floats keeps, where 31 allow that: those of
# half precision.
_LEAST_BITS = 11
# The magnitude that is too large for a level and such a step.
TOO_LARGE = 2.0 ** (MOST_BITS + HIGHEST_EXPONENT)
# Flags of a layer are counted in eight bits. Levels of plain floats hardly ever are small.
_MAX_FLAGS, _FLAGS_OF_FLOATS = 256, 1
# A layer is decoded in one piece, and its end is noticed only then. So many bytes may its levels
# take at most, whatever its payload, or for each byte of it: half a second, or 0.2 ms a byte.
_ANY_LEVELS, _LEVELS_PER_BYTE = 1 << 25, 1 << 14


@dataclass(frozen=True)
class Levels:
    """A tensor as integers: each value is its level, or the codebook's entry, times the step.

    With a codebook levels are positions relative to ``zero``, which is that of level 0. The step of
    a tensor of integers is 0.
    """

    levels: NDArray[np.int32]
    step: float = 0.0
    codebook: tuple[int, ...] = ()
    zero: int = 0

    def values(self) -> NDArray[np.float32] | NDArray[np.int32]:
        """The tensor as NNCodec reconstructs it: float32, or int32 for integers."""
        if not self.step:
            return self.levels
        if self.codebook:
            position = self.levels + self.zero
            if not 0 <= position.min() <= position.max() < len(self.codebook):
                raise ValueError("a level is outside the codebook")
            # NNCodec multiplies in float64; a model in float32 gets this.
            table = (np.array(self.codebook) * self.step).astype(np.float32)
            values: NDArray[np.float32] = table[position]
        else:
            values = np.float32(self.step) * self.levels.astype(np.float32)
        return values


def on_grid(integers: NDArray[np.int32], step: float) -> Levels | None:
    """Multiples of a step of float32, or None if it is out of the standard's range.

    A step of more than 8 bits becomes an integer times one of 8 bits, whose products with the
    integers round to the same float32. The smallest such integer makes the smallest codebook.
    """
    k = np.unique(integers)
    expected = k.astype(np.float32) * np.float32(step)
    mantissa, exponent = math.frexp(step)
    eight_bits = np.arange(1 << DENSITY, 2 << DENSITY)
    for scale in range(DENSITY, 33):
        factors = np.rint(math.ldexp(mantissa, scale) / eight_bits)
        near = np.abs(factors * eight_bits / math.ldexp(mantissa, scale) - 1) <= 2.0**-24
        for index in np.flatnonzero(near):
            factor, own = int(factors[index]), math.ldexp(eight_bits[index], exponent - scale)
            is_held = LOWEST_EXPONENT < math.frexp(own)[1] <= HIGHEST_EXPONENT + 1
            if is_held and np.array_equal((k * factor * own).astype(np.float32), expected):
                return Levels(integers, own) if factor == 1 else _book(integers, own, factor)
    return None


def fixed_point(values: NDArray[np.float32], bits: int = MOST_BITS) -> tuple[Levels, bool]:
    """Floats as multiples of a power of two, and whether that is exact.

    The largest magnitude has ``bits`` bits. It has more, up to 31, where the smallest magnitude
    would have fewer than 11 otherwise. ``ValueError`` if a value is not finite, or `TOO_LARGE`.
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
    return _book(fixed.levels, fixed.step), is_exact


def _book(multiples: NDArray[np.int32], step: float, factor: int = 1) -> Levels:
    """Each distinct integer times ``factor`` as an entry of a codebook."""
    entries, positions = np.unique(multiples, return_inverse=True)
    zero = int(np.abs(entries.astype(np.int64)).argmin())
    levels = (positions.reshape(multiples.shape) - zero).astype(np.int32)
    return Levels(levels, step, tuple(int(entry) * factor for entry in entries), zero)


def encode(name: str, coded: Levels, is_weight: bool) -> Unit:
    """One tensor as a unit; the flags of a weight reach up to its largest level."""
    levels = np.atleast_1d(coded.levels)
    highest = int(np.abs(levels.astype(np.int64)).max())
    flags = min(max(highest, 1), _MAX_FLAGS) if is_weight else _FLAGS_OF_FLOATS
    unit = Unit(name, levels.shape, b"", flags, coded.step > 0, False, coded.codebook, coded.zero)
    encoder = deepCABAC.Encoder()
    if coded.step:
        encoder.iae_v(6 + DENSITY, _qp(coded.step) - PARAMETERS.qp)
    _coding(unit).encode(encoder, np.ascontiguousarray(levels.reshape(len(levels), -1)))
    return replace(unit, payload=bytes(encoder.finish()))


def decode(unit: Unit, parameters: ParameterSet) -> Levels:
    """Inverse of `encode`; ``ValueError`` if the payload is not that of the unit."""
    if not unit.shape or 0 in unit.shape:
        raise ValueError(f"has the impossible shape {unit.shape}")
    coding, shape = _coding(unit), (unit.shape[0], math.prod(unit.shape[1:]))
    most = coding.max_bytes(*shape)
    if most > max(_ANY_LEVELS, _LEVELS_PER_BYTE * len(unit.payload)):
        raise ValueError(f"announces shape {unit.shape} in {len(unit.payload)} bytes")
    decoder, levels = deepCABAC.Decoder(), np.zeros(shape, np.int32)
    decoder.setStream(before_zeros(unit.payload, most))
    qp = decoder.iae_v(6 + parameters.density) + parameters.qp if unit.is_float else None
    if coding.decode(decoder, levels) != len(unit.payload):
        raise ValueError("its payload does not end where its levels end")
    step = 0.0 if qp is None else _step(qp, parameters.density)
    return Levels(levels.reshape(unit.shape), step, unit.codebook, unit.zero)


def _coding(unit: Unit) -> Coding:
    return Coding(unit.flags, len(unit.codebook), unit.zero, int(unit.dependent))


def _qp(step: float) -> int:
    """Inverse of `_step` for `DENSITY`."""
    mantissa, exponent = math.frexp(step)
    return int(mantissa * (2 << DENSITY)) - (1 << DENSITY) + (exponent - 1 << DENSITY)


def _step(qp: int, density: int) -> float:
    whole = 1 << density
    exponent = qp // whole - density
    # Levels of 31 bits are then finite in float32.
    if not -149 <= exponent <= 80:
        raise ValueError(f"has an impossible step, about 2^{exponent}")
    return math.ldexp(whole + qp % whole, exponent)
