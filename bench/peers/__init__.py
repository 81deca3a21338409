"""Peers: other tools that embed on a CPU, each in a process and an environment of its own (`make peers`)."""

from __future__ import annotations

import base64
import json
import os
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any

import numpy as np

from arxiv_embed.encoding.model import ModelFiles
from arxiv_embed.encoding.tokens import FloatArray
from arxiv_embed.errors import ArxivEmbedError
from arxiv_embed.gpu.devices import usable_cores
from bench.data import REPOSITORY

ENVIRONMENTS = REPOSITORY / ".venv-peers"
TOOLS = Path(__file__).with_name("tools.py")


@dataclass(frozen=True)
class Peer:
    """A tool in one configuration; `environment` is the folder of its own below `ENVIRONMENTS`."""

    name: str
    environment: str
    tool: str
    late: bool = False
    """Whether it makes chunks' vectors, as our pool does, or only texts'."""


PEERS = (
    Peer("sentence-transformers, ONNX Runtime, O3", "onnx", "onnx-O3"),
    Peer("sentence-transformers, ONNX Runtime, int8", "onnx", "onnx-int8"),
    Peer("sentence-transformers, OpenVINO", "openvino", "openvino"),
    Peer("sentence-transformers, OpenVINO, float32", "openvino", "openvino-float32"),
    Peer("sentence-transformers, OpenVINO, int8", "openvino", "openvino-int8"),
    Peer("infinity, torch", "infinity", "infinity-torch"),
    Peer("infinity, BetterTransformer", "infinity", "infinity-bettertransformer"),
    Peer("infinity, ONNX Runtime", "infinity", "infinity-onnx"),
    Peer("afterthoughts, late chunking", "afterthoughts", "afterthoughts", late=True),
)


@dataclass(frozen=True)
class Timed:
    """Seconds for the texts, and the vectors of the texts that it was warmed up with (float32, [texts, dimensions])."""

    seconds: float
    vectors: FloatArray


class PeerFailed(ArxivEmbedError):
    """A peer could not do what it was asked; the message is why."""


def time_peer(
    peer: Peer,
    files: ModelFiles,
    max_tokens: int,
    warming: Sequence[str],
    texts: Sequence[str],
    calibration: Sequence[str],
    environments: Path = ENVIRONMENTS,
) -> Timed:
    """Starts a peer, which takes its time the first time, has it embed `warming`, and times it over `texts`.

    `calibration` are texts for those that quantize. Raises `PeerFailed`, as where its environment is not there.
    """
    environment = environments / peer.environment
    if not (environment / ".ready").is_file():
        raise PeerFailed(f"{environment.name} is not installed: make --keep-going peers")
    task = {
        "model": str(files.folder),
        "kept": str(environment / "made" / files.revision),
        "max_tokens": max_tokens,
        "calibration": list(calibration),
    }
    with TemporaryFile("w+") as log, _started(environment, peer.tool, log) as ask:
        ask(task)
        vectors = np.frombuffer(base64.b64decode(ask({"vectors": list(warming)})["vectors"]), np.float32)
        return Timed(ask({"time": list(texts)})["seconds"], vectors.reshape(len(warming), -1))


@contextmanager
def _started(environment: Path, tool: str, log: IO[str]) -> Iterator[Callable[[object], dict[str, Any]]]:
    """A tool's process, and the function that asks it something; what the tool prints goes into `log`."""
    command = [str(environment / "bin" / "python"), "-P", str(TOOLS), tool]
    cores = str(usable_cores())
    surroundings = {
        **{name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        "OMP_NUM_THREADS": cores,
        "TOKENIZERS_PARALLELISM": "true",
        "HF_HUB_OFFLINE": "1",
        "DO_NOT_TRACK": "1",
        "INFINITY_ANONYMOUS_USAGE_STATS": "0",
    }
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, env=surroundings
    ) as process:
        assert process.stdin
        assert process.stdout

        def ask(question: object) -> dict[str, Any]:
            with suppress(BrokenPipeError):  # it has ended, and what it left says why
                print(json.dumps(question), file=process.stdin, flush=True)
            line = process.stdout.readline()
            if not line:
                raise PeerFailed(f"it ended with exit code {process.wait()}, and last said: {_last_line(log)}")
            answer: dict[str, Any] = json.loads(line)
            if "error" in answer:
                raise PeerFailed(f"it failed: {answer['error']}")
            return answer

        try:
            yield ask
        finally:
            process.kill()


def _last_line(log: IO[str]) -> str:
    log.seek(0)
    return ([line.strip() for line in log if line.strip()] or ["nothing"])[-1]
