"""Requests: a home knows of which sets it holds a harvest."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from arxiv_embed.checkpoint.sealed import seal, unseal
from arxiv_embed.harvest.progress import Progress
from arxiv_embed.harvest.request import HarvestRequest, harvests_begun, place_of
from arxiv_embed_tests.harvest.harvests import ALL, harvest_now
from arxiv_embed_tests.harvest.repository import Record, Repository

SETS = (None, "cs", "cs:cs:AI", "physics:hep-th", "physics-hep:th", "q-bio:q-bio:BM")


@pytest.fixture
def repository(records: list[Record]) -> Iterator[Repository]:
    served = [Record(one.id, one.datestamp, tuple(filter(None, SETS)), one.xml) for one in records[:10]]
    with Repository(served, page_records=5).running() as running:
        yield running


def sets_begun(repository: Repository, folder: Path) -> set[str | None]:
    begun = harvests_begun(folder, repository.url, folder.parent / "home")
    assert all((one.metadata_dir, one.since, one.until) == (folder, None, None) for one in begun)
    assert len(set(begun)) == len(begun)
    return {one.set for one in begun}


def test_a_home_knows_the_sets_of_its_harvests(repository: Repository, folder: Path) -> None:
    assert sets_begun(repository, folder) == set()
    for name in SETS:
        harvest_now(repository, folder, set=name)
    assert sets_begun(repository, folder) == set(SETS)


def test_a_home_knows_the_sets_of_harvests_that_did_not_note_them(repository: Repository, folder: Path) -> None:
    for name in SETS:
        harvest_now(repository, folder, set=name)
    for note in (folder.parent / "home").rglob("*.json"):
        content = unseal(note.read_bytes())
        assert content.pop("set") is not None
        note.write_text(seal(content))
    assert sets_begun(repository, folder) == set(SETS)
    harvest_now(repository, folder, None, "cs:cs:AI")
    assert repository.lists_asked[-1]["from"] == "2016-03-07"


def test_a_set_with_more_parts_than_arxiv_has_is_known_by_what_is_noted(repository: Repository, folder: Path) -> None:
    name = "a:b-c:d:e-f:g"
    repository.records = [Record(one.id, one.datestamp, (name,), one.xml) for one in repository.records]
    harvest_now(repository, folder, set=name)
    assert sets_begun(repository, folder) == {name}


def test_a_harvest_under_way_counts_and_one_that_was_refused_does_not(repository: Repository, folder: Path) -> None:
    def stop(progress: Progress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        harvest_now(repository, folder, set="cs", page=stop)
    with pytest.raises(Exception, match="There is no set"):
        harvest_now(repository, folder, set="csx")
    assert sets_begun(repository, folder) == {"cs"}


def test_a_harvest_whose_only_note_is_damaged_is_not_forgotten(repository: Repository, folder: Path) -> None:
    harvest_now(repository, folder, set="cs")
    [note] = (folder.parent / "home").rglob("*.json")
    note.write_text("{")
    assert sets_begun(repository, folder) == {"cs"}


def test_harvests_into_another_folder_or_from_another_address_are_not_meant(
    repository: Repository, folder: Path
) -> None:
    harvest_now(repository, folder, set="cs")
    home = folder.parent / "home"
    assert harvests_begun(folder.parent / "other", repository.url, home) == []
    assert harvests_begun(folder, "http://127.0.0.1:9/oai", home) == []
    harvest_now(repository, folder.parent / "other", set="cs")
    assert sets_begun(repository, folder) == {"cs"}


def test_each_set_has_a_place_of_its_own(folder: Path) -> None:
    places = {place_of(HarvestRequest(folder, name, ALL), "http://127.0.0.1:9/oai", folder) for name in SETS}
    assert len(places) == len(SETS)
