"""Batches: which papers one device runs in one forward pass, and the papers that wait to be in one."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Self

from arxiv_embed.encoding.tokens import TokenizedPaper
from arxiv_embed.gpu.memory import Shape

FIRST_PIECE, LARGEST_PIECE = 128, 1024

MOST_PADDING = 0.10
"""A batch that computes its padding grows no further beyond this share of its tokens, once it has enough."""

Fits = Callable[[Shape], bool]


def pieces(papers: int) -> Iterator[range]:
    """Cuts a sequence into spans that are tokenized together: a short first one, as devices wait for it."""
    start, size = 0, FIRST_PIECE
    while start < papers:
        yield range(start, min(start + size, papers))
        start, size = start + size, min(2 * size, LARGEST_PIECE)


def shape_of(papers: Sequence[TokenizedPaper]) -> Shape:
    lengths = [len(paper.ids) for paper in papers]
    return Shape(len(lengths), sum(lengths), max(lengths))


@dataclass
class Batch:
    """Papers that go to a device together, and what has befallen them.

    `kills` counts the workers that ended over them, `refusals` the times that memory ran out or the model failed;
    `avoid` are the devices where it happened. A `probe` is a paper that was embedded before: what matters is that it
    comes back.
    """

    papers: list[TokenizedPaper]
    kills: int = 0
    refusals: int = 0
    avoid: set[str] = field(default_factory=set)
    probe: bool = False
    shape: Shape = field(init=False)

    def __post_init__(self) -> None:
        self.shape = shape_of(self.papers)

    def halves(self) -> list[Self]:
        """Two batches that inherit half of the suspicion: one more kill of either is enough to go on."""
        middle = len(self.papers) // 2
        parts = self.papers[:middle], self.papers[middle:]
        return [type(self)(part, min(self.kills, 1), 0, set(self.avoid)) for part in parts]


class Reservoir:
    """Papers that wait for a device, held by length and by arrival."""

    def __init__(self) -> None:
        self.tokens = 0
        self._by_length: list[tuple[int, int]] = []
        """(length, ticket), sorted."""
        self._papers: dict[int, TokenizedPaper] = {}
        self._arrivals: deque[int] = deque()
        self._tickets = 0

    def __len__(self) -> int:
        return len(self._papers)

    def add(self, papers: Sequence[TokenizedPaper]) -> None:
        for paper in papers:
            self._papers[self._tickets] = paper
            self._by_length.append((len(paper.ids), self._tickets))
            self._arrivals.append(self._tickets)
            self.tokens += len(paper.ids)
            self._tickets += 1
        self._by_length.sort()

    @property
    def oldest(self) -> int:
        """The place, by length, of the paper that has waited longest."""
        while self._arrivals[0] not in self._papers:
            self._arrivals.popleft()
        ticket = self._arrivals[0]
        return bisect_left(self._by_length, (len(self._papers[ticket].ids), ticket))

    def longest(self, acceptable: Callable[[int], bool]) -> int | None:
        """The place of the longest paper whose length is acceptable; None where none is. Shorter ones are more so."""
        place = bisect_right(self._by_length, False, key=lambda entry: not acceptable(entry[0]))
        return place - 1 if place else None

    def length_at(self, place: int) -> int:
        return self._by_length[place][0]

    def draw(self, anchor: int, most: int, fits: Fits, enough: float) -> list[TokenizedPaper]:
        """Takes out the paper at `anchor` and those nearest to it in length, as long as they fit together.

        It goes on to the side where less padding is added, and stops where padding is more than `MOST_PADDING` and
        there are `enough` tokens already. Empty where not even the anchor fits.
        """
        lengths = self._by_length
        low = high = anchor
        count, tokens, longest = 1, lengths[anchor][0], lengths[anchor][0]
        if not fits(Shape(1, tokens, longest)):
            return []
        high += 1
        while count < most:
            down = longest - lengths[low - 1][0] if low else None
            up = (lengths[high][0] - longest) * count if high < len(lengths) else None
            if down is None and up is None:
                break
            goes_down = up is None or (down is not None and down <= up)
            for downward in (goes_down, not goes_down):
                if (down if downward else up) is None:
                    continue
                length = lengths[low - 1][0] if downward else lengths[high][0]
                wider = Shape(count + 1, tokens + length, max(longest, length))
                if wider.padded > (1 + MOST_PADDING) * wider.tokens and tokens >= enough:
                    continue
                if fits(wider):
                    count, tokens, longest = wider
                    low, high = (low - 1, high) if downward else (low, high + 1)
                    break
            else:
                break
        return self._take(low, high)

    def fill(self, papers: list[TokenizedPaper], most: int, fits: Fits) -> list[TokenizedPaper]:
        """Takes out papers no longer than the longest of `papers` and not shorter than the shortest, longest first, as
        far as all of them fit together."""
        lengths = [len(paper.ids) for paper in papers]
        count, tokens, longest = len(papers), sum(lengths), max(lengths)
        high = low = bisect_right(self._by_length, (longest, self._tickets))
        least = min(lengths)
        while low and count < most and self._by_length[low - 1][0] >= least:
            length = self._by_length[low - 1][0]
            if not fits(Shape(count + 1, tokens + length, longest)):
                break
            count, tokens, low = count + 1, tokens + length, low - 1
        return self._take(low, high)

    def _take(self, low: int, high: int) -> list[TokenizedPaper]:
        taken = [self._papers.pop(ticket) for _, ticket in self._by_length[low:high]]
        self.tokens -= sum(length for length, _ in self._by_length[low:high])
        del self._by_length[low:high]
        return taken
