"""Rows: what the design says of a stored row."""

from __future__ import annotations

from dataclasses import replace

from arxiv_embed.stores.rows import row_schema
from arxiv_embed_tests.stores.shard_rows import SPACE, Record, shard_rows

A = Record("2401.00001", text="first abstract", chunks=3, categories=("cs.LG", "math.CO"), version=2)
B = Record("hep-th/9901001", text="second abstract", title="B title", chunks=1, published="", updated="2021-02-03")


def test_every_row_has_the_columns_of_the_contract() -> None:
    rows = shard_rows("cs.jsonl", [A, B], run_id="run-7")
    assert rows.schema.equals(row_schema(SPACE.dimensions))
    assert rows.num_rows == 6
    for row in rows.to_pylist():
        record = A if row["paper_id"] == A.id else B
        assert row["key"] == f"{record.id}#{row['chunk_index']}"
        assert (row["space"], row["shard"], row["run_id"]) == (SPACE.fingerprint, "cs.jsonl", "run-7")
        assert row["text_sha256"] == record.paper.text_sha256
        assert 0 <= row["start_char"] < row["end_char"] <= len(record.paper.text)
        assert len(row["vector"]) == SPACE.dimensions


def test_filters_reach_every_row_and_text_stands_once_a_paper() -> None:
    rows = shard_rows("cs.jsonl", [A, B]).to_pylist()
    for row in rows:
        record = A if row["paper_id"] == A.id else B
        assert (row["published"], row["updated"], row["version"]) == (record.published, record.updated, record.version)
        assert (tuple(row["categories"]), row["withdrawn"]) == (record.categories, False)
        whole = row["chunk_index"] == -1
        assert (row["title"], row["abstract"]) == ((record.title, record.text) if whole else (None, None))
        assert (row["authors"] == "A. Author") == whole


def test_the_paper_s_row_says_how_many_tokens_were_cut() -> None:
    rows = shard_rows("cs.jsonl", [replace(A, cut=1234), B]).to_pylist()
    said = {row["paper_id"]: row["cut_tokens"] for row in rows if row["chunk_index"] == -1}
    assert said == {A.id: 1234, B.id: 0}
    assert {row["cut_tokens"] for row in rows if row["chunk_index"] != -1} == {None}


def test_a_shard_without_papers_has_no_rows() -> None:
    assert shard_rows("cs.jsonl", []).num_rows == 0
