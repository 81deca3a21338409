"""The command `monitor`: the run going on, or the last one, on a dashboard or as a snapshot."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Any

import typer

from arxiv_embed.cli.main import BAD_INPUT
from arxiv_embed.cli.terminal import complain, open_console
from arxiv_embed.errors import masked
from arxiv_embed.settings import settings_from_environment

PIPED_WIDTH, MOST_WIDTH = 80, 120


def monitor(
    run: Annotated[
        str | None,
        typer.Argument(
            metavar="RUN", help="A run's id, or how it begins; by default the last run's.", show_default=False
        ),
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="Print one snapshot, and end.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print all figures as JSON, and end.")] = False,
    attach: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT|URL",
            help="Show a run elsewhere by the address of its metrics (`run --metrics-port`).",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Watch the run going on here, or look at the last one.

    Keys: 1 to 4 switch views, p pauses, ? helps, q quits. The run never notices its monitor.

    Example: arxiv-embed monitor --once
    """
    from arxiv_embed.monitor.glyphs import glyphs_for
    from arxiv_embed.monitor.sources import EndpointSource, HomeSource, Source

    if attach is not None and run is not None:
        complain("Give either a RUN of this home or --attach, not both.")
        raise typer.Exit(BAD_INPUT)
    source: Source = EndpointSource(attach) if attach is not None else HomeSource(settings_from_environment(), run)
    console = open_console()
    glyphs = glyphs_for(console.encoding)
    if not (once or as_json) and console.is_terminal and not console.is_dumb_terminal and _is_seen():
        from arxiv_embed.monitor.app import Monitor

        Monitor(source, glyphs).run()
        return
    sight = source.look()
    if sight is None:
        complain(f"{source.trouble}: is the run still going on, and was it started with --metrics-port?")
        raise typer.Exit(BAD_INPUT)
    if as_json:
        # In ASCII: what steers a terminal is not only among its control characters.
        typer.echo(json.dumps(_masked(sight.metrics.to_json()), indent=1))
        return
    from arxiv_embed.monitor.snapshot import snapshot

    width = min(console.width, MOST_WIDTH) if console.is_terminal else PIPED_WIDTH
    for line in snapshot(sight, width, glyphs):
        console.print(line, soft_wrap=True)


def _masked(value: Any) -> Any:
    if isinstance(value, dict):
        return {masked(name): _masked(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_masked(one) for one in value]
    return masked(value) if isinstance(value, str) else value


def _is_seen() -> bool:
    """Whether there is a terminal to draw on and to read keys from: Textual draws on standard error."""
    return sys.stdin.isatty() and sys.stderr.isatty()
