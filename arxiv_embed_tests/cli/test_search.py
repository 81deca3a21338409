"""`arxiv-embed search`: what it says of the papers that it has found."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from rich.console import Console
from typer.testing import CliRunner

from arxiv_embed.cli.app import app
from arxiv_embed.cli.formats import show
from arxiv_embed.record import ProgressReader, progress_path
from arxiv_embed.run import Run
from arxiv_embed.settings import RunOptions, Settings
from arxiv_embed.stores.lance.store import LanceStore
from arxiv_embed.stores.protocol import StoredPaper
from arxiv_embed.stores.search import Hit
from arxiv_embed_tests.fake_pool import run_shards
from arxiv_embed_tests.tiny_models import save_pooling, save_qwen2


def run_cut_short(folder: Path, model: Path, settings: Settings) -> Run:
    """Real papers, embedded by a real worker with a model that is pooled by the last of 64 tokens."""
    save_qwen2(model)
    save_pooling(model, "lasttoken")
    (model / "sentence_bert_config.json").write_text('{"max_seq_length": 32}')
    options = RunOptions(
        folder, settings.store, settings.checkpoints, model=str(model), devices="cpu:1", dtype="float32"
    )
    return run_shards(options, settings.home, "run")


def paper_rows(store: LanceStore, space: str) -> pa.Table:
    rows: pa.Table = store._tables.get(f"rows_{space}").to_arrow()
    return rows.filter(pc.equal(rows["chunk_index"], -1))


def test_what_a_model_s_limit_cuts_is_in_the_row_and_said_by_search(
    small_folder: Path, tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_cut_short(small_folder, tmp_path / "model", settings)
    rows = paper_rows(LanceStore(Path(settings.store)), run.space.fingerprint)
    stored = dict(zip(rows["paper_id"].to_pylist(), rows["cut_tokens"].to_pylist(), strict=True))
    assert len(stored) == 11
    assert min(stored.values()) > 0
    progress = ProgressReader(progress_path(settings, "run")).poll()
    assert sum(stored.values()) == progress.cut_tokens
    assert progress.long_papers == 0  # the last token has seen all that is embedded

    monkeypatch.setenv("ARXIV_EMBED_HOME", str(settings.home))
    monkeypatch.setenv("ARXIV_EMBED_MODEL", str(tmp_path / "model"))
    told = CliRunner().invoke(app, ["search", "hadron colliders", "-k", "3", "--json"])
    hits = json.loads(told.output)
    assert len(hits) == 3
    for hit in hits:
        assert hit["cut_tokens"] == stored[hit["paper_id"]]
    shown = CliRunner().invoke(app, ["search", "hadron colliders", "-k", "3"]).output
    for hit in hits:
        assert f"not embedded: its last {hit['cut_tokens']:,} tokens, beyond the token limit" in shown


@pytest.mark.parametrize(
    ("cut", "said"), [(1234, "its last 1,234 tokens, beyond"), (1, "its last 1 token, beyond"), (0, ""), (None, "")]
)
def test_a_paper_that_is_known_to_be_cut_is_said_to_be(cut: int | None, said: str) -> None:
    console = Console(file=io.StringIO(), width=100)
    paper = StoredPaper("2401.00001", "A title", "An abstract.", "A. Author", ("cs.LG",), "2024-01-01", "", False, cut)
    hit = Hit(paper, 0.1, 1, 1, 0.5, 0, 7)
    show([hit], console)
    assert isinstance(console.file, io.StringIO)
    shown = console.file.getvalue()
    assert said in shown
    assert ("not embedded" in shown) == bool(said)
    assert hit.to_json()["cut_tokens"] == cut
