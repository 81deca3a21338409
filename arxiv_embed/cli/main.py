"""The entry point of `arxiv-embed`: the exit codes that all commands keep, from the first moment on."""

from __future__ import annotations

import io
import logging
import sys

from arxiv_embed.garbage import collect_rarely

BAD_INPUT, INTERRUPTED = 2, 130


def main() -> None:
    """What the installed script calls: an error that the user can mend is one sentence and exit code 2."""
    collect_rarely()
    logging.getLogger("arxiv_embed").addHandler(logging.NullHandler())  # commands say it themselves
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without → prints a ?
    try:
        from arxiv_embed.cli.app import app
        from arxiv_embed.errors import ArxivEmbedError
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    try:
        app()
    except ArxivEmbedError as error:
        sys.exit(_refused(str(error)))
    except BrokenPipeError:
        sys.exit(0)  # whoever read our output has had enough
    except OSError as error:
        sys.exit(_refused(f"{error.strerror}: {error.filename}."))
    except KeyboardInterrupt:
        print("Interrupted: nothing was begun.", file=sys.stderr)
        sys.exit(INTERRUPTED)


def _refused(sentence: str) -> int:
    print(f"Error: {sentence}", file=sys.stderr)
    return BAD_INPUT
