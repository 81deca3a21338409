"""A run's share of the log: its events, and the warnings of the libraries in its process."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
import traceback
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Self

from arxiv_embed.errors import sentence
from arxiv_embed.events import Event
from arxiv_embed.log.file import LogFile
from arxiv_embed.log.lines import ERROR, INFO, WARNING, LogLine, lines_of
from arxiv_embed.settings import LOG_LEVELS, Settings, secret_values


class RunLog:
    """A context manager: while it is open, what Python's logging says at WARNING and above is taken in too. Nothing
    that befalls the log stops a run: it is told once, to `tell`, and what can be written later is."""

    def __init__(
        self,
        settings: Settings,
        run_id: str,
        level: str = INFO,
        tell: Callable[[str], object] = lambda line: None,
        file: LogFile | None = None,
    ) -> None:
        self._path = settings.log
        self._run_id = run_id
        self._least = LOG_LEVELS.index(level)
        self._tell = tell
        self._file = file or LogFile(settings.log, settings.locks / f"{settings.log.name}.lock")
        self._secrets = secret_values()
        self._handler = _Handler(self)
        self._is_told = False
        self._thread = threading.get_ident()

    def __enter__(self) -> Self:
        logging.getLogger().addHandler(self._handler)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        logging.getLogger().removeHandler(self._handler)
        self._file.close()

    def record(self, event: Event) -> None:
        self._keep(lambda: lines_of(event))

    def write(self, line: LogLine) -> None:
        self._keep(lambda: [line])

    def _keep(self, lines: Callable[[], Iterable[LogLine]]) -> None:
        try:
            for line in lines():
                if LOG_LEVELS.index(line.level) >= self._least:
                    self._file.append(line.to_json(time.time(), self._run_id, self._secrets))
        except Exception as error:  # noqa: BLE001 - a run is worth more than its log
            self._lose(error)

    def _lose(self, error: Exception) -> None:
        if not self._is_told and threading.get_ident() == self._thread:  # whoever is told expects one thread
            self._is_told = True
            self._tell(f"Nothing can be written to the log {self._path} ({sentence(error)}): the run goes on without.")


class _Handler(logging.Handler):
    """Python's logging, from WARNING on."""

    def __init__(self, log: RunLog) -> None:
        super().__init__(logging.WARNING)
        self._log = log
        self._busy = threading.local()

    def emit(self, record: logging.LogRecord) -> None:
        if getattr(record, "told", False):
            return  # damage of a checkpoint, which is an event
        if getattr(self._busy, "is_so", False):
            return  # writing the line has logged something itself
        self._busy.is_so = True
        try:
            self._log.write(line_of_record(record))
        except Exception:  # noqa: BLE001 - as logging has it, no message is worth its program
            self.handleError(record)
        finally:
            self._busy.is_so = False


def line_of_record(record: logging.LogRecord) -> LogLine:
    """A message of a library; an exception stands in the same line, with its trace."""
    level = ERROR if record.levelno >= logging.ERROR else WARNING
    more = {"logger": record.name}
    if record.exc_info and record.exc_info[1] is not None:
        with contextlib.suppress(Exception):  # an exception whose text cannot be made
            more["exception"] = "".join(traceback.format_exception(record.exc_info[1]))
    return LogLine(level, "logged", record.getMessage(), more=more)
