"""What was learned of memory, kept from run to run: one readable file for each device type and space."""

from __future__ import annotations

import json
import re
from pathlib import Path

from arxiv_embed.checkpoint.atomic import write_atomically
from arxiv_embed.gpu.memory import MemoryLaw, Observation
from arxiv_embed.gpu.protocol import Ready

FORMAT = 2
MOST = 2**50
"""No batch has taken more bytes."""


class LearnedLaws:
    """The laws of one space's devices; those of one type share one. `folder` None keeps nothing."""

    def __init__(self, folder: Path | None, space: str) -> None:
        self._folder = folder
        self._space = space
        self._laws: dict[str, MemoryLaw] = {}

    def of(self, ready: Ready) -> MemoryLaw:
        """The law of a device that is ready, as far as it was learned before."""
        layout = "packed" if ready.packed else "padded"
        name = re.sub(r"[^A-Za-z0-9.]+", "-", f"{ready.device_type} {ready.dtype} {layout} {self._space}")
        if name not in self._laws:
            self._laws[name] = MemoryLaw(ready.law, self._read(name))
        return self._laws[name]

    def save(self) -> None:
        """Writes every law that anything was measured for."""
        if self._folder is None:
            return
        for name, law in self._laws.items():
            batches = [list(observation[:-1]) for observation in law.seen if observation.measured]
            if batches:
                learned = {
                    "format": FORMAT,
                    "bytes_beyond_base": "tokens, papers × longest, papers × longest²",
                    "coefficients": law.coefficients,
                    "margin": law.margin,
                    "batches": batches,
                    "batch": list(Observation._fields[:-1]),
                }
                write_atomically(self._folder / f"{name}.json", json.dumps(learned).encode())

    def _read(self, name: str) -> list[Observation]:
        """Nothing where nothing was learned, or what was written cannot be read: it is learned again."""
        if self._folder is None:
            return []
        try:
            learned = json.loads((self._folder / f"{name}.json").read_bytes())
            if learned["format"] != FORMAT:
                return []
            batches = [tuple(map(int, batch)) for batch in learned["batches"]]
            if any(min(batch) < 1 or max(batch) > MOST for batch in batches):
                return []
            return [Observation(papers, tokens, longest, taken) for papers, tokens, longest, taken in batches]
        except (OSError, ValueError, KeyError, TypeError, OverflowError):
            return []
