"""Vectors: tables of them as checkpoints hold them, by paper and by text."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from arxiv_embed.gpu.outcomes import EncodedPaper
from arxiv_embed.stores.protocol import PAPER_CHUNK, VECTORS
from arxiv_embed.stores.rows import row_schema, vectors_in

NORM_TOLERANCE = 1e-3


def vectors_schema(dimensions: int) -> pa.Schema:
    """One row a vector; a paper's rows stand together, the whole paper's first."""
    rows = row_schema(dimensions)
    return pa.schema([rows.field(name) for name in VECTORS])


def of_whole_papers(vectors: pa.Table) -> pa.Table:
    """The rows of whole papers, without those of chunks."""
    return vectors.filter(pc.equal(vectors["chunk_index"], PAPER_CHUNK))


def texts_in(vectors: pa.Table) -> pa.ChunkedArray:
    """The texts (sha256 each) that these are of, one a paper."""
    return of_whole_papers(vectors.select(["chunk_index", "text_sha256"]))["text_sha256"]


def of_texts(vectors: pa.Table, texts: pa.Array) -> pa.Table:
    """The rows of these texts (sha256 each), of one paper a text."""
    rows = vectors.filter(pc.is_in(vectors["text_sha256"], texts))
    whole = of_whole_papers(rows).select(["paper_id", "text_sha256"])
    first = whole.group_by("text_sha256").aggregate([("paper_id", "min")])
    if first.num_rows == whole.num_rows:
        return rows
    return rows.filter(pc.is_in(rows["paper_id"], first["paper_id_min"]))


def of_papers(vectors: pa.Table, papers: pa.Table) -> pa.Table:
    """Each paper's vectors, in the order of `papers`, made of its text's; `vectors` hold a text once. Papers without
    are left out."""
    starts = np.flatnonzero(vectors["chunk_index"].to_numpy() == PAPER_CHUNK)
    lengths = np.diff(starts, append=vectors.num_rows)
    found = pc.index_in(papers["text_sha256"], vectors["text_sha256"].take(starts))
    names = papers["paper_id"].filter(pc.is_valid(found))
    place = found.drop_null().to_numpy()
    counts = lengths[place]
    ends = np.cumsum(counts)
    rows = np.arange(counts.sum()) + np.repeat(starts[place] - (ends - counts), counts)
    vectors = vectors.combine_chunks()
    if not np.array_equal(rows, np.arange(vectors.num_rows)):
        vectors = vectors.take(rows)
    owners = names.take(np.repeat(np.arange(len(counts)), counts))
    return vectors.set_column(0, "paper_id", owners.combine_chunks()).combine_chunks()


def sound_ones(vectors: pa.Table, dimensions: int) -> pa.Table:
    """Of vectors that no checksum vouches for, those of texts of which every row is what it must be: whole, finite, of
    unit length, and in its place. A text's rows come out together, the whole paper's first."""
    schema = vectors_schema(dimensions)
    of_size = pa.types.is_fixed_size_list(vectors.schema.field("vector").type)
    if not vectors.num_rows or not of_size or vectors.schema.field("vector").type.list_size != dimensions:
        return schema.empty_table()
    cut = vectors.schema.get_field_index("cut_tokens")
    vectors = vectors.set_column(cut, "cut_tokens", pc.fill_null(vectors["cut_tokens"], 0)).select(schema.names)
    lacking = pc.is_null(vectors["text_sha256"])
    for name in schema.names:
        lacking = pc.or_(lacking, pc.is_null(vectors[name]))
    incomplete = vectors["text_sha256"].filter(lacking)
    vectors = vectors.filter(pc.invert(pc.or_(lacking, pc.is_in(vectors["text_sha256"], incomplete))))
    if not vectors.num_rows:
        return schema.empty_table()
    vectors = vectors.sort_by([("text_sha256", "ascending"), ("chunk_index", "ascending")]).cast(schema)
    texts = vectors["text_sha256"].combine_chunks().dictionary_encode().indices.to_numpy()
    starts = np.flatnonzero(np.diff(texts, prepend=-1))
    place = np.arange(len(texts)) - np.repeat(starts, np.diff(starts, append=len(texts)))
    start, end = vectors["start_char"].to_numpy(), vectors["end_char"].to_numpy()
    sound = (
        np.abs(np.sqrt(squared_lengths(vectors_in(vectors))) - 1.0) <= NORM_TOLERANCE
    )  # false for what is not finite
    sound &= vectors["chunk_index"].to_numpy() == place + PAPER_CHUNK
    sound &= (start >= 0) & (start <= end) & (end <= end[starts][texts]) & (vectors["tokens"].to_numpy() >= 0)
    return vectors.filter(pa.array(np.logical_and.reduceat(sound, starts)[texts]))


def squared_lengths(matrix: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    lengths: npt.NDArray[np.float32] = np.einsum("ij,ij->i", matrix, matrix)
    return lengths


def of_encoded(encoded: Sequence[EncodedPaper], papers: pa.Table, dimensions: int) -> pa.Table:
    """Encoded papers as a table; each one's `index` is its row in `papers`."""
    counts = np.array([len(paper.vectors) for paper in encoded])
    rows = np.repeat([paper.index for paper in encoded], counts)
    firsts = np.cumsum(counts) - counts
    chunk_index = np.arange(len(rows)) - np.repeat(firsts, counts) + PAPER_CHUNK
    whole = chunk_index == PAPER_CHUNK
    lengths = pc.add(pc.utf8_length(papers["title"]), pc.utf8_length(papers["abstract"])).to_numpy() + 2
    starts, ends, tokens, cut = (np.zeros(len(rows), np.int32) for _ in range(4))
    starts[~whole] = np.concatenate([paper.spans[:, 0] for paper in encoded])
    ends[~whole] = np.concatenate([paper.spans[:, 1] for paper in encoded])
    ends[whole] = lengths[[paper.index for paper in encoded]]
    tokens[~whole] = np.concatenate([paper.chunk_tokens for paper in encoded])
    tokens[whole] = [paper.tokens for paper in encoded]
    cut[whole] = [paper.cut_tokens for paper in encoded]
    vectors = np.concatenate([paper.vectors for paper in encoded])
    return pa.table(
        {
            "paper_id": papers["paper_id"].take(rows),
            "chunk_index": chunk_index.astype(np.int32),
            "start_char": starts,
            "end_char": ends,
            "tokens": tokens,
            "cut_tokens": cut,
            "vector": pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), dimensions),
            "text_sha256": papers["text_sha256"].take(rows),
        },
        schema=vectors_schema(dimensions),
    )
