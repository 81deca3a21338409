"""Memory: what reading needs does not grow with the file, in a process of its own for each size."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path

import pytest
import zstandard

from arxiv_embed_tests.metadata.folders import SHAPES, record

READ = """
import re, sys
from pathlib import Path
from arxiv_embed.metadata.reading import ShardReader
from arxiv_embed.metadata.shards import list_folder

folder = Path(sys.argv[1])
with ShardReader() as reader:
    shards = list_folder(folder, shard_papers=20_000, index=folder.parent / "index").shards
    items = sum(1 for shard in shards for _ in reader.read(shard))
print(items, int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) // 1024)
"""


def reading(folder: Path) -> tuple[int, int]:
    """Items read, and the peak in MB; `ru_maxrss` would be at least what this process had when it started that one."""
    done = subprocess.run([sys.executable, "-c", READ, str(folder)], capture_output=True, text=True, check=True)
    items, peak = done.stdout.split()
    return int(items), int(peak)


def write(file: Path, shape: str, copies: int) -> None:
    """About 1.2 MB of records a copy."""
    records = [record(f"0704.{i:04d}", abstract=f"Word {i} " * 130) for i in range(1, 1001)]
    if shape == "one line":
        whole = b'{"id": "' + b"x" * 1_200_000
        pieces = [whole] + [b"x" * 1_200_000] * (copies - 1)
    elif shape == "lines":
        pieces = [SHAPES["lines"](records)] * copies
    elif shape == "array":
        body = SHAPES["array"](records)[1:-1]
        pieces = [b"[" + body, *[b"," + body] * (copies - 1), b"]"]
    else:
        head, body, tail = SHAPES["xml"](records).partition(b"<record>")
        body, tail = body + tail[: -len("</ListRecords></OAI-PMH>")], tail[-len("</ListRecords></OAI-PMH>") :]
        pieces = [head, *[body] * copies, tail]
    with gzip.open(file, "wb", compresslevel=1) if file.suffix == ".gz" else file.open("wb") as out:
        out.writelines(pieces)


@pytest.mark.parametrize(
    ("shape", "name", "copies"),
    [("lines", "a.gz", 100), ("lines", "a", 100), ("array", "a.gz", 30), ("xml", "a.gz", 30), ("one line", "a", 100)],
)
def test_memory_does_not_grow_with_the_file(folder: Path, shape: str, name: str, copies: int) -> None:
    write(folder / name, shape, 4)
    _, small = reading(folder)
    write(folder / name, shape, copies)
    items, large = reading(folder)
    assert items == (1 if shape == "one line" else 1000 * copies)
    assert large < small + 15
    assert large < 300


def test_a_zstd_file_that_swells_thirty_thousand_times_fits_into_memory(folder: Path) -> None:
    line = json.dumps(record("0704.0001")).encode() + b"\n"
    with (folder / "a.zst").open("wb") as file, zstandard.ZstdCompressor().stream_writer(file) as out:
        out.write(line)
        for _ in range(500):
            out.write(b" " * 1_000_000)
    items, peak = reading(folder)
    assert items == 2
    assert peak < 300
