"""Wording: numbers, durations, sizes, names and messages as people read them."""

from __future__ import annotations

from arxiv_embed.errors import masked


def count(number: float) -> str:
    """12,345"""
    return f"{number:,.0f}"


def plural(number: int, noun: str) -> str:
    """1 shard, 12,345 shards"""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def duration(seconds: float) -> str:
    """4.2 s, 3 min 20 s, 2 h 05 min"""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def size(count: float) -> str:
    """Bytes: 640 kB, 1.2 GB"""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if count >= 10 or unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def printable(text: str) -> str:
    """The text in one line, without secrets and what would steer a terminal: names and messages come from anywhere."""
    return "".join(character if character.isprintable() else "?" for character in " ".join(masked(text).split()))
