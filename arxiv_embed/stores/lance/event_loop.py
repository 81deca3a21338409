"""The event loop that questions to LanceDB are asked in: one a process, in a thread of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from functools import cache
from typing import Any, TypeVar

T = TypeVar("T")


def answered(question: Coroutine[Any, Any, T]) -> T:
    """What it returns, or raises; any number of threads may ask at once."""
    answer = asyncio.run_coroutine_threadsafe(question, _loop())
    try:
        return answer.result()
    except BaseException:
        answer.cancel()
        raise


@cache
def _loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="lance questions", daemon=True).start()
    return loop
