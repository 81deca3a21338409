"""Kernels: the row-wise loops of a transformer layer on the CPU, each one pass over memory that is still in cache.

Arrays are float32 or bfloat16; the latter are handed over as their bits (int16), as NumPy has no such type, and each
loop is compiled for both. A packed array holds the tokens
of a batch one behind the other, without padding; a padded one has `width` places for each sequence.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic, overload

Elements = npt.NDArray[np.float32] | npt.NDArray[np.int16]
"""float32, or the bits of bfloat16."""

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]

f32 = np.float32
i32 = np.int32


@intrinsic  # type: ignore[untyped-decorator]
def _float_of(typing_context: Any, bits: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.FloatType())

    return types.float32(types.int32), generate


@intrinsic  # type: ignore[untyped-decorator]
def _bits_of(typing_context: Any, value: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.IntType(32))

    return types.int32(types.float32), generate


@intrinsic  # type: ignore[untyped-decorator]
def _ordered(typing_context: Any, bits: Any) -> Any:
    """A float's bits as an integer that sorts as the float does, and back: LLVM vectorizes integer maxima only."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        value = arguments[0]
        sign = builder.ashr(value, ir.Constant(value.type, 31))
        return builder.xor(value, builder.and_(sign, ir.Constant(value.type, 0x7FFFFFFF)))

    return types.int32(types.int32), generate


@intrinsic  # type: ignore[untyped-decorator]
def _greater(typing_context: Any, one: Any, other: Any) -> Any:
    """The greater of two int32, which Numba's own max would widen to int64."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.select(builder.icmp_signed(">", *arguments), *arguments)

    return types.int32(types.int32, types.int32), generate


def _loop(function: Any) -> Any:
    """Compiled on its first call, and kept on disk for the next process."""
    options = {"fastmath": True, "error_model": "numpy", "nogil": True}
    try:
        return njit(cache=True, **options)(function)
    except RuntimeError:  # neither this folder nor the user's cache can be written: compile in every process
        return njit(**options)(function)


_inlined = njit(inline="always", fastmath=True, error_model="numpy")


def _widen(element: Any) -> Any:
    """An element of a float32 or bfloat16 array as float32."""


@overload(_widen, inline="always", strict=False)  # type: ignore[untyped-decorator]
def _compile_widen(element: Any) -> Any:
    if element is types.float32:
        return lambda element: element
    return lambda element: _float_of(i32(element) << i32(16))


def _narrow(value: Any, array: Any) -> Any:
    """A float32 as an element of `array`, rounded to nearest even where that is bfloat16."""


@overload(_narrow, inline="always", strict=False)  # type: ignore[untyped-decorator]
def _compile_narrow(value: Any, array: Any) -> Any:
    if array.dtype is types.float32:
        return lambda value, array: value

    def narrow(value: Any, array: Any) -> Any:
        bits = _bits_of(value)
        return np.int16((bits + i32(0x7FFF) + ((bits >> i32(16)) & i32(1))) >> i32(16))

    return narrow


@_inlined  # type: ignore[untyped-decorator]
def _exp2(x: Any) -> Any:
    """2^x for x ≤ 0, to 2e-7. Below 2^-126 it is 2^-126."""
    x = max(x, f32(-126.0))
    whole = np.floor(x + f32(0.5))
    rest = x - whole
    mantissa = f32(1.0) + rest * (
        f32(0.69314718)
        + rest
        * (
            f32(0.24022651)
            + rest * (f32(0.05550411) + rest * (f32(0.00961813) + rest * (f32(0.00133336) + rest * f32(0.00015404))))
        )
    )
    return _float_of(_bits_of(mantissa) + (i32(whole) << i32(23)))


@_loop
def split_heads(
    qkv: Elements, starts: Ints, lengths: Ints, queries: Elements, keys: Elements, values: Elements
) -> None:
    """Packed `qkv` [tokens, 3 × heads × d] → padded queries, keys, values, each [sequences × heads, width, d].

    Places behind a sequence's end are zero in the values; elsewhere they keep what they held, and nothing reads it.
    """
    heads = queries.shape[0] // len(lengths)
    width, d = queries.shape[1], queries.shape[2]
    for sequence in range(len(lengths)):
        for token in range(lengths[sequence]):
            row = qkv[starts[sequence] + token]
            for head in range(heads):
                block = sequence * heads + head
                for i in range(d):
                    queries[block, token, i] = row[head * d + i]
                    keys[block, token, i] = row[(heads + head) * d + i]
                    values[block, token, i] = row[(2 * heads + head) * d + i]
        for head in range(heads):
            values[sequence * heads + head, lengths[sequence] : width] = 0


@_loop
def exponentiate(logits: Elements, first_block: int, heads: int, lengths: Ints, sums: Floats) -> None:
    """Turns `logits` [blocks, width, width], given in powers of two, into unnormalized attention weights, in place.

    Each row's largest weight is 1, places behind the sequence's end get weight 0, and the row's sum goes into `sums`
    [all blocks, width]. `first_block` is the block (sequence × heads + head) of the first row of `logits`.
    """
    blocks, width = logits.shape[0], logits.shape[1]
    for block in range(blocks):
        length = lengths[(first_block + block) // heads]
        for query in range(length):
            row = logits[block, query]
            top = i32(-(2**31))
            for key in range(length):
                top = _greater(_ordered(_bits_of(_widen(row[key]))), top)
            highest = _float_of(_ordered(top))
            total = f32(0.0)
            for key in range(length):
                weight = _exp2(_widen(row[key]) - highest)
                total += weight
                row[key] = _narrow(weight, row)
            for key in range(length, width):
                row[key] = 0
            sums[first_block + block, query] = total


@_loop
def merge_heads(attended: Elements, sums: Floats, starts: Ints, lengths: Ints, packed: Elements) -> None:
    """Padded `attended` [sequences × heads, width, d] ÷ `sums` → `packed` [tokens, heads × d]."""
    heads = attended.shape[0] // len(lengths)
    d = attended.shape[2]
    for sequence in range(len(lengths)):
        for token in range(lengths[sequence]):
            row = packed[starts[sequence] + token]
            for head in range(heads):
                block = sequence * heads + head
                scale = f32(1.0) / sums[block, token]
                for i in range(d):
                    row[head * d + i] = _narrow(_widen(attended[block, token, i]) * scale, row)


@_loop
def add_and_normalize(delta: Elements, hidden: Elements, weight: Floats, bias: Floats, epsilon: float) -> None:
    """`hidden` ← LayerNorm(hidden + delta), row by row, in place; arrays are [tokens, width]."""
    rows, width = hidden.shape
    row = np.empty(width, f32)
    for token in range(rows):
        mean = f32(0.0)
        for i in range(width):
            row[i] = _widen(hidden[token, i]) + _widen(delta[token, i])
            mean += row[i]
        mean /= f32(width)
        variance = f32(0.0)
        for i in range(width):
            row[i] -= mean
            variance += row[i] * row[i]
        scale = f32(1.0) / np.sqrt(variance / f32(width) + f32(epsilon))
        for i in range(width):
            hidden[token, i] = _narrow(row[i] * scale * weight[i] + bias[i], hidden)


@_loop
def pool_spans(hidden: Elements, spans: Ints, vectors: Floats) -> None:
    """Mean of `hidden`'s rows over each span [n, 2] of packed positions, of unit length, into `vectors` [n, d]; of the
    rows the first d columns count."""
    width = vectors.shape[1]
    for place in range(len(spans)):
        vector = vectors[place]
        vector[:] = 0
        for token in range(spans[place, 0], spans[place, 1]):
            for i in range(width):
                vector[i] += _widen(hidden[token, i])
        square = f32(0.0)
        for i in range(width):
            square += vector[i] * vector[i]
        scale = f32(1.0) / max(np.sqrt(square), f32(1e-12))
        for i in range(width):
            vector[i] *= scale
