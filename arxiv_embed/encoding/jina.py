"""Jina embeddings v4: how it is used, which its own files leave to code of theirs.

The base repository has a Qwen2.5-VL with vision and one LoRA adapter for all tasks; the repositories
`jina-embeddings-v4-vllm-TASK` are the same with a task's adapter merged. Prefixes and pooling are those of its
`encode_text`: the mean over all tokens, the prefix's too. Its weights are read by `qwen_vl.py`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from arxiv_embed.encoding import config as configured
from arxiv_embed.encoding.recipe import Recipe

TASKS = ("retrieval", "text-matching", "code")
PROMPTS = {"query": "Query: ", "document": "Passage: ", "text-matching": "Query: "}
DIMENSIONS = (128, 256, 512, 1024, 2048)
POSITIONS = 32_768
BASE_ARCHITECTURE = "JinaEmbeddingsV4Model"
MERGED_NAME = re.compile(r"jina-embeddings-v4-vllm-(retrieval|text-matching|code)")


def jina_recipe(name: str, config: Mapping[str, Any]) -> Recipe | None:
    """How Jina v4 is used, by its name or the architecture that its configuration names; None for other models."""
    if BASE_ARCHITECTURE in (config.get("architectures") or ()):
        tasks = tuple(config.get("task_names") or TASKS)
    elif merged := MERGED_NAME.fullmatch(Path(name).name):
        tasks = (merged[1],)
    else:
        return None
    width = configured.width(configured.text_config(config)) or 0
    cuts = tuple(config.get("matryoshka_dims") or DIMENSIONS)
    return Recipe(
        pooling="mean",
        normalize=True,
        prompts=PROMPTS,
        tasks=tasks,
        dimensions=tuple(sorted(cut for cut in cuts if cut < width)),
        positions=min(POSITIONS, configured.position_limit(configured.text_config(config))),
        causal=True,
        licence="Jina v4's weights are licensed for research, not for commerce: see the model's page.",
    )
