"""Shard keys: reversible for every file name, safe in Dagster, one file a key."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arxiv_embed.metadata.keys import decode_path, encode_path, file_of, month_key, piece_key

NASTY = [
    "a b.jsonl",
    "100%.jsonl",
    "%41.jsonl",
    "x@0001",
    "month:2401",
    "a...b",
    "..hidden..",
    "a,b",
    "tab\tand\nline",
    "ünï.jsonl",
    os.fsdecode(b"\xff\xfe.jsonl"),
    "a/b.c/d~e_f-g.xml",
    "*[?]",
]

names = st.binary(min_size=1, max_size=40).filter(lambda raw: b"\0" not in raw).map(os.fsdecode)


@pytest.mark.parametrize("path", NASTY)
def test_a_nasty_file_name_comes_back_from_its_key(path: str) -> None:
    assert decode_path(encode_path(path)) == path
    assert file_of(piece_key(path, 3)) == path


@given(names)
def test_every_file_name_comes_back_from_its_key_which_is_safe_in_dagster(path: str) -> None:
    key = encode_path(path)
    assert decode_path(key) == path
    assert file_of(key) == path
    assert file_of(piece_key(path, 12)) == path
    assert key.isascii()
    assert key.isprintable()
    assert not {",", "@", ":", " ", "*", "[", '"'} & set(key)
    assert ".." not in key


@given(names, names, st.integers(0, 9999), st.integers(0, 9999))
def test_two_files_never_share_a_key(one: str, other: str, number: int, another: int) -> None:
    keys = [encode_path(one), encode_path(other), piece_key(one, number), piece_key(other, another)]
    sources = [(one, None), (other, None), (one, number), (other, another)]
    assert len(set(keys)) == len(set(sources))
    assert month_key("2401") not in keys


@pytest.mark.parametrize("key", ["%61.jsonl", "a b", "a%2fb", "a..b", "a%", "ü"])
def test_a_key_that_no_file_has_is_refused(key: str) -> None:
    with pytest.raises(ValueError, match="not a shard key"):
        decode_path(key)


def test_a_month_names_no_file() -> None:
    assert file_of(month_key("2401")) is None
    assert file_of(encode_path("month:2401")) == "month:2401"
