"""Look-ups within the vector registers of processors with AVX-512.

A register holds sixteen numbers, and one instruction picks sixteen entries of a table that two of
them hold. Neither numba nor its compiler makes that of a loop, so the few instructions are spelled
out here; `ecqx.assignment.kernels` has loops that do the same on other processors.
"""

from __future__ import annotations

from typing import Any

import llvmlite.binding
from llvmlite import ir
from numba import config, types
from numba.core import cgutils as _cgutils
from numba.extending import intrinsic

LANES = 16
# Of a table; a power of two, and all of them are read.
ENTRIES = 2 * LANES
# Bytes that one instruction compares.
BYTES = 64

_FLOAT, _INT32, _INT64, _BYTE = ir.FloatType(), ir.IntType(32), ir.IntType(64), ir.IntType(8)
_FLOATS, _INTS = ir.VectorType(_FLOAT, LANES), ir.VectorType(_INT32, LANES)
_PICK_FLOATS = "llvm.x86.avx512.vpermi2var.ps.512"
_PICK_INTS = "llvm.x86.avx512.vpermi2var.d.512"
cgutils: Any = _cgutils


def _available() -> bool:
    """Whether numba compiles for this very processor, and it has what is needed."""
    settings: Any = config
    if settings.CPU_NAME is not None or settings.CPU_FEATURES is not None:
        return False
    features = llvmlite.binding.get_host_cpu_features()
    return all(features.get(name, False) for name in ("avx512f", "avx512bw", "avx512vl"))


AVAILABLE = _available()


class _Code:
    """Instructions of one call: arrays of numba as vectors."""

    def __init__(self, context: Any, builder: Any) -> None:
        self.context, self.builder = context, builder

    def address(self, kind: Any, array: Any, start: Any) -> Any:
        """Of an element."""
        data = self.context.make_array(kind)(self.context, self.builder, value=array).data
        return self.builder.gep(data, [start])

    def load(self, address: Any, kind: Any) -> Any:
        return self.builder.load(self.builder.bitcast(address, kind.as_pointer()), align=1)

    def store(self, value: Any, address: Any) -> None:
        place = self.builder.bitcast(address, value.type.as_pointer())
        self.builder.store(value, place, align=1)

    def table(self, kind: Any, array: Any, vector: Any) -> tuple[Any, Any]:
        """The two halves of a table."""
        halves = (ir.Constant(_INT64, start) for start in (0, LANES))
        low, high = (self.load(self.address(kind, array, start), vector) for start in halves)
        return low, high

    def pick(self, table: tuple[Any, Any], index: Any) -> Any:
        """``table[index]`` for each lane."""
        vector = table[0].type
        signature = ir.FunctionType(vector, [vector, _INTS, vector])
        name = _PICK_FLOATS if vector == _FLOATS else _PICK_INTS
        function = cgutils.get_or_insert_function(self.builder.module, signature, name)
        return self.builder.call(function, [table[0], index, table[1]])

    def everywhere(self, value: Any, vector: Any) -> Any:
        """The same number in all lanes."""
        nothing = ir.Constant(vector, ir.Undefined)
        first = self.builder.insert_element(nothing, value, ir.Constant(_INT32, 0))
        lanes = ir.Constant(ir.VectorType(_INT32, vector.count), [0] * vector.count)
        return self.builder.shuffle_vector(first, nothing, lanes)

    def limited(self, x: Any) -> Any:
        """``x`` within the places of a table; NaN to the first."""
        for comparison, edge in ((">", 0.0), ("<", float(ENTRIES - 1))):
            limit = ir.Constant(_FLOATS, [edge] * LANES)
            x = self.builder.select(self.builder.fcmp_ordered(comparison, x, limit), x, limit)
        return x


def _instruction(function: Any) -> Any:
    """What compiled code may call, with the arguments behind the first."""
    return intrinsic(function)


def _placing(steps: int, repeated: bool) -> Any:
    """The look-up for cells of at most ``steps`` bounds, which may stand there repeatedly."""

    @_instruction
    def place(
        typing: Any,
        weight: Any,
        start: Any,
        first: Any,
        different: Any,
        below: Any,
        low: Any,
        scale: Any,
        out: Any,
    ) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            code, kinds = _Code(context, builder), signature.args
            w = code.load(code.address(kinds[0], values[0], values[1]), _FLOATS)
            low_, scale_ = (code.everywhere(value, _FLOATS) for value in values[5:7])
            cell = builder.fptosi(code.limited(builder.fmul(builder.fsub(w, low_), scale_)), _INTS)
            index = code.pick(code.table(kinds[2], values[2], _INTS), cell)
            table = code.table(kinds[3], values[3], _FLOATS)
            for _ in range(steps):
                above = builder.fcmp_ordered(">", w, code.pick(table, index))
                index = builder.add(index, builder.zext(above, _INTS))
            if repeated:
                index = code.pick(code.table(kinds[4], values[4], _INTS), index)
            if kinds[7].dtype.bitwidth == 8:
                index = builder.trunc(index, ir.VectorType(_BYTE, LANES))
            code.store(index, code.address(kinds[7], values[7], values[1]))
            return context.get_dummy_value()

        return types.void(weight, start, first, different, below, low, scale, out), codegen

    return place


# place(weight, start, first, different, below, low, scale, out) writes how many bounds lie below
# each of sixteen weights; the rest are what `ecqx.assignment.kernels.Cells` has, and an int32 or
# uint8 array.
# The number is that of the bounds a cell holds at most.
place_1, place_2 = (_placing(steps, repeated=False) for steps in (1, 2))
place_repeated_2, place_repeated_8 = (_placing(steps, repeated=True) for steps in (2, 8))


@_instruction
def select(typing: Any, table: Any, index: Any, start: Any, out: Any) -> Any:
    """``select(table, index, start, out)`` writes sixteen float32 entries ``table[index]``."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        code, kinds = _Code(context, builder), signature.args
        at = code.load(code.address(kinds[1], values[1], values[2]), _INTS)
        found = code.pick(code.table(kinds[0], values[0], _FLOATS), at)
        code.store(found, code.address(kinds[3], values[3], values[2]))
        return context.get_dummy_value()

    return types.void(table, index, start, out), codegen


@_instruction
def count_bytes(typing: Any, values: Any, start: Any, wanted: Any) -> Any:
    """``count_bytes(values, start, wanted)``: how many of 64 bytes are the wanted one."""

    def codegen(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        code, vector = _Code(context, builder), ir.VectorType(_BYTE, BYTES)
        found = code.load(code.address(signature.args[0], given[0], given[1]), vector)
        byte = builder.trunc(given[2], _BYTE) if given[2].type != _BYTE else given[2]
        same = builder.icmp_unsigned("==", found, code.everywhere(byte, vector))
        return builder.ctpop(builder.bitcast(same, _INT64))

    return types.int64(values, start, wanted), codegen
