"""A backlog: papers that a thread tokenizes ahead of the devices, a bounded number of pieces."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Self

from arxiv_embed.encoding.tokens import PaperTokenizer, TokenizedPaper
from arxiv_embed.gpu.batching import FIRST_PIECE, pieces

PIECES_AHEAD = 4

Piece = tuple[Sequence[TokenizedPaper], Sequence[bool] | None]
"""Papers tokenized together, and which of them are urgent."""


Lengths = Callable[[Sequence[str]], Sequence[float]]
"""About how many tokens each of some texts has, told without tokenizing them."""


def tokenized(
    tokenizer: PaperTokenizer, texts: Sequence[str], urgent: Sequence[bool] | None, lengths: Lengths | None = None
) -> Iterator[Piece]:
    """Every text's tokens, piece by piece as they are asked for, urgent ones first.

    With `lengths` the longest come first, so that papers of like length are there at the same time and the last batches
    are short; but for the first piece, which devices wait for and which is taken as it comes.
    """
    order = urgent_first(urgent) if urgent is not None and any(urgent) else list(range(len(texts)))
    for piece in pieces(len(order)):
        if piece.start == FIRST_PIECE and lengths is not None:
            order[FIRST_PIECE:] = longest_first(order[FIRST_PIECE:], texts, urgent, lengths)
        places = order[piece.start : piece.stop]
        papers = tokenizer.tokenize([texts[place] for place in places], places)
        yield papers, None if urgent is None else [urgent[place] for place in places]


def longest_first(
    places: Sequence[int], texts: Sequence[str], urgent: Sequence[bool] | None, lengths: Lengths
) -> list[int]:
    """The places by estimated length; an urgent one is where an urgent one was."""
    estimated = dict(zip(places, lengths([texts[place] for place in places]), strict=True))
    ordered = sorted(places, key=estimated.__getitem__, reverse=True)
    if urgent is None:
        return ordered
    of_kind = {kind: iter([place for place in ordered if urgent[place] == kind]) for kind in (True, False)}
    return [next(of_kind[urgent[place]]) for place in places]


def urgent_first(urgent: Sequence[bool]) -> list[int]:
    """The order in which papers are tokenized: urgent ones first, every fourth place for one that is not."""
    first = [place for place, is_urgent in enumerate(urgent) if is_urgent]
    rest = deque(place for place, is_urgent in enumerate(urgent) if not is_urgent)
    order = []
    for count, place in enumerate(first, 1):
        order.append(place)
        if count % 3 == 0 and rest:
            order.append(rest.popleft())
    return [*order, *rest]


class Backlog:
    """Papers that a thread tokenizes ahead of the devices, a bounded number of pieces."""

    def __init__(self, tokenized: Iterator[Piece]) -> None:
        self._tokenized = tokenized
        self._queue: queue.Queue[Piece | BaseException | None] = queue.Queue(PIECES_AHEAD)
        self._abandoned = threading.Event()
        self._thread = threading.Thread(target=self._fill, name="tokenizer", daemon=True)
        self.finished = False

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._abandoned.set()
        while self._thread.is_alive():
            with contextlib.suppress(queue.Empty):
                self._queue.get(timeout=0.01)

    def take(self) -> Piece | None:
        """The next piece; None where there is none yet, or none any more."""
        if self.finished:
            return None
        try:
            item = self._queue.get_nowait()
        except queue.Empty:
            return None
        if isinstance(item, BaseException):
            raise item
        self.finished = item is None
        return item

    def _fill(self) -> None:
        try:
            for piece in self._tokenized:
                self._queue.put(piece)
                if self._abandoned.is_set():
                    return
            self._queue.put(None)
        except BaseException as error:  # noqa: BLE001 - carried to the thread that takes them
            self._queue.put(error)
