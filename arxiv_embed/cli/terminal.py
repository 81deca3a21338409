"""The terminal: where commands print, and how wide."""

from __future__ import annotations

import sys

from rich.console import Console

PIPED_WIDTH = 110


def open_console() -> Console:
    """As wide as the terminal, of a fixed width where the output goes elsewhere; text is printed as it is."""
    console = Console(highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console.width = PIPED_WIDTH
    return console


def complain(sentence: str) -> None:
    """Says what went wrong, on standard error."""
    print(f"Error: {sentence}", file=sys.stderr)


def printable(name: str) -> str:
    """A file's name as it can be printed, whatever bytes it is made of."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def say(console: Console, line: str) -> None:
    """Prints a line that is never cut or wrapped, so that paths and commands can be copied."""
    console.print(line, soft_wrap=True)
