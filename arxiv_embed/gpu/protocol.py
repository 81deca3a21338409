"""The protocol between the pool and a worker: frames of plain bytes over a socket, one for a batch, one for its answer.

A frame is a four-letter kind, a batch number, and what belongs to the kind. Arrays travel as their own memory.
"""

from __future__ import annotations

import json
import struct
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from arxiv_embed.encoding.batch import TokenBatch
from arxiv_embed.encoding.model import ModelFiles
from arxiv_embed.encoding.tokens import FloatArray

_BATCH = struct.Struct("<4sQIII")
_DONE = struct.Struct("<4sQdQIII")
_FAIL = struct.Struct("<4sQ")


@dataclass(frozen=True)
class WorkerSetup:
    """The first frame to a worker: the model, as the pool's process found it, and where to compute."""

    files: ModelFiles
    device: str
    dtype: str

    def to_bytes(self) -> bytes:
        return json.dumps(asdict(self), default=str).encode()

    @classmethod
    def from_bytes(cls, frame: bytes) -> WorkerSetup:
        values = json.loads(frame)
        files = values["files"]
        return cls(ModelFiles(**{**files, "folder": Path(files["folder"])}), values["device"], values["dtype"])


@dataclass(frozen=True)
class WorkerReady:
    """A worker's first answer: the arithmetic's type it chose, or the reason that it cannot start."""

    dtype: str
    seconds: float
    error: str = ""

    def to_bytes(self) -> bytes:
        return json.dumps(asdict(self)).encode()

    @classmethod
    def from_bytes(cls, frame: bytes) -> WorkerReady:
        return cls(**json.loads(frame))


@dataclass(frozen=True)
class Encoded:
    """A batch's answer: `vectors` float32 [spans, dimensions], the seconds that the device took, and the tokens that
    it computed, padding included; `peak_memory` in bytes, of the worker so far."""

    number: int
    seconds: float
    peak_memory: int
    computed_tokens: int
    vectors: FloatArray


@dataclass(frozen=True)
class Failed:
    """A batch that the worker could not encode, and why."""

    number: int
    error: str


def batch_frame(number: int, batch: TokenBatch) -> bytes:
    head = _BATCH.pack(b"BTCH", number, len(batch.lengths), len(batch.spans), len(batch.ids))
    return b"".join([head, batch.lengths.tobytes(), batch.spans.tobytes(), batch.ids.tobytes()])


def read_batch(frame: bytes) -> tuple[int, TokenBatch]:
    _, number, papers, spans, tokens = _BATCH.unpack_from(frame)
    values = np.frombuffer(frame, np.int32, count=papers + 2 * spans + tokens, offset=_BATCH.size)
    return number, TokenBatch(
        lengths=values[:papers],
        spans=values[papers : papers + 2 * spans].reshape(-1, 2),
        ids=values[papers + 2 * spans :],
    )


def encoded_frame(answer: Encoded) -> bytes:
    numbers = (answer.number, answer.seconds, answer.peak_memory, answer.computed_tokens)
    head = _DONE.pack(b"DONE", *numbers, *answer.vectors.shape)
    return head + answer.vectors.tobytes()


def failed_frame(failure: Failed) -> bytes:
    return _FAIL.pack(b"FAIL", failure.number) + failure.error.encode()


def read_answer(frame: bytes) -> Encoded | Failed:
    if frame[:4] == b"FAIL":
        _, number = _FAIL.unpack_from(frame)
        return Failed(number, frame[_FAIL.size :].decode(errors="replace"))
    _, number, seconds, peak_memory, computed, rows, width = _DONE.unpack_from(frame)
    vectors = np.frombuffer(frame, np.float32, offset=_DONE.size).reshape(rows, width)
    return Encoded(number, seconds, peak_memory, computed, vectors)
