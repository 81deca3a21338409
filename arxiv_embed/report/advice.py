"""Advice: what to change for the next run, as sentences with numbers and a remedy, by rules over the record alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import median

from arxiv_embed.error_patterns import kind_of_incident
from arxiv_embed.errors import Kind
from arxiv_embed.gpu.health import Verdict
from arxiv_embed.report.timeline import RUNNING, Timeline, Trouble
from arxiv_embed.wording import count, duration, plural

SHORT_RUN = 30.0
"""Seconds of computing below which shares of time say more of the start than of the run."""

FEW_BATCHES = 20
LOW, LOWEST = 0.85, 0.02
"""Of the time: a device that computed less is worth a word; so is what took more than that of the run."""

UNEVEN, PADDED, MISPREDICTED = 1.15, 0.10, 0.25
LATE = 2.0
"""Seconds."""

NAMES_SHOWN = 3


@dataclass(frozen=True)
class Advice:
    """`what` was seen, and the `remedy`; `weight` orders them: from 2 on, work is missing; below, a share of the
    run that it cost, or what comes near to that."""

    what: str
    remedy: str
    weight: float


def advice_of(timeline: Timeline) -> list[Advice]:
    """The weightiest first; nothing where nothing is to be changed."""
    found = [advice for rule in RULES for advice in rule(timeline)]
    return sorted(found, key=lambda advice: -advice.weight)


def _ended_early(timeline: Timeline) -> Iterator[Advice]:
    progress = timeline.progress
    again = "Run the same command again: it goes on from what was saved."
    if progress.state == "killed":
        yield Advice(f"The run was killed after {_done(timeline)}.", again, 9.0)
    elif progress.state == "interrupted":
        yield Advice(f"The run was interrupted after {_done(timeline)}.", again, 9.0)
    elif progress.error:
        yield Advice(f"The run stopped after {_done(timeline)}: {progress.error}", "Mend that, and run again.", 9.0)


def _done(timeline: Timeline) -> str:
    return f"{count(timeline.progress.papers_done)} of {plural(timeline.progress.papers, 'paper')}"


def _shards(timeline: Timeline) -> Iterator[Advice]:
    progress = timeline.progress
    if progress.failed:
        yield Advice(
            f"{_of(len(progress.failed), progress.shards, 'shard')} failed: {_some(progress.failed)}.",
            "Run the same command again: it tries these and repeats nothing that is done.",
            8.0,
        )
    if progress.given_up:
        yield Advice(
            f"{_have(len(progress.given_up), 'shard')} failed too often to be tried: {_some(progress.given_up)}.",
            "Mend the cause, then `arxiv-embed run --resume` tries them once more.",
            7.0,
        )
    if progress.left:
        yield Advice(
            f"{plural(len(progress.left), 'shard')} left to others at work on them: {_some(progress.left)}.",
            "Run again when those have ended.",
            6.0,
        )
    if progress.damages:
        yield Advice(
            f"{plural(len(progress.damages), 'file')} of checkpoints did not verify: {progress.damages[0]}.",
            "Look at the disk; `arxiv-embed checkpoint verify` goes through all others.",
            5.0,
        )


def _papers(timeline: Timeline) -> Iterator[Advice]:
    progress = timeline.progress
    if failed := len(progress.failed_papers):
        reasons = Counter(progress.failed_papers.values())
        yield Advice(
            f"{plural(failed, 'paper')} could not be embedded on any device{_commonest(reasons, failed)}.",
            "`arxiv-embed status --failures` lists them; `arxiv-embed run --resume` tries them again.",
            4.0,
        )
    if progress.cut_papers:
        yield Advice(
            f"{plural(progress.cut_papers, 'paper')} longer than the token limit: "
            f"{plural(progress.cut_tokens, 'token')} not embedded.",
            "Raise --max-tokens, or choose a model with more positions (docs/models.md).",
            0.9,
        )


def _rejects(timeline: Timeline) -> Iterator[Advice]:
    rejects = timeline.progress.rejects
    if not rejects:
        return
    reasons = timeline.reject_reasons
    common = _commonest(reasons, sum(reasons.values())) if reasons else ""
    read = rejects + sum(shard.papers for shard in timeline.shards.values())
    yield Advice(
        f"{_of(rejects, read, 'record')} rejected{common}.",
        "`arxiv-embed status --rejects` lists each with its file and line.",
        2.0 + rejects / max(read, 1),
    )


def _patterns(timeline: Timeline) -> Iterator[Advice]:
    """What devices met and why papers failed has rules of its own."""
    remedies = {
        Kind.TRANSIENT: "What comes and goes is tried again; see what is unreliable there: network, database, disk.",
        Kind.RESOURCE: "Free memory or disk there before the next run.",
        Kind.PERMANENT: "Trying again meets the same: mend it.",
    }
    for failure in timeline.metrics.failures:
        of_device = any(failure.pattern.startswith(f"{what}:") for what in {t.what for t in timeline.troubles})
        if not of_device and (remedy := remedies.get(Kind(failure.kind))):
            times = "once" if failure.count == 1 else f"{failure.count:,} times"
            yield Advice(f"Met {times}: {failure.example}", remedy, 0.6)


def _troubles(timeline: Timeline) -> Iterator[Advice]:
    troubles: dict[tuple[str, str], list[Trouble]] = {}
    for trouble in timeline.troubles:
        troubles.setdefault((trouble.device, trouble.what), []).append(trouble)
    remedies = {
        "out of memory": (
            "ran out of memory",
            "Its batches were cut in two. End what else uses its memory, or choose a smaller --batch-size.",
        ),
        "lost": ("lost its worker", "The log says how it ended; the same on one device only points to that device."),
        "hung": ("was silent for too long", "The log says in which batch; see its driver, and what else runs there."),
        "failed": ("failed on a batch", "The batches were cut in two and tried elsewhere; see the reason."),
        "waiting": (
            "waited for memory that others held",
            "Give the run devices of its own, or end what else is there.",
        ),
        "retired": ("was retired", "See `nvidia-smi` and the system's log for that device before the next run."),
    }
    for (device, what), met in troubles.items():
        if what in remedies:
            did, remedy = remedies[what]
            times = "once" if len(met) == 1 else f"{len(met):,} times"
            weight = 3.0 if what == "retired" else 0.7 if kind_of_incident(what) else 0.3
            yield Advice(f"{device} {did} {times}, at last: {met[-1].detail}.", remedy, weight)


def _health(timeline: Timeline) -> Iterator[Advice]:
    """Reports come at even distances, so that their share is one of the time."""
    remedies = {
        Verdict.HOT: ("hot", "See its cooling and the air around it."),
        Verdict.MEMORY_CRITICAL: ("critically short of memory", "End what else uses its memory, or give less to it."),
        Verdict.STALLED: ("stalled", "See what else it computes, and its driver."),
        Verdict.FAILING: ("failing", "Look at `nvidia-smi -q` and the system's log; leave it out with --devices."),
    }
    for device in timeline.devices:
        told = [fields for _, fields in timeline.health_of(device)]
        if not told:
            continue
        slowed = [fields for fields in told if fields["throttled_by"] or fields["verdict"] == Verdict.THROTTLED]
        if (share := len(slowed) / len(told)) > LOWEST:
            why, times = Counter(reason for fields in slowed for reason in fields["throttled_by"]), len(slowed)
            named = f" ({', '.join(reason for reason, _ in why.most_common(2))})" if why else ""
            by_power = bool(why) and "power" in why.most_common(1)[0][0].lower()
            remedy = "See its power limit (`nvidia-smi -q -d POWER`)." if by_power else "See its cooling."
            yield Advice(
                f"{device} was throttled for {share:.0%} of the run{named}, {_reports(times)}.", remedy, 0.8 + share
            )
        for verdict, (how, remedy) in remedies.items():
            met = [fields for fields in told if fields["verdict"] == verdict]
            if (share := len(met) / len(told)) > LOWEST or (met and verdict is not Verdict.HOT):
                reasons = Counter("; ".join(fields["reasons"]) for fields in met).most_common(1)[0][0]
                because = f" ({reasons})" if reasons else ""
                yield Advice(f"{device} was {how} for {share:.0%} of the run{because}.", remedy, 0.7 + share)
        if numbers := sorted({number for fields in told for number in fields["xid"]}):
            yield Advice(
                f"{device} reported XID {', '.join(map(str, numbers))}.",
                "NVIDIA's list of XID errors says what each means; a device that reports more is to be replaced.",
                1.5,
            )
        if errors := told[-1].get("ecc_uncorrected"):
            yield Advice(
                f"{device} counts {plural(errors, 'memory error')} that could not be corrected.",
                "Reset it or leave it out with --devices: what it computes cannot be trusted.",
                2.5,
            )


def _reports(times: int) -> str:
    return f"in {plural(times, 'report')} of its health"


def _late(timeline: Timeline) -> Iterator[Advice]:
    late = [report.late for report in timeline.reports if report.late > LATE]
    if late:
        yield Advice(
            f"{_of(len(late), len(timeline.reports), 'report')} of health came more than {LATE:.0f} s late, "
            f"by {max(late):.1f} s at most.",
            "The machine is short of CPU: leave it a core, or end what else runs there.",
            0.15,
        )


def _computing(timeline: Timeline) -> Iterator[Advice]:
    """While there were batches: what comes before the first and after the last has rules of its own."""
    if len(timeline.batches) < FEW_BATCHES:
        return
    begun = timeline.progress.ready
    ended = max(batch.time for batch in timeline.batches)
    if not begun or ended - begun < SHORT_RUN:
        return
    starved = sum(batch.waiting == 0 for batch in timeline.batches) / len(timeline.batches)
    for device in timeline.metrics.devices:
        share = min(1.0, device.busy_seconds / (ended - begun))
        if device.batches and share < LOW:
            if starved > 0.5:
                remedy = (
                    "No papers waited for it: reading, tokenizing or storing is slower; give it cores or a faster disk."
                )
            else:
                remedy = "Papers waited for it: it stood still between shards or batches; make shards larger."
            yield Advice(
                f"{device.device} computed {share:.0%} of the time that there were batches.", remedy, 1 - share
            )


def _around(timeline: Timeline) -> Iterator[Advice]:
    """The time before the devices were ready, at the end when some had nothing to do, and after their last batch."""
    seconds, progress = timeline.seconds, timeline.progress
    if seconds < 2 * SHORT_RUN or not timeline.batches:
        return
    if (start := progress.ready - progress.started) > 0.2 * seconds:
        yield Advice(
            f"The devices were ready after {duration(start)}, {start / seconds:.0%} of the run.",
            "Embed more in one run: a model is loaded once for all its shards.",
            start / seconds,
        )
    if progress.state in RUNNING:
        return
    last = {batch.device: batch.time for batch in timeline.batches}
    end = max(last.values())
    for device, time in last.items():
        if (idle := end - time) > max(10.0, 0.05 * seconds):
            yield Advice(
                f"{device} had nothing to do for the last {duration(idle)} before the others were done, "
                f"{idle / seconds:.0%} of the run.",
                "It had no batch that it would have finished sooner: leave a slow device out, or see its troubles.",
                idle / seconds,
            )
    if (tail := timeline.end - end) > max(10.0, 0.1 * seconds):
        yield Advice(
            f"After the last batch the run took another {duration(tail)}, {tail / seconds:.0%} of it, "
            "to store and to index.",
            "Give the store a faster disk, or see the database's load.",
            tail / seconds,
        )


def _balance(timeline: Timeline) -> Iterator[Advice]:
    balance, devices = timeline.metrics.balance, timeline.metrics.devices
    if balance is None or balance <= UNEVEN or len(timeline.batches) < FEW_BATCHES:
        return
    busiest = max(devices, key=lambda device: device.busy_seconds)
    if busiest.busy_seconds >= SHORT_RUN:
        yield Advice(
            f"{busiest.device} computed {balance:.2f} times as long as the devices' mean.",
            "--production shares by speed where --standard takes turns; devices of one kind balance best.",
            balance - 1,
        )


def _padding(timeline: Timeline) -> Iterator[Advice]:
    padding = timeline.metrics.padding
    if padding > PADDED and len(timeline.batches) >= FEW_BATCHES:
        yield Advice(
            f"{padding:.0%} of the tokens computed were padding.",
            "--production batches papers of one length; a model that can be packed needs none (docs/models.md).",
            padding,
        )


def _memory(timeline: Timeline) -> Iterator[Advice]:
    for device in timeline.devices:
        ratios = [b.peak_memory / b.predicted_memory for b in timeline.of(device) if b.predicted_memory]
        if len(ratios) < FEW_BATCHES:
            continue
        above, middle = sum(ratio > 1 + MISPREDICTED for ratio in ratios) / len(ratios), median(ratios)
        if above > LOWEST:
            yield Advice(
                f"{above:.0%} of {device}'s batches took over {MISPREDICTED:.0%} more memory than predicted, "
                f"{max(ratios):.2f} times as much at most.",
                "It is learned for the next run; until then a smaller --batch-size leaves room.",
                above,
            )
        elif middle < 1 - MISPREDICTED:
            yield Advice(
                f"{device}'s batches took {middle:.2f} times the memory that was predicted, by the median.",
                "It is learned for the next run, whose batches may be larger.",
                0.1,
            )


def _of(part: int, whole: int, noun: str) -> str:
    """3 of 20 reports"""
    return f"{part:,} of {plural(whole, noun)}"


def _have(number: int, noun: str) -> str:
    return f"{plural(number, noun)} {'has' if number == 1 else 'have'}"


def _some(reasons: dict[str, str]) -> str:
    named = "; ".join(f"{name}: {reason}" for name, reason in list(reasons.items())[:NAMES_SHOWN])
    return f"{named} and {len(reasons) - NAMES_SHOWN} more" if len(reasons) > NAMES_SHOWN else named


def _commonest(reasons: Counter[str], whole: int) -> str:
    [(reason, times)] = reasons.most_common(1)
    return f": {reason}" if times == whole else f", most often ({times:,} times): {reason}"


RULES: tuple[Callable[[Timeline], Iterator[Advice]], ...] = (
    _ended_early,
    _shards,
    _papers,
    _rejects,
    _patterns,
    _troubles,
    _health,
    _late,
    _computing,
    _around,
    _balance,
    _padding,
    _memory,
)
