"""The pool: every paper once with its own vectors, and no worker left behind, however it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from arxiv_embed.encoding.batch import pack
from arxiv_embed.encoding.encoder import load_encoder
from arxiv_embed.encoding.model import ModelFiles, resolve_model
from arxiv_embed.encoding.space import Space, space_of
from arxiv_embed.encoding.tokens import PaperTokenizer
from arxiv_embed.gpu.crew import WorkerNotStarted
from arxiv_embed.gpu.devices import parse_devices
from arxiv_embed.gpu.faults import NoDeviceLeft
from arxiv_embed.gpu.lane import Patience
from arxiv_embed.gpu.outcomes import BatchReport, EncodedPaper, FailedPaper, Incident, Outcome
from arxiv_embed.gpu.pool import Pool
from arxiv_embed.gpu.process import WorkerProcess
from arxiv_embed_tests.tiny_models import WORDS, save_bert, save_distilbert

ODD_TEXTS = ["", " ", "\n\n", "\u200b\u00a0", "\ufffd\U0001f9ea", "中国", "…" * 70, "x" * 3000]


def mixed_texts(count: int) -> list[str]:
    """Texts of 1 to 200 words in no order of length, odd ones among them."""
    random = np.random.default_rng(3)
    texts = [" ".join(random.choice(WORDS, random.integers(1, 200))) for _ in range(count - len(ODD_TEXTS))]
    for text in ODD_TEXTS:
        texts.insert(int(random.integers(len(texts))), text)
    return texts


TEXTS = mixed_texts(150)


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> ModelFiles:
    folder = tmp_path_factory.mktemp("bert")
    save_bert(folder)
    return resolve_model(str(folder))


@pytest.fixture(scope="module")
def space(bert: ModelFiles) -> Space:
    return space_of(bert, "sentences:16", bert.position_limit)


@pytest.fixture(scope="module")
def expected(bert: ModelFiles, space: Space) -> list[np.ndarray]:
    """Every text's vectors, embedded alone by transformers."""
    encoder = load_encoder(bert, space_of(bert, "sentences:16"), "cpu", "float32")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in a worker: for so small a model more of them only wait for one another
    vectors = [encoder.encode(pack([paper])) for paper in PaperTokenizer(bert, space).tokenize(TEXTS)]
    torch.set_num_threads(threads)
    return vectors


def characters(texts: Sequence[str]) -> list[float]:
    return [float(len(text)) for text in texts]


@pytest.fixture(scope="module")
def pool(bert: ModelFiles, space: Space) -> Iterator[Pool]:
    """Two workers in production mode."""
    devices = parse_devices("cpu:2")
    with Pool(bert, space, devices, dtype="float32", batch_size=7, lengths=characters) as pool:
        yield pool


def assert_right(outcomes: list[Outcome], texts: list[str], expected: list[np.ndarray]) -> None:
    papers = [outcome for outcome in outcomes if isinstance(outcome, EncodedPaper)]
    assert len(papers) == len(outcomes)
    assert sorted(paper.index for paper in papers) == list(range(len(texts)))
    for paper in papers:
        wanted = expected[paper.index]
        assert paper.vectors.shape == wanted.shape
        assert ((paper.vectors * wanted).sum(1) > 0.9999).all()
        assert len(paper.spans) == len(paper.chunk_tokens) == len(wanted) - 1
        assert paper.chunk_tokens.sum() == (paper.tokens if len(paper.spans) else 0)


def workers() -> set[int]:
    """Worker processes that this process has started and that are alive or not yet waited for."""
    listed = subprocess.run(["ps", "-o", "pid=,args=", "--ppid", str(os.getpid())], capture_output=True, text=True)
    return {int(line.split()[0]) for line in listed.stdout.splitlines() if "gpu.worker" in line or "defunct" in line}


def eventually(holds: Callable[[], bool]) -> bool:
    for _ in range(600):
        if holds():
            return True
        time.sleep(0.05)
    return False


def alive(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def test_every_paper_comes_back_once_with_its_own_vectors(pool: Pool, expected: list[np.ndarray]) -> None:
    reports: list[BatchReport] = []
    assert_right(list(pool.encode(TEXTS, reports.append)), TEXTS, expected)
    assert sum(report.papers for report in reports) == len(TEXTS)
    assert max(report.papers for report in reports) <= 7
    assert all(report.tokens <= report.padded_tokens for report in reports)
    assert {report.device for report in reports} == {"cpu:0", "cpu:1"}


def test_what_the_limit_cuts_is_counted(pool: Pool) -> None:
    [paper] = pool.encode(["star " * 5000])
    assert (paper.tokens, paper.cut_tokens) == (64, 5000 - 62)
    assert paper.spans[-1, 1] == 62 * 5 - 1


def test_no_papers_are_no_work(pool: Pool) -> None:
    assert list(pool.encode([])) == []


@pytest.mark.parametrize("taken", [0, 1, 40])
def test_a_call_given_up_leaves_nothing_to_the_next(pool: Pool, expected: list[np.ndarray], taken: int) -> None:
    call = pool.encode(TEXTS[::-1])
    for _ in range(taken):
        next(call)
    call.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "tokenizer"]
    assert_right(list(pool.encode(TEXTS)), TEXTS, expected)


def test_an_error_of_the_caller_leaves_nothing_to_the_next_call(pool: Pool, expected: list[np.ndarray]) -> None:
    def refuse(report: BatchReport) -> None:
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        list(pool.encode(TEXTS[::-1], refuse))
    assert_right(list(pool.encode(TEXTS)), TEXTS, expected)


def test_a_text_that_cannot_be_tokenized_ends_the_call_and_no_more(pool: Pool, expected: list[np.ndarray]) -> None:
    with pytest.raises((TypeError, UnicodeEncodeError)):
        list(pool.encode(["fine", "\ud800"]))
    assert_right(list(pool.encode(TEXTS)), TEXTS, expected)


def test_the_standard_pipeline_deals_fixed_batches_round_robin(
    bert: ModelFiles, space: Space, expected: list[np.ndarray]
) -> None:
    def not_asked(texts: Sequence[str]) -> list[float]:
        raise AssertionError("it takes papers as they come")

    reports: list[BatchReport] = []
    devices = parse_devices("cpu:2")
    with Pool(bert, space, devices, dtype="float32", batch_size=20, production=False, lengths=not_asked) as pool:
        assert_right(list(pool.encode(TEXTS, reports.append)), TEXTS, expected)
    assert sorted(report.papers for report in reports) == [10] + [20] * 7
    assert [sum(report.device == name for report in reports) for name in ("cpu:0", "cpu:1")] == [4, 4]


def test_one_worker_gives_the_vectors_of_two_and_auto_is_told(
    bert: ModelFiles, space: Space, expected: list[np.ndarray]
) -> None:
    with Pool(bert, space, parse_devices("cpu:1")) as pool:
        papers = list(pool.encode(TEXTS))
        assert pool.dtype in ("float32", "bfloat16")
        cosine = 0.9999 if pool.dtype == "float32" else 0.998
    assert sorted(paper.index for paper in papers) == list(range(len(TEXTS)))
    assert all(((paper.vectors * expected[paper.index]).sum(1) > cosine).all() for paper in papers)


def test_a_model_that_is_no_bert_is_embedded_by_its_name(tmp_path: Path) -> None:
    save_distilbert(tmp_path)
    files = resolve_model(str(tmp_path))
    space = space_of(files, "fixed:8")
    encoder = load_encoder(files, space, "cpu", "float32")
    alone = [encoder.encode(pack([paper])) for paper in PaperTokenizer(files, space).tokenize(TEXTS[:40])]
    with Pool(files, space, parse_devices("cpu:1"), dtype="float32") as pool:
        assert_right(list(pool.encode(TEXTS[:40])), TEXTS[:40], alone)


def test_a_killed_worker_is_replaced_and_loses_no_paper(
    bert: ModelFiles, space: Space, expected: list[np.ndarray]
) -> None:
    before = workers()
    incidents: list[Incident] = []
    patience = Patience(pause=0.05)
    with Pool(bert, space, parse_devices("cpu:2"), dtype="float32", batch_size=1, patience=patience) as pool:
        started = sorted(workers() - before)
        assert len(started) == 2
        call = pool.encode(TEXTS * 4, on_incident=incidents.append)
        papers = [next(call) for _ in range(10)]
        os.kill(started[1], signal.SIGKILL)
        papers += call
        assert_right(papers, TEXTS * 4, expected * 4)
        assert ("lost", "its worker ended with exit code -9") in [(i.what, i.detail) for i in incidents]
    assert workers() == before
    assert not [thread for thread in threading.enumerate() if thread.name == "tokenizer"]


def test_weights_that_cannot_be_read_are_one_sentence(tmp_path: Path) -> None:
    save_bert(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    files = resolve_model(str(tmp_path))
    before = workers()
    with pytest.raises(WorkerNotStarted, match=r"^The worker of cpu:\d could not start \(.+\): check") as raised:
        Pool(files, space_of(files, "whole"), parse_devices("cpu:2")).__enter__()
    assert "\n" not in str(raised.value)
    assert workers() == before


def test_a_worker_that_dies_while_it_loads_has_not_started(bert: ModelFiles, space: Space) -> None:
    before = workers()

    def kill_the_first() -> None:
        if eventually(lambda: len(workers() - before) == 1):
            os.kill((workers() - before).pop(), signal.SIGKILL)

    killer = threading.Thread(target=kill_the_first)
    killer.start()
    with pytest.raises(WorkerNotStarted, match="was killed while it loaded model"):
        Pool(bert, space, parse_devices("cpu:1")).__enter__()
    killer.join()
    assert workers() == before


@pytest.mark.parametrize(
    ("end", "fallback", "says"),
    [
        ("kill -KILL $$", None, "probably as the machine's memory ran out: choose a smaller model."),
        ("kill -KILL $$", "tiny", "another space beside this one, with --model tiny."),
        ("exit 3", "tiny", "ended with exit code 3 while it loaded the model."),
    ],
)
def test_a_worker_that_is_killed_while_it_loads_was_probably_short_of_memory(
    bert: ModelFiles, space: Space, end: str, fallback: str | None, says: str
) -> None:
    pool = Pool(
        replace(bert, fallback=fallback),
        space,
        parse_devices("cpu:1"),
        hire=partial(WorkerProcess, command=["sh", "-c", end]),
    )
    with pytest.raises(WorkerNotStarted) as refused:
        pool.__enter__()
    assert str(refused.value).endswith(says)


def test_vectors_that_are_no_numbers_are_never_handed_on(tmp_path: Path) -> None:
    save_bert(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    weights["encoder.layer.0.output.dense.bias"][3] = float("nan")
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    files = resolve_model(str(tmp_path))
    with Pool(files, space_of(files, "whole"), parse_devices("cpu:1")) as pool:
        [failed] = pool.encode(["a star"])
    assert isinstance(failed, FailedPaper)
    assert "not finite numbers" in failed.reason


def test_a_model_that_is_broken_altogether_stops_the_run_and_blames_no_paper(tmp_path: Path) -> None:
    save_bert(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    weights["encoder.layer.0.output.dense.bias"][3] = float("nan")
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    files = resolve_model(str(tmp_path))
    outcomes: list[Outcome] = []
    with (
        Pool(files, space_of(files, "whole"), parse_devices("cpu:1")) as pool,
        pytest.raises(NoDeviceLeft, match="in a row failed, the last with: the model gave vectors that are not finite"),
    ):
        outcomes.extend(pool.encode([f"a star {n}" for n in range(100)]))
    assert not outcomes


RUN = """
import os, sys, time
from arxiv_embed.encoding.model import resolve_model
from arxiv_embed.encoding.space import space_of
from arxiv_embed.gpu.devices import parse_devices
from arxiv_embed.gpu.pool import Pool
files = resolve_model(sys.argv[1])
with Pool(files, space_of(files, "fixed:8"), parse_devices("cpu:2"), batch_size=1, dtype="float32") as pool:
    print(*(lane.worker.pid for lane in pool._lanes), flush=True)
    for paper in pool.encode(["a star of the field"] * 1_000_000):
        pass
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_workers_end_with_the_process_whose_pool_they_are(bert: ModelFiles, how: signal.Signals) -> None:
    run = subprocess.Popen(
        [sys.executable, "-c", RUN, str(bert.folder)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert run.stdout is not None
    pids = [int(pid) for pid in run.stdout.readline().split()]
    assert len(pids) == 2
    assert all(alive(pid) for pid in pids)
    time.sleep(0.3)
    run.send_signal(how)
    try:
        _, said = run.communicate(timeout=60)
    finally:
        run.kill()
    assert eventually(lambda: not any(alive(pid) for pid in pids))
    if how == signal.SIGINT:
        assert said.count("Traceback") == 1  # the interrupt itself; neither threads nor workers add theirs
        assert said.strip().endswith("KeyboardInterrupt")
    else:
        assert said == ""
