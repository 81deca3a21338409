"""Jina v4: both layouts of its files give the vectors of transformers and PEFT; text only, whole or not at all."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from arxiv_embed.encoding import transformer
from arxiv_embed.encoding.batch import pack
from arxiv_embed.encoding.encoder import TextEncoder
from arxiv_embed.encoding.model import resolve_model
from arxiv_embed.encoding.qwen_vl import load_text_model
from arxiv_embed.encoding.space import space_of
from arxiv_embed.encoding.tokens import PaperTokenizer
from arxiv_embed.encoding.transformer import TransformersEncoder
from arxiv_embed.encoding.weights import loaded_bytes
from arxiv_embed.errors import ArxivEmbedError
from arxiv_embed_tests.encoding.architectures import TEXTS
from arxiv_embed_tests.encoding.tiny_jina import CUTS, TASKS, WIDTH, TinyJina, drop_weights

LEAST_COSINE = 0.99999
PASSAGE = {"retrieval": "Passage: ", "text-matching": "Query: ", "code": "Passage: "}


@pytest.fixture(scope="module")
def jina() -> TinyJina:
    return TinyJina()


@pytest.fixture(scope="module")
def base(jina: TinyJina, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base") / "jina-embeddings-v4"
    jina.save_base(folder)
    return folder


def paper_vectors(folder: Path, task: str, dimensions: int | None = None) -> np.ndarray:
    files = resolve_model(str(folder))
    space = space_of(files, "whole", task=task, dimensions=dimensions)
    papers = PaperTokenizer(files, space).tokenize(TEXTS)
    vectors = TransformersEncoder(files, space, "cpu", torch.float32).encode(pack(papers))
    return vectors[::2]  # the paper's, not its chunk's


def least_cosine(ours: np.ndarray, theirs: torch.Tensor) -> float:
    return float((ours * theirs.numpy()).sum(1).min())


@pytest.mark.parametrize("task", TASKS)
def test_the_base_repository_gives_each_task_s_vectors_as_peft_does(jina: TinyJina, base: Path, task: str) -> None:
    assert least_cosine(paper_vectors(base, task), jina.vectors(TEXTS, task, PASSAGE[task])) >= LEAST_COSINE
    others = [paper_vectors(base, other) for other in TASKS if other != task]
    assert all((paper_vectors(base, task) * other).sum(1).max() < 0.99 for other in others)


@pytest.mark.parametrize("old_names", [True, False], ids=["transformers 4", "transformers 5"])
@pytest.mark.parametrize("task", TASKS)
def test_a_merged_checkpoint_gives_the_same(jina: TinyJina, tmp_path: Path, task: str, old_names: bool) -> None:
    folder = tmp_path / f"jina-embeddings-v4-vllm-{task}"
    jina.save_merged(folder, task, old_names=old_names)
    files = resolve_model(str(folder))
    assert files.tasks == (task,)
    assert least_cosine(paper_vectors(folder, task), jina.vectors(TEXTS, task, PASSAGE[task])) >= LEAST_COSINE


@pytest.mark.parametrize("dimensions", CUTS)
def test_shorter_vectors_are_cut_and_of_unit_length_again(jina: TinyJina, base: Path, dimensions: int) -> None:
    ours = paper_vectors(base, "retrieval", dimensions)
    assert ours.shape[1] == dimensions
    assert least_cosine(ours, jina.vectors(TEXTS, "retrieval", "Passage: ", dimensions)) >= LEAST_COSINE


def test_queries_have_their_own_prefix(jina: TinyJina, base: Path) -> None:
    files = resolve_model(str(base))
    for task in TASKS:
        queries = TextEncoder(files, space_of(files, "whole", task=task), dtype="float32").encode_queries(TEXTS)
        assert least_cosine(queries, jina.vectors(TEXTS, task, "Query: ")) >= LEAST_COSINE


def test_what_is_known_of_it_needs_no_files_of_sentence_transformers(base: Path) -> None:
    files = resolve_model(str(base))
    assert (files.pooling, files.causal, files.tasks) == ("mean", True, TASKS)
    assert (files.dimensions, files.shorter, files.position_limit) == (WIDTH, (8, 16), 512)
    assert "licensed for research" in files.licence


@pytest.mark.parametrize("name", ["retrival", "retrival.query"])
def test_a_prompt_for_a_task_that_it_has_not_is_refused(base: Path, tmp_path: Path, name: str) -> None:
    file = tmp_path / "m.toml"
    file.write_text(f'model = "{base}"\n[prompts]\n"code.query" = "x: "\n"{name}" = "y: "\n')
    with pytest.raises(ArxivEmbedError, match=f"for '{name}', .* no such task: it has retrieval, text-matching, code"):
        resolve_model(str(file))


def test_the_full_model_s_positions_end_where_it_was_trained_to(base: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(base, tmp_path / "full"))
    config = json.loads((folder / "config.json").read_text()) | {"max_position_embeddings": 128_000}
    (folder / "config.json").write_text(json.dumps(config))
    assert resolve_model(str(folder)).position_limit == 32_768


def test_vision_head_and_projector_are_never_read(base: Path, jina: TinyJina, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(base, tmp_path / "text"))
    for file in sorted(folder.glob("*.safetensors")):
        others = [name for name in load_file(file) if name.startswith(("visual.", "multi_vector_projector."))]
        assert others
        drop_weights(folder, file.name, *others)
    model = load_text_model(folder, "code", "cpu", torch.float32)
    assert {name.split(".")[0] for name, _ in model.named_parameters()} == {"embed_tokens", "layers", "norm"}
    assert least_cosine(paper_vectors(folder, "code"), jina.vectors(TEXTS, "code", "Passage: ")) >= LEAST_COSINE


def test_the_weights_that_count_for_its_memory_are_those_that_are_loaded(
    base: Path, jina: TinyJina, tmp_path: Path
) -> None:
    merged = [tmp_path / "merged" / f"jina-embeddings-v4-vllm-{task}" for task in TASKS[:2]]
    for folder, task, old_names in zip(merged, TASKS, (True, False), strict=False):
        jina.save_merged(folder, task, old_names=old_names)
    for folder in (base, *merged):
        loaded = load_text_model(folder, resolve_model(str(folder)).tasks[0], "cpu", torch.float32)
        assert loaded_bytes(folder) == sum(one.nbytes for one in loaded.parameters())


@pytest.mark.parametrize("content", [b"", b"\xff" * 99, b"\x04" + bytes(7) + b"[{}]"])
def test_weights_whose_size_cannot_be_read_are_named(base: Path, tmp_path: Path, content: bytes) -> None:
    folder = Path(shutil.copytree(base, tmp_path / "broken"))
    broken = folder / "model-00002-of-00002.safetensors"
    broken.write_bytes(content)
    with pytest.raises(ArxivEmbedError, match=f"The weights in {broken} cannot be read: fetch"):
        loaded_bytes(folder)


def test_bfloat16_is_near(base: Path) -> None:
    files = resolve_model(str(base))
    space = space_of(files, "whole")
    papers = PaperTokenizer(files, space).tokenize(TEXTS)
    near = TransformersEncoder(files, space, "cpu", torch.bfloat16).encode(pack(papers))
    assert (near[::2] * paper_vectors(base, "retrieval")).sum(1).min() > 0.99


def test_another_adapter_is_another_revision(base: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(base, tmp_path / "other"))
    assert resolve_model(str(folder)).revision == resolve_model(str(base)).revision
    adapter = folder / "adapters" / "adapter_model.safetensors"
    save_file({name: 2 * value for name, value in load_file(adapter).items()}, adapter, metadata={"format": "pt"})
    assert resolve_model(str(folder)).revision != resolve_model(str(base)).revision


def test_a_missing_weight_is_named(base: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(base, tmp_path / "part"))
    name = "model.layers.1.mlp.up_proj.weight"
    file = next(path.name for path in folder.glob("*.safetensors") if name in load_file(path))
    drop_weights(folder, file, name)
    with pytest.raises(ArxivEmbedError, match=r"lack layers\.1\.mlp\.up_proj\.weight: fetch the model again"):
        paper_vectors(folder, "retrieval")


def test_an_adapter_that_is_not_whole_is_named(base: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(base, tmp_path / "part"))
    name = "base_model.model.model.language_model.layers.0.self_attn.q_proj.lora_B.code.weight"
    drop_weights(folder / "adapters", "adapter_model.safetensors", name)
    with pytest.raises(ArxivEmbedError, match="not whole for the task 'code'"):
        paper_vectors(folder, "code")
    paper_vectors(folder, "retrieval")


def test_the_base_repository_without_its_adapter_is_refused(base: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(base, tmp_path / "bare"))
    (folder / "adapters" / "adapter_config.json").unlink()
    with pytest.raises(ArxivEmbedError, match=r"has no adapter_config\.json"):
        paper_vectors(folder, "code")
    shutil.rmtree(folder / "adapters")
    with pytest.raises(ArxivEmbedError, match=r"has no adapter_config\.json"):
        paper_vectors(folder, "code")


@pytest.mark.parametrize(
    ("said", "says"),
    [
        ({"use_dora": True}, "use_dora"),
        ({"alpha_pattern": {"q_proj": 3}}, "alpha_pattern"),
        ({"rank_pattern": {"q_proj": 3}}, "rank_pattern"),
        ({"bias": "lora_only"}, "bias"),
        ({"peft_type": "LOHA"}, "peft_type"),
        ({"r": 0}, "its r or lora_alpha"),
        ({"lora_alpha": None}, "its r or lora_alpha"),
    ],
)
def test_an_adapter_that_is_no_plain_lora_is_refused(
    base: Path, tmp_path: Path, said: dict[str, object], says: str
) -> None:
    folder = Path(shutil.copytree(base, tmp_path / "other"))
    path = folder / "adapters" / "adapter_config.json"
    before = resolve_model(str(folder)).revision
    path.write_text(json.dumps(json.loads(path.read_text()) | said))
    with pytest.raises(ArxivEmbedError, match=f"no plain LoRA \\({says}\\)"):
        paper_vectors(folder, "code")
    assert resolve_model(str(folder)).revision != before


def test_an_adapter_with_more_than_its_two_matrices_is_refused(base: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(base, tmp_path / "more"))
    adapter = folder / "adapters" / "adapter_model.safetensors"
    name = "base_model.model.model.language_model.layers.0.self_attn.q_proj.lora_magnitude_vector.code.weight"
    save_file({**load_file(adapter), name: torch.ones(WIDTH)}, adapter, metadata={"format": "pt"})
    with pytest.raises(ArxivEmbedError, match="lora_magnitude_vector"):
        paper_vectors(folder, "code")


def test_a_long_paper_in_windows_over_the_cache_has_the_same_vectors(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_once = paper_vectors(base, "retrieval")
    monkeypatch.setattr(transformer, "CACHED_WINDOW", 16)
    assert np.abs(paper_vectors(base, "retrieval") - at_once).max() < 1e-4
