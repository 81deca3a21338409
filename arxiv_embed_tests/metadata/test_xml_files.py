"""XML metadata: OAI-PMH and Atom records, error answers, and documents that try to do more than hold data."""

from __future__ import annotations

import gzip
import io
from pathlib import Path

import pytest

from arxiv_embed.metadata.paper import Paper
from arxiv_embed.metadata.xml_files import read_xml
from arxiv_embed_tests.metadata.folders import oai_answer, papers_in, read_folder, reasons_in, record, rejects_in

ENTRY = (
    "<entry><id>http://arxiv.org/abs/2104.12255v1</id><title>A\n title</title><summary> Some {} words </summary>"
    "<published>2021-04-20T16:42:03Z</published><author><name>A. B.</name></author>"
    '<category term="cs.LG"/><category term="stat.ML"/></entry>'
)
ATOM = '<feed xmlns="http://www.w3.org/2005/Atom">' + ENTRY.format("plain") + "</feed>"
RAW = """<OAI-PMH xmlns="http://www.openarchives.org/OAI/2.0/"><GetRecord><record><header/><metadata>
<arXivRaw xmlns="http://arxiv.org/OAI/arXivRaw/"><id>1302.2146</id>
<version version="v1"><date>Fri, 8 Feb 2013 21:00:01 GMT</date></version>
<version version="v2"><date>Tue, 2 Apr 2013 15:17:49 GMT</date></version>
<title>T</title><authors>A. One and B. Two</authors><categories>astro-ph.IM cs.DL</categories>
<comments>This paper has been withdrawn</comments><abstract>Two words</abstract></arXivRaw></metadata></record>
<record><header status="deleted"><identifier>oai:arXiv.org:0704.0001</identifier></header></record>
</GetRecord></OAI-PMH>"""


def test_an_atom_entry_becomes_a_paper(folder: Path) -> None:
    (folder / "a").write_text(ATOM)
    [paper] = papers_in(read_folder(folder))
    assert (paper.id, paper.version, paper.title, paper.abstract) == (
        "2104.12255",
        1,
        "A title",
        "Some plain words",
    )
    assert (paper.authors, paper.categories, paper.published) == ("A. B.", ("cs.LG", "stat.ML"), "2021-04-20")


def test_an_arxivraw_record_gives_its_versions_and_withdrawal_and_a_deleted_one_is_a_reject(folder: Path) -> None:
    (folder / "a").write_text(RAW)
    items = read_folder(folder)
    [paper] = papers_in(items)
    assert (paper.id, paper.version, paper.published, paper.updated) == ("1302.2146", 2, "2013-02-08", "2013-04-02")
    assert paper.withdrawn
    assert reasons_in(items) == [("record 2", "record was deleted at arXiv")]


def test_error_answers_are_rejects_with_their_code(folder: Path) -> None:
    (folder / "a").write_text('<o:OAI-PMH xmlns:o="http://o/"><o:error code="badVerb">Illegal</o:error></o:OAI-PMH>')
    error = "<id>http://arxiv.org/api/errors#x</id><title>Error</title><summary>incorrect id</summary>"
    (folder / "b").write_text(f"<feed><entry>{error}</entry></feed>")
    assert reasons_in(read_folder(folder)) == [
        ("record 1", "error answer badVerb"),
        ("record 1", "error answer: incorrect id"),
    ]


def test_a_record_without_an_abstract_or_an_id_costs_no_other(folder: Path) -> None:
    records = [
        record("0704.0001"),
        record("0704.0002", abstract=""),
        record(""),
        record("704.001"),
        record("0704.0005"),
    ]
    (folder / "a.xml").write_bytes(oai_answer(records))
    items = read_folder(folder)
    assert [paper.id for paper in papers_in(items)] == ["0704.0001", "0704.0005"]
    assert reasons_in(items) == [
        ("record 2", "abstract empty"),
        ("record 3", "id missing"),
        ("record 4", "id was mangled by a floating point number"),
    ]


def test_cut_off_xml_gives_what_it_holds_and_one_reject(folder: Path) -> None:
    raw = oai_answer([record("0704.0001"), record("0704.0002")])
    (folder / "a.xml").write_bytes(raw[:-200])
    (folder / "b.xml.gz").write_bytes(gzip.compress(raw)[:-12])
    items = read_folder(folder)
    assert {paper.id for paper in papers_in(items)} >= {"0704.0001"}
    assert [reject.file for reject in rejects_in(items)] == ["a.xml", "b.xml.gz"]


def laughs() -> str:
    entities = "".join(f'<!ENTITY l{i} "{f"&l{i - 1};" * 10}">' for i in range(1, 12))
    return f'<!DOCTYPE feed [<!ENTITY l0 "laugh">{entities}]>'


@pytest.mark.parametrize(
    "body",
    [f"<feed>{ENTRY.format('&l11;')}</feed>", f'<feed a="&l11;">{ENTRY.format("plain")}</feed>', "<feed>&l11;</feed>"],
)
def test_a_billion_laughs_are_refused(folder: Path, body: str) -> None:
    (folder / "a.xml").write_text(laughs() + body)
    items = read_folder(folder)
    assert papers_in(items) == []
    assert len(rejects_in(items)) == 1


@pytest.mark.parametrize(
    "declaration",
    [
        '[<!ENTITY x SYSTEM "{}">]',
        '[<!ENTITY % p SYSTEM "{}"> %p;]',
        'SYSTEM "{}"',
        '[<!ENTITY x "internal">]',
    ],
)
def test_entities_and_external_documents_are_refused_unread(folder: Path, tmp_path: Path, declaration: str) -> None:
    secret = tmp_path / "secret"
    secret.write_text('<!ENTITY x "SECRET">')
    document = f"<!DOCTYPE feed {declaration.format(secret.as_uri())}>"
    (folder / "a.xml").write_text(f"{document}<feed>{ENTRY.format('plain')}{ENTRY.format('&x;')}</feed>")
    (folder / "b.xml").write_text(f"{document}<feed></feed>")
    items = read_folder(folder)
    assert papers_in(items) == []
    assert {reject.file for reject in rejects_in(items)} == {"a.xml", "b.xml"}
    assert "SECRET" not in repr(items)


def test_a_single_record_behind_a_comment_is_read() -> None:
    entry = (
        b'<?xml version="1.0"?><!-- kept --><entry xmlns="http://www.w3.org/2005/Atom">'
        b"<id>http://arxiv.org/abs/1707.08567v1</id><title>A title</title><summary>Some words.</summary></entry>"
    )
    [paper] = read_xml(io.BytesIO(entry), "a.xml")
    assert isinstance(paper, Paper)
    assert paper.id == "1707.08567"
