"""Bit widths: one for all weights of a model, or some by parts of names (mixed precision)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain

from ecqx.assignment.bits import check_bits
from ecqx.errors import input_errors
from ecqx.modules import meant_by

Bits = int | Mapping[str, int]
# The part that stands for all weights that no other part names, and their bit width by default.
REST, DEFAULT_BITS = "*", 4


def checked_bits(bits: Bits) -> int | dict[str, int]:
    """Bit widths in one form: sorted by part, with `REST` among the parts.

    Raises
    ------
    ValueError
        If a part is no text, or a width is no integer from 2 to 8.
    """
    if not isinstance(bits, Mapping):
        check_bits(bits)
        return bits
    for part, width in bits.items():
        if not isinstance(part, str) or not part:
            raise ValueError(f"bits are given by parts of names, and {part!r} is none")
        with input_errors(f"{part}: "):
            check_bits(width)
    return dict(sorted({REST: DEFAULT_BITS, **bits}.items()))


def bits_of_weights(bits: Bits, names: Mapping[str, Sequence[str]]) -> dict[str, int]:
    """The bit width of each weight.

    `ecqx.modules.meant_by` says which weights a part means. Of several parts that mean a weight the
    one with the fewest weights decides.

    Parameters
    ----------
    bits : int or mapping of str to int
        As `checked_bits` returns it.
    names : mapping of str to sequence of str
        All names of each weight by its first one; a tied weight has several.

    Raises
    ------
    ValueError
        If a part means no weight, or two parts with as many weights give one different widths.
    """
    if isinstance(bits, int):
        return dict.fromkeys(names, bits)
    meant = {part: _weights_meant(part, names) for part in bits if part != REST}
    unused = [part for part, weights in meant.items() if not weights]
    if unused:
        raise ValueError(
            f"bits: no quantized weight has {' or '.join(map(repr, unused))} in its name"
        )
    widths = {}
    for name in names:
        parts = [part for part, weights in meant.items() if name in weights]
        fewest = min((len(meant[part]) for part in parts), default=0)
        deciding = [part for part in parts if len(meant[part]) == fewest] or [REST]
        if len({bits[part] for part in deciding}) > 1:
            raise ValueError(
                f"bits: {' and '.join(map(repr, deciding))} give {name} different widths; name it "
                "by more of its name"
            )
        widths[name] = bits[deciding[0]]
    return widths


def _weights_meant(part: str, names: Mapping[str, Sequence[str]]) -> set[str]:
    """The first names of the weights that a part means."""
    meant = meant_by(part, chain.from_iterable(names.values()))
    return {first for first, every in names.items() if not meant.isdisjoint(every)}


def bits_in_words(bits: Bits) -> str:
    """Bit widths for a person: ``4 bit``, or ``4 bit (conv1 5, layer3 3)``."""
    if isinstance(bits, int):
        return f"{bits} bit"
    others = ", ".join(f"{part} {width}" for part, width in bits.items() if part != REST)
    rest = f"{bits.get(REST, DEFAULT_BITS)} bit"
    return f"{rest} ({others})" if others else rest
