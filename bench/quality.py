"""Retrieval quality: Cranfield's nDCG@10 through whole runs and their stores, beside sentence-transformers.

Each chunker has its run; each run's papers are ranked by every way that a store has. `python -m bench.quality` prints
it all as a Markdown table, with how much of it may be chance.

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
import numpy.typing as npt

from arxiv_embed.encoding.encoder import TextEncoder
from arxiv_embed.encoding.model import resolve_model
from arxiv_embed.encoding.space import Space
from arxiv_embed.metadata.reading import ShardReader
from arxiv_embed.metadata.shards import list_folder
from arxiv_embed.run import Run
from arxiv_embed.settings import DEFAULT_MODEL, DEFAULT_SHARD_PAPERS, RunOptions, settings_from_environment
from arxiv_embed.stores.protocol import Filters, Match, VectorStore, open_store
from arxiv_embed.stores.search import LEAST_CANDIDATES, fuse, search
from bench.baseline import Baseline
from bench.data import real_data
from bench.metric import Metric

DEPTH = 10
DOCUMENTS = "cranfield.jsonl"

PLAIN, LATE = "whole", ("sentences:128", "fixed:64")
BY_PAPER, BY_CHUNK, BY_WORDS, BY_SEARCH = "paper vector", "best chunk", "words", "paper vector and words (`search`)"
CHUNKS_OF_A_PAPER = 10
"""So many are asked for, for each paper that is to be found by its best."""

RESAMPLES = 10_000

Relevance = Mapping[str, Mapping[str, int]]
Ranking = Sequence[str]
Rankings = Mapping[str, Ranking]
Gains = npt.NDArray[np.float64]
"""nDCG of each query."""


@dataclass(frozen=True)
class RunOutcome:
    """By each way of ranking, the store's rankings for every query; in which space; and how many papers were longer
    than its limits."""

    rankings: Mapping[str, Rankings]
    space: Space
    long_papers: int
    cut_papers: int


@dataclass(frozen=True)
class Quality:
    """`gains` are by chunker, or whose they are, and way of ranking; `plain` is the run that embeds papers whole."""

    gains: Mapping[tuple[str, str], Gains]
    plain: RunOutcome

    @property
    def limits(self) -> tuple[int, int]:
        """Tokens that the paper's vector is of, and that the model has positions for; longer texts go in windows."""
        return self.plain.space.paper_tokens, self.plain.space.window


def measure() -> list[Metric]:
    """Takes about five minutes on two cores."""
    quality = _measured()
    means = {key: float(gains.mean()) for key, gains in quality.gains.items()}
    paper_tokens, _ = quality.limits
    plain, default = means[PLAIN, BY_PAPER], means[RunOptions.chunker, BY_SEARCH]
    theirs = means[_theirs(paper_tokens), BY_PAPER]
    return [
        *(Metric(f"nDCG@{DEPTH}, {who}, {way}", mean, "nDCG") for (who, way), mean in means.items()),
        Metric(f"plain − sentence-transformers, {paper_tokens} tokens", abs(plain - theirs), "nDCG", 0.003, "at most"),
        Metric("`search` by default − plain", default - plain, "nDCG", 0.0),
        Metric(f"papers longer than {paper_tokens} tokens", quality.plain.long_papers, "papers"),
        Metric("papers that the limit cuts", quality.plain.cut_papers, "papers", 0.0, "at most"),
    ]


def table(quality: Quality) -> str:
    """In Markdown, each with its difference to plain and what lies between the 2.5% and 97.5% of a bootstrap over
    queries; then how far the best is from what `search` does by default."""
    plain, default = quality.gains[PLAIN, BY_PAPER], quality.gains[RunOptions.chunker, BY_SEARCH]
    chunkers = (PLAIN, *LATE)
    ways = dict.fromkeys(way for who, way in quality.gains if who in chunkers)
    theirs = [key for key in quality.gains if key[0] not in chunkers]
    lines = [
        f"| nDCG@{DEPTH}, ranked by | {' | '.join(chunkers)} |",
        f"|{'---|' * (1 + len(chunkers))}",
        *(f"| {who} | {_cell(quality.gains[who, way], plain)} |{' |' * len(LATE)}" for who, way in theirs),
        *(
            f"| {way} | {' | '.join(_cell(quality.gains[chunker, way], plain) for chunker in chunkers)} |"
            for way in ways
        ),
    ]
    best = max(quality.gains, key=lambda key: float(quality.gains[key].mean()))
    return "\n".join([*lines, "", f"Best: {', '.join(best)}: {_cell(quality.gains[best], default)} to the default."])


def _cell(gains: Gains, reference: Gains) -> str:
    if np.array_equal(gains, reference):
        return f"{gains.mean():.4f}"
    mean, low, high = bootstrap(gains - reference)
    return f"{gains.mean():.4f}, {mean:+.4f} ({low:+.4f} to {high:+.4f})".replace("-", "−")


def bootstrap(differences: Gains) -> tuple[float, float, float]:
    """The mean, and the 2.5% and 97.5% quantiles of the means of resampled queries."""
    chosen = np.random.default_rng(0).integers(len(differences), size=(RESAMPLES, len(differences)))
    low, high = np.quantile(differences[chosen].mean(axis=1), [0.025, 0.975])
    return float(differences.mean()), float(low), float(high)


def _measured() -> Quality:
    collection = real_data() / "cranfield"
    queries = {record["_id"]: record["text"] for record in _records(collection / "queries.jsonl")}
    relevance = _relevance(collection / "qrels" / "test.tsv")
    with TemporaryDirectory() as place:
        folder = Path(place)
        _write_metadata(_records(collection / "corpus.jsonl"), folder / "metadata")
        runs = {chunker: _ranked_by_run(folder, queries, chunker) for chunker in (PLAIN, *LATE)}
        space = runs[PLAIN].space
        theirs = {limit: _ranked_by_baseline(folder, queries, limit) for limit in (space.paper_tokens, space.window)}
    return Quality(
        {
            **{(_theirs(limit), BY_PAPER): query_ndcg(rankings, relevance) for limit, rankings in theirs.items()},
            **{
                (chunker, way): query_ndcg(rankings, relevance)
                for chunker, outcome in runs.items()
                for way, rankings in outcome.rankings.items()
            },
        },
        runs[PLAIN],
    )


def _theirs(limit: int) -> str:
    return f"sentence-transformers, {limit} tokens"


def query_ndcg(rankings: Rankings, relevance: Relevance) -> Gains:
    """nDCG at `DEPTH` of each judged query."""
    return np.array([_query_ndcg(rankings.get(query, ()), judged) for query, judged in relevance.items()])


def _query_ndcg(ranking: Sequence[str], judged: Mapping[str, int]) -> float:
    ideal = _discounted(sorted(judged.values(), reverse=True))
    return _discounted([judged.get(document, 0) for document in ranking]) / ideal if ideal else 0.0


def _discounted(gains: Sequence[int]) -> float:
    return sum(gain / math.log2(rank + 1) for rank, gain in enumerate(gains[:DEPTH], 1))


def _ranked_by_run(folder: Path, queries: Mapping[str, str], chunker: str) -> RunOutcome:
    settings = settings_from_environment({"ARXIV_EMBED_HOME": str(folder / "home")})
    options = RunOptions(folder / "metadata", settings.store, settings.checkpoints, chunker=chunker)
    with Run(options, settings, f"bench-{chunker}".replace(":", "-")) as run:
        run.start([DOCUMENTS])
        run.read(DOCUMENTS)
        embedded = run.embed(DOCUMENTS)
        run.store(DOCUMENTS)
        space, encoder = run.space, TextEncoder(run.plan.files, run.space)
    with open_store(settings.store) as store:
        ranked = {query: _ranked(store, space.fingerprint, encoder, text) for query, text in queries.items()}
    ways = next(iter(ranked.values()))
    rankings = {way: {query: found[way] for query, found in ranked.items()} for way in ways}
    return RunOutcome(rankings, space, embedded.long_papers, embedded.cut_papers)


def _ranked(store: VectorStore, space: str, encoder: TextEncoder, query: str) -> dict[str, Ranking]:
    """A query's ranking by each way; those that are fused of as many candidates as `search` takes."""
    [vector] = encoder.encode_queries([query])
    deep = CHUNKS_OF_A_PAPER * LEAST_CANDIDATES
    by_paper = papers_of(store.nearest(space, vector, LEAST_CANDIDATES, Filters(), chunks=False))
    by_chunk = papers_of(store.nearest(space, vector, deep, Filters(), chunks=True))[:LEAST_CANDIDATES]
    by_words = papers_of(store.matching(space, query, LEAST_CANDIDATES, Filters()))
    return {
        BY_PAPER: by_paper,
        BY_CHUNK: by_chunk,
        "paper vector and best chunk": list(fuse([by_paper, by_chunk])),
        BY_WORDS: by_words,
        BY_SEARCH: [_document(hit.paper.paper_id) for hit in search(store, space, encoder, query, DEPTH)],
        "best chunk and words": list(fuse([by_chunk, by_words])),
        "paper vector, best chunk and words": list(fuse([by_paper, by_chunk, by_words])),
    }


def papers_of(matches: Sequence[Match]) -> list[str]:
    """Each paper where its best match stands."""
    return list(dict.fromkeys(_document(match.paper_id) for match in matches))


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


if __name__ == "__main__":
    print(table(_measured()))
