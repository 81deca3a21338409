"""Forms: what the search form was filled in with, as it is shown again and as it is searched for."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from http import HTTPStatus
from urllib.parse import urlencode

from arxiv_embed.errors import ArxivEmbedError
from arxiv_embed.stores.protocol import Filters
from arxiv_embed.web.schemas import LONGEST_CATEGORY, LONGEST_QUERY, MOST_HITS, USUAL_HITS
from arxiv_embed.web.service import Refusal

COUNTS = (10, 20, 50, 100)
WITHDRAWN = {"": None, "without": False, "only": True}

_LONGEST_FIELD = 200
_CONTROLS = re.compile(r"[\0-\x1f\x7f-\x9f\ud800-\udfff]")


@dataclass(frozen=True)
class Form:
    """Each field as text, "" where it was left alone. `like` is the paper whose neighbours are asked for; a query goes
    before it."""

    q: str = ""
    like: str = ""
    category: str = ""
    since: str = ""
    until: str = ""
    withdrawn: str = ""
    k: str = ""

    @classmethod
    def of(cls, parameters: Mapping[str, str]) -> Form:
        """What can be shown again, whatever was sent."""
        given = {field.name: _CONTROLS.sub(" ", parameters.get(field.name, "")).strip() for field in fields(cls)}
        form = cls(**{name: text if name == "q" else text[:_LONGEST_FIELD] for name, text in given.items()})
        return replace(form, like="") if form.q else form

    @property
    def is_narrowed(self) -> bool:
        return any((self.category, self.since, self.until, self.withdrawn))

    @property
    def count(self) -> int:
        """How many papers are asked for; raises `Refusal`."""
        if not self.k:
            return USUAL_HITS
        if not (self.k.isascii() and self.k.isdigit()) or not 1 <= int(self.k) <= MOST_HITS:
            raise Refusal(HTTPStatus.BAD_REQUEST, f"'{self.k}' is no number of papers: give 1 to {MOST_HITS}.")
        return int(self.k)

    @property
    def filters(self) -> Filters:
        """Raises `Refusal` for what is none."""
        if self.withdrawn not in WITHDRAWN:
            raise Refusal(HTTPStatus.BAD_REQUEST, f"Withdrawn '{self.withdrawn}' is none of: with, without, only.")
        if len(self.category) > LONGEST_CATEGORY:
            raise Refusal(HTTPStatus.BAD_REQUEST, "That is no category: give one like cs.LG, or an archive like math.")
        try:
            return Filters(self.category or None, self.since or None, self.until or None, WITHDRAWN[self.withdrawn])
        except ArxivEmbedError as error:
            raise Refusal(HTTPStatus.BAD_REQUEST, str(error)) from None

    @property
    def query(self) -> str:
        if len(self.q) > LONGEST_QUERY:
            raise Refusal(
                HTTPStatus.BAD_REQUEST, f"The query has {len(self.q):,} characters: give {LONGEST_QUERY:,} at most."
            )
        return self.q

    def address(self, **changes: str) -> str:
        """Of the page that answers this form with `changes` made."""
        given = {name: text for name, text in asdict(replace(self, **changes)).items() if text}
        return f"/?{urlencode(given)}" if given else "/"
