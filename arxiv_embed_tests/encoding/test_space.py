"""Spaces: a fingerprint for everything that decides what a vector means."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest

from arxiv_embed.encoding.model import resolve_model
from arxiv_embed.encoding.space import Space, space_of
from arxiv_embed.errors import ArxivEmbedError

FILES = resolve_model("all-MiniLM-L6-v2")
SPACE = space_of(FILES, "sentences:128")
CAUSAL = replace(FILES, causal=True)


def test_by_default_no_title_and_abstract_is_cut() -> None:
    assert (SPACE.max_tokens, SPACE.window, SPACE.overlap) == (8192, 512, 128)


@pytest.mark.parametrize(("positions", "limit"), [(130, 130), (32768, 8192)])
def test_a_causal_model_s_default_limit_is_its_last_position_at_most(positions: int, limit: int) -> None:
    space = space_of(replace(CAUSAL, position_limit=positions), "whole")
    assert (space.max_tokens, space.window, space.overlap) == (limit, 0, 0)


@pytest.mark.parametrize("limit", [256, 512])
def test_texts_that_the_model_has_positions_for_need_no_windows(limit: int) -> None:
    space = space_of(FILES, "whole", limit)
    assert (space.max_tokens, space.window, space.overlap) == (limit, 0, 0)


@pytest.mark.parametrize("limit", [0, 7, 513, -1])
def test_a_limit_that_a_causal_model_has_no_positions_for_is_refused(limit: int) -> None:
    with pytest.raises(ArxivEmbedError, match="give 8 to 512"):
        space_of(CAUSAL, "whole", limit)


@pytest.mark.parametrize("limit", [0, 7, 1_000_001, -1])
def test_a_limit_beyond_reason_is_refused(limit: int) -> None:
    with pytest.raises(ArxivEmbedError, match="give 8 to 1000000"):
        space_of(FILES, "whole", limit)


@pytest.mark.parametrize(
    ("pooling", "limit", "reach"),
    [
        ("mean", None, 256),  # as the model advises
        ("mean", 128, 128),
        ("cls", None, 512),  # what the first window has
        ("cls", 400, 400),
        ("last", None, 512),
        ("last", 400, 400),
    ],
)
def test_a_paper_s_vector_is_of_as_many_tokens_as_its_pooling_takes_or_has_seen(
    pooling: str, limit: int | None, reach: int
) -> None:
    assert space_of(replace(FILES, pooling=pooling), "whole", limit).paper_reach == reach


def test_a_task_has_its_own_prompt_and_space() -> None:
    files = replace(FILES, tasks=("retrieval", "code"), prompts={"document": "Passage: ", "code": "Code: "})
    usual, code = space_of(files, "whole"), space_of(files, "whole", task="code")
    assert (usual.task, usual.prompt) == ("retrieval", "Passage: ")
    assert (code.task, code.prompt) == ("code", "Code: ")
    with pytest.raises(ArxivEmbedError, match="has no task 'clustering': give retrieval or code"):
        space_of(files, "whole", task="clustering")


def test_vectors_are_as_long_as_the_model_allows() -> None:
    files = replace(FILES, shorter=(64, 128))
    assert [space_of(files, "whole", dimensions=asked).dimensions for asked in (None, 64, 384)] == [384, 64, 384]
    with pytest.raises(ArxivEmbedError, match="give one of 64, 128, 384"):
        space_of(files, "whole", dimensions=100)
    with pytest.raises(ArxivEmbedError, match="does not say that its vectors may be cut; they have 384"):
        space_of(FILES, "whole", dimensions=64)


def test_an_unknown_chunker_is_refused() -> None:
    with pytest.raises(ArxivEmbedError, match="Unknown chunker"):
        space_of(FILES, "pages:1")


@pytest.mark.parametrize("field", [field.name for field in fields(Space)])
def test_every_part_of_a_space_is_in_its_fingerprint(field: str) -> None:
    value = getattr(SPACE, field)
    other = replace(SPACE, **{field: value + 1 if isinstance(value, int) else value + "x"})
    assert other.fingerprint != SPACE.fingerprint


def test_a_space_is_read_back_as_it_was_written() -> None:
    assert Space.from_json(SPACE.to_json()) == SPACE
    assert Space.from_json(SPACE.to_json()).fingerprint == SPACE.fingerprint
    assert len(SPACE.fingerprint) == 16
    assert int(SPACE.fingerprint, 16) >= 0
