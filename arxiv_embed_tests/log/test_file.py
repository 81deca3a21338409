"""The log's file: no line is torn or lost, whoever writes, rotates or moves it away."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

from arxiv_embed.log.file import LogFile

WRITER = """
import json, sys
from pathlib import Path
from arxiv_embed.log.file import LogFile
path, writer, lines = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
file = LogFile(path, path.with_name("lock"), largest=20_000, files=40)
print("ready", flush=True)
sys.stdin.readline()
for number in range(lines):
    file.append(json.dumps({"writer": writer, "number": number, "filling": "x" * (number % 90)}).encode())
"""
LINES = 1_500


def files_of(path: Path) -> list[Path]:
    """Oldest first."""
    older = sorted(path.parent.glob(f"{path.name}.*"), key=lambda file: -int(file.suffix[1:]))
    return [*older, path]


def test_two_processes_that_write_and_rotate_at_once_lose_and_tear_no_line(tmp_path: Path) -> None:
    path = tmp_path / "log"
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path), name, str(LINES)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for name in ("one", "other")
    ]
    for writer in writers:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write("\n")
        writer.stdin.flush()
    for writer in writers:
        writer.communicate()
        assert writer.returncode == 0
    lines = [json.loads(line) for file in files_of(path) for line in file.read_text().splitlines()]
    assert Counter(line["writer"] for line in lines) == {"one": LINES, "other": LINES}
    for name in ("one", "other"):
        assert {line["number"] for line in lines if line["writer"] == name} == set(range(LINES))
    assert len(files_of(path)) > 5
    assert max(file.stat().st_size for file in files_of(path)) < 25_000


def test_so_many_files_are_kept_and_the_oldest_goes(tmp_path: Path) -> None:
    path = tmp_path / "log"
    file = LogFile(path, tmp_path / "lock", largest=100, files=3)
    for number in range(20):
        file.append(f"{number:040}".encode())
    file.close()
    assert [one.name for one in files_of(path)] == ["log.2", "log.1", "log"]
    kept = [int(line) for one in files_of(path) for line in one.read_text().splitlines()]
    assert kept == [14, 15, 16, 17, 18, 19]


def test_a_log_that_is_moved_away_or_removed_begins_anew(tmp_path: Path) -> None:
    path = tmp_path / "log"
    file = LogFile(path, tmp_path / "lock")
    file.append(b"first")
    path.rename(tmp_path / "kept by logrotate")
    file.append(b"second")
    assert path.read_text() == "second\n"
    path.unlink()
    file.append(b"third")
    assert path.read_text() == "third\n"
    file.close()


def test_threads_write_whole_lines(tmp_path: Path) -> None:
    path = tmp_path / "log"
    file = LogFile(path, tmp_path / "lock", largest=3_000, files=30)

    def write(name: str) -> None:
        for number in range(200):
            file.append(f"{name} {number}".encode())

    threads = [threading.Thread(target=write, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lines = [line for one in files_of(path) for line in one.read_text().splitlines()]
    assert sorted(lines) == sorted(f"{name} {number}" for name in "ab" for number in range(200))
    file.close()
