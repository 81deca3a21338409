"""Estimates: how many tokens texts have, told before they are tokenized, by what the papers before them had."""

from __future__ import annotations

import contextlib
import gzip
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import orjson
import pytest
from tokenizers import Tokenizer

from arxiv_embed.checkpoint.sealed import seal, unseal
from arxiv_embed.encoding.model import ModelFiles, resolve_model
from arxiv_embed.encoding.space import space_of
from arxiv_embed.encoding.tokens import PaperTokenizer
from arxiv_embed.estimates import REMEMBERED, LearnedTokens, TokenEstimator, Vocabulary, evenly_spread
from arxiv_embed.metadata.paper import NotAPaper, Paper
from arxiv_embed.metadata.records import paper_of
from arxiv_embed.settings import DEFAULT_MODEL
from arxiv_embed_tests.tiny_models import bytepairs

MADE_OF = slice(2000, 4000)
"""The papers that a byte-pair vocabulary is made from; neither learned from nor estimated."""


@dataclass(frozen=True)
class Papers:
    texts: Sequence[str]
    categories: Sequence[Sequence[str]]
    tokens: Sequence[int]

    def part(self, start: int, stop: int) -> Papers:
        return Papers(self.texts[start:stop], self.categories[start:stop], self.tokens[start:stop])

    def share_within_a_tenth(self, estimated: Sequence[float]) -> float:
        return float(np.mean(np.abs(np.array(estimated) / self.tokens - 1) <= 0.1))


@pytest.fixture(scope="module")
def real_papers(real_data: Path) -> list[Paper]:
    """The first 4,000, in the file's order."""

    def papers() -> Sequence[Paper]:
        with gzip.open(real_data / "arxiv_100k.jsonl.gz", "rb") as lines:
            for line in lines:
                with contextlib.suppress(NotAPaper):
                    yield paper_of(orjson.loads(line))

    return list(islice(papers(), MADE_OF.stop))


@pytest.fixture(scope="module")
def bundled() -> ModelFiles:
    return resolve_model(DEFAULT_MODEL)


@pytest.fixture
def learned(tmp_path: Path, bundled: ModelFiles) -> LearnedTokens:
    return LearnedTokens(tmp_path / "history", bundled)


def by_words(texts: Sequence[str], times: float = 2.0) -> Papers:
    """Papers of a tokenizer that gives so many tokens a word."""
    return Papers(texts, [("cs.LG",)] * len(texts), [round(times * len(text.split())) for text in texts])


def some_texts(count: int, seed: int = 0) -> list[str]:
    random = np.random.default_rng(seed)
    words = ["field", "theory", "of", "galaxies", "xylograph", "we", "show", "that", "mnemosyne"]
    return [" ".join(random.choice(words, random.integers(20, 200))) + "." for _ in range(count)]


@pytest.mark.parametrize("tokenizer", ["wordpieces", "bytepairs"])
def test_of_the_second_thousand_papers_95_in_100_are_within_a_tenth_of_the_truth(
    real_papers: list[Paper], bundled: ModelFiles, tmp_path: Path, tokenizer: str
) -> None:
    texts = [paper.text for paper in real_papers]
    if tokenizer == "wordpieces":
        place = bundled.folder / "tokenizer.json"
        cut = PaperTokenizer(bundled, space_of(bundled, "whole")).tokenize(texts[:2000])
        tokens = [len(paper.ids) + paper.cut_tokens for paper in cut]
    else:
        place = tmp_path / "tokenizer.json"
        bytepairs(texts[MADE_OF], 16_000).save(str(place))
        tokens = [len(one.ids) for one in Tokenizer.from_file(str(place)).encode_batch(texts[:2000])]
    papers = Papers(texts[:2000], [paper.categories for paper in real_papers[:2000]], tokens)
    first, second = papers.part(0, 1000), papers.part(1000, 2000)
    estimator = TokenEstimator(Vocabulary(place))
    for start in range(0, 1000, 250):  # shard by shard
        shard = first.part(start, start + 250)
        estimator.learn(shard.texts, shard.categories, shard.tokens)
    estimated = estimator.estimate(second.texts, second.categories)
    assert second.share_within_a_tenth(estimated) >= 0.97
    assert sum(estimated) == pytest.approx(sum(second.tokens), rel=0.01)
    assert second.share_within_a_tenth(estimator.quick(second.texts)) >= 0.8
    assert np.corrcoef(estimator.quick(second.texts), second.tokens)[0, 1] > 0.97
    assert len(estimator.to_json()) < 20_000


def test_before_anything_was_learned_the_vocabulary_alone_comes_near(
    real_papers: list[Paper], bundled: ModelFiles, learned: LearnedTokens
) -> None:
    texts = [paper.text for paper in real_papers[:300]]
    tokens = [len(p.ids) + p.cut_tokens for p in PaperTokenizer(bundled, space_of(bundled, "whole")).tokenize(texts)]
    estimated = learned.estimator.estimate(texts, [()] * len(texts))
    assert sum(estimated) == pytest.approx(sum(tokens), rel=0.1)


def test_what_is_particular_to_a_category_is_learned_and_unknown_ones_are_taken_as_usual(
    learned: LearnedTokens,
) -> None:
    texts = some_texts(400)
    usual, more = by_words(texts[:200]), by_words(texts[200:], 3.0)
    learned.learn(
        usual.texts + more.texts, [("cs.LG", "math.CO")] * 200 + [("hep-th",)] * 200, [*usual.tokens, *more.tokens]
    )
    new = some_texts(50, seed=1)
    words = sum(len(text.split()) for text in new)

    def a_word(*categories: str) -> float:
        return float(sum(learned.estimator.estimate(new, [categories] * len(new)))) / words

    assert a_word("cs.LG") == pytest.approx(2, rel=0.1)
    assert a_word("hep-th", "cs.LG") == pytest.approx(3, rel=0.1)
    assert a_word("cs.LG") < a_word("q-bio.NC") == a_word() < a_word("hep-th")


def test_one_paper_does_not_make_a_category(learned: LearnedTokens) -> None:
    usual = by_words(some_texts(200))
    learned.learn(usual.texts, usual.categories, usual.tokens)
    one = by_words(some_texts(1, seed=2), 6.0)
    learned.learn(one.texts, [("hep-th",)], one.tokens)
    new = some_texts(10, seed=3)
    usual_estimate = learned.estimator.estimate(new, [("q-bio.NC",)] * 10)
    assert sum(learned.estimator.estimate(new, [("hep-th",)] * 10)) < 1.4 * sum(usual_estimate)


@pytest.mark.parametrize("letters", ["квантовая", "量子場論", "ποσοτική", "क्वांटम"])
def test_a_script_that_was_never_seen_is_a_token_a_character_and_is_learned(
    learned: LearnedTokens, letters: str
) -> None:
    usual = by_words(some_texts(300))
    learned.learn(usual.texts, usual.categories, usual.tokens)
    text = letters * 30
    [estimated] = learned.estimator.estimate([text], [()])
    assert estimated == pytest.approx(len(text), rel=0.15)
    assert learned.estimator.quick([text])[0] == pytest.approx(len(text), rel=0.15)
    seen = [letters * count for count in range(20, 60)]
    learned.learn(seen, [("cs.LG",)] * len(seen), [3 * len(text) for text in seen])
    [estimated] = learned.estimator.estimate([text], [()])
    assert estimated == pytest.approx(3 * len(text), rel=0.15)


def test_a_text_of_nothing_is_at_least_a_token(learned: LearnedTokens) -> None:
    assert learned.estimator.estimate([], []).tolist() == learned.estimator.quick([]) == []
    learned.learn([], [], [])
    assert learned.estimator.estimate([""], [()])[0] >= 1
    assert learned.estimator.quick([""])[0] >= 1


def test_what_was_learned_is_there_in_the_next_run(learned: LearnedTokens, bundled: ModelFiles) -> None:
    papers = by_words(some_texts(100))
    learned.learn(papers.texts, papers.categories, papers.tokens)
    again = LearnedTokens(learned.path.parents[1], bundled)
    assert again.path == learned.path
    new = some_texts(20, seed=1)
    assert again.estimator.to_json() == learned.estimator.to_json()
    assert again.quick(new) == learned.quick(new)
    assert again.estimator.estimate(new, [("cs.LG",)] * 20) == pytest.approx(
        learned.estimator.estimate(new, [("cs.LG",)] * 20), rel=1e-12
    )


def test_runs_that_learn_at_the_same_time_add_to_one_another(learned: LearnedTokens, bundled: ModelFiles) -> None:
    other = LearnedTokens(learned.path.parents[1], bundled)
    papers = by_words(some_texts(40))
    assert other.estimator.papers == learned.estimator.papers == 0
    learned.learn(papers.texts, papers.categories, papers.tokens)
    other.learn(papers.texts, papers.categories, papers.tokens)
    assert other.estimator.papers == 80


def test_each_model_and_revision_has_a_file_of_its_own(
    tmp_path: Path, bundled: ModelFiles, learned: LearnedTokens
) -> None:
    fields = vars(bundled)
    others = [{**fields, "revision": "2"}, {**fields, "name": "owner/all-MiniLM-L6-v2"}, {**fields, "name": "../x/"}]
    paths = {LearnedTokens(tmp_path / "history", ModelFiles(**other)).path for other in others}
    behind_a_prompt = LearnedTokens(learned.path.parents[1], bundled, "Instruct: ").path
    assert len(paths | {learned.path, behind_a_prompt}) == 5
    assert {path.parent for path in paths} == {learned.path.parent}


@pytest.mark.parametrize("damage", ["cut", "edited", "no JSON", "nothing", "another version", "a folder"])
def test_a_broken_file_is_learned_anew(learned: LearnedTokens, bundled: ModelFiles, damage: str) -> None:
    papers = by_words(some_texts(50))
    learned.learn(papers.texts, papers.categories, papers.tokens)
    content = learned.path.read_bytes()
    broken = {
        "cut": content[: len(content) // 2],
        "edited": content.replace(b'"papers": 50', b'"papers": 51'),
        "no JSON": b"\xff\x00[",
        "nothing": b"",
        "another version": seal({**unseal(content), "format": 2}).encode(),
    }
    if damage == "a folder":
        learned.path.unlink()
        learned.path.mkdir()
    else:
        assert broken[damage] != content
        learned.path.write_bytes(broken[damage])
    again = LearnedTokens(learned.path.parents[1], bundled)
    assert again.estimator.papers == 0
    again.learn(papers.texts, papers.categories, papers.tokens)
    assert again.estimator.to_json() == learned.estimator.to_json()
    assert damage == "a folder" or learned.path.read_bytes() == content


def test_what_is_old_fades(bundled: ModelFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("arxiv_embed.estimates.REMEMBERED", 200)
    assert REMEMBERED > 10_000
    estimator = TokenEstimator(Vocabulary(bundled.folder / "tokenizer.json"))
    for times in (2.0, *[4.0] * 10):
        papers = by_words(some_texts(200), times)
        estimator.learn(papers.texts, papers.categories, papers.tokens)
    assert estimator.papers == 200
    new = by_words(some_texts(50, seed=1), 4.0)
    assert new.share_within_a_tenth(estimator.estimate(new.texts, new.categories)) == 1


@pytest.mark.parametrize("content", [None, b"", b"[]", b'{"model": {"type": "New"}}', b'{"model": {"vocab": 5}}'])
def test_a_tokenizer_of_an_unknown_form_costs_accuracy_and_no_more(tmp_path: Path, content: bytes | None) -> None:
    place = tmp_path / "tokenizer.json"
    if content is not None:
        place.write_bytes(content)
    estimator = TokenEstimator(Vocabulary(place))
    papers = by_words(some_texts(200))
    estimator.learn(papers.texts, papers.categories, papers.tokens)
    new = by_words(some_texts(50, seed=1))
    assert new.share_within_a_tenth(estimator.estimate(new.texts, new.categories)) > 0.9


def test_a_sample_is_spread_from_end_to_end() -> None:
    assert list(evenly_spread(7, 10)) == list(range(7))
    assert list(evenly_spread(0, 10)) == []
    spread = evenly_spread(20_001, 1000)
    assert len(spread) <= 1000
    assert spread[-1] > 19_900
