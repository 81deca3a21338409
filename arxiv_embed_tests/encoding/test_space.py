"""Spaces: a fingerprint for everything that decides what a vector means."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest

from arxiv_embed.encoding.model import resolve_model
from arxiv_embed.encoding.space import Space, space_of
from arxiv_embed.errors import ArxivEmbedError

FILES = resolve_model("all-MiniLM-L6-v2")
SPACE = space_of(FILES, "sentences:128")


def test_the_default_limit_is_all_the_positions_of_the_model_up_to_512() -> None:
    assert SPACE.max_tokens == 512
    assert space_of(replace(FILES, position_limit=130), "whole").max_tokens == 130
    assert space_of(replace(FILES, position_limit=32768), "whole").max_tokens == 512


@pytest.mark.parametrize("limit", [0, 7, 513, -1])
def test_a_limit_that_the_model_has_no_positions_for_is_refused(limit: int) -> None:
    with pytest.raises(ArxivEmbedError, match="give 8 to 512"):
        space_of(FILES, "whole", limit)


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
