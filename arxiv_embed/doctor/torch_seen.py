"""Torch, as a process of its own sees it: loading it takes seconds, and a driver that hangs would hang it.

`python -m arxiv_embed.doctor.torch_seen` prints one line of JSON.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict, dataclass

from arxiv_embed.errors import ArxivEmbedError

SECONDS = 60.0
INSTRUCTIONS = ("amx_bf16", "avx512_bf16", "avx512_vnni", "avx512", "avx2", "bf16", "sve")
"""Torch's names of those that matter here, the best first ("bf16" and "sve" are ARM's)."""


@dataclass(frozen=True)
class TorchSeen:
    """`cuda` is the version that torch was built for, "" for a build that computes on CPUs alone; `gpus` are those that
    it can use, `trouble` why it cannot; `dtype` is what a CPU computes in, with these `instructions`."""

    version: str
    cuda: str
    hip: str
    gpus: int
    trouble: str
    dtype: str
    instructions: tuple[str, ...]
    threads: int


def look() -> TorchSeen:
    """In this process."""
    import torch

    from arxiv_embed.encoding.encoder import choose_dtype

    trouble, gpus = "", 0
    try:
        gpus = torch.cuda.device_count()
        if gpus:
            torch.cuda.init()  # type: ignore[no-untyped-call]
    except (RuntimeError, AssertionError) as error:
        trouble = str(error).splitlines()[0] if str(error) else type(error).__name__
    has = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return TorchSeen(
        version=torch.__version__,
        cuda=torch.version.cuda or "",
        hip=torch.version.hip or "",
        gpus=gpus,
        trouble=trouble,
        dtype=choose_dtype("auto", "cpu"),
        instructions=tuple(name for name in INSTRUCTIONS if has.get(name)),
        threads=torch.get_num_threads(),
    )


def torch_seen() -> TorchSeen:
    """In another process; raises `ArxivEmbedError` where torch cannot be loaded, or does not come back."""
    command = [sys.executable, "-P", "-m", __name__]
    try:
        ran = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise ArxivEmbedError(
            f"torch did not answer within {SECONDS:.0f} s: look at nvidia-smi, and at dmesg for a GPU that hangs."
        ) from None
    if ran.returncode:
        last = (ran.stderr.strip().splitlines() or [f"exit code {ran.returncode}"])[-1]
        raise ArxivEmbedError(f"torch cannot be loaded ({last}): install it again with `make setup`.")
    fields = json.loads(ran.stdout.splitlines()[-1])
    return TorchSeen(**{**fields, "instructions": tuple(fields["instructions"])})


if __name__ == "__main__":
    print(json.dumps(asdict(look())))
