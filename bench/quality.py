"""Retrieval quality: Cranfield's nDCG@10 through a whole run and its store, beside sentence-transformers.

nDCG as trec_eval computes it: a document's gain is its relevance (here 0 or 1), discounted by log2(rank + 1), and the
ideal ranking holds every judged document of the query; the mean is over all queries.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from arxiv_embed.encoding.encoder import TextEncoder
from arxiv_embed.encoding.model import resolve_model
from arxiv_embed.encoding.space import Space
from arxiv_embed.metadata.reading import ShardReader
from arxiv_embed.metadata.shards import list_folder
from arxiv_embed.run import Run
from arxiv_embed.settings import DEFAULT_MODEL, DEFAULT_SHARD_PAPERS, RunOptions, settings_from_environment
from arxiv_embed.stores.protocol import Filters, open_store
from bench.baseline import Baseline
from bench.data import real_data
from bench.metric import Metric

DEPTH = 10
DOCUMENTS = "cranfield.jsonl"

Relevance = Mapping[str, Mapping[str, int]]
Rankings = Mapping[str, Sequence[str]]


@dataclass(frozen=True)
class RunOutcome:
    """The store's rankings for every query, in which space, and how many papers were longer than its limits."""

    rankings: Rankings
    space: Space
    long_papers: int
    cut_papers: int


def measure() -> list[Metric]:
    """Takes about two minutes on two cores."""
    collection = real_data() / "cranfield"
    queries = {record["_id"]: record["text"] for record in _records(collection / "queries.jsonl")}
    relevance = _relevance(collection / "qrels" / "test.tsv")
    with TemporaryDirectory() as place:
        folder = Path(place)
        _write_metadata(_records(collection / "corpus.jsonl"), folder / "metadata")
        outcome = _ranked_by_run(folder, queries)
        limits = (outcome.space.paper_tokens, outcome.space.max_tokens)
        theirs = {limit: ndcg(_ranked_by_baseline(folder, queries, limit), relevance) for limit in limits}
    ours = ndcg(outcome.rankings, relevance)
    paper_tokens, max_tokens = limits
    return [
        Metric(f"nDCG@{DEPTH} of the run: {max_tokens} tokens, paper vectors from {paper_tokens}", ours, "nDCG"),
        *(Metric(f"nDCG@{DEPTH} of sentence-transformers, {limit} tokens", theirs[limit], "nDCG") for limit in limits),
        Metric(
            f"difference to theirs of {paper_tokens} tokens", abs(ours - theirs[paper_tokens]), "nDCG", 0.003, "at most"
        ),
        Metric(f"papers longer than {paper_tokens} tokens", outcome.long_papers, "papers"),
        Metric(f"papers longer than {max_tokens} tokens", outcome.cut_papers, "papers"),
    ]


def ndcg(rankings: Rankings, relevance: Relevance) -> float:
    """Mean nDCG at `DEPTH` over all judged queries."""
    return float(np.mean([_query_ndcg(rankings.get(query, ()), judged) for query, judged in relevance.items()]))


def _query_ndcg(ranking: Sequence[str], judged: Mapping[str, int]) -> float:
    ideal = _discounted(sorted(judged.values(), reverse=True))
    return _discounted([judged.get(document, 0) for document in ranking]) / ideal if ideal else 0.0


def _discounted(gains: Sequence[int]) -> float:
    return sum(gain / math.log2(rank + 1) for rank, gain in enumerate(gains[:DEPTH], 1))


def _ranked_by_run(folder: Path, queries: Mapping[str, str]) -> RunOutcome:
    settings = settings_from_environment({"ARXIV_EMBED_HOME": str(folder / "home")})
    options = RunOptions(folder / "metadata", settings.store, settings.checkpoints)
    with Run(options, settings, "bench") as run:
        run.start([DOCUMENTS])
        run.read(DOCUMENTS)
        embedded = run.embed(DOCUMENTS)
        run.store(DOCUMENTS)
        space, files = run.space, run.plan.files
    vectors = TextEncoder(files, space).encode_queries(list(queries.values()))
    with open_store(settings.store) as store:
        rankings = {
            query: [
                _document(match.paper_id)
                for match in store.nearest(space.fingerprint, vector, DEPTH, Filters(), chunks=False)
            ]
            for query, vector in zip(queries, vectors, strict=True)
        }
    return RunOutcome(rankings, space, embedded.long_papers, embedded.cut_papers)


def _ranked_by_baseline(folder: Path, queries: Mapping[str, str], max_tokens: int) -> Rankings:
    """By exact cosine over the very texts that the run embeds."""
    [shard] = list_folder(folder / "metadata", shard_papers=DEFAULT_SHARD_PAPERS, index=folder / "index").shards
    with ShardReader() as reader:
        papers = reader.load(shard).papers
    with Baseline(resolve_model(DEFAULT_MODEL)) as baseline:
        vectors, _ = baseline.encode([paper.text for paper in papers], "float32", max_tokens)
        asked, _ = baseline.encode(list(queries.values()), "float32", max_tokens)
    scores = asked @ vectors.T  # sentence-transformers makes unit vectors of this model's
    best = np.argsort(-scores, axis=1, kind="stable")[:, :DEPTH]
    return {query: [_document(papers[place].id) for place in row] for query, row in zip(queries, best, strict=True)}


def _write_metadata(documents: Sequence[Mapping[str, str]], folder: Path) -> None:
    """Writes documents as records of the Kaggle snapshot, with ids made up from their numbers."""
    folder.mkdir()
    records = [
        {
            "id": f"2001.{int(document['_id']):05d}",
            "title": document["title"],
            "abstract": document["text"],
            "categories": "physics.flu-dyn",
            "update_date": "2020-01-01",
        }
        for document in documents
    ]
    (folder / DOCUMENTS).write_text("".join(json.dumps(record) + "\n" for record in records))


def _document(paper_id: str) -> str:
    """The document's number that `_write_metadata` made an id from."""
    return str(int(paper_id.partition(".")[2]))


def _records(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def _relevance(path: Path) -> Relevance:
    """Query → document → relevance, of a BEIR judgement file."""
    relevance: dict[str, dict[str, int]] = defaultdict(dict)
    for line in path.read_text().splitlines()[1:]:
        query, document, grade = line.split("\t")
        relevance[query][document] = int(grade)
    return relevance
