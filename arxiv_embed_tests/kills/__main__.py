"""`python -m arxiv_embed_tests.kills`: the hundred trials; `--seed N --only K` repeats one, and keeps no result."""

from __future__ import annotations

import argparse
import random
import sys

from arxiv_embed_tests.conftest import REAL_DATA
from arxiv_embed_tests.kills.hundred import TRIALS, try_all


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m arxiv_embed_tests.kills", description=__doc__)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1_000_000))
    parser.add_argument("--only", type=int, help="the number of one trial")
    chosen = parser.parse_args()
    if not REAL_DATA.is_dir():
        return _missing()
    numbers = range(TRIALS) if chosen.only is None else [chosen.only]
    return 0 if try_all(chosen.seed, numbers, REAL_DATA)["verdict"] == "met" else 1


def _missing() -> int:
    print(f"The trials run over real metadata, and {REAL_DATA} is not there: put it there first.", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
