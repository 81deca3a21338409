"""XML metadata: OAI-PMH answers (arXiv, arXivRaw, oai_dc) and the API's Atom feeds.

Entities are never expanded, nothing is fetched, and a file with a document type declaration is refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from lxml import etree

from arxiv_embed.metadata.fields import fields_text
from arxiv_embed.metadata.ids import canonical_id
from arxiv_embed.metadata.paper import NotAPaper, Paper, Reject, excerpt, fold
from arxiv_embed.metadata.records import make_paper
from arxiv_embed.metadata.streams import Damaged, Readable

RECORDS = ("{*}record", "{*}entry", "{*}error")
_ATOM_NAMES = {"comment": "comments", "journal_ref": "journal-ref"}
"""What the other sources call it."""


def read_xml(stream: Readable, file: str) -> Iterator[Paper | Reject]:
    """Each record or entry becomes a paper or a reject; an error answer is one reject with its code."""
    number = 0
    elements = etree.iterparse(
        stream,
        events=("end",),
        tag=RECORDS,
        resolve_entities=False,
        no_network=True,
        load_dtd=False,
        huge_tree=False,
    )
    while True:
        number += 1
        try:
            _, element = next(elements, (None, None))
        except Damaged as error:
            yield Reject(file, f"record {number}", f"file is cut off or damaged here ({error})", "")
            return
        except etree.XMLSyntaxError as error:
            yield Reject(file, f"record {number}", "XML is broken from here on", excerpt(str(error)))
            return
        if (elements.root if element is None else element).getroottree().docinfo.doctype:
            yield Reject(file, f"record {number}", "XML with a document type declaration is refused", "")
            return
        if element is None:
            return
        try:
            yield _paper(element)
        except NotAPaper as reason:
            yield Reject(file, f"record {number}", str(reason), excerpt(fold(" ".join(element.itertext()))))
        element.clear()
        parent = element.getparent()
        while parent is not None and element.getprevious() is not None:
            del parent[0]


def _paper(element: Any) -> Paper:
    kind = etree.QName(element).localname
    if kind == "error":
        raise NotAPaper(f"error answer {element.get('code', '')}".rstrip())
    if kind == "entry":
        return _atom_paper(element)
    header = element.find("{*}header")
    if header is not None and header.get("status") == "deleted":
        raise NotAPaper("record was deleted at arXiv")
    for body in element.iterfind("{*}metadata/*"):
        form = etree.QName(body).localname
        if form in ("arXiv", "arXivRaw"):
            return _arxiv_paper(body)
        if form == "dc":
            return _dublin_core_paper(body, element)
    raise NotAPaper("record holds no metadata that is known here")


def _text(element: Any, name: str) -> str | None:
    child = element.find(f"{{*}}{name}")
    return None if child is None else "".join(child.itertext())


def _texts(body: Any) -> dict[str, str]:
    """The body's elements of text alone, by name."""
    leaves = (child for child in body.iterchildren("{*}*") if len(child) == 0 and child.text)
    return {etree.QName(leaf).localname: leaf.text for leaf in leaves}


def _arxiv_paper(body: Any) -> Paper:
    paper_id, version = canonical_id(_text(body, "id") or "")
    dates = [_text(v, "date") or "" for v in body.iterfind("{*}version")]
    authors = body.find("{*}authors")
    names = _text(body, "authors") or ""
    if authors is not None and len(authors):
        parts = ((_text(author, "forenames"), _text(author, "keyname")) for author in authors)
        names = ", ".join(" ".join(part for part in name if part) for name in parts)
    return make_paper(
        paper_id,
        max(version, len(dates)),
        _text(body, "title"),
        _text(body, "abstract"),
        fold(names),
        _text(body, "categories"),
        dates[0] if dates else _text(body, "created"),
        dates[-1] if dates else _text(body, "updated"),
        _text(body, "comments") or "",
        fields_text(_texts(body)),
    )


def _dublin_core_paper(body: Any, record: Any) -> Paper:
    paper_id, version = canonical_id(_text(record.find("{*}header"), "identifier") or "")
    descriptions = ["".join(d.itertext()) for d in body.iterfind("{*}description")]
    comments = [d for d in descriptions if d.startswith("Comment:")]
    dates = [d.text or "" for d in body.iterfind("{*}date")]
    sets = [s.text or "" for s in record.iterfind("{*}header/{*}setSpec")]
    identifiers = [i.text or "" for i in body.iterfind("{*}identifier")]
    fields = {
        "comments": " ".join(comments).removeprefix("Comment:").strip() or None,
        "doi": next((i.removeprefix("doi:") for i in identifiers if i.startswith("doi:")), None),
        "journal-ref": next((i for i in identifiers if i and not i.startswith(("doi:", "http"))), None),
    }
    return make_paper(
        paper_id,
        version,
        _text(body, "title"),
        next((d for d in descriptions if d not in comments), None),
        ", ".join(fold(c.text or "") for c in body.iterfind("{*}creator")),
        [s.rsplit(":", 1)[-1] for s in sets],
        dates[0] if dates else "",
        dates[-1] if dates else "",
        " ".join(comments),
        fields_text(fields),
    )


def _atom_paper(entry: Any) -> Paper:
    address = _text(entry, "id") or ""
    if "/api/errors" in address:
        raise NotAPaper(f"error answer: {fold(_text(entry, 'summary') or '')}")
    paper_id, version = canonical_id(address)
    fields = {_ATOM_NAMES.get(name, name): text for name, text in _texts(entry).items() if name != "summary"}
    return make_paper(
        paper_id,
        version,
        _text(entry, "title"),
        _text(entry, "summary"),
        ", ".join(fold(_text(author, "name") or "") for author in entry.iterfind("{*}author")),
        [c.get("term", "") for c in entry.iterfind("{*}category")],
        _text(entry, "published"),
        _text(entry, "updated"),
        _text(entry, "comment") or "",
        fields_text(fields),
    )
