"""Citations: what a BibTeX parser reads back of the entries that papers become."""

from __future__ import annotations

import re
from pathlib import Path

import bibtexparser
import pytest
from bibtexparser.middlewares import SeparateCoAuthors, SplitNameParts
from bibtexparser.model import Entry
from hypothesis import given
from hypothesis import strategies as st

from arxiv_embed.citations import bibtex
from arxiv_embed.metadata.paper import Paper
from arxiv_embed.metadata.reading import ShardReader
from arxiv_embed.metadata.shards import list_folder
from arxiv_embed.stores.protocol import StoredPaper


def paper(
    title: str = "A title",
    authors: str = "A. Author",
    paper_id: str = "2401.00001",
    published: str = "2024-01-01",
    categories: tuple[str, ...] = ("cs.LG", "stat.ML"),
) -> StoredPaper:
    return StoredPaper(paper_id, title, "An abstract.", authors, categories, published, "2025-06-07", False, None)


def parsed(*papers: StoredPaper) -> list[Entry]:
    """By a strict parser: no block that it could not read, and as many entries as papers."""
    library = bibtexparser.parse_string(bibtex(papers))
    assert library.failed_blocks == []
    assert len(library.entries) == len(papers)
    return library.entries


def fields(one: StoredPaper) -> dict[str, str]:
    [entry] = parsed(one)
    return {field.key: field.value for field in entry.fields}


def test_an_entry_has_the_form_that_arxiv_gives() -> None:
    of_a_paper = StoredPaper(
        "0704.0002",
        "Sparsity-certifying Graph Decompositions",
        "We describe a new algorithm.",
        "Ileana Streinu and Louis Theran",
        ("math.CO", "cs.CG"),
        "2007-03-30",
        "2008-12-13",
        False,
    )
    assert bibtex([of_a_paper]) == (
        "@misc{streinu2007sparsitycertifying,\n"
        "      title={Sparsity-certifying Graph Decompositions},\n"
        "      author={Ileana Streinu and Louis Theran},\n"
        "      year={2007},\n"
        "      eprint={0704.0002},\n"
        "      archivePrefix={arXiv},\n"
        "      primaryClass={math.CO},\n"
        "      url={https://arxiv.org/abs/0704.0002},\n"
        "}\n"
    )


def examples_as_stored(folder: Path) -> list[StoredPaper]:
    papers = []
    listing = list_folder(folder, shard_papers=20_000, index=folder / "none")
    with ShardReader() as reader:
        for shard in listing.shards:
            for item in reader.read(shard):
                assert isinstance(item, Paper)
                day = item.published
                papers.append(paper(item.title, item.authors, item.id, day, item.categories))
    return papers


def test_all_papers_of_the_sample_are_read_back_with_keys_of_their_own(examples: Path) -> None:
    papers = examples_as_stored(examples)
    assert len(papers) == 300
    entries = parsed(*papers)
    assert len({entry.key for entry in entries}) == len(papers)
    named = re.compile(r"[a-z]+(19|20)\d\d[a-z0-9]+(-\d+)?")
    for entry, one in zip(entries, papers, strict=True):
        assert named.fullmatch(entry.key), entry.key
        assert entry["eprint"] == one.paper_id
        assert entry["url"].endswith(f"arxiv.org/abs/{one.paper_id}")
        assert entry["primaryClass"] == one.categories[0]
        assert entry["year"] == (one.published or one.updated)[:4]
        assert entry["author"]


def names(authors: str) -> list[tuple[str, str, str, str]]:
    """Given names, particle, family name and suffix, as a parser takes them apart."""
    text = bibtex([paper(authors=authors)])
    library = bibtexparser.parse_string(text, append_middleware=[SeparateCoAuthors(), SplitNameParts()])
    parts = library.entries[0]["author"]
    return [(" ".join(one.first), " ".join(one.von), " ".join(one.last), " ".join(one.jr)) for one in parts]


@pytest.mark.parametrize(
    ("authors", "expected"),
    [
        ("C. Bal\\'azs, E. L. Berger", [("C.", "", "Bal\\'azs", ""), ("E. L.", "", "Berger", "")]),
        ("Paul H.M. van Loosdrecht", [("Paul H. M.", "van", "Loosdrecht", "")]),
        ("Robert W. Heath Jr, Hal Daumé III", [("Robert W.", "", "Heath", "Jr"), ("Hal", "", "Daumé", "III")]),
        ("The BABAR Collaboration, B. Aubert, et al",
         [("", "", "{The BABAR Collaboration}", ""), ("B.", "", "Aubert", ""), ("", "", "others", "")]),
        ("A. Ant for the {Search and Rescue Collaboration}",
         [("A.", "", "Ant", ""), ("", "", "{{Search and Rescue Collaboration}}", "")]),
    ],
)  # fmt: skip
def test_names_are_what_bibtex_takes_them_for(authors: str, expected: list[tuple[str, ...]]) -> None:
    assert names(authors) == expected


def test_a_paper_without_authors_and_categories_has_neither_field() -> None:
    found = fields(paper(authors="", categories=()))
    assert {"author", "primaryClass"}.isdisjoint(found)
    assert bibtex([paper(authors="")]).startswith("@misc{arxiv2024title,")


@pytest.mark.parametrize(
    ("title", "expected"),
    [
        (r"Bal\'azs & Co: 50% of C#_1", r"Bal\'azs \& Co: 50\% of C\#\_1"),
        (r"R\&D at 5\%, \emph{as is}", r"R\&D at 5\%, \emph{as is}"),
        (r"The $L_2^{n}$ norm & \(a_1 \& b\)", r"The $L_2^{n}$ norm \& \(a_1 \& b\)"),
        (r"Costs $5_000", r"Costs \$5\_000"),
        (r"$50% of$ x^2", r"$50\% of$ x\^{}2"),
        ("An {unclosed brace", "An unclosed brace"),
        ("A brace closed} too early {so}", "A brace closed too early {so}"),
        (r"Sets \{1, 2", r"Sets \textbraceleft{}1, 2"),
        (r"Sets $\{1, 2$", r"Sets $\lbrace{}1, 2$"),
        (r"Sets $\{1\}$", r"Sets $\{1\}$"),
        ("Ends in \\", r"Ends in \textbackslash{}"),
        (r"Lines\\{that} {break}\\", r"Lines\\ {that} {break}\\ "),
        ('K"uhn said "yes"', 'K"uhn said "yes"'),
        ("多項式の零点", "多項式の零点"),
    ],
)
def test_what_latex_would_take_for_its_own_is_escaped_and_latex_is_left_alone(title: str, expected: str) -> None:
    assert fields(paper(title))["title"] == expected


def braces_match(value: str) -> bool:
    """As BibTeX counts, which knows no escaped brace."""
    depth = 0
    for letter in value:
        depth += {"{": 1, "}": -1}.get(letter, 0)
        if depth < 0:
            return False
    return depth == 0


@given(st.text(st.sampled_from('aB \\{}$%&#_^"~,;()@=é字'), min_size=1), st.text("aB, .and\\{}()~'\"&", min_size=1))
def test_any_title_and_authors_are_an_entry_that_can_be_read(title: str, authors: str) -> None:
    text = bibtex([paper(title, authors), paper(title, authors)])
    library = bibtexparser.parse_string(text)
    assert library.failed_blocks == []
    first, second = library.entries
    assert first.key != second.key
    for field in first.fields:
        assert braces_match(field.value)
    assert first["eprint"] == "2401.00001"


@pytest.mark.parametrize(
    ("one", "key"),
    [
        (paper("The $L^2$-norm", "Mikkel {\\O}bro"), "obro2024l2norm"),
        (paper("On A Thing", "Rastislav \\v{S}r\\'amek"), "sramek2024thing"),
        (paper("Graphs", "Aaron van den Oord"), "oord2024graphs"),
        (paper("Graphs", "Robert W. Heath, Jr."), "heath2024graphs"),
        (paper("Graphs", "O'Brien"), "obrien2024graphs"),
        (paper("Graphs", "The X Collaboration"), "collaboration2024graphs"),
        (paper("字", "字"), "arxiv202424010000" + "1"),
        (paper("Branes", paper_id="hep-th/9901001", published=""), "author1999branes"),
        (paper("Branes", paper_id="0704.0001", published=""), "author2007branes"),
    ],
)
def test_a_key_is_family_name_year_and_word(one: StoredPaper, key: str) -> None:
    assert bibtex([one]).startswith(f"@misc{{{key},\n")
