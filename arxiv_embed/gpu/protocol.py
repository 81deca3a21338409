"""The protocol between the pool and a worker: small messages over a socket, a line of JSON each; arrays lie in slots.

A worker is sent `Setup` first and answers `Ready`. It then answers every `Work` once, in order, and a `Look` between
two of them; `Cancel` takes back a work that it has not begun. Another `Setup` changes its model: it is answered as the
first was, behind all works sent before it.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from typing import Any, get_args

from arxiv_embed.encoding.model import ModelFiles
from arxiv_embed.encoding.space import Space


@dataclass(frozen=True)
class Setup:
    """The model as the pool's process found it, the space to embed in, where to compute (`device` in torch's words), in
    which type, and how many workers share what the machine has of this kind of device."""

    files: ModelFiles
    space: Space
    device: str
    dtype: str
    sharers: int = 1


@dataclass(frozen=True)
class Ready:
    """The model is loaded, in the arithmetic's type `dtype`; memory in bytes.

    `device_type` names what has the same law of memory; `law` is where that starts (gpu/memory.py). `packed` is whether
    a batch is computed without padding, `keeps_memory` whether the worker's peak never sinks, `best_tokens` the most
    tokens of a batch that are worth it (0: as many as memory allows). Vectors come `width` wide in `vector_type`.
    """

    dtype: str
    device_type: str
    total_memory: int
    base_memory: int
    other_memory: int
    law: tuple[float, float, float]
    packed: bool
    keeps_memory: bool
    best_tokens: int
    width: int
    vector_type: str = "float32"


@dataclass(frozen=True)
class NotReady:
    """The worker cannot load the model, and ends; why, and whether the device's memory was not enough for it."""

    error: str
    out_of_memory: bool = False


@dataclass(frozen=True)
class Work:
    """A batch that lies in a slot. One that `needs` more bytes beyond the base than the worker has free is refused
    before it is tried."""

    number: int
    slot: int
    papers: int
    spans: int
    tokens: int
    needs: int


@dataclass(frozen=True)
class Cancel:
    """Takes a work back, if it has not begun."""

    number: int


@dataclass(frozen=True)
class Look:
    """Asks what others hold of the device."""


@dataclass(frozen=True)
class Encoded:
    """The vectors lie in the work's slot; `seconds` on the device, `peak_memory` of this batch (the worker's own, its
    model included), `computed_tokens` with padding."""

    number: int
    rows: int
    seconds: float
    peak_memory: int
    other_memory: int
    computed_tokens: int


@dataclass(frozen=True)
class OutOfMemory:
    """The device's memory was not enough; `tried` is whether the batch was begun. What was free is free again."""

    number: int
    other_memory: int
    tried: bool


@dataclass(frozen=True)
class Failed:
    """A batch that could not be encoded, and why; `ends` where the worker is of no more use and ends itself."""

    number: int
    error: str
    ends: bool = False


@dataclass(frozen=True)
class Ended:
    """A worker elsewhere is no more, and why: what it was sent and has not answered it will not."""

    why: str


@dataclass(frozen=True)
class Cancelled:
    number: int


@dataclass(frozen=True)
class Looked:
    other_memory: int


Message = Setup | Ready | NotReady | Work | Cancel | Look | Encoded | OutOfMemory | Failed | Ended | Cancelled | Looked
KINDS: dict[str, type] = {kind.__name__: kind for kind in get_args(Message)}


def send(connection: Connection, message: Message) -> None:
    connection.send_bytes(to_json(message))


def receive(connection: Connection) -> Any:
    """The next `Message`. Raises `EOFError` or `OSError` where the other side is gone."""
    return from_json(connection.recv_bytes())


def to_json(message: Message) -> bytes:
    return json.dumps([type(message).__name__, asdict(message)], default=str).encode()


def from_json(line: bytes) -> Any:
    """The `Message` that `to_json` was given."""
    kind, fields = json.loads(line)
    if kind == "Setup":
        fields["files"] = ModelFiles.from_json(fields["files"])
        fields["space"] = Space(**fields["space"])
    elif kind == "Ready":
        fields["law"] = tuple(fields["law"])
    return KINDS[kind](**fields)
