"""The view of the shards: what is safe in checkpoints and store, what is under way, what is left."""

from __future__ import annotations

from rich.text import Text

from arxiv_embed.monitor.drawing import (
    BAD,
    CALM,
    FAINT,
    GOOD,
    STRONG,
    TRACK,
    WARN,
    cut,
    fact,
    folded,
    padded,
    progress_bar,
)
from arxiv_embed.monitor.glyphs import Glyphs
from arxiv_embed.monitor.shards import ENDED_BADLY, UNDER_WAY, Shard, Shards, Stage
from arxiv_embed.monitor.sources import Sight
from arxiv_embed.wording import count, plural, printable

STYLES = {
    Stage.WAITING: TRACK,
    **dict.fromkeys(UNDER_WAY, CALM),
    Stage.DONE: GOOD,
    **dict.fromkeys(ENDED_BADLY, BAD),
    Stage.LEFT: WARN,
}


def shards(sight: Sight, width: int, glyphs: Glyphs) -> list[Text]:
    """A line of numbers, a mark for each shard, those under way, and why others are not done."""
    run, known = sight.metrics, sight.shards
    left = max(0, run.shards - run.shards_done - run.shards_failed)
    numbers = [
        fact("done", f"{count(run.shards_done)} of {count(run.shards)}", STRONG),
        fact("failed", count(run.shards_failed), BAD if run.shards_failed else ""),
        fact("to do", count(left)),
        fact("rows stored", count(run.rows)),
    ]
    if known is None:
        now = [fact("at work on", printable(run.shard))]
        remark = Text("The endpoint of a run tells how many shards are done, not which.", FAINT)
        return [*folded([*numbers, *now], width, glyphs), Text(), cut(remark, width, glyphs)]
    saved = f"{count(known.segments)} with {plural(known.saved_papers, 'paper')}" if known.segments else "0"
    lines = [*folded([*numbers, fact("segments saved", saved)], width, glyphs), Text()]
    lines += [*_map(known, width, glyphs), *_legend(known, width, glyphs)]
    under_way = [shard for shard in known.found.values() if shard.stage in UNDER_WAY]
    if under_way:
        lines += [Text(), Text("Under way", STRONG)]
        name = min(width // 3, max(len(shard.name) for shard in under_way))
        lines += [_under_way(shard, name, width, glyphs) for shard in under_way]
    not_done = [shard for shard in known.found.values() if shard.why]
    if not_done:
        lines += [Text(), Text("Not done, and why", STRONG)]
        for shard in not_done:
            mark = Text(f"{glyphs.stages[shard.stage]} {shard.stage}  ", STYLES[shard.stage])
            lines.append(cut(mark + Text(f"{printable(shard.name)}: {printable(shard.why)}"), width, glyphs))
    return lines


def _map(known: Shards, width: int, glyphs: Glyphs) -> list[Text]:
    marks = Text()
    for shard in known.found.values():
        marks.append(glyphs.stages[shard.stage], STYLES[shard.stage])
    return [marks[at : at + width] for at in range(0, len(marks), width)]


def _legend(known: Shards, width: int, glyphs: Glyphs) -> list[Text]:
    counts = known.counts()
    return folded(
        [
            Text.assemble((f"{glyphs.stages[stage]} ", STYLES[stage]), (f"{stage} {counts[stage]}", FAINT))
            for stage in Stage
            if counts[stage]
        ],
        width,
        glyphs,
    )


def _under_way(shard: Shard, name_width: int, width: int, glyphs: Glyphs) -> Text:
    name = padded(Text(printable(shard.name)), name_width, glyphs)
    stage = padded(Text(f"{glyphs.stages[shard.stage]} {shard.stage}", STYLES[shard.stage]), 12, glyphs)
    numbers = f" {count(shard.done)} of {plural(shard.papers, 'paper')}, {plural(shard.segments, 'segment')}"
    room = max(6, width - name.cell_len - stage.cell_len - len(numbers) - 2)
    bar = progress_bar(shard.done / shard.papers if shard.papers else 0.0, room, glyphs)
    return cut(name + Text(" ") + stage + Text(" ") + bar + Text(numbers), width, glyphs)
