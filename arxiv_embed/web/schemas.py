"""Schemas: what the JSON API takes and gives, each field described."""

from __future__ import annotations

import re
from datetime import date
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StrictBool
from pydantic.json_schema import SkipJsonSchema

LONGEST_QUERY = 100_000
MOST_HITS = 100
USUAL_HITS = 10
LONGEST_CATEGORY = 100

_DAY = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)


def _written_as_a_day(value: object) -> object:
    if isinstance(value, date) or (isinstance(value, str) and _DAY.fullmatch(value)):
        return value
    raise ValueError("write a day as 2024-01-31")


Day = Annotated[date, BeforeValidator(_written_as_a_day)]
Query = Annotated[
    str,
    Field(
        max_length=LONGEST_QUERY,
        description="What to look for, in words: a question, a title, a whole abstract.",
        examples=["graph sparsity and rigidity"],
    ),
]
Count = Annotated[int, Field(ge=1, le=MOST_HITS, description="How many papers at most.", examples=[5])]
_CATEGORY = Field(
    max_length=LONGEST_CATEGORY, description="A category (cs.LG) or a whole archive (cs).", examples=["math"]
)
_SINCE = Field(description="Published on this day or later, YYYY-MM-DD.", examples=["2007-01-01"])
_UNTIL = Field(description="Published on this day or earlier, YYYY-MM-DD.", examples=["2024-12-31"])
_WITHDRAWN = Field(description="True: withdrawn papers alone; false: the others alone; absent: both.", examples=[False])

Absent = SkipJsonSchema[None]
"""In an address a parameter is absent, and never null."""


class Narrowing(BaseModel):
    """How many papers, and which."""

    model_config = ConfigDict(extra="forbid")

    k: Count = USUAL_HITS
    category: Annotated[str | Absent, _CATEGORY] = None
    since: Annotated[Day | Absent, _SINCE] = None
    until: Annotated[Day | Absent, _UNTIL] = None
    withdrawn: Annotated[bool | Absent, _WITHDRAWN] = None


class Question(Narrowing):
    """A search, as the parameters of an address."""

    q: Query


class QuestionBody(BaseModel):
    """A search, as the body of a request: for queries too long for an address."""

    model_config = ConfigDict(extra="forbid")

    q: Query
    k: Count = USUAL_HITS
    category: Annotated[str | None, _CATEGORY] = None
    since: Annotated[Day | None, _SINCE] = None
    until: Annotated[Day | None, _UNTIL] = None
    withdrawn: Annotated[StrictBool | None, _WITHDRAWN] = None


class PaperAnswer(BaseModel):
    """A paper as the store holds it."""

    paper_id: str = Field(description="The arXiv id, without its version.", examples=["0704.0002"])
    title: str = Field(description="The title, its LaTeX as written.")
    abstract: str = Field(description="The abstract, its LaTeX as written.")
    authors: str = Field(description="The authors in one line, as the metadata has them.")
    categories: list[str] = Field(
        description="arXiv categories, the primary one first.", examples=[["math.CO", "cs.CG"]]
    )
    published: str = Field(description='First version\'s day, YYYY-MM-DD; "" where the metadata has none.')
    updated: str = Field(description='Last change\'s day, YYYY-MM-DD; "" where the metadata has none.')
    withdrawn: bool = Field(description="Whether the authors or arXiv have withdrawn it.")
    cut_tokens: int | None = Field(
        description="Tokens at the end of its text beyond the limit, which are not embedded; null where not known."
    )
    abs_url: str = Field(description="Its page at arXiv.", examples=["https://arxiv.org/abs/0704.0002"])
    pdf_url: str = Field(description="Its PDF at arXiv.", examples=["https://arxiv.org/pdf/0704.0002"])


class ChunkAnswer(BaseModel):
    """The passage of a paper that is nearest to what was asked."""

    start: int = Field(description="Its first character in title, two line feeds, abstract.")
    end: int = Field(description="The character after its last one.")
    text: str = Field(description="The passage.")


class HitAnswer(PaperAnswer):
    """A paper found, and why."""

    score: float = Field(description="The sum of 1 / (60 + rank) over the rankings that have it; higher is better.")
    score_parts: dict[str, float] = Field(
        description="What each ranking gave to the score: meaning, words.",
        examples=[{"meaning": 0.0164, "words": 0.0161}],
    )
    vector_rank: int | None = Field(description="Its place by meaning, from 1; null where it is not among the nearest.")
    text_rank: int | None = Field(description="Its place by words, from 1; null where none of the words is in it.")
    similarity: float | None = Field(description="The cosine of the best passage's vector and the query's.")
    chunk: ChunkAnswer = Field(description="The best passage.")


class SearchAnswer(BaseModel):
    """Papers found, the best first."""

    space: str = Field(description="The fingerprint of the space that was searched.", examples=["a1b2c3d4e5f60718"])
    seconds: float = Field(description="How long the search took, in seconds.")
    hits: list[HitAnswer] = Field(description="The papers, the best first.")


class SpaceAnswer(BaseModel):
    """One space of the store: everything that decides what a vector means."""

    fingerprint: str = Field(description="Its name: 16 hexadecimal digits.")
    model: str = Field(description="The embedding model.", examples=["all-MiniLM-L6-v2"])
    dimensions: int = Field(description="Numbers of a vector.")
    chunker: str = Field(description="How texts are cut into passages.", examples=["sentences:128"])
    max_tokens: int = Field(description="Tokens of a text that are embedded at most.")
    papers: int = Field(description="Papers held.")
    rows: int = Field(description="Vectors held: of papers and of their passages.")
    searched: bool = Field(description="Whether this is the space that is searched here.")


class StoreAnswer(BaseModel):
    """What the store holds."""

    model: str = Field(description="The model of the space that is searched.")
    space: str = Field(description="The fingerprint of the space that is searched.")
    papers: int = Field(description="Papers of that space.")
    rows: int = Field(description="Vectors of that space.")
    newest: str | None = Field(description="The latest day of publication; null until the store was looked through.")
    spaces: list[SpaceAnswer] = Field(description="All spaces, the one last begun first.")


class HealthAnswer(BaseModel):
    """The service works."""

    status: Literal["ok"] = Field(description="Always ok: where it is not, the answer is a 503.")


class Problem(BaseModel):
    """What went wrong, the same shape for every error."""

    status: int = Field(description="The HTTP status, again.", examples=[404])
    error: str = Field(description="One sentence: what is wrong, and what to do next.")
