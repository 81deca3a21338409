"""Tokens: spans that cover every token, characters that give the text back, limits that are counted."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, processors

from arxiv_embed.encoding.model import ModelFiles, resolve_model
from arxiv_embed.encoding.space import space_of
from arxiv_embed.encoding.tokens import PaperTokenizer, TokenizedPaper
from arxiv_embed.errors import ArxivEmbedError
from arxiv_embed_tests.tiny_models import bytepairs, save_bert, unigrams, wordpieces

BUNDLED = resolve_model("all-MiniLM-L6-v2")
SPECS = ("sentences:5", "sentences:128", "fixed:1", "fixed:7", "whole")

odd_text = st.text(
    alphabet=st.characters(exclude_categories=["Cs"]) | st.sampled_from("aB. \n$한국ﬁİßé́e\u0301🏳\u200d🌈中।"),
    max_size=80,
)


def files_with(tokenizer: Tokenizer, folder: Path, positions: int = 64) -> ModelFiles:
    save_bert(folder, tokenizer, max_position_embeddings=positions)
    return resolve_model(str(folder))


@pytest.fixture(scope="module")
def bytes_files(tmp_path_factory: pytest.TempPathFactory) -> ModelFiles:
    """A model whose tokenizer splits bytes, keeps blanks and adds no special tokens."""
    return files_with(bytepairs(), tmp_path_factory.mktemp("bytes"))


@pytest.fixture(scope="module", params=[wordpieces, bytepairs, unigrams])
def any_files(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ModelFiles:
    return files_with(request.param(), tmp_path_factory.mktemp("any"), positions=512)


def tokenizer_of(files: ModelFiles, chunker: str, max_tokens: int | None = None, prompt: str = "") -> PaperTokenizer:
    return PaperTokenizer(files, replace(space_of(files, chunker, max_tokens), prompt=prompt))


def assert_whole(paper: TokenizedPaper, text: str, size: int, special: int) -> None:
    """Chunks cover all tokens once, hold `size` content tokens at most, and their characters go through the text."""
    spans = paper.spans[1:]
    if len(spans):
        assert spans[0][0] == 0
        assert spans[-1][1] == len(paper.ids)
    assert all(left[1] == right[0] for left, right in pairwise(spans))
    lengths = spans[:, 1] - spans[:, 0]
    assert (lengths > 0).all()
    assert (lengths <= size + special).all()
    assert len(paper.chars) == len(spans)
    if len(spans):
        places = [0, *paper.chars.ravel().tolist(), len(text)]
        assert places == sorted(places)
        between = [text[start:stop] for start, stop in zip(places[::2], places[1::2], strict=True)]
        assert not "".join(between[:-1]).strip(), "a character before a chunk is in none"
        assert paper.cut_tokens or not between[-1].strip(), "a character behind the last chunk is in none"
        assert all(chunk == chunk.strip() for chunk in (text[a:b] for a, b in paper.chars))


@settings(deadline=None, max_examples=150)
@given(text=odd_text, spec=st.sampled_from(SPECS))
def test_chunks_cover_all_content_of_any_text(text: str, spec: str) -> None:
    size = int(spec.partition(":")[2] or 512)
    [paper] = tokenizer_of(BUNDLED, spec).tokenize([text])
    assert_whole(paper, text, size, special=2)
    assert paper.spans[0].tolist() == [0, len(paper.ids)]
    assert (paper.ids[0], paper.ids[-1]) == (101, 102)


@settings(deadline=None, max_examples=150)
@given(text=odd_text, spec=st.sampled_from(SPECS), prompt=st.sampled_from(["", "a: ", "한 "]))
def test_chunks_cover_all_content_where_a_character_is_several_tokens(
    bytes_files: ModelFiles, text: str, spec: str, prompt: str
) -> None:
    size = int(spec.partition(":")[2] or 64)
    [paper] = tokenizer_of(bytes_files, spec, 64, prompt).tokenize([text])
    assert_whole(paper, text, size, special=len(prompt.encode()) + 1)
    assert 1 <= len(paper.ids) <= 64


@settings(deadline=None, max_examples=60)
@given(text=odd_text, spec=st.sampled_from(SPECS), prompt=st.sampled_from(["", "a: "]))
def test_every_character_belongs_to_one_chunk_whatever_the_tokenizer_drops_or_rewrites(
    any_files: ModelFiles, text: str, spec: str, prompt: str
) -> None:
    size = int(spec.partition(":")[2] or 64)
    [paper] = tokenizer_of(any_files, spec, prompt=prompt).tokenize([text])
    assert_whole(paper, text, size, special=len(prompt) + 2)


odd_word = st.text(
    alphabet=st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp", "Po", "Pf", "Pe"])
    | st.sampled_from("ﬁİße\u0301🏳\u200d🌈中אב\u202e"),
    max_size=6,
).map(lambda word: "".join(word.split()).replace("$", ""))


@settings(deadline=None, max_examples=60)
@given(bodies=st.lists(odd_word, min_size=2, max_size=6), blank=st.sampled_from([" ", "  ", "\u00a0", "\u2009"]))
def test_a_chunk_of_whole_sentences_is_exactly_their_text(any_files: ModelFiles, bodies: list[str], blank: str) -> None:
    sentences = [f"We see {body} there." for body in bodies]
    text = blank.join(sentences)
    [paper] = tokenizer_of(any_files, "sentences:40").tokenize([text])
    chunks = [text[a:b] for a, b in paper.chars]
    assert blank.join(chunks) == text
    assert all(chunk.startswith("We see ") and chunk.endswith(" there.") for chunk in chunks)


@pytest.mark.parametrize(
    ("tokenizer", "text", "chunks"),
    [
        (wordpieces, "e\u0301\u0301a \u200bb", ["e\u0301\u0301", "a \u200b", "b"]),
        (wordpieces, "\u200bİb\u202e 中é", ["\u200bİ", "b\u202e", "中", "é"]),
        (bytepairs, "é🌈", ["é", "", "🌈", "", "", ""]),
        (bytepairs, "x  y", ["x", "", "", "y"]),  # blanks are tokens of their own
        (unigrams, "ﬁ ½ x", ["ﬁ", "", "", "", "½", "", "", "", "x"]),  # f and i; 1, ⁄ and 2
    ],
)
def test_a_chunk_s_text_holds_what_the_tokenizer_drops_and_no_character_twice(
    tmp_path: Path, tokenizer: Any, text: str, chunks: list[str]
) -> None:
    [paper] = tokenizer_of(files_with(tokenizer(), tmp_path), "fixed:1").tokenize([text])
    assert [text[a:b] for a, b in paper.chars] == chunks


def test_a_chunks_characters_are_its_own_words(bytes_files: ModelFiles) -> None:
    text = "Über Straßen\n\nJ. Smith et al. found É=mc². In Fig. 3 the 星 shines."
    [paper] = tokenizer_of(BUNDLED, "sentences:12").tokenize([text])
    assert [text[a:b] for a, b in paper.chars] == [
        "Über Straßen",
        "J. Smith et al. found É=mc².",
        "In Fig. 3 the 星 shines.",
    ]


def test_a_character_that_two_chunks_share_belongs_to_the_first() -> None:
    text = "한국"  # three word pieces each
    [paper] = tokenizer_of(BUNDLED, "fixed:2").tokenize([text])
    assert paper.chars.tolist() == [[0, 1], [1, 2], [2, 2]]


def test_what_the_limit_cuts_is_counted() -> None:
    text = "star " * 5000
    [paper] = tokenizer_of(BUNDLED, "sentences:128", 512).tokenize([text])
    assert len(paper.ids) == 512
    assert paper.cut_tokens == 5000 - 510
    assert paper.chars[-1].tolist()[1] == 510 * 5 - 1
    [short] = tokenizer_of(BUNDLED, "sentences:128", 512).tokenize(["star " * 510])
    assert (len(short.ids), short.cut_tokens) == (512, 0)
    [whole] = tokenizer_of(BUNDLED, "sentences:128").tokenize([text])
    assert (len(whole.ids), whole.cut_tokens) == (5002, 0)


def test_a_paper_s_own_vector_is_of_the_tokens_that_its_model_advises_and_chunks_are_of_all() -> None:
    [paper] = tokenizer_of(BUNDLED, "sentences:128").tokenize(["word " * 400])
    assert len(paper.ids) == 402
    assert tuple(paper.spans[0]) == (0, BUNDLED.advised_tokens) == (0, 256)
    assert paper.spans[1:].max() == 402


def test_tokens_are_those_of_the_model_s_own_tokenizer() -> None:
    text = "A study of $x^2$ by Müller et al. [SEP] and more"
    own = Tokenizer.from_file(str(BUNDLED.folder / "tokenizer.json"))
    own.no_padding()
    [paper] = tokenizer_of(BUNDLED, "whole").tokenize([text])
    assert paper.ids.tolist() == own.encode(text).ids


def test_papers_carry_the_indexes_that_they_are_given() -> None:
    papers = tokenizer_of(BUNDLED, "whole").tokenize(["a", "", "b"], [40, 7, 41])
    assert [paper.index for paper in papers] == [40, 7, 41]
    assert tokenizer_of(BUNDLED, "whole").tokenize([]) == []


def test_the_prompt_and_the_text_are_tokenized_as_one(bytes_files: ModelFiles) -> None:
    own = Tokenizer.from_file(str(bytes_files.folder / "tokenizer.json"))
    joint = own.encode("of: the star")
    assert joint.ids != own.encode("of: ").ids + own.encode("the star").ids  # the blank goes with the word behind it
    [paper] = tokenizer_of(bytes_files, "fixed:2", prompt="of: ").tokenize(["the star"])
    assert paper.ids.tolist() == joint.ids
    assert paper.chars[0][0] == 0
    assert paper.chars[-1][1] == len("the star")


def test_the_first_chunk_takes_the_prompt_and_the_special_tokens_before_it() -> None:
    [paper] = tokenizer_of(BUNDLED, "fixed:2", prompt="search document: ").tokenize(["red green blue"])
    assert paper.spans.tolist() == [[0, 8], [0, 6], [6, 8]]
    assert paper.chars.tolist() == [[0, 9], [10, 14]]


def test_a_text_without_any_token_is_still_one_token(bytes_files: ModelFiles) -> None:
    for pooling in ("mean", "cls", "last"):
        space = replace(space_of(bytes_files, "fixed:2"), pooling=pooling)
        [paper] = PaperTokenizer(bytes_files, space).tokenize([""])
        assert (len(paper.ids), paper.spans.tolist(), len(paper.chars)) == (1, [[0, 1]], 0)


@pytest.mark.parametrize(("pooling", "span"), [("mean", [0, 5]), ("cls", [0, 1]), ("last", [4, 5])])
def test_the_pooling_decides_the_tokens_of_the_paper_s_own_vector(pooling: str, span: list[int]) -> None:
    space = replace(space_of(BUNDLED, "whole"), pooling=pooling)
    [paper] = PaperTokenizer(BUNDLED, space).tokenize(["red green blue"])
    assert paper.spans.tolist() == [span, [0, 5]]


def test_a_prompt_that_leaves_no_room_is_refused() -> None:
    with pytest.raises(ArxivEmbedError, match="leaves no room"):
        tokenizer_of(BUNDLED, "whole", max_tokens=8, prompt="one two three four five six")


def test_a_broken_tokenizer_is_named(tmp_path: Path) -> None:
    save_bert(tmp_path)
    files = resolve_model(str(tmp_path))
    (tmp_path / "tokenizer.json").write_text('{"model": ')
    with pytest.raises(ArxivEmbedError, match=r"broken tokenizer\.json"):
        tokenizer_of(files, "whole")


def test_special_tokens_are_found_on_both_sides(tmp_path: Path) -> None:
    tokenizer = bytepairs()
    tokenizer.add_special_tokens(["<s>", "<e>"])
    start, end = tokenizer.token_to_id("<s>"), tokenizer.token_to_id("<e>")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> <s> $A <e>", special_tokens=[("<s>", start), ("<e>", end)]
    )
    save_bert(tmp_path, tokenizer)
    [paper] = tokenizer_of(resolve_model(str(tmp_path)), "fixed:1").tokenize(["a"])
    assert np.array_equal(paper.ids, [start, start, tokenizer.encode("a", add_special_tokens=False).ids[0], end])
    assert paper.spans.tolist() == [[0, 4], [0, 4]]
