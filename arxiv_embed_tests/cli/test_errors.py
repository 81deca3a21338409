"""Errors: whatever a user gets wrong is answered by one sentence and exit code 2, before anything is loaded."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from arxiv_embed.cli.app import app
from arxiv_embed.cli.main import main
from arxiv_embed_tests.cli.commands import SCRIPT, arxiv_embed, environment, installed

Refused = Callable[..., str]


@pytest.fixture
def refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Refused:
    """Runs a command in this process, in a home of the test's own; returns the sentence that it is refused with."""
    monkeypatch.setenv("ARXIV_EMBED_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    def run(*arguments: str | Path) -> str:
        monkeypatch.setattr("sys.argv", ["arxiv-embed", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 2
        [line] = capsys.readouterr().err.splitlines()
        assert line.startswith("Error: ")
        assert line.endswith(".")
        return line

    return run


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--model", "./no-such-folder"), "There is no model folder ./no-such-folder"),
        (("--model", "nobody/no-such-model"), "Model 'nobody/no-such-model' could not be had"),
        (("--chunker", "words:3"), "Unknown chunker 'words:3'"),
        (("--devices", "gpu:1"), "Unknown --devices 'gpu:1'"),
        (("--dtype", "int3"), "Unknown --dtype 'int3'"),
        (("--max-tokens", "2000000"), "--max-tokens 2000000 does not fit"),
        (("--task", "clustering"), "has no task 'clustering': give retrieval"),
        (("--dimensions", "100"), "does not say that its vectors may be cut; they have 384"),
        (("--db-name", "../elsewhere"), "'../elsewhere' is no name for a store"),
        (("--db-port", "5432"), "--db-port and --db-user are of a PostgreSQL server: give its --db-host too"),
        (("--db-host", "127.0.0.1", "--db-port", "1"), "postgresql://127.0.0.1:1/papers does not answer"),
        (("--priority", "category:cs", "--priority", "soon"), "--priority 'soon' is not understood: write category:"),
        (("--priority", "since:soon"), "--priority 'since:soon' names no day"),
        (("--priority", "ids:@/no/such/file"), "The file of ids /no/such/file (--priority) cannot be read"),
    ],
)
def test_an_option_that_cannot_be_is_refused(
    refused: Refused, small_folder: Path, arguments: tuple[str, ...], said: str
) -> None:
    assert said in refused("run", "--metadata-dir", small_folder, *arguments)
    assert said in refused("plan", "--metadata-dir", small_folder, *arguments)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--log-level", "loud"), "Unknown --log-level 'loud': write debug, info, warning, error"),
        (("--verbose", "-q"), "--verbose and --quiet exclude each other: give one of them"),
    ],
)
def test_what_a_run_is_to_say_makes_sense_or_is_refused(
    refused: Refused, small_folder: Path, arguments: tuple[str, ...], said: str
) -> None:
    assert said in refused("run", "--metadata-dir", small_folder, *arguments)


def test_a_folder_that_is_missing_or_holds_nothing_usable_is_refused(refused: Refused, tmp_path: Path) -> None:
    assert "There is no metadata folder" in refused("run", "--metadata-dir", tmp_path / "nowhere")
    folder = tmp_path / "folder"
    folder.mkdir()
    assert "is empty" in refused("run", "--metadata-dir", folder)
    (folder / "notes.txt").write_text("nothing of arXiv's")
    assert "holds arXiv metadata" in refused("run", "--metadata-dir", folder)
    assert "No metadata folder is named" in refused("run")


def test_a_home_that_cannot_be_written_is_refused(
    refused: Refused, small_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("where a folder should be")
    monkeypatch.setenv("ARXIV_EMBED_HOME", str(tmp_path / "file"))
    assert "Nothing can be written to" in refused("run", "--metadata-dir", small_folder)


def test_a_model_that_does_not_load_is_one_sentence(
    refused: Refused, tmp_path: Path, small_folder: Path, tiny_model: Path
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(tiny_model, broken)
    (broken / "model.safetensors").write_bytes(b"these are no weights")
    said = refused("run", "--metadata-dir", small_folder, "--model", broken, "--devices", "cpu:1")
    assert "could not start" in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("words",), "There is no store at"),
        ((), "Give a query or --like"),
        (("words", "--like", "0704.0001"), "Give a query or --like"),
        (("words", "--since", "yesterday"), "Error: since 'yesterday' is no day: write it as"),
    ],
)
def test_a_search_that_cannot_be_is_refused(refused: Refused, arguments: tuple[str, ...], said: str) -> None:
    assert said in refused("search", *arguments)


def test_a_bench_that_is_not_there_is_refused(refused: Refused) -> None:
    assert "There is no bench 'nothing'" in refused("bench", "nothing")


@pytest.mark.parametrize("command", ["run", "plan", "status", "search", "demo", "bench", "harvest"])
def test_every_command_explains_itself_with_an_example(command: str) -> None:
    result = CliRunner().invoke(app, [command, "--help"])
    assert result.exit_code == 0
    usage, explanation = result.output.split("\n", 2)[1:]
    assert "Usage" in usage
    assert f"arxiv-embed {command}" in explanation


def test_a_record_that_a_full_disk_has_cut_does_not_stop_status(tmp_path: Path) -> None:
    record = tmp_path / "home" / "runs" / "torn" / "progress.jsonl"
    record.parent.mkdir(parents=True)
    record.write_text('{"time": 17\n')
    result = arxiv_embed(tmp_path / "home", "status")
    assert (result.returncode, result.stderr) == (0, "")


def test_what_a_terminal_cannot_show_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    result = installed(tmp_path / "zu Hause bei Jürgen", "status")
    assert result.returncode == 0, result.stderr
    assert "bei J?rgen" in result.stdout


def test_output_that_nobody_reads_is_no_error(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    result = subprocess.run(
        [SCRIPT, "status"], env=environment(tmp_path / "home"), stdout=writing, stderr=subprocess.PIPE, check=False
    )
    os.close(writing)
    assert result.stderr == b""
