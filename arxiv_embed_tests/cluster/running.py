"""A pool at work on a cluster, whose papers do not end before a test has seen what it wants to see."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from arxiv_embed.cluster.cluster import Cluster
from arxiv_embed.encoding.model import ModelFiles
from arxiv_embed.encoding.space import Space
from arxiv_embed.gpu.backlog import Piece
from arxiv_embed.gpu.lane import Patience
from arxiv_embed.gpu.outcomes import BatchReport, EncodedPaper, Incident
from arxiv_embed.gpu.pool import Pool
from arxiv_embed_tests.gpu.simulated import WIDTH, paper, vectors_of

PATIENT = Patience(pause=0.2, longest_pause=2.0, look=0.2)
PIECE = 32
STEP_SECONDS = 120.0
FILES = ModelFiles("simulated", Path("/"), "1", "simulated", WIDTH, 8192, 8192, "mean")
SPACE = Space("simulated", "1", "retrieval", "", "mean", True, "whole", 0, 8192, 0, 0, 8192, WIDTH, "", "")


class Running:
    """`embed` runs to the end, while `script` is played by another thread, which waits for things by `until`."""

    def __init__(self, cluster: Cluster, script: Callable[[Running], None]) -> None:
        self.batches: list[BatchReport] = []
        self.incidents: list[Incident] = []
        self.done: Counter[int] = Counter()
        self._cluster = cluster
        self._script = script
        self._over = threading.Event()
        self._failed: BaseException | None = None
        self._given = 0

    def embed(self) -> None:
        """Checks that every paper came back once, with its own vectors."""
        thread = threading.Thread(target=self._play, daemon=True)
        options = {"hire": self._cluster.hire, "members": self._cluster.devices}
        with Pool(FILES, SPACE, self._cluster.devices(), dtype="float32", patience=PATIENT, **options) as pool:
            thread.start()
            for outcome in pool.encode_tokenized(self._papers(), self.batches.append, self.incidents.append):
                assert isinstance(outcome, EncodedPaper), outcome
                self.done[outcome.index] += 1
                given = paper(outcome.index, _length(outcome.index))
                assert np.array_equal(outcome.vectors, vectors_of(given.ids, given.spans))
        thread.join()
        if self._failed is not None:
            raise self._failed
        assert self.done == Counter(range(self._given))

    def until(self, what: Callable[[], object], says: str) -> None:
        deadline = time.monotonic() + STEP_SECONDS
        while not what():
            assert time.monotonic() < deadline, f"{says}: {self.incidents}, {Counter(b.device for b in self.batches)}"
            time.sleep(0.05)

    def happened(self, what: str) -> int:
        return sum(incident.what == what for incident in self.incidents)

    def computes(self, devices: int, batches: int = 3) -> None:
        """Waits until so many devices have done so many batches more, each."""
        begun = len(self.batches)

        def computed() -> bool:
            counts = Counter(batch.device for batch in self.batches[begun:])
            return sum(count >= batches for count in counts.values()) >= devices

        self.until(computed, f"{devices} devices compute")

    def _play(self) -> None:
        try:
            self._script(self)
        except BaseException as error:  # noqa: BLE001 - raised where the test is
            self._failed = error
        finally:
            self._over.set()

    def _papers(self) -> Iterator[Piece]:
        while not self._over.is_set():
            yield [paper(self._given + n, _length(self._given + n)) for n in range(PIECE)], None
            self._given += PIECE
            time.sleep(0.02)


def _length(index: int) -> int:
    return 20 + index * 7 % 200
