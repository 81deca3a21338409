"""Kernels: the row-wise loops of a transformer layer on the CPU, each one pass over memory that is still in cache.

bfloat16 arrays are handed over as their bits (int16), as NumPy has no such type. A packed array holds the tokens
of a batch one behind the other, without padding; a padded one has `width` places for each sequence.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

Bits = npt.NDArray[np.int16]
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


_loop = njit(cache=True, fastmath=True, error_model="numpy", nogil=True)
_inlined = njit(inline="always", fastmath=True, error_model="numpy")


@_inlined  # type: ignore[untyped-decorator]
def _widen(bits: Any) -> Any:
    return _float_of(i32(bits) << i32(16))


@_inlined  # type: ignore[untyped-decorator]
def _narrow(value: Any) -> Any:
    bits = _bits_of(value)
    return np.int16((bits + i32(0x7FFF) + ((bits >> i32(16)) & i32(1))) >> i32(16))


@_inlined  # type: ignore[untyped-decorator]
def _exp2(x: Any) -> Any:
    """2^x for x ≤ 0, to 4e-5: finer than bfloat16 can tell. Below 2^-126 it is 2^-126."""
    x = max(x, f32(-126.0))
    whole = np.floor(x + f32(0.5))
    rest = x - whole
    mantissa = f32(1.0) + rest * (
        f32(0.69314718) + rest * (f32(0.24022651) + rest * (f32(0.05550411) + rest * f32(0.00961813)))
    )
    return _float_of(_bits_of(mantissa) + (i32(whole) << i32(23)))


@_loop  # type: ignore[untyped-decorator]
def split_heads(qkv: Bits, starts: Ints, lengths: Ints, queries: Bits, keys: Bits, values: Bits) -> None:
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


@_loop  # type: ignore[untyped-decorator]
def exponentiate(logits: Bits, first_block: int, heads: int, lengths: Ints, sums: Floats) -> None:
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
                top = _greater(_ordered(i32(row[key]) << i32(16)), top)
            highest = _float_of(_ordered(top))
            total = f32(0.0)
            for key in range(length):
                weight = _exp2(_widen(row[key]) - highest)
                total += weight
                row[key] = np.int16((_bits_of(weight) + i32(0x8000)) >> i32(16))
            for key in range(length, width):
                row[key] = 0
            sums[first_block + block, query] = total


@_loop  # type: ignore[untyped-decorator]
def merge_heads(attended: Bits, sums: Floats, starts: Ints, lengths: Ints, packed: Bits) -> None:
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
                    row[head * d + i] = _narrow(_widen(attended[block, token, i]) * scale)


@_loop  # type: ignore[untyped-decorator]
def add_and_normalize(delta: Bits, hidden: Bits, weight: Floats, bias: Floats, epsilon: float) -> None:
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
            hidden[token, i] = _narrow(row[i] * scale * weight[i] + bias[i])


@_loop  # type: ignore[untyped-decorator]
def pool_spans(hidden: Bits, spans: Ints, vectors: Floats) -> None:
    """Mean of `hidden`'s rows over each span [n, 2] of packed positions, of unit length, into `vectors` [n, width]."""
    width = hidden.shape[1]
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
