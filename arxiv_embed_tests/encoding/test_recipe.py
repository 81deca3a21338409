"""Recipes: what a user's model file says goes before what a model's own files say, and errors are one sentence."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertModel

from arxiv_embed.encoding.bert import PackedBert
from arxiv_embed.encoding.model import resolve_model
from arxiv_embed.encoding.recipe import read_model_file
from arxiv_embed.encoding.space import space_of
from arxiv_embed.encoding.transformer import load_model
from arxiv_embed.errors import ArxivEmbedError
from arxiv_embed_tests.tiny_models import save_bert

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_bert(tmp_path / "bert")
    return tmp_path / "bert"


def model_file(folder: Path, text: str) -> Path:
    path = folder.parent / "model.toml"
    path.write_text(text)
    return path


def test_a_model_that_does_not_say_how_it_is_pooled_is_refused_and_a_model_file_mends_it(folder: Path) -> None:
    (folder / "1_Pooling" / "config.json").unlink()
    with pytest.raises(
        ArxivEmbedError, match=r"does not say how the states of its tokens become one vector .* model file"
    ):
        resolve_model(str(folder))
    files = resolve_model(str(model_file(folder, 'model = "bert"\npooling = "cls"\n')))
    assert (files.pooling, files.folder) == ("cls", folder)


def test_a_model_file_goes_before_the_model_s_own_files(folder: Path) -> None:
    said = {"prompts": {"query": "q: ", "document": "d: "}}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(said))
    path = model_file(
        folder,
        'model = "bert"\npooling = "last"\nmax_tokens = 20\npositions = 48\ndimensions = [16, 8, 32]\ncausal = true\n'
        'fallback = "all-MiniLM-L6-v2"\n[prompts]\nquery = "find: "\n',
    )
    files = resolve_model(str(path))
    assert files.name == str(path)
    assert (files.pooling, files.advised_tokens, files.position_limit, files.causal) == ("last", 20, 48, True)
    assert (files.shorter, files.fallback, files.remote_code) == ((8, 16), "all-MiniLM-L6-v2", False)
    assert files.prompt("retrieval", "query") == "find: "
    assert space_of(files, "whole").fingerprint != space_of(resolve_model(str(folder)), "whole").fingerprint


def test_prompts_of_other_tasks_are_tasks(folder: Path) -> None:
    prompts = {"query": "q: ", "passage": "p: ", "clustering": "c: ", "code.query": "cq: "}
    (folder / "config_sentence_transformers.json").write_text(json.dumps({"prompts": prompts}))
    files = resolve_model(str(folder))
    assert files.tasks == ("retrieval", "clustering", "code")
    assert [files.prompt("clustering", role) for role in ("query", "document")] == ["c: ", "c: "]
    assert [files.prompt("retrieval", role) for role in ("query", "document")] == ["q: ", "p: "]


def test_a_model_for_vectors_of_any_length_is_refused_unless_a_model_file_says_otherwise(folder: Path) -> None:
    (folder / "config_sentence_transformers.json").write_text(json.dumps({"similarity_fn_name": "dot"}))
    with pytest.raises(ArxivEmbedError, match="not of unit length, and search here is by cosine"):
        resolve_model(str(folder))
    assert resolve_model(str(model_file(folder, 'model = "bert"\nnormalize = true\n'))).pooling == "mean"


CODE = """
from transformers import BertConfig, BertModel

class OwnConfig(BertConfig):
    model_type = "own"

class OwnModel(BertModel):
    config_class = OwnConfig

    def forward(self, *arguments, **others):
        output = super().forward(*arguments, **others)
        output.last_hidden_state = -output.last_hidden_state
        return output
"""


@pytest.fixture
def with_code(folder: Path) -> Path:
    """The folder of a model that is nothing without its own code."""
    config = json.loads((folder / "config.json").read_text())
    auto_map = {"AutoConfig": "own.OwnConfig", "AutoModel": "own.OwnModel"}
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "own", "auto_map": auto_map}))
    (folder / "own.py").write_text(CODE)
    return folder


def pinned(folder: Path) -> str:
    """The revision that the refusal names."""
    path = model_file(folder, f'model = "bert"\nremote_code = true\nrevision = "{COMMIT}"\n')
    with pytest.raises(ArxivEmbedError, match="read that code, then write revision = ") as refused:
        resolve_model(str(path))
    return str(refused.value).split('"')[1]


def test_remote_code_is_run_where_a_model_file_asks_for_it_and_pins_it(
    with_code: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    path = model_file(with_code, f'model = "bert"\nremote_code = true\nrevision = "{pinned(with_code)}"\n')
    model = load_model(resolve_model(str(path)), "retrieval", "cpu", torch.float32)
    ids = torch.arange(5)[None]
    plain = BertModel.from_pretrained(with_code, config=BertConfig.from_pretrained(with_code)).eval()
    assert torch.allclose(model.eval()(ids).last_hidden_state, -plain(ids).last_hidden_state, atol=1e-6)


def test_code_of_a_model_s_own_may_make_one_of_an_encoder_and_a_decoder(with_code: Path) -> None:
    config = json.loads((with_code / "config.json").read_text())
    (with_code / "config.json").write_text(json.dumps({**config, "is_encoder_decoder": True}))
    path = model_file(with_code, f'model = "bert"\nremote_code = true\nrevision = "{pinned(with_code)}"\n')
    assert resolve_model(str(path)).remote_code


def test_remote_code_is_not_run_unasked(with_code: Path) -> None:
    with pytest.raises(ArxivEmbedError, match="comes with code of its own: read it, and say"):
        resolve_model(str(with_code))
    files = resolve_model(str(model_file(with_code, 'model = "bert"\nremote_code = false\n')))
    with pytest.raises(ValueError, match="trust_remote_code"):
        load_model(files, "retrieval", "cpu", torch.float32)


def test_code_of_a_bert_s_own_is_not_passed_by_for_our_own(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "auto_map": {"AutoModel": "own.OwnModel"}}))
    path = model_file(folder, f'model = "bert"\nremote_code = true\nrevision = "{pinned(folder)}"\n')
    assert not PackedBert.fits(resolve_model(str(path)))


def test_a_model_file_s_prompts_stand_beside_the_model_s_own_and_make_tasks(folder: Path) -> None:
    said = {"prompts": {"query": "q: ", "document": "d: "}}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(said))
    path = model_file(folder, 'model = "bert"\n[prompts]\nquery = "find: "\nclustering = "c: "\n"code.query" = "x: "\n')
    files = resolve_model(str(path))
    assert files.tasks == ("retrieval", "clustering", "code")
    assert [files.prompt("retrieval", role) for role in ("query", "document")] == ["find: ", "d: "]
    assert [files.prompt("code", role) for role in ("query", "document")] == ["x: ", "d: "]


@pytest.mark.parametrize("task", ["clustering", "s2p_query", "qa_query", "search_document", "doc", "summary"])
def test_tasks_of_a_model_file_have_any_name(folder: Path, task: str) -> None:
    path = model_file(folder, f'model = "bert"\n[prompts]\n{task} = "x: "\n"{task}.passage" = "y: "\n')
    assert resolve_model(str(path)).tasks == ("retrieval", task)


def test_prompts_of_a_model_s_own_files_have_any_name(folder: Path) -> None:
    prompts = {"qurey": "q: ", "retrieval.docment": "d: ", "Query": "Q: "}
    (folder / "config_sentence_transformers.json").write_text(json.dumps({"prompts": prompts}))
    assert resolve_model(str(model_file(folder, 'model = "bert"\n[prompts]\nquery = "x: "\n'))).prompts.items() >= (
        prompts.items()
    )


def test_more_positions_than_the_model_has_are_refused(folder: Path) -> None:
    with pytest.raises(ArxivEmbedError, match="has positions for 64 tokens, not 8192"):
        resolve_model(str(model_file(folder, 'model = "bert"\npositions = 8192\n')))


def test_remote_code_that_has_changed_since_it_was_read_is_refused(with_code: Path) -> None:
    path = model_file(with_code, f'model = "bert"\nremote_code = true\nrevision = "{pinned(with_code)}"\n')
    assert resolve_model(str(path)).remote_code
    (with_code / "own.py").write_text(CODE + "\n# and more")
    with pytest.raises(ArxivEmbedError, match="of another revision than lies in"):
        resolve_model(str(path))


@pytest.mark.parametrize("revision", ["", 'revision = "main"'])
def test_remote_code_of_the_hub_needs_a_full_commit(tmp_path: Path, revision: str) -> None:
    path = tmp_path / "m.toml"
    path.write_text(f'model = "owner/name"\nremote_code = true\n{revision}\n')
    with pytest.raises(ArxivEmbedError, match="remote code without a pinned revision"):
        resolve_model(str(path))


def test_remote_code_of_another_repository_is_refused(with_code: Path) -> None:
    config = json.loads((with_code / "config.json").read_text())
    config["auto_map"]["AutoModel"] = "somebody/else--own.OwnModel"
    (with_code / "config.json").write_text(json.dumps(config))
    path = model_file(with_code, f'model = "bert"\nremote_code = true\nrevision = "{COMMIT}"\n')
    with pytest.raises(ArxivEmbedError, match="in another repository"):
        resolve_model(str(path))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("model = ", "cannot be read"),
        ('pooling = "mean"', "names no model"),
        ('model = "bert"\npoling = "mean"', "unknown key 'poling'"),
        ('model = "bert"\npooling = "max"', "'max' is none of mean, cls, last"),
        ('model = "bert"\npooling = 3', "'pooling' in the model file .* is not of type str"),
        ('model = "bert"\npositions = true', "'positions' in the model file .* is not of type int"),
        ('model = "bert"\nmax_tokens = 0', "must be above 0"),
        ('model = "bert"\ndimensions = [8, -1]', "dimensions are no whole numbers above 0"),
        ('model = "bert"\nnormalize = false', "normalize = false is not supported"),
        ('model = "bert"\n[prompts]\nquery = 3', "a prompt is no text"),
        *(
            (
                f'model = "bert"\n[prompts]\n"{name}" = "x: "',
                f"'{name}': it may be for query, document, passage, corpus, a task",
            )
            for name in ("qurey", "Query", "docment", "documents", "passages", "retrieval.docment", "a.b.query", "")
        ),
    ],
)
def test_a_model_file_with_a_mistake_says_which(folder: Path, text: str, says: str) -> None:
    with pytest.raises(ArxivEmbedError, match=says) as error:
        read_model_file(model_file(folder, text))
    assert "\n" not in str(error.value)


def test_a_model_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArxivEmbedError, match=r"There is no model file .*none\.toml"):
        resolve_model(str(tmp_path / "none.toml"))
