"""The command `run`: embeds what a metadata folder holds and the store does not."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer
from rich.console import Console

from arxiv_embed.cli import options as ask
from arxiv_embed.cli.display import Display, Verbosity, display_on, line_of
from arxiv_embed.cli.launched import LaunchedRun
from arxiv_embed.cli.terminal import complain, open_console, printable, say
from arxiv_embed.cli.wording import papers_done
from arxiv_embed.errors import ArxivEmbedError, masked, sentence
from arxiv_embed.plan import RunPlan, plan_run
from arxiv_embed.progress import DeviceProgress, RunProgress
from arxiv_embed.runs import killed_runs
from arxiv_embed.settings import (
    DEFAULT_ATTEMPTS,
    DEFAULT_BATCH_SIZE,
    DEFAULT_HEALTH_SECONDS,
    DEFAULT_LOG_LEVEL,
    DEFAULT_SHARD_PAPERS,
    RunOptions,
    Settings,
    settings_from_environment,
)
from arxiv_embed.stores.protocol import open_store
from arxiv_embed.wording import count, duration, plural

LOOK_SECONDS = 0.2
NAMES_SHOWN = 5
FAILURES_SHOWN = 10
LITTLE_SPACE = 1_000_000
DONE, SOMETHING_FAILED, INTERRUPTED = 0, 1, 130


def run(
    metadata_dir: ask.MetadataDir = None,
    db_name: ask.DbName = None,
    db_host: ask.DbHost = None,
    db_port: ask.DbPort = None,
    db_user: ask.DbUser = None,
    batch_size: ask.BatchSize = DEFAULT_BATCH_SIZE,
    production: ask.Production = True,
    resume: ask.Resume = None,
    model: ask.Model = None,
    devices: ask.Devices = None,
    cluster: ask.Cluster = None,
    dtype: ask.Dtype = "auto",
    chunker: ask.ChunkerSpec = "sentences:128",
    max_tokens: ask.MaxTokens = None,
    task: ask.Task = None,
    dimensions: ask.Dimensions = None,
    checkpoint_dir: ask.CheckpointDir = None,
    limit: ask.Limit = None,
    shard_papers: ask.ShardPapers = DEFAULT_SHARD_PAPERS,
    priority: ask.Priority = None,
    attempts: ask.Attempts = DEFAULT_ATTEMPTS,
    metrics_port: ask.MetricsPort = None,
    metrics_host: ask.MetricsHost = None,
    health_seconds: ask.HealthSeconds = DEFAULT_HEALTH_SECONDS,
    log_level: ask.LogLevel = DEFAULT_LOG_LEVEL,
    verbose: ask.Verbose = False,
    quiet: ask.Quiet = False,
) -> None:
    """Embed what a metadata folder holds and the store does not.

    It may be stopped at any time (Ctrl-C): what is finished is saved, and the same command goes on from there.

    Examples:

      arxiv-embed run --metadata-dir examples/metadata

      arxiv-embed run --metadata-dir /data/arxiv --model BAAI/bge-small-en-v1.5 --db-name bge --devices cpu:2

      arxiv-embed run --metadata-dir /data/arxiv --db-host localhost --db-name papers
    """
    settings = settings_from_environment()
    options = ask.run_options(
        settings,
        metadata_dir=metadata_dir,
        db_name=db_name,
        db_host=db_host,
        db_port=db_port,
        db_user=db_user,
        batch_size=batch_size,
        production=production,
        resume=resume,
        model=model,
        devices=devices,
        cluster=cluster,
        dtype=dtype,
        chunker=chunker,
        max_tokens=max_tokens,
        task=task,
        dimensions=dimensions,
        checkpoint_dir=checkpoint_dir,
        limit=limit,
        shard_papers=shard_papers,
        priority=priority,
        attempts=attempts,
        metrics_port=metrics_port,
        metrics_host=metrics_host,
        health_seconds=health_seconds,
        log_level=log_level,
    )
    if verbose and quiet:
        raise ArxivEmbedError("--verbose and --quiet exclude each other: give one of them.")
    verbosity = Verbosity.VERBOSE if verbose else Verbosity.QUIET if quiet else Verbosity.NORMAL
    raise typer.Exit(embed_folder(options, settings, open_console(), verbosity))


def embed_folder(
    options: RunOptions, settings: Settings, console: Console, verbosity: Verbosity = Verbosity.NORMAL
) -> int:
    """Plans, launches, shows and sums up a run; returns the exit code. Raises `ArxivEmbedError` where it cannot
    begin."""
    plan = plan_run(options, settings)
    before = list(killed_runs(settings))

    def mention(line: str) -> None:
        if verbosity is not Verbosity.QUIET:
            say(console, line)

    for gone in before:
        mention(str(gone))
    if not plan.pending:
        if before:
            _tell_dagster(settings)
        say(console, f"Nothing to do: {_all_unchanged(plan)}; {shown(options.store)} holds them.")
        if plan.failed_papers:
            failed = plural(plan.failed_papers, "paper")
            say(console, f"{failed} failed before (`arxiv-embed status --failures`): --resume tries them again")
        if not plan.is_finished:
            mention("Its indexes are not up to date: building what is missing …")
            with open_store(options.store) as store:
                store.finish(plan.space)
        return DONE
    if options.metrics_port is not None:
        from arxiv_embed.endpoint import refuse_taken_port

        refuse_taken_port(options.metrics_host, options.metrics_port)
    mention(_intention(plan, options))
    if plan.passed_over:
        mention(passed_over(plan))
    if verbosity is Verbosity.VERBOSE:
        mention(f"log: {shown(settings.log)}, from level {options.log_level} on")
    lines: list[str] = []

    def hear(event: Mapping[str, Any]) -> None:
        if verbosity is Verbosity.VERBOSE:
            lines.append(line_of(event))

    with LaunchedRun(options, settings, hear) as launched:
        interrupted = _follow(launched, display_on(console, verbosity), lines)
    progress = launched.poll()
    killed = launched.exit_code < 0 and progress.state != "done"
    again = "run the same command without --fresh" if options.fresh else "run the same command"
    if killed:
        _tell_dagster(settings)
    if interrupted and progress.state != "done":
        say(
            console,
            f"Interrupted, with everything saved that was finished ({papers_done(progress)}): {again} to go on.",
        )
        _name_report(launched, console)
        return INTERRUPTED
    if killed:
        number = -launched.exit_code
        complain(f"The run's process was killed by signal {number} after {papers_done(progress)}: {again} to go on.")
        return SOMETHING_FAILED
    if not progress.started or progress.error:
        return _stopped(launched, progress, settings)
    say(console, summary(progress))
    if options.priority and progress.shards and not progress.urgent:
        say(console, f"--priority {', '.join(map(printable, options.priority))} marked no paper of these shards")
    if progress.held is not None:
        papers, rows = progress.held
        say(console, f"{shown(options.store)} holds {plural(papers, 'paper')}, {plural(rows, 'row')}")
    _name_report(launched, console)
    if launched.exit_code == SOMETHING_FAILED and not (progress.failed or progress.given_up or progress.left):
        why = _no_space(settings) or f"{launched.last_words()}: see {launched.log}"
        complain(f"The rows are stored, but Dagster could not be told: {why}")
    return SOMETHING_FAILED if launched.exit_code == SOMETHING_FAILED or progress.failed_papers else DONE


def _follow(launched: LaunchedRun, display: Display, lines: list[str]) -> bool:
    """Shows the run until it has ended, and the `lines` that come up meanwhile; returns whether it was interrupted."""
    interrupted = False

    def show() -> None:
        display.show(launched.poll())
        for line in filter(None, lines):
            display.say(line)
        lines.clear()

    with display:
        while True:
            try:
                if launched.ended(within=LOOK_SECONDS):
                    show()
                    return interrupted
                show()
            except KeyboardInterrupt:
                if interrupted:
                    launched.kill()
                else:
                    interrupted = True
                    display.say("Stopping: what is finished is being saved …")
                    launched.interrupt()


def _name_report(launched: LaunchedRun, console: Console) -> None:
    if launched.report.exists():
        say(console, f"report: {shown(launched.report)}")


def _all_unchanged(plan: RunPlan) -> str:
    return f"{plural(len(plan.shards), 'shard')} unchanged"


def _intention(plan: RunPlan, options: RunOptions) -> str:
    unchanged = len(plan.shards) - len(plan.pending)
    rest = f", {unchanged} unchanged" if unchanged else ""
    done = f"{shown(options.metadata_dir)}: {plural(len(plan.pending), 'shard')} to do{rest} → {shown(options.store)}"
    return "\n".join([done, *notices(plan)])


def notices(plan: RunPlan) -> list[str]:
    """What whoever begins this run should know of its model."""
    return [*([adds_a_space(plan)] if plan.beside else []), *([plan.files.licence] if plan.files.licence else [])]


def adds_a_space(plan: RunPlan) -> str:
    """A line for a run that does not go on with what the store holds, which may not be meant."""
    others = " and ".join(f"{space.model}, {space.chunker}" for space in plan.beside)
    return (
        f"{plan.space.model}, {plan.space.chunker} becomes a space of its own in that store, beside {others} "
        "(see `arxiv-embed spaces`)"
    )


def passed_over(plan: RunPlan) -> str:
    """A line that names what was found in the folder and is not taken."""
    names = plan.passed_over
    some = ", ".join(printable(name) for name in names[:NAMES_SHOWN])
    rest = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
    return f"passed over, without metadata or not to be read: {some}{rest}"


def shown(path: Path | str) -> str:
    """A path below the working folder without that; a URL without its password."""
    if "://" in str(path):
        return masked(str(path))
    path = Path(path)
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)


def summary(progress: RunProgress) -> str:
    """What a run that came to its end has done."""
    if not (progress.shards or progress.given_up):
        return "Nothing was left to do: another run has done it meanwhile"
    lines = _embedded_and_reused(progress)
    lines.append(f"{plural(progress.rows, 'row')} of {plural(progress.shards_done, 'shard')} stored")
    for name, device in progress.devices.items():
        if device.incidents:
            lines.append(f"{name}: {incidents(device)}")
    if progress.skipped_papers:
        lines.append(f"{plural(progress.skipped_papers, 'paper')} held by another shard, in a record at least as new")
    if progress.duplicates:
        lines.append(f"{plural(progress.duplicates, 'older record')} of papers that occur twice left out")
    if progress.urgent:
        lines.append(f"{plural(progress.urgent, 'urgent paper')} taken first")
    if progress.withdrawn:
        lines.append(f"{plural(progress.withdrawn, 'paper')} marked withdrawn")
    if progress.rejects:
        lines.append(f"{plural(progress.rejects, 'record')} rejected: see `arxiv-embed status --rejects`")
    if progress.long_papers:
        long = f"{plural(progress.long_papers, 'long paper')}: the paper's own vector is pooled from its beginning"
        lines.append(f"{long}, its chunks cover the rest")
    if progress.cut_papers:
        cut = f"{plural(progress.cut_papers, 'paper')} longer than the token limit"
        lines.append(f"{cut}: {plural(progress.cut_tokens, 'token')} not embedded")
    for paper, reason in list(progress.failed_papers.items())[:FAILURES_SHOWN]:
        lines.append(f"failed: paper {paper}: {reason}")
    if len(progress.failed_papers) > FAILURES_SHOWN:
        lines.append(f"… {count(len(progress.failed_papers))} papers failed: see `arxiv-embed status --failures`")
    for shard, error in progress.failed.items():
        lines.append(f"failed: {shard}: {error}")
    for shard, error in progress.given_up.items():
        lines.append(f"not tried again: {shard}: {error}: --resume tries it")
    for shard, holder in progress.left.items():
        lines.append(f"left to {holder}: {shard}; run again when that has ended")
    lines += [f"damaged: {damage}" for damage in progress.damages]
    return "\n".join(lines)


def _embedded_and_reused(progress: RunProgress) -> list[str]:
    """Speed is that of the devices: what is reused takes none of their time."""
    embedded, seconds, reused = progress.papers_embedded, progress.embedding_seconds, progress.papers_reused
    papers = f"{plural(embedded, 'paper')} embedded"
    took = f"in {duration(seconds)}"
    if embedded and seconds:
        took += f": {embedded / seconds:.1f} papers/s, {count(progress.tokens / seconds)} tokens/s"
    if not reused:
        return [f"{papers} {took}"]
    places = {
        "from other checkpoints": progress.reused_from_checkpoints,
        "from the store": progress.reused_from_store,
        "of the same text as another": progress.reused_same_text,
    }
    own = reused - sum(places.values())
    some = [f"{count(number)} {place}" for place, number in {"unchanged": own, **places}.items() if number > 0]
    lines = [f"{papers}, {count(reused)} reused" + (f"; embedded {took}" if embedded else "")]
    return [*lines, f"reused: {', '.join(some)}"]


def incidents(device: DeviceProgress) -> str:
    """What went wrong on a device and how often, and whether it is of use."""
    happened = ", ".join(f"{what} ×{times}" if times > 1 else what for what, times in device.incidents.items())
    return f"{happened}; now {device.trouble}" if device.trouble else happened


def _no_space(settings: Settings) -> str:
    """A sentence where the home's disk is full: then not even the log says so."""
    if not settings.home.exists() or shutil.disk_usage(settings.home).free >= LITTLE_SPACE:
        return ""
    return f"No space is left in {settings.home}: free some and run the same command again; what was finished is saved."


def _stopped(launched: LaunchedRun, progress: RunProgress, settings: Settings) -> int:
    """A run that could not go on: bad input where nothing was done yet."""
    why = progress.error or _no_space(settings)
    why = why or f"The run could not begin ({launched.last_words()}): see {launched.log}."
    if not progress.ready:
        raise ArxivEmbedError(why)
    complain(why)
    return SOMETHING_FAILED


def _tell_dagster(settings: Settings) -> None:
    from arxiv_embed.pipeline.instance import open_instance
    from arxiv_embed.pipeline.killed import report_killed_runs

    try:
        with open_instance(settings) as instance:
            report_killed_runs(instance, settings, tell=lambda line: None)
    except Exception as error:  # noqa: BLE001 - the work is not touched by that
        complain(f"Dagster could not be told of the killed run ({sentence(error)}): the next run tells it.")
