"""Harvests: nothing is lost, whatever becomes of the answers; and the next one goes on where the last one ended."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import arxiv_embed.harvest.harvest as harvest_module
from arxiv_embed.checkpoint.lock import Locked
from arxiv_embed.errors import ArxivEmbedError
from arxiv_embed.harvest.harvest import is_in_order
from arxiv_embed.harvest.progress import Progress
from arxiv_embed.harvest.request import HarvestRequest
from arxiv_embed.harvest.source import Unavailable
from arxiv_embed.metadata.paper import Paper
from arxiv_embed_tests.harvest.harvests import ALL, harvest_now, harvested_records, served_records
from arxiv_embed_tests.harvest.repository import Record, Repository, deleted, often, recorded
from arxiv_embed_tests.metadata.folders import papers_in, read_folder, reasons_in, shards_of

NEXT_DAY = "2016-03-10T04:00:00Z"


@pytest.fixture
def repository(records: list[Record]) -> Iterator[Repository]:
    """300 records, 50 a page, in arXiv's order of 2016, which is by identifier."""
    with Repository(records[:300], page_records=50).running() as running:
        yield running


def in_days(days: int) -> str:
    return (datetime.now(UTC).date() + timedelta(days=days)).isoformat()


def files_in(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "harvest").iterdir() if not path.name.startswith("."))


@pytest.mark.parametrize("seed", range(5))
def test_no_record_is_lost_when_three_answers_of_ten_are_bad(records: list[Record], folder: Path, seed: int) -> None:
    with Repository(records, page_records=40, trouble=often(seed, 0.3)).running() as repository:
        harvested = harvest_now(repository, folder)
    assert harvested.records == 1538
    assert harvested_records(folder, harvested) == served_records(records)
    assert sum(asked.trouble is not None for asked in repository.asked) > 5
    answered = [asked.token for asked in repository.asked if asked.trouble is None]
    assert len(answered) == len(set(answered)) == harvested.pages == 39


def test_the_dated_file_reads_as_the_pages_themselves(real_data: Path, folder: Path) -> None:
    names = ("listrecords_cs_page001.xml", "listrecords_cs_page103.xml", "arxivraw_ListRecordsResponse.xml")
    pages = folder.parent / "pages"
    pages.mkdir()
    for name in names:
        (pages / name).write_bytes((real_data / "xml" / "oai" / name).read_bytes())
    expected = papers_in(read_folder(pages))

    with Repository(recorded(real_data, *names), page_records=70).running() as repository:
        harvest_now(repository, folder)
    assert files_in(folder) == ["arxiv-2016-03-09.xml"]
    by_id = sorted(papers_in(read_folder(folder)), key=lambda paper: paper.id)
    assert by_id == sorted(expected, key=lambda paper: paper.id)
    assert len(by_id) == 1544
    assert {paper.version for paper in by_id if paper.id in ("0704.0471", "1302.2146")} == {1}


def test_what_is_asked_for_is_the_form_with_versions_of_the_set_and_days(repository: Repository, folder: Path) -> None:
    harvested = harvest_now(repository, folder, "2010-01-01", "cs", until="2013-12-31")
    assert repository.lists_asked == [
        {
            "verb": "ListRecords",
            "metadataPrefix": "arXivRaw",
            "from": "2010-01-01",
            "until": "2013-12-31",
            "set": "cs",
        }
    ]
    wanted = [record for record in repository.records if "2010-01-01" <= record.datestamp <= "2013-12-31"]
    assert harvested_records(folder, harvested) == served_records(wanted)
    assert files_in(folder) == ["arxiv-cs-2016-03-09.xml"]


def test_a_large_harvest_is_several_files_and_each_is_one_shard(repository: Repository, folder: Path) -> None:
    harvested = harvest_now(repository, folder, shard_papers=120)
    assert harvested.files == {
        "harvest/arxiv-2016-03-09.xml": 120,
        "harvest/arxiv-2016-03-09-2.xml": 120,
        "harvest/arxiv-2016-03-09-3.xml": 60,
    }
    assert len(shards_of(folder, shard_papers=120)) == 3
    assert harvested_records(folder, harvested) == served_records(list(repository.records))


def test_the_next_harvest_goes_on_some_days_before_the_last_one_began(repository: Repository, folder: Path) -> None:
    first = harvest_now(repository, folder, "2010-01-01")
    assert first.through == "2016-03-09"
    repository.date = "2016-03-20T04:00:00Z"
    second = harvest_now(repository, folder, None)
    assert repository.lists_asked[-1]["from"] == "2016-03-07"
    assert second.through == "2016-03-20"


def test_a_first_harvest_must_be_told_where_to_begin(repository: Repository, folder: Path) -> None:
    with pytest.raises(ArxivEmbedError, match=r"No harvest of set cs into .* is complete.*: give --since"):
        harvest_now(repository, folder, None, "cs")
    assert repository.asked == []
    harvest_now(repository, folder, ALL, "cs")
    with pytest.raises(ArxivEmbedError, match="No harvest of all sets"):
        harvest_now(repository, folder, None)


def test_a_harvest_that_leaves_a_gap_does_not_move_the_end_of_the_last_one(
    repository: Repository, folder: Path
) -> None:
    assert harvest_now(repository, folder, "2010-01-01", until="2011-01-01").through == "2011-01-01"
    assert harvest_now(repository, folder, "2012-01-01").through == "2011-01-01"
    assert harvest_now(repository, folder, "2008-01-01", until="2009-01-01").through == "2011-01-01"
    assert harvest_now(repository, folder, None).through == "2016-03-09"
    assert repository.lists_asked[-1]["from"] == "2010-12-30"


def test_a_harvest_of_nothing_is_complete_and_leaves_no_file(repository: Repository, folder: Path) -> None:
    harvested = harvest_now(repository, folder, "2016-03-09", "cs")
    assert (harvested.records, harvested.files, harvested.through) == (0, {}, "2016-03-09")
    assert files_in(folder) == []
    harvest_now(repository, folder, None, "cs")
    assert repository.lists_asked[-1]["from"] == "2016-03-07"


def test_two_harvests_that_end_on_one_day_have_files_of_their_own(repository: Repository, folder: Path) -> None:
    first = harvest_now(repository, folder, "2012-01-01")
    written = (folder / "harvest" / "arxiv-2016-03-09.xml").read_bytes()
    second = harvest_now(repository, folder, "2011-01-01")
    assert list(first.files) == ["harvest/arxiv-2016-03-09.xml"]
    assert list(second.files) == ["harvest/arxiv-2016-03-09-2.xml"]
    assert (folder / "harvest" / "arxiv-2016-03-09.xml").read_bytes() == written


def test_the_same_harvest_again_leaves_the_files_as_they_are(repository: Repository, folder: Path) -> None:
    harvest_now(repository, folder)
    path = folder / "harvest" / "arxiv-2016-03-09.xml"
    before = path.stat()
    harvest_now(repository, folder)
    assert files_in(folder) == [path.name]
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_nothing_but_the_records_of_harvests_stays_in_the_home(repository: Repository, folder: Path) -> None:
    harvest_now(repository, folder)
    left = [path for path in (folder.parent / "home").rglob("*") if path.is_file()]
    assert [path.parent.name for path in left] == ["done"]
    assert json.loads(left[0].read_text())["records"] == 300


# Resumption tokens


def test_a_list_whose_tokens_are_forgotten_begins_again_and_loses_nothing(repository: Repository, folder: Path) -> None:
    repository.before = lambda number: repository.forget_tokens() if number == 3 else None
    harvested = harvest_now(repository, folder)
    assert [asked["from"] for asked in repository.lists_asked] == [ALL, ALL]
    assert (harvested.records, harvested.begun_again) == (300, 1)
    assert harvested_records(folder, harvested) == served_records(list(repository.records))


def test_a_list_in_the_order_of_its_days_begins_again_where_it_was(records: list[Record], folder: Path) -> None:
    served = sorted(records[:300], key=lambda record: record.datestamp)
    notes: list[str] = []
    with Repository(served, page_records=50).running() as repository:
        repository.before = lambda number: repository.forget_tokens() if number == 3 else None
        harvested = harvest_now(repository, folder, note=notes.append)
    reached = served[199].datestamp
    assert [asked["from"] for asked in repository.lists_asked] == [ALL, reached]
    assert harvested_records(folder, harvested) == served_records(served)
    assert any(f"begins again from {reached} on, after 200 records: The resumptionToken" in note for note in notes)


def test_a_repository_that_never_knows_its_tokens_is_left_in_peace(repository: Repository, folder: Path) -> None:
    repository.before = lambda number: repository.forget_tokens()
    with pytest.raises(Unavailable, match="refused its own resumption tokens 6 times"):
        harvest_now(repository, folder)
    repository.before = lambda number: None
    harvested = harvest_now(repository, folder)
    assert harvested_records(folder, harvested) == served_records(list(repository.records))


def test_a_token_is_not_followed_the_next_day(repository: Repository, folder: Path) -> None:
    stop_after(repository, folder, pages=3)
    notes: list[str] = []
    later = time.time() + 25 * 3600
    harvested = harvest_now(repository, folder, note=notes.append, now=lambda: later)
    assert len(repository.lists_asked) == 2
    assert any("it stood still for more than a day" in note for note in notes)
    assert harvested_records(folder, harvested) == served_records(list(repository.records))


@pytest.mark.parametrize(
    ("days", "ordered"),
    [
        ([], False),
        (["2016-01-01"] * 1000, False),
        (["2016-01-01", "2016-01-02", "2016-01-03"], False),
        (["2016-01-01"] * 30 + ["2016-01-02"] * 30, True),
        (["2016-01-01"] * 30 + ["2016-01-02"] * 30 + ["2016-01-01"], False),
        ([f"2016-01-{day:02d}" for day in range(1, 20)], True),
    ],
)
def test_a_list_is_in_the_order_of_its_days_where_chance_cannot_have_done_it(days: list[str], ordered: bool) -> None:
    assert is_in_order(days) is ordered


def test_what_arxiv_sent_in_2016_was_not_in_the_order_of_its_days(records: list[Record]) -> None:
    assert not is_in_order([record.datestamp for record in records[:1000]])


def test_a_page_that_comes_again_and_again_is_noticed(repository: Repository, folder: Path) -> None:
    first = repository.answer
    repository.answer = lambda query: first(
        {**query, "resumptionToken": "0|50"} if "resumptionToken" in query else query
    )  # type: ignore[method-assign]
    repository.page_records = 25
    with pytest.raises(Unavailable, match="gives a page without end"):
        harvest_now(repository, folder)


def test_a_list_that_ends_early_is_told_and_asked_for_again(repository: Repository, folder: Path) -> None:
    repository.short_by = 7
    harvested = harvest_now(repository, folder, "2009-01-01")
    announced = sum(record.datestamp >= "2009-01-01" for record in repository.records) + 7
    assert (harvested.announced, harvested.through) == (announced, "2009-01-01")


def test_a_list_that_ends_early_at_the_same_place_again_was_announced_by_an_estimate(
    repository: Repository, folder: Path
) -> None:
    repository.short_by = 1
    first = harvest_now(repository, folder)
    repository.date = NEXT_DAY
    notes: list[str] = []
    second = harvest_now(repository, folder, None, note=notes.append)
    assert [asked["from"] for asked in repository.lists_asked] == [ALL, ALL]
    assert (first.announced, first.through) == (301, ALL)
    assert (second.announced, second.through, second.records) == (None, "2016-03-10", 300)
    assert notes[-1].startswith("The list ended before its 301 records, as it did the last time")
    harvest_now(repository, folder, None)
    assert repository.lists_asked[-1]["from"] == "2016-03-08"


def test_an_estimate_is_known_again_when_records_have_come(
    records: list[Record], repository: Repository, folder: Path
) -> None:
    repository.short_by = 1
    harvest_now(repository, folder)
    repository.records, repository.date = records[:310], NEXT_DAY
    harvested = harvest_now(repository, folder, None)
    assert (harvested.announced, harvested.through, harvested.records) == (None, "2016-03-10", 310)


@pytest.mark.parametrize("change", ["ends elsewhere", "other days", "once complete", "the same day", "more announced"])
def test_a_list_that_is_cut_off_is_not_believed(repository: Repository, folder: Path, change: str) -> None:
    repository.short_by = 7
    harvest_now(repository, folder)
    since = ALL
    if change != "the same day":
        repository.date = NEXT_DAY
    if change == "ends elsewhere":
        repository.records, repository.short_by = repository.records[:200], 107
    elif change == "other days":
        since = "2007-01-02"
    elif change == "more announced":
        repository.short_by = 9
    elif change == "once complete":
        repository.short_by = 0
        harvest_now(repository, folder)
        repository.short_by = 7
    harvested = harvest_now(repository, folder, since)
    assert harvested.announced == 300 + (9 if change == "more announced" else 7)


# Interruption


def stop_after(repository: Repository, folder: Path, pages: int) -> None:
    """Begins a harvest, and interrupts it after so many pages."""

    def stop(progress: Progress) -> None:
        if len(progress.pages) == pages:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        harvest_now(repository, folder, page=stop)


@pytest.mark.parametrize("pages", [1, 3, 5])
def test_an_interrupted_harvest_goes_on_after_its_last_page(repository: Repository, folder: Path, pages: int) -> None:
    stop_after(repository, folder, pages)
    assert files_in(folder) == []
    harvested = harvest_now(repository, folder, None)
    assert len(repository.lists_asked) == 1
    tokens = [asked.token for asked in repository.asked]
    assert len(tokens) == len(set(tokens)) == 6
    assert harvested_records(folder, harvested) == served_records(list(repository.records))


def test_a_harvest_of_other_days_does_not_take_over_one_that_is_under_way(repository: Repository, folder: Path) -> None:
    stop_after(repository, folder, 2)
    with pytest.raises(ArxivEmbedError, match=r"is under way: leave out --since and --until .*progress\.json"):
        harvest_now(repository, folder, "2012-01-01")
    with pytest.raises(ArxivEmbedError, match="is under way"):
        harvest_now(repository, folder, ALL, until="2012-01-01")
    assert harvest_now(repository, folder, ALL).records == 300


def test_a_harvest_that_stops_at_any_step_on_disk_loses_nothing(
    repository: Repository, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each step is stopped before and after it takes effect, in a harvest of its own."""
    repository.records, repository.page_records = repository.records[:60], 30
    step, ended = 0, False
    while not ended:
        for takes_effect in (False, True):
            place = folder.parent / f"{step}-{takes_effect}" / "metadata"
            with monkeypatch.context() as patch:
                steps = stops_at(step, takes_effect, patch)
                try:
                    harvest_now(repository, place, shard_papers=25)
                except KeyboardInterrupt:
                    assert steps
                else:
                    ended = True
            harvested = harvest_now(repository, place, shard_papers=25)
            assert harvested_records(place, harvested) == served_records(list(repository.records))
            assert len(files_in(place)) == 3
        step += 1
    assert step > 8


def stops_at(step: int, takes_effect: bool, patch: pytest.MonkeyPatch) -> list[str]:
    """Interrupts the process at the step that gives a file its name or takes it away."""
    done: list[str] = []

    def stopping(change: Any) -> Any:
        def changed(*arguments: Any, **options: Any) -> Any:
            done.append(str(arguments[-1]))
            now = len(done) == step + 1
            result = change(*arguments, **options) if takes_effect or not now else None
            if now:
                raise KeyboardInterrupt
            return result

        return changed

    patch.setattr(os, "replace", stopping(os.replace))
    patch.setattr(Path, "unlink", stopping(Path.unlink))
    return done


def test_what_a_killed_process_left_half_written_is_removed_and_no_more(repository: Repository, folder: Path) -> None:
    place = folder / "harvest"
    place.mkdir(parents=True)
    (place / ".draft-123-arxiv-cs-2016-03-09-2.xml").write_text("<OAI-PMH")
    others = [".draft-9-arxiv-2016-03-09.xml", ".draft-9-arxiv-cs-CL-2016-03-09.xml", ".notes"]
    for name in others:
        (place / name).write_text("another's")
    harvest_now(repository, folder, ALL, "cs")
    assert {path.name for path in place.iterdir()} == {".arxiv-cs.lock", "arxiv-cs-2016-03-09.xml", *others}


def test_a_damaged_note_of_a_harvest_is_set_aside_and_the_harvest_begins_anew(
    repository: Repository, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stop_after(repository, folder, 2)
    [note] = (folder.parent / "home").rglob("progress.json")
    note.write_text(note.read_text().replace('"records": 100', '"records": 101'))
    harvested = harvest_now(repository, folder)
    assert harvested_records(folder, harvested) == served_records(list(repository.records))
    assert "set aside as progress.damaged" in caplog.text


def test_a_damaged_page_is_never_taken_for_what_came(repository: Repository, folder: Path) -> None:
    stop_after(repository, folder, 2)
    [page] = (folder.parent / "home").rglob("000001.xml")
    page.write_bytes(page.read_bytes().replace(b"abstract", b"abstrict"))
    with pytest.raises(ArxivEmbedError, match=r"000001\.xml is not as it was written: remove .*progress\.json"):
        harvest_now(repository, folder)
    assert files_in(folder) == []


def test_a_second_harvest_at_the_same_time_is_told(
    repository: Repository, raw_records: list[Record], folder: Path
) -> None:
    told: list[str] = []

    def second(progress: Progress) -> None:
        with pytest.raises(Locked) as caught:
            harvest_now(repository, folder, ALL, "cs")
        told.append(str(caught.value))
        assert harvest_now(repository, folder, ALL, "physics:nucl-th").records == len(others)  # another set is free

    others = [record for record in raw_records if "physics:nucl-th" in record.sets]

    repository.records = [*repository.records, *raw_records]
    repository.page_records = 300
    assert harvest_now(repository, folder, ALL, "cs", page=second).records == 300
    assert told[0].startswith(f"The harvest of set cs into {folder / 'harvest'} is in use by process {os.getpid()}")


# What a repository says


def test_deleted_records_are_noted_and_cost_no_paper(records: list[Record], folder: Path) -> None:
    served = [deleted(record) if number % 10 == 3 else record for number, record in enumerate(records[:100])]
    with Repository(served, page_records=30).running() as repository:
        harvested = harvest_now(repository, folder)
    gone = [record for number, record in enumerate(records[:100]) if number % 10 == 3]
    assert [(f"oai:arXiv.org:{record.id}", record.datestamp) for record in harvested.deleted] == [
        (record.id, record.datestamp) for record in gone
    ]
    assert harvested.records == 100
    items = read_folder(folder)
    assert len(papers_in(items)) == 90
    assert {reason for _, reason in reasons_in(items)} == {"record was deleted at arXiv"}
    assert all(isinstance(item, Paper) or item.excerpt.startswith("oai:arXiv.org:") for item in items)


def test_a_set_that_is_not_there_is_told_from_one_without_news(repository: Repository, folder: Path) -> None:
    with pytest.raises(ArxivEmbedError, match=r"There is no set 'csx' at http://127.*: give one like cs"):
        harvest_now(repository, folder, ALL, "csx")
    assert harvest_now(repository, folder, "2016-03-09", "cs").records == 0


def test_another_error_is_one_sentence(repository: Repository, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harvest_module, "METADATA_PREFIX", "arXivOld")
    with pytest.raises(ArxivEmbedError, match=r"refuses the harvest of set cs: .* \(cannotDisseminateFormat\)\.$"):
        harvest_now(repository, folder, ALL, "cs")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"since": "yesterday"}, "--since 'yesterday' is no day: write YYYY-MM-DD"),
        ({"until": "2016-02-30"}, "--until '2016-02-30' is no day"),
        ({"since": "2016-02-02", "until": "2016-02-01"}, "--since 2016-02-02 is after --until 2016-02-01"),
        ({"set": "cs/../.."}, "'cs/../..' is no name of a set"),
        ({"set": ""}, "'' is no name of a set"),
        ({"set": "c" * 101}, f"'{'c' * 100}…' is no name of a set"),
        ({"since": "2062-01-01"}, "--since 2062-01-01 is in the future"),
        ({"since": in_days(2)}, f"--since {in_days(2)} is in the future"),
    ],
)
def test_what_cannot_be_asked_for_is_refused(tmp_path: Path, options: dict[str, str], said: str) -> None:
    with pytest.raises(ArxivEmbedError) as caught:
        HarvestRequest(tmp_path, **options)
    assert str(caught.value).startswith(said)


def test_a_day_that_has_begun_somewhere_and_a_far_end_may_be_asked_for(tmp_path: Path) -> None:
    assert HarvestRequest(tmp_path, "c" * 100, in_days(1), "2062-01-01").until == "2062-01-01"


def test_what_a_harvest_makes_is_where_it_says(repository: Repository, folder: Path) -> None:
    harvested = harvest_now(repository, folder, ALL, "cs")
    [done] = (folder.parent / "home" / "harvest").glob("arxiv-cs-*/done/*.json")
    kept = json.loads(done.read_text())
    assert kept["files"] == harvested.files == {"harvest/arxiv-cs-2016-03-09.xml": 300}
    assert (kept["since"], kept["through"], kept["pages"]) == (ALL, "2016-03-09", 6)
