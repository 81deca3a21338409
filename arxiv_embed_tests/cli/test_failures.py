"""Papers that no device can embed: listed with their reason, the others stored, and exit code 1."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from arxiv_embed_tests.cli.commands import arxiv_embed
from arxiv_embed_tests.tiny_models import wordpieces

POISON = "galaxy"


@pytest.fixture
def ill_model(tiny_model: Path, tmp_path: Path) -> Path:
    """A model that has no numbers for one of its words."""
    folder = tmp_path / "ill"
    shutil.copytree(tiny_model, folder)
    weights = load_file(folder / "model.safetensors")
    token = wordpieces().token_to_id(POISON)
    weights["embeddings.word_embeddings.weight"][token] = float("nan")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_a_paper_that_cannot_be_embedded_is_listed_and_the_others_are_stored(ill_model: Path, tmp_path: Path) -> None:
    folder, home = tmp_path / "metadata", tmp_path / "home"
    folder.mkdir()
    words = [POISON if number == 7 else "field" for number in range(20)]
    (folder / "a.jsonl").write_text(
        "".join(
            json.dumps({"id": f"2401.{number:05d}", "title": "On it", "abstract": f"A theory of the {word}."}) + "\n"
            for number, word in enumerate(words)
        )
    )
    run = ("run", "--metadata-dir", folder, "--model", ill_model, "--devices", "cpu:2")
    first = arxiv_embed(home, *run)
    assert first.returncode == 1, first.stdout + first.stderr
    assert "failed: paper 2401.00007: it could not be encoded" in first.stdout
    assert "not finite numbers" in first.stdout
    assert "20 rows" not in first.stdout
    assert "holds 19 papers" in first.stdout

    listed = arxiv_embed(home, "status", "--failures")
    assert "a.jsonl, 2401.00007: it could not be encoded" in listed.stdout
    told = json.loads(arxiv_embed(home, "status", "--failures", "--json").stdout)
    assert [paper["paper_id"] for paper in told["failures"]] == ["2401.00007"]
    assert list(told["last_run"]["failed_papers"]) == ["2401.00007"]
    assert told["spaces"][0]["papers"] == 19

    again = arxiv_embed(home, *run)
    assert (again.returncode, again.stdout[:13]) == (0, "Nothing to do")
