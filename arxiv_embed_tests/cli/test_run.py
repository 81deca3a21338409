"""`arxiv-embed run`: from a folder to a store, seen by Dagster, and done once."""

from __future__ import annotations

import json
import os
import re
import socket
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from dagster import AssetKey, DagsterRunStatus
from psycopg.conninfo import conninfo_to_dict
from typer.testing import CliRunner

from arxiv_embed import performance
from arxiv_embed.checkpoint.store import CheckpointStore
from arxiv_embed.cli.app import app
from arxiv_embed.encoding.model import resolve_model
from arxiv_embed.encoding.space import space_of
from arxiv_embed.pipeline.instance import open_instance
from arxiv_embed.plan import embeddings_key
from arxiv_embed.settings import settings_from_environment
from arxiv_embed_tests.cli.commands import arxiv_embed, installed

if TYPE_CHECKING:
    from arxiv_embed_tests.postgres_server import PostgresServer


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, examples: Path) -> tuple[Path, str]:
    """A home in which the sample was embedded, and what the command printed; the tiny model's vectors mean nothing."""
    home = tmp_path_factory.mktemp("home")
    arguments = ("--metadata-dir", examples, "--model", tiny_model, "--devices", "cpu:1")
    watched = ("--health-seconds", "0.2", "--metrics-port", "0", "--verbose", "--log-level", "debug")
    result = installed(home, "run", *arguments, *watched)
    assert result.returncode == 0, result.stdout + result.stderr
    return home, result.stdout


def test_a_run_sums_up_what_it_did(done: tuple[Path, str]) -> None:
    _, printed = done
    assert "4 shards to do" in printed
    assert "300 papers embedded in" in printed
    assert "of 4 shards stored" in printed
    assert "2 papers marked withdrawn" in printed
    assert "long papers: the paper's own vector is pooled from its beginning, its chunks cover the rest" in printed
    assert "longer than the token limit" not in printed


def test_where_metrics_are_served_is_told(done: tuple[Path, str]) -> None:
    assert re.search(r"^metrics are served at http://127\.0\.0\.1:\d+/metrics$", done[1], re.M)


def test_the_batches_of_a_run_are_kept_for_pandas(done: tuple[Path, str], tiny_model: Path) -> None:
    home, _ = done
    batches = performance(home)
    assert batches["papers"].sum() == 300
    assert set(batches["device"]) == {"cpu:0"}
    assert set(batches["model"]) == {str(tiny_model)}
    assert (batches["padded_tokens"] >= batches["tokens"]).all()


def test_a_port_that_is_taken_stops_a_run_before_it_starts(
    tmp_path: Path, small_folder: Path, tiny_model: Path
) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        port = server.getsockname()[1]
        asked = ["--metadata-dir", small_folder, "--model", tiny_model, "--metrics-port", port]
        result = arxiv_embed(tmp_path / "home", "run", *map(str, asked))
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert f"Metrics cannot be served at port {port} of 127.0.0.1" in result.stderr
    assert not (tmp_path / "home" / "runs").exists()


def test_a_run_names_the_report_that_it_leaves(done: tuple[Path, str]) -> None:
    home, printed = done
    [page] = home.glob("runs/*/report.html")
    assert printed.splitlines()[-1] == f"report: {page}"
    html = page.read_text()
    assert "300 papers embedded" in html
    assert "src=" not in html
    assert html.count("href=") == html.count('href="#')


def test_the_health_of_the_devices_stands_in_the_record_as_often_as_was_asked(done: tuple[Path, str]) -> None:
    home, _ = done
    [record] = (home / "runs").glob("*/progress.jsonl")
    reports = [event for event in map(json.loads, record.read_text().splitlines()) if event["event"] == "health"]
    assert [report["number"] for report in reports] == list(range(1, len(reports) + 1))
    assert len(reports) > 2
    [health] = reports[-1]["devices"]
    assert health["verdict"] == "ok"
    assert health["cpu"] is not None
    assert health["process_memory"] > 0
    assert 0 < health["memory_used"] < health["memory_total"]
    assert reports[-1]["memory"] > 0


def test_a_verbose_run_says_of_each_shard_what_was_done(done: tuple[Path, str]) -> None:
    _, printed = done
    for shard in ("atom-2026.xml", "cs-2016.jsonl.gz", "kaggle-2007.jsonl", "month:1602"):
        assert f"{shard}: " in printed
        assert [line for line in printed.splitlines() if line.startswith(f"{shard}: ") and "rows written in" in line]


def test_the_log_has_every_batch_of_a_run_at_level_debug(done: tuple[Path, str]) -> None:
    home, _ = done
    [record] = home.glob("runs/*/progress.jsonl")
    lines = [json.loads(line) for line in (home / "production_pipeline.log").read_text().splitlines()]
    assert {line["run"] for line in lines} == {record.parent.name}
    batches = [line for line in lines if line["event"] == "batch"]
    assert len(batches) == record.read_text().count('"event":"batch"') > 0
    assert {(line["level"], line["device"]) for line in batches} == {("debug", "cpu:0")}
    assert sum(line["papers"] for line in batches) == 300
    assert lines[-1]["event"] == "run_finished"


def test_the_same_run_again_has_nothing_to_do(done: tuple[Path, str], tiny_model: Path, examples: Path) -> None:
    home, _ = done
    again = arxiv_embed(home, "run", "--metadata-dir", examples, "--model", tiny_model, "--quiet")
    assert (again.returncode, again.stderr) == (0, "")
    assert again.stdout.startswith("Nothing to do: 4 shards unchanged")
    assert len(again.stdout.splitlines()) == 1


def test_dagster_knows_what_the_command_did(done: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> None:
    home, _ = done
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    monkeypatch.setenv("ARXIV_EMBED_HOME", str(home))
    with open_instance(settings_from_environment()) as instance:
        [run] = instance.get_runs()
        assert (run.job_name, run.status) == ("embed_pending", DagsterRunStatus.SUCCESS)
        shards = {"atom-2026.xml", "cs-2016.jsonl.gz", "kaggle-2007.jsonl", "month:1602"}
        for asset in ("papers", "embeddings", "vector_store"):
            assert instance.get_materialized_partitions(AssetKey(asset)) == shards


def test_a_run_into_postgresql_is_searched_and_writes_its_password_nowhere(
    tmp_path: Path, tiny_model: Path, small_folder: Path, postgres: PostgresServer
) -> None:
    with postgres.guarded_user("hunter2") as user, postgres.database() as url:
        place = conninfo_to_dict(url)
        url = url.replace("postgres@", f"{user}:hunter2@")
        folder = ("--metadata-dir", small_folder, "--model", tiny_model, "--devices", "cpu:1")
        result = arxiv_embed(tmp_path, "run", *folder, ARXIV_EMBED_STORE=url)
        assert result.returncode == 0, result.stdout + result.stderr
        assert f":***@/{place['dbname']}" in result.stdout
        assert "holds 11 papers" in result.stdout
        title = json.loads((small_folder / "first.jsonl").read_text().splitlines()[0])["title"]
        store = ("--db-host", place["host"], "--db-user", place["user"], "--db-name", place["dbname"])
        hits = json.loads(arxiv_embed(tmp_path, "search", title, "-k", "3", "--json", *store).stdout)
        assert (len(hits), hits[0]["paper_id"], hits[0]["text_rank"]) == (3, "0704.0001", 1)
    assert "hunter2" not in result.stdout + result.stderr
    assert [path for path in tmp_path.rglob("*") if path.is_file() and b"hunter2" in path.read_bytes()] == []


def test_status_tells_the_last_run_and_what_is_held(done: tuple[Path, str], tiny_model: Path) -> None:
    home, _ = done
    printed = arxiv_embed(home, "status").stdout
    assert "300 papers of 4 shards" in printed
    assert "done: begun" in printed
    told = json.loads(arxiv_embed(home, "status", "--json").stdout)
    assert told["read"]["papers"] == 300
    assert told["spaces"][0]["papers"] == 300
    assert told["spaces"][0]["model"] == str(tiny_model)
    assert told["last_run"]["state"] == "done"


def test_a_search_finds_and_marks_the_matching_chunk(done: tuple[Path, str]) -> None:
    home, _ = done
    result = arxiv_embed(home, "search", "sparsity-certifying graph decompositions", "-k", "50")
    assert result.returncode == 0, result.stderr
    _, facts, *paper = result.stdout.partition(". Sparsity-certifying Graph Decompositions ")[2].splitlines()
    assert facts.strip().startswith("0704.0002 · ")
    assert "words #1" in facts
    excerpt = paper[: paper.index("")]
    assert sum(line.count("»") for line in excerpt) == sum(line.count("«") for line in excerpt) == 1


def test_a_search_can_be_narrowed_and_read_by_programs(done: tuple[Path, str]) -> None:
    home, _ = done
    result = arxiv_embed(home, "search", "graph", "-k", "5", "--category", "cs", "--since", "2015-06-01", "--json")
    hits = json.loads(result.stdout)
    assert 0 < len(hits) <= 5
    for hit in hits:
        assert any(category.split(".")[0] == "cs" for category in hit["categories"])
        assert (hit["published"] or hit["updated"]) >= "2015-06-01"
        assert (
            hit["chunk"]["text"] == f"{hit['title']}\n\n{hit['abstract']}"[hit["chunk"]["start"] : hit["chunk"]["end"]]
        )


def test_neighbours_of_a_paper_leave_itself_out(done: tuple[Path, str]) -> None:
    home, _ = done
    hits = json.loads(arxiv_embed(home, "search", "--like", "arXiv:0704.0002v1", "-k", "4", "--json").stdout)
    assert len(hits) == 4
    assert "0704.0002" not in {hit["paper_id"] for hit in hits}


def test_a_plan_of_a_changed_folder_names_what_is_new(
    done: tuple[Path, str], tiny_model: Path, small_folder: Path
) -> None:
    home, _ = done
    shown = arxiv_embed(home, "plan", "--metadata-dir", small_folder, "--model", tiny_model, "--devices", "cpu:1")
    assert shown.returncode == 0, shown.stderr
    assert "first.jsonl" in shown.stdout
    assert "2 to do, 0 unchanged" in shown.stdout
    told = json.loads(arxiv_embed(home, "plan", "--metadata-dir", small_folder, "--model", tiny_model, "--json").stdout)
    assert [shard["key"] for shard in told["shards"]] == ["first.jsonl", "second.jsonl"]
    assert told["tokens"] > 0
    assert told["memory_bytes_per_device"] > 0


def test_a_plan_rests_on_what_was_measured(done: tuple[Path, str], tiny_model: Path, examples: Path) -> None:
    home, _ = done
    told = json.loads(
        arxiv_embed(
            home, "plan", "--metadata-dir", examples, "--model", tiny_model, "--devices", "cpu:1", "--fresh", "--json"
        ).stdout
    )
    assert len(told["shards"]) == 4
    assert told["seconds"] > 0
    assert told["memory_bytes_per_device"] > 50_000_000


def test_rejects_are_listed_with_place_and_reason(tmp_path: Path, small_folder: Path, tiny_model: Path) -> None:
    home = tmp_path / "home"
    result = arxiv_embed(home, "run", "--metadata-dir", small_folder, "--model", tiny_model, "--devices", "cpu:1")
    assert result.returncode == 0, result.stderr
    assert "1 record rejected: see `arxiv-embed status --rejects`" in result.stdout
    listed = arxiv_embed(home, "status", "--rejects").stdout
    assert "second.jsonl, line 6: truncated JSON" in listed


def test_a_fresh_run_does_everything_again(tmp_path: Path, small_folder: Path, tiny_model: Path) -> None:
    home = tmp_path / "home"
    base = ("run", "--metadata-dir", small_folder, "--model", tiny_model, "--devices", "cpu:1", "--max-tokens", "16")
    assert arxiv_embed(home, *base).returncode == 0
    again = arxiv_embed(home, *base, "--fresh")
    assert "11 papers longer than the token limit: " in again.stdout
    assert "11 papers embedded" in again.stdout
    assert arxiv_embed(home, *base).stdout.startswith("Nothing to do")


def test_standard_mode_embeds_the_same_papers(tmp_path: Path, small_folder: Path, tiny_model: Path) -> None:
    result = arxiv_embed(
        tmp_path / "home",
        "run",
        "--metadata-dir",
        small_folder,
        "--model",
        tiny_model,
        "--devices",
        "cpu:2",
        "--standard",
    )
    assert "11 papers embedded" in result.stdout


def test_what_lies_around_shadows_nothing_and_is_named(tmp_path: Path, small_folder: Path, tiny_model: Path) -> None:
    """A module's name in the working folder, a home within the metadata, a file that is no metadata."""
    for module in ("random.py", "numba.py"):
        (small_folder / module).write_text("raise SystemExit('this is not the library')")
    command = ("run", "--metadata-dir", ".", "--model", tiny_model, "--devices", "cpu:1")
    home = small_folder / "home"
    first = installed(home, *command, folder=small_folder)
    assert first.returncode == 0, first.stdout + first.stderr
    assert "passed over, without metadata or not to be read: numba.py, random.py\n" in first.stdout
    assert arxiv_embed(home, *command, folder=small_folder).stdout.startswith("Nothing to do: 2 shards unchanged")


def test_a_renamed_file_s_changed_text_takes_the_old_one_s_place(
    tmp_path: Path, small_folder: Path, tiny_model: Path
) -> None:
    home = tmp_path / "home"
    command = ("run", "--metadata-dir", small_folder, "--model", tiny_model, "--devices", "cpu:1")
    (small_folder / "first.jsonl").unlink()
    assert arxiv_embed(home, *command).returncode == 0
    old = small_folder / "second.jsonl"
    (small_folder / "another.jsonl").write_bytes(old.read_bytes().replace(b"the", b"zebra"))
    old.unlink()
    assert arxiv_embed(home, *command).returncode == 0
    hits = json.loads(arxiv_embed(home, "search", "zebra", "-k", "5", "--json").stdout)
    assert len(hits) == 5
    assert all("zebra" in hit["abstract"] for hit in hits)


def test_renamed_split_and_joined_files_take_no_device_and_a_new_paper_alone_does(
    tmp_path: Path, small_folder: Path, tiny_model: Path
) -> None:
    home = tmp_path / "home"
    command = ("run", "--metadata-dir", small_folder, "--model", tiny_model, "--devices", "cpu:1")
    assert arxiv_embed(home, *command).returncode == 0
    lines = (small_folder / "first.jsonl").read_bytes().splitlines(keepends=True)
    (small_folder / "2007").mkdir()
    (small_folder / "2007" / "all.jsonl").write_bytes(
        b"".join(lines[:3]) + (small_folder / "second.jsonl").read_bytes()
    )
    (small_folder / "first.jsonl").write_bytes(b"".join(lines[3:]))
    (small_folder / "second.jsonl").unlink()
    moved = arxiv_embed(home, *command)
    assert moved.returncode == 0, moved.stdout + moved.stderr
    assert "0 papers embedded, 11 reused\nreused: 3 unchanged, 8 from other checkpoints\n" in moved.stdout
    assert "holds 11 papers" in moved.stdout
    assert "cpu:0" not in moved.stdout  # no device was started
    hits = json.loads(arxiv_embed(home, "search", "calculation", "-k", "20", "--json").stdout)
    assert len({hit["paper_id"] for hit in hits}) == len(hits) == 11
    assert arxiv_embed(home, *command).stdout.startswith("Nothing to do: 2 shards unchanged")

    (small_folder / "first.jsonl").rename(small_folder / "third.jsonl")
    with (small_folder / "third.jsonl").open("a") as file:
        file.write('{"id": "0704.0099", "title": "New", "abstract": "Nothing like it was there before."}\n')
    added = arxiv_embed(home, *command)
    assert "1 paper embedded, 3 reused; embedded in " in added.stdout
    assert "4 of 4 papers, 3 of them reused" in arxiv_embed(home, "status").stdout
    told = json.loads(arxiv_embed(home, "status", "--json").stdout)["last_run"]
    assert (told["papers_embedded"], told["papers_reused"]) == (1, 3)


def test_a_shard_that_another_process_has_is_left_to_it_and_the_others_are_done(
    tmp_path: Path, small_folder: Path, tiny_model: Path
) -> None:
    home = tmp_path / "home"
    space = space_of(resolve_model(str(tiny_model)), "sentences:128")
    with CheckpointStore(home / "checkpoints").hold(embeddings_key("first.jsonl", space)):
        result = arxiv_embed(home, "run", "--metadata-dir", small_folder, "--model", tiny_model, "--devices", "cpu:1")
    assert result.returncode == 1
    assert f"first.jsonl is worked on by process {os.getpid()} on " in result.stdout
    assert f"left to process {os.getpid()} on " in result.stdout
    assert "first.jsonl; run again when that has ended" in result.stdout
    assert "5 papers embedded" in result.stdout
    assert result.stderr == ""
    told = json.loads(arxiv_embed(home, "status", "--json").stdout)["last_run"]
    assert (told["state"], list(told["left"])) == ("unfinished", ["first.jsonl"])


def test_a_plan_says_what_goes_first(
    tmp_path: Path, small_folder: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ARXIV_EMBED_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "wanted").write_text("0704.0009\n")
    plan = ["plan", "--metadata-dir", str(small_folder), "--model", str(tiny_model), "--devices", "cpu:1"]
    shown = CliRunner().invoke(app, [*plan, "--priority", "category:cs", "--priority", "field:[doi]"])
    assert "papers of category:cs or field:[doi], and their shards" in shown.output
    told = CliRunner().invoke(app, [*plan, "--priority", "ids:@wanted", "--json"])
    assert json.loads(told.output)["priority"] == [f"ids:@{tmp_path / 'wanted'}"]
    without = CliRunner().invoke(app, plan)
    assert "their shards" not in without.output


def test_what_is_urgent_goes_first_and_is_counted(tmp_path: Path, small_folder: Path, tiny_model: Path) -> None:
    home = tmp_path / "home"
    (tmp_path / "wanted").write_text("arXiv:0704.0009v1\n0704.0010\n")
    result = arxiv_embed(
        home,
        *("run", "--metadata-dir", small_folder, "--model", tiny_model, "--devices", "cpu:1"),
        *("--priority", "ids:@wanted", "--priority", "field:priority"),
        folder=tmp_path,
    )
    assert result.returncode == 0, result.stderr
    assert "2 urgent papers taken first\n" in result.stdout
    assert "1 record rejected" in result.stdout
    [record] = home.glob("runs/*/progress.jsonl")
    events = [json.loads(line) for line in record.read_text().splitlines()]
    stored = [event["shard"] for event in events if event["event"] == "shard_stored"]
    assert stored == ["second.jsonl", "first.jsonl"]


def test_a_priority_that_marks_nothing_is_said(tmp_path: Path, small_folder: Path, tiny_model: Path) -> None:
    result = arxiv_embed(
        tmp_path / "home",
        *("run", "--metadata-dir", small_folder, "--model", tiny_model, "--devices", "cpu:1"),
        *("--priority", "category:q-fin"),
    )
    assert result.returncode == 0, result.stderr
    assert "--priority category:q-fin marked no paper of these shards\n" in result.stdout
