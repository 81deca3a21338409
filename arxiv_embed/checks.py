"""Checks: what must hold of a shard's papers, embeddings and rows before anything is built on them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from arxiv_embed.checkpoint.store import Checkpoint
from arxiv_embed.encoding.space import Space
from arxiv_embed.errors import ArxivEmbedError
from arxiv_embed.stores.protocol import PAPER_CHUNK, Filters, TooSlow, VectorStore
from arxiv_embed.stores.rows import vectors_in
from arxiv_embed.vectors import NORM_TOLERANCE, of_whole_papers, squared_lengths

Vector = npt.NDArray[np.float32]
Encode = Callable[[Sequence[str]], Mapping[int, Vector]]
"""Vectors [dimensions] by the number of their text; those of texts that cannot be embedded are left out."""

SCORE_TOLERANCE = 1e-5

SAMPLE = 200
"""Papers whose vectors are compared with each other."""

LEAST_SAMPLE = 20
"""Of fewer papers it says nothing how alike they are."""

MOST_ALIKE = 0.999
"""Mean cosine between papers above which a model tells nothing apart: two arithmetics of one model may differ by as
much. Good models that crowd all texts into a narrow cone come to 0.85, random weights to 0.995."""

TITLES = 3
NEAR_ENOUGH = 10

RECALLED, LEAST_RECALL = 10, 0.98
RECALL_PAPERS, RECALL_SECONDS = 20, 10.0
"""Papers whose neighbours are looked for, as many as the seconds allow: to compare millions takes long."""


@dataclass(frozen=True)
class Check:
    """What is looked at, of which asset; where a `blocking` one does not hold, nothing further is made of the shard."""

    asset: str
    name: str
    description: str
    blocking: bool = True


@dataclass(frozen=True)
class CheckResult:
    """`numbers` are what was looked at; `why` says what does not hold, "" where all does."""

    check: Check
    why: str = ""
    numbers: Mapping[str, float] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        return not self.why


class CheckFailed(ArxivEmbedError):
    """What was made of a shard is not what it must be."""

    def __init__(self, shard: str, results: Sequence[CheckResult]) -> None:
        reasons = "; ".join(result.why for result in results)
        super().__init__(
            f"What was made of shard '{shard}' is not sound, and is kept out of the store ({reasons}): look at its "
            "source and its model, then do it again with --fresh."
        )


RECORDS = Check("papers", "records_add_up", "Records read = papers + older records of them + rejects.")
PAPER_IDS = Check("papers", "ids_unique", "No paper is there twice.")
CHECKSUM = Check(
    "embeddings",
    "checksum",
    "The checkpoint's bytes have the sha256 of its manifest; one that has not is set aside, and its backup is used.",
    blocking=False,
)
ACCOUNTED = Check("embeddings", "papers_add_up", "Each paper has its vector, or a reason why it has none.")
VECTOR_IDS = Check("embeddings", "ids_unique", "No chunk of a paper is there twice.")
SOUND = Check("embeddings", "vectors_sound", "Each vector has the space's dimension and unit length, all of it finite.")
APART = Check("embeddings", "not_collapsed", f"The mean cosine between papers is below {MOST_ALIKE}.")
HELD = Check("vector_store", "holds_checkpoint", "The store holds the rows of this very checkpoint.", blocking=False)
FOUND = Check(
    "vector_store",
    "found_by_title",
    f"A paper's own title finds it, among the first {NEAR_ENOUGH} of its shard.",
    blocking=False,
)
RECALL = Check(
    "vector_store",
    "index_recall",
    f"Of the {RECALLED} papers nearest to one the store's index finds {LEAST_RECALL:.0%}.",
    blocking=False,
)
CHECKS = (RECORDS, PAPER_IDS, CHECKSUM, ACCOUNTED, VECTOR_IDS, SOUND, APART, HELD, FOUND, RECALL)


def check_papers(papers: Checkpoint) -> list[CheckResult]:
    """Of a shard's checkpoint `papers`."""
    table, rejects, counts = papers.tables["papers"], papers.tables["rejects"], papers.manifest.counts
    numbers = {
        "records": counts["records"],
        "papers": table.num_rows,
        "duplicates": counts["duplicates"],
        "rejects": rejects.num_rows,
    }
    found = table.num_rows + counts["duplicates"] + rejects.num_rows
    why = "" if found == counts["records"] else f"{counts['records']} records were read and {found} are accounted for"
    twice = table.num_rows - pc.count_distinct(table["paper_id"]).as_py()
    return [
        CheckResult(RECORDS, why, numbers),
        CheckResult(PAPER_IDS, f"{twice} papers are there twice" if twice else "", {"papers": table.num_rows}),
    ]


def check_embeddings(papers: Checkpoint, embeddings: Checkpoint, space: Space, *, whole: bool) -> list[CheckResult]:
    """Of a shard's checkpoint `embeddings`, made from `papers`; `whole` says that none of it was found damaged."""
    vectors, failures = embeddings.tables["vectors"], embeddings.tables["failures"]
    size = sum(file.bytes for file in embeddings.manifest.files.values())
    of_papers = vectors.filter(pc.equal(vectors["chunk_index"], PAPER_CHUNK))
    return [
        CheckResult(CHECKSUM, "" if whole else "a file of it was damaged and is set aside", {"bytes": size}),
        _accounted(papers.tables["papers"], of_papers, failures),
        _unique(vectors),
        _sound(vectors, space.dimensions),
        _apart(of_papers),
    ]


def check_store(
    store: VectorStore,
    papers: Checkpoint,
    embeddings: Checkpoint,
    space: Space,
    shard: str,
    identity: str,
    encode: Encode | None,
) -> list[CheckResult]:
    """Of the rows that came from a shard; without `encode` no title is looked for."""
    keys = store.keys_of(space.fingerprint, shard)
    results = [_held(store, embeddings.tables["vectors"], keys, space, shard, identity)]
    if encode is not None:
        table = papers.tables["papers"]
        held = table.filter(pc.is_in(table["paper_id"], pc.unique(keys["paper_id"])))
        results.append(_found(store, held, space, shard, encode))
    return results


def check_index(store: VectorStore, embeddings: Checkpoint, space: Space) -> CheckResult:
    """Of the whole store's index, asked for the neighbours of some of a shard's papers; of none where the store cannot
    compare all in time."""
    of_papers = of_whole_papers(embeddings.tables["vectors"])
    begun = time.monotonic()
    recalls: list[float] = []
    for vector in vectors_in(of_papers.take(_spread(of_papers.num_rows, RECALL_PAPERS))):
        try:
            recalls.append(_recall(store, space, vector))
        except TooSlow:  # to compare all papers, which no search does; that they are stored is no less true
            break
        if time.monotonic() - begun > RECALL_SECONDS:
            break
    if not recalls:
        return CheckResult(RECALL, "", {"papers": 0})
    recall = float(np.mean(recalls))
    why = "" if recall >= LEAST_RECALL else f"the index finds {recall:.1%} of the nearest papers"
    return CheckResult(RECALL, why, {"papers": len(recalls), f"recall@{RECALLED}": round(recall, 4)})


def _recall(store: VectorStore, space: Space, vector: Vector) -> float:
    exact, found = (
        store.nearest(space.fingerprint, vector, RECALLED, Filters(), chunks=False, exact=exact)
        for exact in (True, False)
    )
    if not exact:
        return 1.0
    as_near = sum(match.score >= exact[-1].score - SCORE_TOLERANCE for match in found)
    return min(as_near / len(exact), 1.0)


def _held(
    store: VectorStore, vectors: pa.Table, keys: pa.Table, space: Space, shard: str, identity: str
) -> CheckResult:
    is_here = pc.is_in(vectors["paper_id"], pc.unique(keys["paper_id"]))
    elsewhere = pc.unique(vectors["paper_id"].filter(pc.invert(is_here))).to_pylist()
    missing = len(elsewhere) - len(store.papers(space.fingerprint, elsewhere))
    numbers = {"rows": keys.num_rows, "papers in newer records": len(elsewhere) - missing}
    expected = vectors.select(keys.column_names).filter(is_here)
    order = [("paper_id", "ascending"), ("chunk_index", "ascending")]
    why = ""
    if store.shards(space.fingerprint).get(shard) != identity:
        why = "the store holds another checkpoint of it"
    elif missing:
        why = f"{missing} of its papers are not in the store"
    elif not expected.sort_by(order).equals(keys.sort_by(order)):
        why = f"the store holds {keys.num_rows} rows of it that are not the checkpoint's {expected.num_rows}"
    return CheckResult(HELD, why, numbers)


def _found(
    store: VectorStore,
    held: pa.Table,
    space: Space,
    shard: str,
    encode: Encode,
) -> CheckResult:
    chosen = held.select(["paper_id", "title"]).take(_spread(held.num_rows, TITLES)).to_pylist()
    ranks = {}
    for number, vector in encode([row["title"] for row in chosen]).items():
        paper = chosen[number]["paper_id"]
        near = store.nearest(space.fingerprint, vector, NEAR_ENOUGH, Filters(shard=shard), chunks=False)
        ranks[paper] = next((rank for rank, match in enumerate(near, 1) if match.paper_id == paper), 0)
    lost = [row["paper_id"] for row in chosen if not ranks.get(row["paper_id"])]
    why = f"by its own title {' and '.join(lost)} cannot be found" if lost else ""
    return CheckResult(FOUND, why, {"titles": len(ranks), "worst rank": max(ranks.values(), default=0)})


def _accounted(papers: pa.Table, of_papers: pa.Table, failures: pa.Table) -> CheckResult:
    accounted = pa.concat_arrays([of_papers["paper_id"].combine_chunks(), failures["paper_id"].combine_chunks()])
    numbers = {"papers": papers.num_rows, "embedded": of_papers.num_rows, "failures": failures.num_rows}
    same = len(accounted) == papers.num_rows and pc.all(pc.is_in(papers["paper_id"], accounted)).as_py() in (True, None)
    why = "" if same else f"of {papers.num_rows} papers {len(accounted)} are accounted for"
    return CheckResult(ACCOUNTED, why, numbers)


def _unique(vectors: pa.Table) -> CheckResult:
    distinct = vectors.group_by(["paper_id", "chunk_index"]).aggregate([]).num_rows
    twice = vectors.num_rows - distinct
    return CheckResult(VECTOR_IDS, f"{twice} chunks are there twice" if twice else "", {"rows": vectors.num_rows})


def _sound(vectors: pa.Table, dimensions: int) -> CheckResult:
    found = vectors.schema.field("vector").type.list_size
    if found != dimensions:
        return CheckResult(SOUND, f"vectors have {found} dimensions and not {dimensions}", {"dimensions": found})
    norms = np.sqrt(squared_lengths(vectors_in(vectors)))
    off = int(np.count_nonzero(~(np.abs(norms - 1.0) <= NORM_TOLERANCE)))  # what is not finite compares false
    numbers = {"vectors": len(norms), "dimensions": found, "longest off unit": _longest_off(norms)}
    return CheckResult(SOUND, f"{off} vectors are not finite or not of unit length" if off else "", numbers)


def _apart(of_papers: pa.Table) -> CheckResult:
    sample = vectors_in(of_papers.take(_spread(of_papers.num_rows, SAMPLE)))
    count = len(sample)
    if count < LEAST_SAMPLE:
        return CheckResult(APART, "", {"papers compared": count})
    total = sample.sum(axis=0, dtype=np.float64)
    mean = (float(total @ total) - float(squared_lengths(sample).sum())) / (count * (count - 1))
    why = "" if mean < MOST_ALIKE else f"the mean cosine between papers is {mean:.3f}: the model tells nothing apart"
    return CheckResult(APART, why, {"papers compared": count, "mean cosine": round(mean, 4)})


def _longest_off(norms: npt.NDArray[np.float32]) -> float:
    off = np.abs(norms - 1.0)
    return round(float(np.max(off[np.isfinite(off)], initial=0.0)), 7)


def _spread(rows: int, count: int) -> npt.NDArray[np.int64]:
    """At most `count` row numbers, spread evenly."""
    return np.unique(np.linspace(0, rows - 1, min(rows, count)).astype(np.int64))
