"""The other tools that `bench embed` measures: real processes in an environment of their own, a made-up tool in it."""

from __future__ import annotations

import sys
import sysconfig
from pathlib import Path

import numpy as np
import pytest

from arxiv_embed.encoding.model import ModelFiles, resolve_model
from arxiv_embed.settings import DEFAULT_MODEL
from bench.embed import PAPERS, Turns, beside_peers, worst_cosine
from bench.metric import LeftOut, Metric
from bench.peers import PEERS, Peer, PeerFailed, Timed, time_peer

PEER = Peer("infinity", "infinity", "infinity-torch")

ENGINE = """
import json, os, pathlib
print("what a tool prints is no answer", flush=True)

class EngineArgs:
    def __init__(self, model_name_or_path, **rest):
        limits = pathlib.Path(model_name_or_path, "sentence_bert_config.json")
        self.max_tokens = json.loads(limits.read_text())["max_seq_length"]

class AsyncEmbeddingEngine:
    from_args = classmethod(lambda cls, args: cls(args))

    def __init__(self, args):
        self.args = args

    async def astart(self):
        pass

    async def embed(self, sentences):
        if "fall over" in sentences:
            os._exit(3)
        return [[self.args.max_tokens, len(text)] for text in sentences], 0
"""


@pytest.fixture(scope="module")
def files() -> ModelFiles:
    return resolve_model(DEFAULT_MODEL)


@pytest.fixture
def environments(tmp_path: Path) -> Path:
    """One environment, with this one's packages, without the tool."""
    environment = tmp_path / "infinity"
    packages = environment / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"
    packages.mkdir(parents=True)
    (packages / "rest.pth").write_text(sysconfig.get_path("purelib"))
    (environment / "bin").mkdir()
    (environment / "bin" / "python").symlink_to(Path(sys.executable).resolve())
    (environment / "pyvenv.cfg").write_text(f"home = {Path(sys.executable).resolve().parent}\n")
    (environment / ".ready").touch()
    return tmp_path


def _install(environments: Path) -> None:
    [packages] = environments.glob("infinity/lib/*/site-packages")
    (packages / "infinity_emb.py").write_text(ENGINE)


def test_a_peer_is_timed_and_gives_its_vectors_at_the_token_limit_asked_for(
    files: ModelFiles, environments: Path
) -> None:
    _install(environments)
    timed = time_peer(PEER, files, 300, ["one", "three"], ["text"] * 5, [], environments)
    assert timed.seconds > 0
    assert timed.vectors.tolist() == [[300, 3], [300, 5]]


def test_a_peer_that_is_not_installed_says_how_to_get_it(files: ModelFiles, tmp_path: Path) -> None:
    with pytest.raises(PeerFailed, match="make --keep-going peers"):
        time_peer(PEER, files, 300, ["one"], ["text"], [], tmp_path)


def test_a_peer_that_cannot_start_says_why(files: ModelFiles, environments: Path) -> None:
    with pytest.raises(PeerFailed, match="No module named 'infinity_emb'"):
        time_peer(PEER, files, 300, ["one"], ["text"], [], environments)


def test_a_peer_that_ends_in_the_middle_is_no_hang(files: ModelFiles, environments: Path) -> None:
    _install(environments)
    with pytest.raises(PeerFailed, match="exit code 3, and last said: what a tool prints"):
        time_peer(PEER, files, 300, ["one"], ["text", "fall over"], [], environments)


def test_a_peer_that_failed_is_listed_with_the_reason_beside_those_that_were_timed() -> None:
    vectors = np.array([[1.0, 0.0], [0.6, 0.8]], np.float32)
    turns = Turns(bare=[10.0, 20.0, 40.0])
    turns.peers = {peer: (0, PeerFailed("it failed: so and so")) for peer in PEERS}
    turns.peers[PEERS[0]] = (1, Timed(50.0, vectors))
    rate, times, cosine, *rest = beside_peers(turns, vectors[::-1])
    assert isinstance(times, Metric)
    assert (rate.cells[0], times.value) == (f"{PAPERS / 50.0:.5g}", 2.5)
    assert isinstance(cosine, Metric)
    assert cosine.value == pytest.approx(0.6)
    assert rest == [LeftOut(peer.name, "it failed: so and so") for peer in PEERS[1:]]
    assert rest[0].to_json()["left_out"] == "it failed: so and so"


def test_the_worst_cosine_is_of_vectors_in_the_same_rows_whatever_their_length() -> None:
    one = np.array([[2.0, 0.0], [0.0, 5.0]], np.float32)
    other = np.array([[1.0, 0.0], [3.0, 4.0]], np.float32)
    assert worst_cosine(one, other) == pytest.approx(0.8)
