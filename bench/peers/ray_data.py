"""What a user would write with Ray Data: metadata → sentence-transformers in two actors → Lance.

    python ray_data.py PAPERS.jsonl MODEL FOLDER.lance

Run by the Python of an environment of its own (`make peers`). A text is a paper's title and abstract, cut by the model
at its limit; there are no chunks, no checkpoints and no index.
"""

from __future__ import annotations

import sys
from typing import Any

import ray
from sentence_transformers import SentenceTransformer

ACTORS, BATCH = 2, 200


class Embed:
    def __init__(self, model: str) -> None:
        self.model = SentenceTransformer(model, device="cpu")

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        papers = zip(batch["title"], batch["abstract"], strict=True)
        texts = [f"{title.strip()}\n\n{abstract.strip()}" for title, abstract in papers]
        batch["vector"] = self.model.encode(texts, normalize_embeddings=True)
        return batch


def main(papers: str, model: str, folder: str) -> None:
    ray.init(num_cpus=ACTORS + 1, include_dashboard=False)  # one for reading and writing, which take little
    (
        ray.data.read_json(papers, lines=True)
        .select_columns(["id", "title", "abstract", "categories"])
        .map_batches(Embed, fn_constructor_args=(model,), batch_size=BATCH, concurrency=ACTORS, num_cpus=1)
        .write_lance(folder)
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
