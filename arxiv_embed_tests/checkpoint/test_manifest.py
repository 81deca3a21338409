"""Manifests: the exact bytes that were written, or none."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arxiv_embed.checkpoint.atomic import DamagedFile
from arxiv_embed.checkpoint.manifest import CheckpointKey, DamagedManifest, DataFile, Manifest, Source
from arxiv_embed.checkpoint.sealed import seal, unseal

MANIFEST = Manifest(
    key=CheckpointKey("papers", "cs.jsonl"),
    generation=3,
    source=Source("signature", "ab" * 32),
    counts={"papers": 7, "rejects": 0},
    files={"papers": DataFile("g000003.papers.arrow", "cd" * 32, 1234, 7, "paper_id: string")},
    run_id="run",
    created="2026-01-01T00:00:00+00:00",
    versions={"torch": "2.13.0"},
    details={"seconds": 1.5, "limit": None, "memory": {"cpu:0": 1}, "folder": "/méta"},
)
TEXT = MANIFEST.to_json().encode()

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
values = st.recursive(scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=20)


def sealed(**changes: Any) -> bytes:
    """A manifest that somebody has changed and sealed again."""
    content = {**json.loads(TEXT), **changes}
    del content["checksum"]
    return seal({name: value for name, value in content.items() if value is not ...}).encode()


def test_a_manifest_is_read_as_it_was_written() -> None:
    assert Manifest.from_json(TEXT) == MANIFEST


def test_a_manifest_of_before_is_read_still() -> None:
    content = json.loads(TEXT)
    del content["checksum"]
    checksum = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    assert json.dumps({**content, "checksum": checksum}, indent=1, sort_keys=True).encode() == TEXT


@pytest.mark.parametrize("bit", range(8))
def test_a_manifest_with_any_bit_changed_is_refused(bit: int) -> None:
    for place in range(len(TEXT)):
        with pytest.raises(DamagedManifest):
            Manifest.from_json(TEXT[:place] + bytes([TEXT[place] ^ (1 << bit)]) + TEXT[place + 1 :])


def test_a_manifest_cut_off_anywhere_is_refused() -> None:
    for length in range(len(TEXT)):
        with pytest.raises(DamagedManifest):
            Manifest.from_json(TEXT[:length])


@pytest.mark.parametrize(
    "text",
    [
        TEXT + b"\n",
        b" " + TEXT,
        TEXT.replace(b"\n", b"\r\n"),
        TEXT.replace(b': "', b':  "'),
        json.dumps(json.loads(TEXT), sort_keys=True).encode(),
        TEXT.replace(b"1.5", b"1.50"),
        TEXT.replace(b'"run_id": "run"', b'"run_id": "other",\n "run_id": "run"'),
        TEXT.decode().encode("utf-16"),
        b"\xef\xbb\xbf" + TEXT,
        TEXT.replace(rb"\u00e9", "é".encode()),
        TEXT.replace(rb"\u00e9", b"\xff"),
        TEXT.replace(b"1.5", b"1" * 5000),
        TEXT.replace(b"1.5", b"1e999"),
        TEXT.replace(b"1.5", b"NaN"),
        b"[" * 100_000 + b"]" * 100_000,
        b'{"checksum": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b"null",
        b"[]",
        b'"checksum"',
    ],
)
def test_other_bytes_are_refused_whatever_a_reader_would_make_of_them(text: bytes) -> None:
    assert text != TEXT
    with pytest.raises(DamagedManifest):
        Manifest.from_json(text)


@pytest.mark.parametrize(
    "changes",
    [
        {"format_version": "1.0"},
        {"format_version": ...},
        {"unknown": 1},
        {"run_id": ...},
        {"run_id": 7},
        {"generation": "3"},
        {"generation": True},
        {"counts": {"papers": 6}},
        {"counts": {"papers": 7.0}},
        {"counts": []},
        {"files": []},
        {"files": {"papers": {}}},
        {"files": {"papers": {**json.loads(TEXT)["files"]["papers"], "rows": "7"}}},
        {"key": {"asset": "papers", "shard": "cs.jsonl", "space": "", "more": ""}},
        {"key": None},
        {"versions": None},
        {"details": None},
    ],
)
def test_a_document_of_another_form_is_refused_though_its_seal_is_whole(changes: dict[str, Any]) -> None:
    unseal(sealed(**changes))
    with pytest.raises(DamagedManifest):
        Manifest.from_json(sealed(**changes))


def test_a_count_of_no_table_is_the_runs_own() -> None:
    other = replace(MANIFEST, counts={"papers": 7, "chunks": 1000})
    assert Manifest.from_json(other.to_json().encode()) == other


@given(st.binary(max_size=200))
def test_no_bytes_pass_as_a_manifest(content: bytes) -> None:
    with pytest.raises(DamagedManifest):
        Manifest.from_json(content)


@given(st.dictionaries(st.text().filter(lambda name: name != "checksum"), values))
def test_what_is_sealed_is_unsealed(content: dict[str, Any]) -> None:
    assert unseal(seal(content).encode()) == content


@given(st.dictionaries(st.text(), values), st.data())
def test_no_sealed_document_survives_a_changed_byte(content: dict[str, Any], data: st.DataObject) -> None:
    text = seal(content).encode()
    place = data.draw(st.integers(0, len(text) - 1))
    changed = text[:place] + bytes([text[place] ^ data.draw(st.integers(1, 255))]) + text[place + 1 :]
    with pytest.raises(DamagedFile):
        unseal(changed)
