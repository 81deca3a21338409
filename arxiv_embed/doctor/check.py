"""Checks: what was looked at, how it is, and what to do; and how they are made so that none can spoil the others."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from arxiv_embed.errors import masked, sentence
from arxiv_embed.settings import Settings

PATIENCE_SECONDS = 20.0


class State(StrEnum):
    FINE = "fine"
    WARN = "warn"
    """A run works, and it is better to know."""
    WRONG = "wrong"
    SKIPPED = "skipped"
    """There is nothing to look at."""


@dataclass(frozen=True)
class Check:
    """One line; `remedy` is what to do, "" where there is nothing to be done."""

    name: str
    state: State
    text: str
    remedy: str = ""


@dataclass(frozen=True)
class Closed(Check):
    """What is wrong as some folders may not be entered, read or written to; of each that is told once."""

    folders: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Subject:
    """What is examined: the surroundings, and what a run would be given."""

    settings: Settings
    metadata_dir: Path | None
    store: str
    model: str
    checkpoints: Path
    thorough: bool = False


@dataclass(frozen=True)
class Question:
    """`look` is given `seconds` for its answers; `name` is that of the line where it has none."""

    name: str
    look: Callable[[], Iterable[Check]]
    seconds: float = PATIENCE_SECONDS


def fine(name: str, text: str) -> Check:
    return Check(name, State.FINE, text)


def warn(name: str, text: str, remedy: str) -> Check:
    return Check(name, State.WARN, text, remedy)


def wrong(name: str, text: str, remedy: str) -> Check:
    return Check(name, State.WRONG, text, remedy)


def skipped(name: str, text: str) -> Check:
    return Check(name, State.SKIPPED, text)


def answers(questions: Sequence[Question]) -> Iterator[Check]:
    """All are asked at once, each in a thread that is left behind where it does not come back; in their order. Where
    one could not look for a folder that another has named, that is no second thing to mend."""
    asked = [_Asked(question) for question in questions]
    told: dict[Path, str] = {}
    for one in asked:
        for check in one.answer():
            if isinstance(check, Closed):
                if check.folders and told.keys() >= set(check.folders):
                    folder = check.folders[0]
                    yield skipped(check.name, f"not looked at, as {folder} is closed (see {told[folder]})")
                    continue
                told.update(dict.fromkeys(check.folders, check.name))
            yield Check(check.name, check.state, masked(check.text), masked(check.remedy))


class _Asked:
    def __init__(self, question: Question) -> None:
        self._question = question
        self._found: list[Check] | None = None
        self._deadline = time.monotonic() + question.seconds
        self._thread = threading.Thread(target=self._look, name=question.name, daemon=True)
        self._thread.start()

    def _look(self) -> None:
        try:
            found = list(self._question.look())
        except PermissionError as error:
            remedy = "have its owner let you in, or be that user"
            found = [Closed(self._question.name, State.WRONG, sentence(error), remedy, _closed(error.filename))]
        except Exception as error:  # noqa: BLE001 - whatever it is, it is one line
            found = [wrong(self._question.name, sentence(error), "mend that, and ask again")]
        self._found = found

    def answer(self) -> list[Check]:
        self._thread.join(max(0.0, self._deadline - time.monotonic()))
        if self._found is None:
            text = f"no answer within {self._question.seconds:.0f} s"
            return [
                wrong(self._question.name, text, "look after the disk, the network or the driver that it waits for")
            ]
        return self._found


def _closed(place: object) -> tuple[Path, ...]:
    """The uppermost folder on the way to a place that may not be entered, else the place."""
    if not isinstance(place, str | os.PathLike):
        return ()
    there = Path(place).absolute()
    above = (folder for folder in reversed(there.parents) if not os.access(folder, os.X_OK, effective_ids=True))
    return (next(above, there),)
