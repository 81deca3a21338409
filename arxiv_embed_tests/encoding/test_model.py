"""Model files: what a folder or a name says of how a model is used, and one sentence where it says too little."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import transformers

from arxiv_embed.encoding.model import resolve_model
from arxiv_embed.errors import ArxivEmbedError
from arxiv_embed_tests.tiny_models import bytepairs, save, save_bert, save_distilbert, save_pooling


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bert")
    save_bert(folder)
    return folder


@pytest.fixture
def copy(bert: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bert, tmp_path / "copy"))


def change_config(folder: Path, **changes: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


@pytest.mark.parametrize("name", ["all-MiniLM-L6-v2", "sentence-transformers/all-MiniLM-L6-v2"])
def test_the_bundled_model_has_one_identity_under_both_its_names(name: str) -> None:
    files = resolve_model(name)
    assert (files.name, files.dimensions, files.position_limit) == ("all-MiniLM-L6-v2", 384, 512)
    assert (files.pooling, files.prompts, files.causal, files.shorter) == ("mean", {}, False, ())


def test_a_folder_is_a_model(bert: Path) -> None:
    files = resolve_model(str(bert))
    assert (files.folder, files.architecture, files.dimensions, files.position_limit) == (bert, "bert", 32, 64)
    assert files.pooling == "mean"


def test_the_width_is_found_under_any_architecture_s_name_for_it(tmp_path: Path) -> None:
    save_distilbert(tmp_path)
    assert resolve_model(str(tmp_path)).dimensions == 24


def test_the_width_and_the_positions_of_a_bloom_are_found_under_its_older_names(copy: Path) -> None:
    change_config(copy, model_type="bloom", hidden_size=None, max_position_embeddings=None, n_embed=48, seq_length=96)
    files = resolve_model(str(copy))
    assert (files.dimensions, files.position_limit, files.causal) == (48, 96, True)


@pytest.mark.parametrize(("padding", "limit"), [(1, 62), (None, 62), (0, 63)])
def test_positions_that_begin_behind_the_padding_token_are_fewer(copy: Path, padding: int | None, limit: int) -> None:
    change_config(copy, model_type="mpnet", pad_token_id=padding)
    assert resolve_model(str(copy)).position_limit == limit


@pytest.mark.parametrize(("mode", "pooling"), [("mean_tokens", "mean"), ("cls_token", "cls"), ("lasttoken", "last")])
def test_the_pooling_is_what_the_model_says(copy: Path, mode: str, pooling: str) -> None:
    save_pooling(copy, mode)
    assert resolve_model(str(copy)).pooling == pooling


def test_the_pooling_s_folder_is_the_one_that_the_modules_name(copy: Path) -> None:
    save_pooling(copy, "cls_token")
    (copy / "1_Pooling").rename(copy / "2_Pool")
    modules = [
        {"idx": 0, "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "path": "2_Pool", "type": "sentence_transformers.models.Pooling"},
    ]
    (copy / "modules.json").write_text(json.dumps(modules))
    assert resolve_model(str(copy)).pooling == "cls"


def test_prompts_are_what_the_model_says(copy: Path) -> None:
    prompts = {"prompts": {"query": "query: ", "passage": "passage: "}}
    (copy / "config_sentence_transformers.json").write_text(json.dumps(prompts))
    files = resolve_model(str(copy))
    assert [files.prompt("retrieval", role) for role in ("query", "document")] == ["query: ", "passage: "]


def test_other_weights_are_another_revision(bert: Path, copy: Path) -> None:
    assert resolve_model(str(copy)).revision == resolve_model(str(bert)).revision
    weights = bytearray((copy / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (copy / "model.safetensors").write_bytes(weights)
    assert resolve_model(str(copy)).revision != resolve_model(str(bert)).revision


@pytest.mark.parametrize(
    ("file", "says"),
    [
        ("config.json", r"has no config\.json"),
        ("tokenizer.json", r"has no tokenizer\.json"),
        ("model.safetensors", "has no safetensors weights"),
    ],
)
def test_a_folder_that_lacks_a_file_says_which(copy: Path, file: str, says: str) -> None:
    (copy / file).unlink()
    with pytest.raises(ArxivEmbedError, match=says):
        resolve_model(str(copy))


@pytest.mark.parametrize("file", ["config.json", "modules.json", "1_Pooling/config.json", "sentence_bert_config.json"])
@pytest.mark.parametrize("content", ['{"a": ', '"text"', "\udcff"])
def test_a_folder_with_a_broken_file_says_which(copy: Path, file: str, content: str) -> None:
    save_pooling(copy, "mean_tokens")
    (copy / file).write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(ArxivEmbedError, match=f"broken {Path(file).name}"):
        resolve_model(str(copy))


def test_a_configuration_without_a_width_is_refused(copy: Path) -> None:
    config = json.loads((copy / "config.json").read_text())
    del config["hidden_size"]
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(ArxivEmbedError, match="does not say how wide"):
        resolve_model(str(copy))


@pytest.mark.parametrize(
    ("kind", "config"),
    [
        ("T5", {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 1, "num_heads": 4}),
        ("T5Encoder", {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 1, "num_heads": 4}),
        ("Bart", {"d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 64, "pad_token_id": 0}),
    ],
)
def test_a_model_of_an_encoder_and_a_decoder_is_refused_by_its_architecture(
    tmp_path: Path, kind: str, config: dict[str, int]
) -> None:
    name = kind.removesuffix("Encoder")
    save(getattr(transformers, f"{kind}Model"), getattr(transformers, f"{name}Config"), tmp_path, bytepairs(), config)
    with pytest.raises(ArxivEmbedError, match=f"of the architecture {name.lower()}, an encoder and a decoder, which"):
        resolve_model(str(tmp_path))


def test_a_layer_behind_the_pooling_is_refused(copy: Path) -> None:
    modules = [{"idx": 2, "path": "2_Dense", "type": "sentence_transformers.models.Dense"}]
    (copy / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(ArxivEmbedError, match="Dense layer"):
        resolve_model(str(copy))


@pytest.mark.parametrize("modes", [["mean_tokens", "cls_token"], ["max_tokens"]])
def test_a_pooling_that_is_not_supported_is_refused(copy: Path, modes: list[str]) -> None:
    pooling = {f"pooling_mode_{mode}": True for mode in modes}
    (copy / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    with pytest.raises(ArxivEmbedError, match="pools in a way"):
        resolve_model(str(copy))


@pytest.mark.parametrize("name", ["./nowhere", "/no/where", "~/nowhere/at/all"])
def test_a_folder_that_is_not_there_is_named(name: str) -> None:
    with pytest.raises(ArxivEmbedError, match="There is no model folder"):
        resolve_model(name)


def test_reading_a_model_s_files_imports_neither_torch_nor_transformers() -> None:
    code = (
        "import sys, arxiv_embed.encoding.space as space, arxiv_embed.encoding.model as model;"
        "space.space_of(model.resolve_model('all-MiniLM-L6-v2'), 'fixed:64');"
        "print(sorted({'torch', 'transformers'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_other_safetensors_beside_a_model_s_weights_are_not_its(bert: Path, copy: Path) -> None:
    before = resolve_model(str(bert)).revision
    (copy / "other.safetensors").write_bytes(b"of something else")
    assert resolve_model(str(copy)).revision == before


def test_an_adapter_beside_the_weights_is_refused(copy: Path) -> None:
    (copy / "adapter_config.json").write_text("{}")
    with pytest.raises(ArxivEmbedError, match="has an adapter beside its weights"):
        resolve_model(str(copy))


@pytest.mark.parametrize(
    "changes",
    [
        {"hidden_size": "wide"},
        {"max_position_embeddings": "many"},
        {"max_position_embeddings": -1},
        {"text_config": 3},
        {"auto_map": 3},
    ],
)
def test_a_configuration_that_holds_what_does_not_belong_there_is_one_sentence(
    copy: Path, changes: dict[str, object]
) -> None:
    change_config(copy, **changes)
    with pytest.raises(ArxivEmbedError) as error:
        resolve_model(str(copy))
    assert "\n" not in str(error.value)


def test_rotary_positions_that_a_longer_text_would_change_end_before_they_do(copy: Path) -> None:
    scaling = {"rope_type": "longrope", "original_max_position_embeddings": 40}
    change_config(copy, rope_scaling=scaling)
    assert resolve_model(str(copy)).position_limit == 40


@pytest.mark.parametrize(
    ("file", "said", "says"),
    [
        ("sentence_bert_config.json", {"do_lower_case": True}, "small letters"),
        ("sentence_bert_config.json", {"max_seq_length": -1}, "pooled from -1 tokens"),
        (
            "1_Pooling/config.json",
            {"pooling_mode_mean_tokens": True, "include_prompt": False},
            "prompt out of the pool",
        ),
    ],
)
def test_what_a_model_asks_for_and_cannot_have_is_refused(
    copy: Path, file: str, said: dict[str, object], says: str
) -> None:
    (copy / file).write_text(json.dumps(said))
    with pytest.raises(ArxivEmbedError, match=says):
        resolve_model(str(copy))


def test_the_default_prompt_is_for_queries_and_documents(copy: Path) -> None:
    said = {"prompts": {"STS": "s: ", "query": "q: "}, "default_prompt_name": "STS"}
    (copy / "config_sentence_transformers.json").write_text(json.dumps(said))
    files = resolve_model(str(copy))
    assert [files.prompt("retrieval", role) for role in ("query", "document")] == ["q: ", "s: "]


@pytest.mark.parametrize(
    ("said", "query", "document"),
    [
        ({"prompts": {"query": "q: ", "passage": "p: "}, "default_prompt_name": "query"}, "q: ", "p: "),
        ({"prompts": {"query": "q: "}, "default_prompt_name": "query"}, "q: ", "q: "),
        ({"prompts": {"query": "q: ", "corpus": "c: "}}, "q: ", "c: "),
        ({"prompts": {"corpus": "c: ", "passage": "p: ", "document": ""}}, "", ""),
        ({"prompts": {"retrieval.passage": "r: ", "document": "d: "}}, "", "r: "),
    ],
)
def test_a_role_has_its_prompt_by_whatever_name(copy: Path, said: dict[str, object], query: str, document: str) -> None:
    (copy / "config_sentence_transformers.json").write_text(json.dumps(said))
    files = resolve_model(str(copy))
    assert [files.prompt("retrieval", role) for role in ("query", "document")] == [query, document]


def test_an_empty_prompt_of_a_model_file_takes_the_model_s_away(copy: Path, tmp_path: Path) -> None:
    prompts = {"prompts": {"query": "query: ", "passage": "passage: "}}
    (copy / "config_sentence_transformers.json").write_text(json.dumps(prompts))
    file = tmp_path / "bare.toml"
    file.write_text(f'model = "{copy}"\n[prompts]\ndocument = ""\n')
    files = resolve_model(str(file))
    assert [files.prompt("retrieval", role) for role in ("query", "document")] == ["query: ", ""]


@pytest.mark.parametrize("key", ["matryoshka_dimensions", "matryoshka_dims"])
def test_vectors_may_be_cut_to_what_the_configuration_says(copy: Path, key: str) -> None:
    path = copy / "config.json"
    config = json.loads(path.read_bytes())
    path.write_text(json.dumps({**config, key: [16, config["hidden_size"], 8]}))
    assert resolve_model(str(copy)).shorter == (8, 16)
