"""The hundred trials: two at a time, each in a process of its own; their outcome ends in `bench/results/kills.json`."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from datetime import UTC, datetime
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from arxiv_embed_tests.conftest import REPOSITORY
from arxiv_embed_tests.kills.changes import SEGMENT_PAPERS
from arxiv_embed_tests.kills.ground import DEVICES, PAPERS, Ground, make_ground
from arxiv_embed_tests.kills.trial import Tried, kills_of, try_kills

TRIALS = 100
AT_ONCE = 2
RESULTS = REPOSITORY / "bench" / "results" / "kills.json"


def try_all(seed: int, numbers: Iterable[int], data: Path) -> dict[str, Any]:
    """The outcome, printed as it comes; kept where all trials were made."""
    numbers = list(numbers)
    begun = time.monotonic()
    print(f"seed {seed}", flush=True)
    tried: dict[int, Tried] = {}
    failed: dict[int, str] = {}
    with tempfile.TemporaryDirectory(prefix="kills-") as place:
        folder = Path(place)
        ground = make_ground(folder, data)
        with ProcessPoolExecutor(AT_ONCE, mp_context=get_context("spawn")) as pool:
            running = {pool.submit(_try, seed, number, ground, folder): number for number in numbers}
            for done in as_completed(running):
                number = running[done]
                outcome = done.result()
                if isinstance(outcome, Tried):
                    tried[number] = outcome
                else:
                    failed[number] = outcome
                print(f"{len(tried) + len(failed)}/{len(numbers)}: trial {number}: {outcome}", flush=True)
    result = _result(seed, tried, failed, time.monotonic() - begun)
    print(json.dumps(result, indent=1))
    if len(numbers) == TRIALS:
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps(result, indent=1) + "\n")
    return result


def _try(seed: int, number: int, ground: Ground, folder: Path) -> Tried | str:
    """A trial, or why it failed; the home of one that failed is kept."""
    home = folder / f"home-{number}"
    try:
        tried = try_kills(kills_of(seed, number), ground, home)
    except Exception as error:  # noqa: BLE001 - whatever it is, the other trials go on
        kept = Path(tempfile.mkdtemp(prefix=f"failed-trial-{number}-"))
        shutil.copytree(home, kept / "home")
        return f"{type(error).__name__}: {error} (its home: {kept / 'home'})"
    shutil.rmtree(home)
    return tried


def _result(seed: int, tried: dict[int, Tried], failed: dict[int, str], seconds: float) -> dict[str, Any]:
    landed = [kill for outcome in tried.values() for kill in outcome.landed]
    repeated = [outcome.repeated / max(1, len(outcome.landed)) for outcome in tried.values()]
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "seed": seed,
        "runs": len(tried) + len(failed),
        "papers": PAPERS,
        "kills": len(landed),
        "kills_by_target": dict(Counter(kill.target for kill in landed).most_common()),
        "kills_by_phase": dict(Counter(kill.phase for kill in landed).most_common()),
        "missed": sum(outcome.missed for outcome in tried.values()),
        "repeated_papers_per_kill": {
            "mean": round(sum(outcome.repeated for outcome in tried.values()) / max(1, len(landed)), 2),
            "most": max(repeated, default=0),
            "allowed": DEVICES * SEGMENT_PAPERS,
        },
        "seconds": round(seconds),
        "failed": {str(number): why for number, why in sorted(failed.items())},
        "verdict": "missed" if failed else "met",
    }
