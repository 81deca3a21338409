"""How `bench quality` judges rankings."""

from __future__ import annotations

import numpy as np
import pytest

from arxiv_embed.encoding.model import resolve_model
from arxiv_embed.encoding.space import space_of
from arxiv_embed.settings import DEFAULT_MODEL
from arxiv_embed.stores.protocol import Match
from bench.quality import BY_PAPER, BY_SEARCH, LATE, PLAIN, Quality, RunOutcome, bootstrap, papers_of, query_ndcg, table


def test_ndcg_discounts_by_rank_and_is_held_against_every_judged_document() -> None:
    relevance = {"q1": {"a": 1, "b": 1}, "q2": {"a": 1}, "q3": {"c": 1}}
    gains = query_ndcg({"q1": ["x", "a"], "q2": ["a"], "q3": [*"0123456789", "c"]}, relevance)
    best = 1 + 1 / np.log2(3)
    assert gains == pytest.approx([(1 / np.log2(3)) / best, 1, 0])


def test_a_paper_stands_where_its_best_chunk_stands() -> None:
    matches = [Match(f"2001.0000{paper}", 1.0) for paper in (2, 1, 2)]
    assert papers_of(matches) == ["2", "1"]


def test_the_bootstrap_holds_the_mean_of_differences_and_is_wide_where_queries_disagree() -> None:
    assert bootstrap(np.full(30, 0.25)) == (0.25, 0.25, 0.25)
    mean, low, high = bootstrap(np.array([-1.0, 1.0] * 50))
    assert mean == 0
    assert -0.3 < low < -0.1 < 0.1 < high < 0.3


def test_the_table_holds_every_ranking_against_plain_and_the_best_one_against_the_default() -> None:
    plain, better, best = np.full(8, 0.25), np.full(8, 0.5), np.full(8, 0.75)
    gains = {("sentence-transformers", BY_PAPER): better, (PLAIN, BY_PAPER): plain, (PLAIN, BY_SEARCH): plain}
    for chunker in LATE:
        gains |= {(chunker, BY_PAPER): plain, (chunker, BY_SEARCH): better}
    gains[LATE[-1], BY_SEARCH] = best
    space = space_of(resolve_model(DEFAULT_MODEL), PLAIN)
    head, _, theirs, by_paper, by_search, _, verdict = table(Quality(gains, RunOutcome({}, space, 0, 0))).splitlines()
    assert [cell.strip() for cell in head.strip("|").split("|")][1:] == [PLAIN, *LATE]
    assert theirs.startswith("| sentence-transformers | 0.5000, +0.2500 (+0.2500 to +0.2500) |")
    assert by_paper == f"| {BY_PAPER} | 0.2500 | 0.2500 | 0.2500 |"
    assert by_search.endswith("| 0.5000, +0.2500 (+0.2500 to +0.2500) | 0.7500, +0.5000 (+0.5000 to +0.5000) |")
    assert verdict == f"Best: {LATE[-1]}, {BY_SEARCH}: 0.7500, +0.2500 (+0.2500 to +0.2500) to the default."
