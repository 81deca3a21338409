"""A courier: carries what the pool says to one worker to its actor, and back what that answers; within the bridge."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import Any

import ray
from ray.exceptions import RayError

from arxiv_embed.gpu.protocol import Cancel, Ended, Look, NotReady, Setup, Work, from_json, receive, send, to_json
from arxiv_embed.gpu.slots import Slot
from arxiv_embed.wording import printable

GONE = (RayError, RuntimeError, ValueError)
"""What calls raise where an actor, or the cluster, is gone: by ray:// also a `ValueError`."""

Start = Callable[[], Any]
"""Starts an actor; waits until there is a cluster to start it in. Raises one of `GONE`."""


class Courier:
    """Two threads: one takes messages from `connection` and calls the actor, the other waits for what it answers, in
    order. Both end, and the actor with them, when the pool hangs up; an actor that ends is told to the pool."""

    def __init__(self, connection: Connection, slots: Sequence[Slot], start: Start) -> None:
        self._connection = connection
        self._slots = slots
        self._start = start
        self._actor: Any = None
        self._calls: queue.SimpleQueue[tuple[Any, Any] | None] = queue.SimpleQueue()
        self._sending = threading.Lock()
        self._thread = threading.Thread(target=self._carry, name="courier", daemon=True)
        self._thread.start()

    def ask_reading(self) -> Any:
        """A promise of how the device is (`EncodingActor.read`); None while there is no actor to ask."""
        return None if self._actor is None else self._actor.read.remote()

    @property
    def is_over(self) -> bool:
        return not self._thread.is_alive()

    def _carry(self) -> None:
        answering = threading.Thread(target=self._answer, name="answers", daemon=True)
        answering.start()
        try:
            while True:
                self._call(receive(self._connection))
        except (EOFError, OSError):
            pass
        except GONE as error:
            self._tell_end(error)
        finally:
            self._calls.put(None)
            if self._actor is not None:
                _kill(self._actor)  # which ends what the other thread waits for
            answering.join()
            self._connection.close()
            for slot in self._slots:
                slot.close()

    def _call(self, message: Any) -> None:
        if isinstance(message, Setup):
            if self._actor is None:
                self._actor = self._start()
            self._calls.put((message, self._actor.load.remote(to_json(message))))
        elif isinstance(message, Work):
            batch = self._slots[message.slot].get_batch(message.papers, message.spans, message.tokens)
            arrays = batch.lengths, batch.spans, batch.ids
            self._calls.put((message, self._actor.encode.remote(to_json(message), *arrays)))
        elif isinstance(message, Look):
            self._calls.put((message, self._actor.look.remote()))
        elif isinstance(message, Cancel):
            self._actor.cancel.remote(message.number)

    def _answer(self) -> None:
        try:
            while (call := self._calls.get()) is not None:
                message, promise = call
                answer = ray.get(promise)
                if isinstance(message, Work):
                    answer, vectors = answer
                    if vectors is not None:
                        self._slots[message.slot].put_vectors(vectors)
                self._send(from_json(answer))
        except (EOFError, OSError):
            return
        except GONE as error:
            self._tell_end(error)

    def _tell_end(self, error: Exception) -> None:
        why = printable(next(iter(str(error).strip().splitlines()), type(error).__name__))
        try:
            if self._actor is None:
                self._send(NotReady(f"the cluster did not start it: {why}"))
            self._send(Ended(why))
        except OSError:
            return

    def _send(self, message: Any) -> None:
        with self._sending:
            send(self._connection, message)


def _kill(actor: Any) -> None:
    try:
        ray.kill(actor)
    except Exception:  # noqa: BLE001 - it, or the cluster, is gone already
        return
