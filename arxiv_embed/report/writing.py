"""The file of a report: written beside the run's record, or wherever it is wanted."""

from __future__ import annotations

from pathlib import Path

from arxiv_embed.checkpoint.atomic import write_atomically
from arxiv_embed.errors import ArxivEmbedError
from arxiv_embed.record import progress_path
from arxiv_embed.report.page import report_page
from arxiv_embed.report.rejects import reasons_of_rejects
from arxiv_embed.report.timeline import read_timeline
from arxiv_embed.runs import report_path
from arxiv_embed.settings import Settings


def write_report(settings: Settings, run_id: str, checkpoints: Path, output: Path | None = None) -> Path:
    """Writes the report of a run as it stands, and returns where: `output`, or beside the run's record. Raises
    `ArxivEmbedError` for a run that had not begun, and where the file cannot be written."""
    timeline = read_timeline(progress_path(settings, run_id))
    timeline.reject_reasons = reasons_of_rejects(checkpoints, timeline.shards.values())
    page = report_page(timeline).encode("utf-8", "backslashreplace")  # names on disk need not be UTF-8
    output = output or report_path(settings, run_id)
    if output.is_dir():
        raise ArxivEmbedError(f"{output} is a folder: name the file that the report is written into.")
    write_atomically(output, page)
    return output
