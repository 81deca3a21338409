"""Spaces: side by side in one store, listed, searched by name, dropped and put back."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from arxiv_embed.encoding.model import resolve_model
from arxiv_embed.encoding.space import space_of
from arxiv_embed.errors import ArxivEmbedError
from arxiv_embed.stores.naming import by_default, space_named
from arxiv_embed.stores.protocol import VectorStore
from arxiv_embed_tests.cli.commands import arxiv_embed

PAPERS, OF_FIRST = 11, "0704.0002"


@pytest.fixture
def run(small_folder: Path, tiny_model: Path) -> tuple[str | Path, ...]:
    return ("run", "--metadata-dir", small_folder, "--model", tiny_model, "--devices", "cpu:1", "--dtype", "float32")


def listed(home: Path) -> list[dict[str, Any]]:
    spaces: list[dict[str, Any]] = json.loads(arxiv_embed(home, "spaces", "--json").stdout)
    return spaces


def test_a_run_of_another_chunker_adds_a_space_and_each_can_be_searched_and_dropped(
    tmp_path: Path, run: tuple[str | Path, ...], tiny_model: Path
) -> None:
    home = tmp_path / "home"
    assert arxiv_embed(home, *run).returncode == 0
    first = listed(home)
    second = arxiv_embed(home, *run, "--chunker", "whole")
    assert second.returncode == 0, second.stderr
    assert f"{tiny_model}, whole becomes a space of its own in that store, beside {tiny_model}, sent" in second.stdout
    assert f"holds {PAPERS} papers, {2 * PAPERS} rows" in second.stdout

    newer, older = listed(home)
    assert [older] == first
    assert (newer["chunker"], newer["papers"], newer["rows"], newer["shards"]) == ("whole", PAPERS, 2 * PAPERS, 2)
    shown = arxiv_embed(home, "spaces").stdout
    assert f"`search` takes {older['space']}, unless --space names another" in shown
    for space in (newer, older):
        found = arxiv_embed(home, "search", "--like", OF_FIRST, "--space", space["space"][:6], "--json")
        assert len(json.loads(found.stdout)) == 10
    several = arxiv_embed(home, "search", "--like", OF_FIRST, "--space", tiny_model)
    assert several.returncode == 2
    assert "names several spaces" in several.stderr
    assert older["space"] in several.stderr

    assert arxiv_embed(home, "spaces", "--drop", newer["space"][:15]).returncode == 2
    dropped = arxiv_embed(home, "spaces", "--drop", newer["space"])
    assert f"{PAPERS} papers, {2 * PAPERS} rows of {tiny_model}" in dropped.stdout
    assert listed(home) == first
    assert arxiv_embed(home, "spaces", "--drop", newer["space"]).returncode == 2

    again = arxiv_embed(home, *run, "--chunker", "whole")
    assert again.returncode == 0
    assert "0 papers embedded" in again.stdout
    assert {space["space"]: space["rows"] for space in listed(home)} == {
        space["space"]: space["rows"] for space in (newer, older)
    }


def test_the_space_of_the_usual_model_is_searched_though_another_was_begun_later(
    tmp_path: Path, run: tuple[str | Path, ...], tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    assert arxiv_embed(home, *run[:3], "--devices", "cpu:1").returncode == 0
    assert arxiv_embed(home, *run).returncode == 0
    newer, older = listed(home)
    assert (newer["model"], older["model"]) == (str(tiny_model), "all-MiniLM-L6-v2")
    assert f"`search` takes {older['space']}" in arxiv_embed(home, "spaces").stdout
    found = arxiv_embed(home, "search", "sparse graphs and pebbles", "-k", "1", "--json")
    assert [hit["paper_id"] for hit in json.loads(found.stdout)] == [OF_FIRST]


@pytest.mark.parametrize(
    ("model", "found"),
    [
        ("owner/name", "new"),
        ("owner/name@v1.0", "new"),
        ("owner/name@" + "0" * 40, "old"),
        ("/owner/name@v1.0", "other"),  # a folder
    ],
)
def test_a_space_is_found_by_its_model_s_name_with_a_revision_as_without(model: str, found: str) -> None:
    usual = space_of(resolve_model("all-MiniLM-L6-v2"), "sentences:128")
    spaces = {
        "other": usual,
        "folder": replace(usual, model="/owner/name"),
        "new": replace(usual, model="owner/name", revision="1" * 40),
        "old": replace(usual, model="owner/name", revision="0" * 40),
    }
    assert by_default(list(spaces.values()), model) == spaces[found]


@pytest.mark.parametrize("revision", ["v1.0", "1" * 39, "2" * 40])
def test_no_space_of_another_revision_is_meant_where_one_is_named(revision: str) -> None:
    space = replace(space_of(resolve_model("all-MiniLM-L6-v2"), "whole"), model="owner/name", revision="1" * 40)
    store = cast(VectorStore, SimpleNamespace(url="a store", spaces=lambda: [space]))
    assert space_named(store, "owner/name@" + "1" * 40, whole=True) == space
    with pytest.raises(ArxivEmbedError, match="names no space"):
        space_named(store, f"owner/name@{revision}", whole=True)


def test_a_store_that_is_not_there_has_no_spaces_and_nothing_to_drop(tmp_path: Path) -> None:
    assert "holds nothing yet" in arxiv_embed(tmp_path, "spaces").stdout
    assert listed(tmp_path) == []
    refused = arxiv_embed(tmp_path, "spaces", "--drop", "any")
    assert refused.returncode == 2
    assert "There is no store" in refused.stderr
