"""Another model in a running pool: the same processes, the memory of the one before given back, spaces never mixed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from arxiv_embed.encoding.batch import pack
from arxiv_embed.encoding.encoder import load_encoder
from arxiv_embed.encoding.model import ModelFiles, resolve_model
from arxiv_embed.encoding.space import Space, space_of
from arxiv_embed.encoding.tokens import PaperTokenizer
from arxiv_embed.errors import ArxivEmbedError
from arxiv_embed.gpu.crew import WorkerNotStarted
from arxiv_embed.gpu.devices import parse_devices
from arxiv_embed.gpu.lane import State
from arxiv_embed.gpu.outcomes import EncodedPaper
from arxiv_embed.gpu.pool import Pool
from arxiv_embed_tests.gpu.simulated import Simulation, paper, pieces_of, simulated_pool
from arxiv_embed_tests.tiny_models import save_bert, save_distilbert

TEXTS = [
    f"the theory of the {word} is a model of the field. we are in it." * 3 for word in ("star", "galaxy", "a", "to")
]
MIB = 2**20
LARGE_POSITIONS = 400_000
"""Of width 64 in float32: 102 MB of weights."""


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> ModelFiles:
    folder = tmp_path_factory.mktemp("small")
    save_distilbert(folder)
    return resolve_model(str(folder))


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> ModelFiles:
    folder = tmp_path_factory.mktemp("large")
    save_bert(folder, hidden_size=64, max_position_embeddings=LARGE_POSITIONS)
    return resolve_model(str(folder))


def spaced(files: ModelFiles) -> tuple[ModelFiles, Space]:
    return files, space_of(files, "fixed:8", 64)


@pytest.fixture(scope="module")
def pool(large: ModelFiles) -> Iterator[Pool]:
    with Pool(*spaced(large), parse_devices("cpu:2"), dtype="float32") as pool:
        yield pool


def expected(files: ModelFiles) -> list[np.ndarray]:
    space = spaced(files)[1]
    encoder = load_encoder(files, space, "cpu", "float32")
    return [encoder.encode(pack([paper])) for paper in PaperTokenizer(files, space).tokenize(TEXTS)]


def assert_embeds_as(pool: Pool, files: ModelFiles) -> None:
    wanted = expected(files)
    papers = list(pool.encode(TEXTS))
    assert len(papers) == len(TEXTS)
    for outcome in papers:
        assert isinstance(outcome, EncodedPaper)
        assert (outcome.vectors * wanted[outcome.index]).sum(1).min() > 0.9999


def processes(pool: Pool) -> list[int]:
    return [lane.worker.pid for lane in pool._lanes if lane.worker]


def base_memory(pool: Pool) -> list[int]:
    return [lane.ready.base_memory for lane in pool._lanes if lane.ready]


def test_models_change_in_the_same_processes_and_lose_no_memory(
    pool: Pool, large: ModelFiles, small: ModelFiles
) -> None:
    begun_with = processes(pool)
    taken: dict[str, list[list[int]]] = {"large": [], "small": []}
    for _ in range(3):
        for name, files in (("large", large), ("small", small)):
            pool.change_model(*spaced(files))
            assert_embeds_as(pool, files)
            taken[name].append(base_memory(pool))
    assert processes(pool) == begun_with
    # In the first round libraries are imported, and stay.
    for worker in range(2):
        with_large, with_small = ([bases[worker] for bases in taken[name][1:]] for name in ("large", "small"))
        assert with_large[1] - with_large[0] < 20 * MIB
        assert with_large[0] - with_small[0] > 60 * MIB


def test_a_model_may_change_when_a_call_was_left_in_the_middle(pool: Pool, small: ModelFiles) -> None:
    list(islice(pool.encode(TEXTS * 40), 3))
    pool.change_model(*spaced(small))
    assert_embeds_as(pool, small)


def test_a_model_may_change_while_a_worker_loads_the_one_before(
    pool: Pool, large: ModelFiles, small: ModelFiles
) -> None:
    for lane in pool._lanes:
        assert lane.worker is not None
        lane.change_model(pool._crew.setup(lane), pool._crew.laws.of, time.monotonic())
    pool.change_model(*spaced(large))
    assert_embeds_as(pool, large)


def test_a_model_that_cannot_be_loaded_is_not_taken_for_the_one_after(
    pool: Pool, large: ModelFiles, small: ModelFiles, tmp_path: Path
) -> None:
    without_weights = replace(small, folder=tmp_path)
    for lane in pool._lanes:
        setup = replace(pool._crew.setup(lane), files=without_weights)
        lane.change_model(setup, pool._crew.laws.of, time.monotonic())
    pool.change_model(*spaced(large))
    assert_embeds_as(pool, large)


def test_a_worker_that_ended_is_started_with_the_new_model(pool: Pool, small: ModelFiles) -> None:
    lane = pool._lanes[0]
    lane.stop()
    lane.retire(time.monotonic())
    pool.change_model(*spaced(small))
    assert [one.state for one in pool._lanes] == [State.READY, State.READY]
    assert_embeds_as(pool, small)


def test_a_model_is_refused_for_another_one_s_space(pool: Pool, large: ModelFiles, small: ModelFiles) -> None:
    mixed = replace(spaced(small)[1], dimensions=64)
    for files, space in ((large, mixed), (replace(large, revision="other"), spaced(large)[1])):
        with pytest.raises(ArxivEmbedError, match="their vectors would mix: it makes a space of its own"):
            Pool(files, space, parse_devices("cpu:1"))
        with pytest.raises(ArxivEmbedError, match="their vectors would mix"):
            pool.change_model(files, space)


@pytest.mark.parametrize(
    ("fallback", "says"),
    [
        (None, "has too little memory for model 'simulated' .*: choose a smaller model"),
        ("tiny", "its fallback makes another space beside this one, with --model tiny"),
    ],
)
def test_a_model_that_a_device_is_too_small_for_is_never_replaced_in_its_space(
    tmp_path: Path, fallback: str | None, says: str
) -> None:
    pool = simulated_pool(tmp_path, [Simulation(total=8, weights=9)])
    pool._crew.files = replace(pool._crew.files, fallback=fallback)
    with pytest.raises(WorkerNotStarted, match=says):
        pool.__enter__()


def test_what_was_learned_of_memory_is_of_the_model_it_was_learned_with(tmp_path: Path) -> None:
    with simulated_pool(tmp_path / "devices", [Simulation()], learned=tmp_path / "learned") as pool:
        list(pool.encode_tokenized(pieces_of([paper(index, 50) for index in range(300)])))
        files, space = pool._crew.files, replace(pool._crew.space, chunker="fixed:8")
        pool.change_model(files, space)
        assert all(not lane.budget.law.seen for lane in pool._lanes)
        list(pool.encode_tokenized(pieces_of([paper(index, 50) for index in range(300)])))
    names = sorted(path.name for path in (tmp_path / "learned").iterdir())
    assert len(names) == 2
    spaces = pool._crew.space, replace(space, chunker="whole")
    assert all(any(one.fingerprint in name for name in names) for one in spaces)
