"""`arxiv-embed search`: its formats, its filters, and whatever is asked of it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import bibtexparser
import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token
from typer.testing import CliRunner

from arxiv_embed.cli.app import app
from arxiv_embed.cli.formats import explained, markdown
from arxiv_embed.cli.markdown import escaped, with_bold
from arxiv_embed.errors import ArxivEmbedError
from arxiv_embed.metadata.latex import math_spans
from arxiv_embed.stores.protocol import StoredPaper
from arxiv_embed.stores.search import FUSION_K, Hit
from arxiv_embed_tests.cli.commands import arxiv_embed

QUERY = "sparse graphs and pebbles"


def search(home: Path, *arguments: str) -> str:
    """In this process; `test_what_cannot_be_asked_is_one_sentence` runs the command itself."""
    done = CliRunner().invoke(app, ["search", *arguments], env={"ARXIV_EMBED_HOME": str(home)})
    assert done.exit_code == 0, done.exception
    assert done.stderr == ""
    return done.stdout


def hits(home: Path, *arguments: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(search(home, "--json", *arguments))
    return found


# The formats


def test_json_explains_each_score_by_parts_that_add_up(sample_home: Path) -> None:
    found = hits(sample_home, QUERY, "-k", "20")
    assert found == json.loads(search(sample_home, QUERY, "-k", "20", "--format", "json"))
    for hit in found:
        parts = hit["score_parts"]
        assert sum(parts.values()) == hit["score"]
        ranks = {"meaning": hit["vector_rank"], "words": hit["text_rank"]}
        assert parts == {name: 1 / (FUSION_K + rank) for name, rank in ranks.items() if rank is not None}
    [unworded] = hits(sample_home, "zzzzzz", "-k", "1")
    assert unworded["score_parts"] == {"meaning": unworded["score"]}
    [near] = hits(sample_home, "--like", "0704.0002", "-k", "1")
    assert near["score_parts"] == {"meaning": near["score"]}


def test_text_and_table_say_what_json_says(sample_home: Path) -> None:
    [hit] = hits(sample_home, QUERY, "-k", "1")
    score, similarity = f"{hit['score']:.4f}", f"{hit['similarity']:.3f}"
    meaning, words = (f"{part:.4f}" for part in hit["score_parts"].values())
    text = search(sample_home, QUERY, "-k", "1")
    assert f"score {score} = meaning #1 {meaning} + words #1 {words}, cosine {similarity}" in text
    heading, row = search(sample_home, QUERY, "-k", "1", "--format", "table").splitlines()
    assert heading.split() == ["paper", "date", "category", "title", "score", "meaning", "words", "cosine"]
    facts = ["1", "0704.0002", hit["published"], "math.CO", hit["title"], score, meaning, words, similarity]
    assert re.split(r"\s{2,}", row.strip()) == facts


def test_bibtex_is_a_bibliography_of_the_papers_found(sample_home: Path) -> None:
    found = hits(sample_home, QUERY, "-k", "30")
    library = bibtexparser.parse_string(search(sample_home, QUERY, "-k", "30", "--format", "bibtex"))
    assert library.failed_blocks == []
    assert [entry["eprint"] for entry in library.entries] == [hit["paper_id"] for hit in found]
    assert library.entries[0].key == "streinu2007sparsitycertifying"


def test_markdown_links_to_arxiv_and_has_the_best_chunk_in_bold(sample_home: Path) -> None:
    found = hits(sample_home, QUERY, "-k", "30")
    written = search(sample_home, QUERY, "-k", "30", "--format", "markdown")
    tokens = MarkdownIt().parse(without_formulas(written))
    inline = [token for token in tokens if token.type == "inline"]
    heads, quotes = inline[::2], inline[1::2]
    assert len(heads) == len(quotes) == 30
    assert [token.type for token in tokens].count("ordered_list_open") == 1
    for head, quote, hit in zip(heads, quotes, found, strict=True):
        assert link_of(head) == f"https://arxiv.org/abs/{hit['paper_id']}"
        assert bold(head) == without_formulas(hit["title"])
        assert shown(quote) == without_formulas(hit["abstract"])
        chunk = without_formulas(hit["chunk"]["text"].rpartition("\n\n")[2])
        cut_formula = "$" in chunk
        assert chunk.strip() in bold(quote) or hit["chunk"]["end"] <= len(hit["title"]) or cut_formula


@pytest.mark.parametrize("form", ["text", "table", "markdown", "bibtex"])
def test_where_no_paper_is_found_it_is_said(sample_home: Path, form: str) -> None:
    assert "No paper was found" in search(sample_home, QUERY, "--since", "2999-01-01", "--format", form)
    assert "No paper was found" in search(sample_home, " ", "--format", form)


def test_no_hits_are_an_empty_list_in_json(sample_home: Path) -> None:
    assert hits(sample_home, QUERY, "--since", "2999-01-01") == []


# What can be asked


def test_filters_are_options(sample_home: Path) -> None:
    found = hits(sample_home, "graphs", "-k", "300", "--until", "2007-04-02", "--since", "2007-04-01")
    assert found
    assert {hit["published"] for hit in found} == {"2007-04-01", "2007-04-02"}
    assert [hit["withdrawn"] for hit in hits(sample_home, "graphs", "-k", "300", "--withdrawn")] == [True, True]
    assert not any(hit["withdrawn"] for hit in hits(sample_home, "graphs", "-k", "300", "--no-withdrawn"))
    assert " (withdrawn)" in search(sample_home, "graphs", "--withdrawn")


def test_what_cannot_be_asked_is_one_sentence(sample_home: Path) -> None:
    refused = arxiv_embed(sample_home, "search", "graphs", "--until", "yesterday")
    assert refused.returncode == 2
    assert refused.stderr == "Error: until 'yesterday' is no day: write it as 2024-01-31.\n"
    assert refused.stdout == ""


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["graphs", "--since", "2007-4-1"], "since '2007-4-1' is no day"),
        (["graphs", "--space", "jina"], "'jina' names no space of .*: give one of [0-9a-f]{16} "),
        (["graphs", "--format", "bibtex", "--json"], "--json and --format bibtex contradict each other"),
        (["--like", "x'; DROP TABLE papers"], "is no arXiv id"),
        ([], "Give a query or --like"),
    ],
)
def test_what_is_refused_says_what_there_is(sample_home: Path, arguments: list[str], said: str) -> None:
    refused = CliRunner().invoke(app, ["search", *arguments], env={"ARXIV_EMBED_HOME": str(sample_home)})
    assert isinstance(refused.exception, ArxivEmbedError)
    assert re.search(said, str(refused.exception))
    assert refused.output == ""


@pytest.mark.parametrize(
    "query", ["x " * 50_000, "' OR 1=1; --", r"$\frac{a}{b}$ \emph{it}", "-1", "字 ﷽ 🙂", "\udcff"]
)
def test_any_text_is_a_query(sample_home: Path, query: str) -> None:
    assert len(hits(sample_home, "-k", "2", "--", query)) == 2


# Markdown


def flat(token: Token) -> list[Token]:
    return [*(token.children or [])]


def shown(token: Token) -> str:
    """The text that a reader of the rendered page sees."""
    return "".join(child.content if child.type == "text" else "" for child in flat(token))


def bold(token: Token) -> str:
    """What of it is in bold."""
    depth, text = 0, ""
    for child in flat(token):
        depth += {"strong_open": 1, "strong_close": -1}.get(child.type, 0)
        text += child.content if depth else ""
    return text


def without_formulas(text: str) -> str:
    """Formulas are for another renderer: this one takes underscores in them for its own."""
    for start, end in reversed(math_spans(text)):
        text = f"{text[:start]}F{text[end:]}" if text[start] == "$" else text
    return text


def link_of(token: Token) -> str | int | float | None:
    return next(child.attrGet("href") for child in flat(token) if child.type == "link_open")


def paragraph(text: str) -> Token:
    opening, inline, _ = MarkdownIt().enable("strikethrough").parse(text)
    assert opening.type == "paragraph_open"
    return inline


TRICKY = st.lists(st.sampled_from([*"aB1 \\`*_{}[]()<>#+-.!|~=&;:\"'é字", "&lt;", "http://a.b/_c"]), min_size=1).map(
    lambda parts: " ".join("".join(parts).split())
)


@given(TRICKY.filter(bool))
def test_any_line_shows_in_markdown_as_it_is(text: str) -> None:
    assert shown(paragraph(escaped(text))) == text


@given(TRICKY.filter(bool), st.integers(0, 40), st.integers(0, 40))
def test_a_chunk_of_any_line_is_in_bold_by_whole_words(text: str, start: int, end: int) -> None:
    inline = paragraph(with_bold(text, start, end))
    assert shown(inline) == text
    chunk = text[start:end].strip()
    assert chunk in bold(inline)
    assert f" {bold(inline)} " in f" {text} " or not chunk


@pytest.mark.parametrize(
    ("text", "written"),
    [
        (r"For $a_1 * b_2$ and $\{x\}$ we", r"For $a_1 * b_2$ and $\{x\}$ we"),
        ("It costs $5, a*b*c and a_b", r"It costs \$5, a\*b\*c and a_b"),
        (r"Poincar\'e \emph{and} x_", r"Poincar\\'e \emph{and} x\_"),
        ("1. Introduction", r"1\. Introduction"),
        ("# 1 of #2", r"\# 1 of #2"),
        ("- a", r"\- a"),
    ],
)
def test_what_markdown_takes_for_its_own_is_escaped_outside_formulas(text: str, written: str) -> None:
    assert escaped(text) == written


def test_a_formula_is_in_bold_as_a_whole_or_not_at_all() -> None:
    text = "We show that $a + b = c$ holds."
    assert with_bold(text, 3, 17) == "We **show that $a + b = c$** holds."


def test_a_chunk_of_the_title_alone_leaves_the_abstract_plain() -> None:
    paper = StoredPaper("2401.00001", "A *title*", "An abstract.", "A. Author", ("cs.LG",), "", "2024-01-02", True)
    hit = Hit(paper, 1 / 63, None, 3, None, 0, len("A *title*"))
    assert explained(hit) == "score 0.0159 = words #3 0.0159"
    assert markdown([hit]) == (
        "1. **A \\*title\\*** (withdrawn)  \n"
        "   [arXiv:2401.00001](https://arxiv.org/abs/2401.00001) · 2024-01-02 · cs.LG · "
        "score 0.0159 = words #3 0.0159\n"
        "\n"
        "   > An abstract."
    )
