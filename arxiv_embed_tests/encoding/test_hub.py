"""Models of the Hugging Face hub: one commit, safetensors only, and one sentence where they cannot be had."""

from __future__ import annotations

import errno
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub.file_download
import pytest
from huggingface_hub import constants
from huggingface_hub.utils import close_session

from arxiv_embed.encoding.hub import cached_commit, hub_files
from arxiv_embed.encoding.model import resolve_model
from arxiv_embed.errors import ArxivEmbedError
from arxiv_embed_tests.encoding.hub_server import Hub, serving
from arxiv_embed_tests.tiny_models import save_bert

NAME = "somebody/a-model"
FILES = {"config.json": b'{"hidden_size": 4}', "tokenizer.json": b"{}", "model.safetensors": b"weights"}
SHARDS = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
INDEX = json.dumps({"weight_map": dict(zip("ab", SHARDS, strict=True))}).encode()
SHARDED = {
    **{"config.json": b"{}", "tokenizer.json": b"[]", "model.safetensors.index.json": INDEX},
    **{shard: shard.encode() for shard in SHARDS},
}


def point_at(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub that this process asks, with a cache of its own."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setattr(time, "sleep", lambda _: None)  # between the attempts of huggingface_hub
    with serving() as served:
        point_at(served.url, monkeypatch)
        yield served
        close_session()


def said(name: str = NAME, *, local_only: bool = False) -> str:
    """The one sentence that a model is refused with, in which no secret stands."""
    with pytest.raises(ArxivEmbedError) as refused:
        hub_files(name, local_only=local_only)
    sentence = str(refused.value)
    assert sentence.endswith(".")
    assert ". " not in sentence
    assert "\n" not in sentence
    assert "secret" not in sentence
    return sentence


def held(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_what_was_fetched_by_a_tag_is_known_by_it(hub: Hub) -> None:
    commit = hub.push(FILES, "v1")
    assert cached_commit(f"{NAME}@v1") == ""
    hub_files(f"{NAME}@v1")
    assert cached_commit(f"{NAME}@v1") == commit
    assert cached_commit(f"{NAME}@v2") == ""


def test_all_files_are_of_one_commit_though_the_hub_moves_on_meanwhile(hub: Hub) -> None:
    commit = hub.push(SHARDED, "main")
    hub.upcoming = dict.fromkeys(SHARDED, b"newer")
    files = hub_files(NAME)
    assert (files.commit, files.folder.name, held(files.folder)) == (commit, commit, set(SHARDED))
    assert {path: (files.folder / path).read_bytes() for path in SHARDED} == SHARDED


def test_what_is_in_the_cache_is_used_without_asking_though_the_hub_has_moved_on(hub: Hub) -> None:
    commit = hub.push(FILES, "main")
    hub_files(NAME)
    hub.push({**FILES, "model.safetensors": b"newer"}, "main")
    hub.asked.clear()
    assert hub_files(NAME).commit == hub_files(f"{NAME}@{commit}").commit == commit
    assert hub_files(NAME, local_only=True).commit == commit
    assert hub.asked == []


def test_a_branch_a_tag_and_a_commit_are_revisions(hub: Hub) -> None:
    old = hub.push(FILES, "v1")
    new = hub.push({**FILES, "model.safetensors": b"newer"}, "main", "refs/pr/4")
    assert [hub_files(f"{NAME}@{revision}").commit for revision in ("v1", "refs/pr/4", old, new)] == [
        *(old, new),
        *(old, new),
    ]
    assert (hub_files(f"{NAME}@v1").folder / "model.safetensors").read_bytes() == b"weights"
    assert "was not fetched yet" in said(local_only=True)  # of main nothing was asked


def test_a_revision_is_no_part_of_a_model_s_name_wherever_it_is_written(hub: Hub, tmp_path: Path) -> None:
    save_bert(tmp_path / "bert")
    commit = hub.push({path: (tmp_path / "bert" / path).read_bytes() for path in held(tmp_path / "bert")}, "main", "v1")
    named = [resolve_model(name) for name in (NAME, f"{NAME}@v1", f"{NAME}@{commit}")]
    assert [(files.name, files.revision) for files in named] == [(NAME, commit)] * 3
    file = tmp_path / "m.toml"
    in_file = []
    for model, revision in (("", ""), ("", "v1"), ("@v1", ""), ("@v1", "v1"), (f"@{commit}", "")):
        file.write_text(f'model = "{NAME}{model}"\n' + (f'revision = "{revision}"\n' if revision else ""))
        in_file.append(resolve_model(str(file)))
    assert [(files.name, files.revision) for files in in_file] == [(str(file), commit)] * 5
    file.write_text(f'model = "{NAME}@v1"\nrevision = "main"\n')
    with pytest.raises(ArxivEmbedError, match="names two revisions, 'v1' in model = and 'main' in revision ="):
        resolve_model(str(file))


def test_only_safetensors_and_what_describes_them_is_fetched(hub: Hub) -> None:
    wanted = {
        **SHARDED,
        "tokenizer.model": b"m",
        "vocab.txt": b"v",
        "1_Pooling/config.json": b'{"n": 0}',
        "modules.json": b'[{"path": ""}, {"path": "2_Dense"}]',
        "2_Dense/config.json": b'{"n": 1}',
        "2_Dense/model.safetensors": b"d",
        "adapters/retrieval/adapter_config.json": b'{"n": 2}',
        "adapters/retrieval/adapter_model.safetensors": b"r",
    }
    others = [
        *("pytorch_model.bin", "model.pt", "modeling.py", "README.md", "consolidated.safetensors"),
        *("adapters/retrieval/adapter_model.bin", "checkpoint-9/model.safetensors", "onnx/config.json"),
        *("onnx/model.safetensors", "openvino/model.bin", "original/model.safetensors", "original/params.json"),
    ]
    hub.push({**wanted, **dict.fromkeys(others, b"other")}, "main")
    folder = hub_files(NAME).folder
    assert hub.fetched() == held(folder) == set(wanted)
    assert hub_files(NAME, code=True).folder == folder
    assert held(folder) == {*wanted, "modeling.py"}


def test_whole_weights_are_taken_where_shards_are_there_too(hub: Hub) -> None:
    hub.push({**SHARDED, "model.safetensors": b"whole"}, "main")
    assert not set(SHARDS) & held(hub_files(NAME).folder)


@pytest.mark.parametrize("listed", [True, False])
@pytest.mark.parametrize("lost", [SHARDS[1], "tokenizer.json"])
def test_a_half_fetched_model_is_completed_or_says_what_is_missing(hub: Hub, lost: str, listed: bool) -> None:
    commit = hub.push(SHARDED, "main")
    folder = hub_files(NAME).folder
    (folder / lost).resolve().unlink()
    (folder / lost).unlink()
    if not listed:  # as a cache that another version of huggingface_hub wrote
        shutil.rmtree(folder.parent.parent / "trees")
        huggingface_hub._tree_cache._IN_MEMORY_TREE_CACHE.clear()
    assert f"{lost} is missing in {folder}, was not fetched yet: run anything" in said(local_only=True)
    hub.fault = (503, {})
    assert f"{lost} is missing in {folder}, could not be had from the Hugging Face hub (it has a fault" in said()
    hub.fault = None
    hub.push(FILES, "main")  # the commit that was begun is the one that is completed
    hub.asked.clear()
    assert hub_files(NAME).commit == commit
    assert held(folder) == set(SHARDED)
    assert hub.fetched() == {lost}


def test_an_index_that_names_a_shard_that_is_not_there_is_refused(hub: Hub) -> None:
    hub.push({path: content for path, content in SHARDED.items() if path != SHARDS[0]}, "main")
    assert f"{SHARDS[0]} is missing" in said()


def test_a_repository_without_safetensors_is_told_apart_from_one_half_fetched(hub: Hub) -> None:
    hub.push({"config.json": b'{"hidden_size": 4}', "tokenizer.json": b"{}", "pytorch_model.bin": b"p"}, "main")
    for local_only in (False, True):
        with pytest.raises(ArxivEmbedError, match="has no safetensors weights"):
            resolve_model(NAME, local_only=local_only)


@pytest.mark.parametrize(
    ("status", "headers", "says"),
    [
        (401, {"X-Error-Code": "GatedRepo"}, "is gated: accept its terms on its page huggingface.co/somebody/a-model"),
        (403, {"X-Error-Code": "GatedRepo"}, "log in with `hf auth login` or set HF_TOKEN"),
        (401, {"X-Error-Code": "RepoNotFound"}, "has no model 'somebody/a-model', or keeps it private"),
        (401, {"X-Error-Message": "Invalid credentials in Authorization header"}, "does not know your token"),
        (403, {}, "your token may not read it"),
        (403, {"X-Error-Message": "Access to this resource is disabled."}, "is disabled there"),
        (429, {}, "asked too often"),
        (500, {}, "a fault of its own, status 500"),
        (503, {}, "a fault of its own, status 503"),
        (418, {}, "status 418"),
    ],
)
def test_what_the_hub_refuses_is_one_sentence(hub: Hub, status: int, headers: dict[str, str], says: str) -> None:
    hub.push(FILES, "main")
    hub.fault = (status, headers)
    assert says in said()
    hub.fault, hub.faults = None, {"model.safetensors": (status, headers)}
    assert says in said()


def test_an_unknown_model_and_an_unknown_revision_are_told_apart(hub: Hub) -> None:
    hub.push(FILES, "main")
    assert "has no model 'somebody/else', or keeps it private: check the name" in said("somebody/else")
    for revision in ("v9", "0" * 40):
        assert f"has no revision '{revision}'" in said(f"{NAME}@{revision}")


def test_a_hub_that_is_away_or_slow_or_no_hub_is_one_sentence(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.page = b"<html>Log in to the guests' network. </html>"
    assert "what answers is not a hub" in said()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        point_at(f"http://user:secret@127.0.0.1:{silent.getsockname()[1]}", monkeypatch)
        monkeypatch.setattr("arxiv_embed.encoding.hub.ANSWER_S", 0.1)
        close_session()
        assert "did not answer in time" in said()
    close_session()
    assert "(ConnectError): check the network" in said()


@pytest.mark.parametrize("silent", ["/revision/", "/tree/"])
def test_whatever_the_hub_is_asked_for_it_may_not_be_silent_for_ever(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, silent: str
) -> None:
    monkeypatch.setattr("arxiv_embed.encoding.hub.ANSWER_S", 0.1)
    hub.push(FILES, "main")
    hub.silent = silent
    assert "did not answer in time" in said()
    assert any(silent in path for path in hub.asked)
    hub.silent = None
    assert held(hub_files(NAME).folder) == set(FILES)


def test_a_file_of_another_size_than_announced_is_not_kept(hub: Hub) -> None:
    hub.push(FILES, "main")
    hub.sizes["model.safetensors"] = 9
    assert "another size than announced" in said()
    hub.sizes.clear()
    assert (hub_files(NAME).folder / "model.safetensors").read_bytes() == b"weights"


@pytest.mark.parametrize(("number", "says"), [(errno.ENOSPC, "is full"), (errno.EACCES, "cannot be written to")])
def test_a_disk_that_takes_no_file_is_one_sentence(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, number: int, says: str
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    hub.push(FILES, "main")
    with monkeypatch.context() as patch:
        patch.setattr(huggingface_hub.file_download, "http_get", refuse)
        assert says in said()
    assert held(hub_files(NAME).folder) == set(FILES)


@pytest.mark.parametrize("name", ["a/b/c", "no such", "x" * 200, "a/b@", "a/b@../../c", "a/b@c d", "@main"])
def test_a_name_that_the_hub_cannot_have_is_refused(hub: Hub, name: str) -> None:
    assert f"'{name}'" in said(name)
    assert hub.asked == []


def test_a_url_is_no_name_and_is_not_repeated() -> None:
    assert said("https://user:secret@huggingface.co/a/b") == ("A model is not named by a URL: write it as owner/model.")


RESOLVE = """
import sys
from arxiv_embed.encoding.model import resolve_model
from arxiv_embed.errors import ArxivEmbedError
try:
    files = resolve_model("somebody/a-model")
    print(files.name, files.revision, files.dimensions)
except ArxivEmbedError as error:
    print(error)
print(sorted({"torch", "transformers"} & set(sys.modules)))
"""


def offline(home: Path) -> list[str]:
    """What a process without network prints, which has a hub's cache of its own."""
    environment = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(home), "PYTHONPATH": os.environ.get("PYTHONPATH", "")}
    done = subprocess.run([sys.executable, "-c", RESOLVE], env=environment, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def test_offline_a_model_in_the_cache_is_used_and_any_other_says_what_is_missing(tmp_path: Path) -> None:
    assert offline(tmp_path) == [
        "Model 'somebody/a-model' could not be had from the Hugging Face hub (HF_HUB_OFFLINE is set): "
        "unset it to fetch the model, or give a local folder.",
        "[]",
    ]
    commit = "0123456789012345678901234567890123456789"
    cache = tmp_path / "hub" / "models--somebody--a-model"
    folder = cache / "snapshots" / commit
    folder.mkdir(parents=True)
    save_bert(folder)
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text(commit)
    assert offline(tmp_path) == [f"somebody/a-model {commit} 32", "[]"]
    (folder / "model.safetensors").unlink()  # as a download that was broken off leaves it
    assert f"model.safetensors is missing in {folder}" in offline(tmp_path)[0]
