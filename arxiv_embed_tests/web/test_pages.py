"""The search page as it is sent: what it shows, what it refuses, and that it needs nothing from elsewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from arxiv_embed.stores.lance.store import LanceStore
from arxiv_embed.stores.search import Hit
from arxiv_embed.web.answers import HEADERS
from arxiv_embed.web.forms import Form
from arxiv_embed.web.hits import explained, ordinal, shown
from arxiv_embed_tests.stores.shard_rows import SPACE, Record, shard_rows
from arxiv_embed_tests.stores.test_search import ANY_TEXT
from arxiv_embed_tests.web.conftest import LONG, RECORDS
from arxiv_embed_tests.web.markup import Reading

ALL = {record.id for record in RECORDS}


def found(client: TestClient, **parameters: str) -> list[str]:
    """The ids on the page, in its order; checks that it is well-formed."""
    answer = client.get("/", params=parameters)
    assert answer.status_code == 200, answer.text
    Reading(answer.text)
    return re.findall(r'<span class="id">([^<]+)</span>', answer.text)


def test_the_start_page_says_what_the_store_holds(client: TestClient, app: FastAPI) -> None:
    app.state.service.catalog.contents()
    app.state.service.catalog.wait()
    answer = client.get("/")
    assert answer.status_code == 200
    seen = Reading(answer.text).seen
    assert "5 arXiv papers, the newest of 2021-03-04; searched by meaning with tiny and by words." in seen
    assert '<option value="math.CO">Combinatorics</option>' in answer.text
    assert '<option value="math">Mathematics</option>' in answer.text
    assert "q-fin" not in answer.text
    examples = re.findall(r'<a href="(/\?q=[^"]+)" data-soft>', answer.text)
    assert len(examples) >= 3
    assert client.get(examples[0]).status_code == 200


def test_the_catalog_follows_the_store(client: TestClient, app: FastAPI, folder: Path) -> None:
    client.get("/")
    app.state.service.catalog.wait()
    with LanceStore(folder) as store:
        store.write_shard(SPACE, "b", shard_rows("b", [Record("2402.00001", published="2024-02-01")]), "i")
    app.state.service.searcher.store._tables.close()
    client.get("/")
    app.state.service.catalog.wait()
    assert "6 arXiv papers, the newest of 2024-02-01" in Reading(client.get("/").text).seen


def test_a_hit_shows_its_paper(client: TestClient) -> None:
    answer = client.get("/", params={"q": "colour graphs"})
    assert found(client, q="colour graphs")[0] == "2401.00001"
    first = answer.text.split("<li>")[1].split("</article>")[0]
    assert "<math" in first
    seen = " ".join(Reading("<article" + first.split("<article", 1)[1] + "</article>").seen.split())
    assert "Colouring K_4-free graphs, by Erdős" in seen
    assert "Paul Erdős and Alfréd Rényi" in seen
    assert "2401.00001 2019-05-06 math.CO cs.DM" in seen
    assert "Rényi's random ones." in seen
    assert 'href="https://arxiv.org/abs/2401.00001"' in first
    assert 'href="https://arxiv.org/pdf/2401.00001"' in first
    assert 'href="/?like=2401.00001"' in first
    assert 'href="/?q=colour+graphs&amp;category=math.CO"' in first
    assert re.search(r"\dst by words, cosine -?\d\.\d\d", seen)


def test_the_best_chunk_is_marked_and_a_long_abstract_folded(client: TestClient) -> None:
    answer = client.get("/", params={"like": "2401.00001"}).text
    article = next(part for part in answer.split("<article")[1:] if "Quantum groups" in part)
    part, whole = article.split("<details>")
    assert "<mark>" in part
    assert LONG not in Reading("<article" + part.split("<div", 1)[0] + "</article>").seen
    assert LONG in Reading("<details>" + whole.split("</details>")[0] + "</details>").seen


def test_what_is_html_in_a_paper_is_text_on_the_page(client: TestClient) -> None:
    answer = client.get("/", params={"q": 'neural "><script>alert(1)</script>'})
    assert answer.text.count("<script") == 1, "the page's own"
    assert "Deep &lt;script&gt;alert(1)&lt;/script&gt; &amp; nets." in answer.text.replace("<mark>", "").replace(
        "</mark>", ""
    )
    assert "Neural &lt;b&gt;networks&lt;/b&gt;" in answer.text


def test_what_is_withdrawn_or_cut_is_said(client: TestClient) -> None:
    answer = client.get("/", params={"q": "anything"}).text
    assert answer.count('<span class="badge">withdrawn</span>') == 1
    assert "not embedded: its last 1,234 tokens, beyond the token limit" in answer


@pytest.mark.parametrize(
    ("filters", "ids"),
    [
        ({}, ALL),
        ({"category": "math.CO"}, {"2401.00001"}),
        ({"category": "math"}, {"2401.00001", "2401.00003"}),
        ({"withdrawn": "only"}, {"2401.00004"}),
        ({"withdrawn": "without"}, ALL - {"2401.00004"}),
        ({"since": "2020-01-01"}, {"hep-th/9901001"}),
        ({"until": "2020-01-01"}, ALL - {"hep-th/9901001"}),
    ],
)
def test_filters_narrow_a_search_and_can_be_taken_back(
    client: TestClient, filters: dict[str, str], ids: set[str]
) -> None:
    assert set(found(client, q="graphs", **filters)) == ids
    answer = client.get("/", params={"q": "graphs", **filters}).text
    chosen = re.findall(r'<li><a href="([^"]+)" data-soft title="Search without this">', answer)
    assert chosen == ["/?q=graphs"] * len(filters)


def test_a_long_query_is_not_repeated_with_every_paper(client: TestClient) -> None:
    query = "x" * 50_000
    answer = client.get("/", params={"q": query}).text
    assert len(re.findall('class="hit"', answer)) == len(ALL)
    assert '<span title="Combinatorics">math.CO</span>' in answer
    assert answer.count(query) == 1


def test_so_many_papers_as_are_asked_for(client: TestClient) -> None:
    assert len(found(client, q="graphs", k="2")) == 2


def test_more_like_this_leaves_out_the_paper_and_keeps_the_filters(client: TestClient) -> None:
    assert set(found(client, like="hep-th/9901001")) == ALL - {"hep-th/9901001"}
    answer = client.get("/", params={"like": "hep-th/9901001", "category": "math"}).text
    assert 'name="like" value="hep-th/9901001"' in answer
    assert 'href="/?like=2401.00001&amp;category=math"' in answer
    assert set(found(client, like="hep-th/9901001", q="a query goes first")) == ALL


def test_nothing_found_says_what_to_do(client: TestClient) -> None:
    answer = client.get("/", params={"q": "graphs", "since": "2030-01-01"})
    assert answer.status_code == 200
    assert "Try other words or fewer filters." in answer.text
    assert 'href="/?q=graphs" data-soft>The same search without filters' in answer.text


@pytest.mark.parametrize(
    ("address", "status", "said"),
    [
        ("/?q=", 400, "The query is empty"),
        ("/?q=%00%20%0a", 400, "The query is empty"),
        ("/?category=cs", 400, "The query is empty"),
        ("/?q=x&since=yesterday", 400, "since &#39;yesterday&#39; is no day: write it as 2024-01-31."),
        ("/?q=x&since=2024-01-02&until=2024-01-01", 400, "exchange the two days"),
        ("/?q=x&k=0", 400, "give 1 to 100"),
        ("/?q=x&k=101", 400, "give 1 to 100"),
        ("/?q=x&k=1e9", 400, "give 1 to 100"),
        ("/?q=x&k=%D9%A1", 400, "give 1 to 100"),
        ("/?q=x&k=" + "9" * 300, 400, "give 1 to 100"),
        ("/?q=x&k=0000000019999999", 400, "give 1 to 100"),
        ("/?q=x&withdrawn=perhaps", 400, "none of"),
        ("/?q=x&category=" + "a" * 101, 400, "That is no category"),
        ("/?like=nonsense", 400, "is no arXiv id"),
        ("/?like=2401.99999", 404, "The store holds no paper 2401.99999"),
        ("/nowhere", 404, "There is nothing at this address"),
        ("/static/nowhere.css", 404, "There is nothing at this address"),
    ],
    ids=range(17),
)
def test_what_cannot_be_answered_is_a_page_with_a_search_box(
    client: TestClient, address: str, status: int, said: str
) -> None:
    answer = client.get(address)
    assert answer.status_code == status
    assert said in answer.text
    assert 'id="q"' in answer.text
    Reading(answer.text)


@pytest.mark.parametrize("query", [*ANY_TEXT, r"$\frac{", "{{7*7}}", "%3Cscript%3E"], ids=range(len(ANY_TEXT) + 3))
def test_any_text_is_a_query(client: TestClient, query: str) -> None:
    assert set(found(client, q=query.encode("utf-8", "replace").decode())) == ALL


def test_a_lone_surrogate_in_an_address_is_a_query(client: TestClient) -> None:
    assert client.get("/?q=%ED%A0%80&category=%ED%A0%80").status_code == 200


def test_a_store_that_is_away_is_said_to_be_and_comes_back(client: TestClient, folder: Path) -> None:
    folder.rename(folder.with_name("elsewhere"))
    for address in ("/", "/?q=graphs", "/?like=2401.00001"):
        answer = client.get(address)
        assert answer.status_code == 503
        assert "The store cannot be read at the moment: try again soon." in answer.text
        assert str(folder) not in answer.text
    assert client.get("/api").status_code == 200
    folder.with_name("elsewhere").rename(folder)
    assert client.get("/?q=graphs").status_code == 200


def test_an_error_of_the_server_is_a_page_too(app: FastAPI, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(app.state.service, "search", fail)
    client = TestClient(app, raise_server_exceptions=False)
    answer = client.get("/?q=x")
    assert (answer.status_code, "Something went wrong" in answer.text) == (500, True)
    assert client.get("/api/search?q=x").json()["status"] == 500
    assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    "address", ["/", "/?q=graphs", "/?q=", "/nowhere", "/api", "/api/store", "/api/search", "/openapi.json"]
)
def test_every_answer_has_the_headers_and_no_cookie(client: TestClient, address: str) -> None:
    headers = client.get(address).headers
    assert {name: headers[name] for name in HEADERS} == HEADERS
    assert "set-cookie" not in headers
    assert "unsafe" not in HEADERS["content-security-policy"]


@pytest.mark.parametrize("address", ["/", "/?q=graphs", "/?like=2401.00001", "/?q=", "/api"])
def test_a_page_asks_nothing_of_anyone_else_and_has_no_script_or_style_within(client: TestClient, address: str) -> None:
    html = client.get(address).text
    asked = re.findall(r'<(?:link|script|img|iframe)[^>]+(?:href|src)="([^"]+)"', html)
    assert asked
    assert all(one.startswith("/static/") for one in asked)
    assert not re.search(r"<style|\bstyle=|\bon[a-z]+=", html)
    assert re.search(r"<script src=[^>]+></script>", html)
    css = client.get(next(one for one in asked if ".css" in one)).text
    assert "url(" not in css
    assert "@import" not in css


def test_static_files_are_kept_for_ever_by_their_content(client: TestClient) -> None:
    [script] = re.findall(r'<script src="([^"]+)"', client.get("/").text)
    assert client.get(script).headers["cache-control"] == "public, max-age=31536000, immutable"
    assert client.get(script.split("?")[0]).headers["cache-control"] == "no-cache"


def test_a_page_is_compressed_for_who_can_read_that(client: TestClient) -> None:
    assert client.get("/?q=graphs", headers={"accept-encoding": "gzip"}).headers["content-encoding"] == "gzip"
    assert "content-encoding" not in client.get("/?q=graphs", headers={"accept-encoding": "identity"}).headers


def test_the_head_of_a_page_can_be_asked_for(client: TestClient) -> None:
    assert client.head("/?q=graphs").status_code == 200


def test_the_form_shows_what_was_asked(client: TestClient) -> None:
    answer = client.get("/", params={"q": 'a "b" <c>', "category": "cs", "since": "2001-02-03", "k": "20"}).text
    assert 'value="a &#34;b&#34; &lt;c&gt;"' in answer
    assert 'name="category" value="cs"' in answer
    assert 'name="since" value="2001-02-03"' in answer
    assert '<option value="20" selected>' in answer


@pytest.mark.parametrize(
    ("number", "said"), [(1, "1st"), (2, "2nd"), (3, "3rd"), (4, "4th"), (11, "11th"), (21, "21st"), (112, "112th")]
)
def test_ranks_are_said_in_words(number: int, said: str) -> None:
    assert ordinal(number) == said


def test_a_hit_of_one_ranking_names_that_one(client: TestClient, app: FastAPI) -> None:
    paper = app.state.service.paper("2401.00003")
    assert explained(Hit(paper, 0.1, None, 3, 0.4142, 0, 5)) == "3rd by words, cosine 0.41"
    assert explained(Hit(paper, 0.1, 1, None, None, 0, 5)) == "1st by meaning"


def test_a_chunk_that_is_all_of_the_abstract_is_not_marked(app: FastAPI) -> None:
    paper = app.state.service.paper("2401.00001")
    text = f"{paper.title}\n\n{paper.abstract}"
    assert "<mark>" not in shown(Hit(paper, 0.1, 1, 1, 0.5, 0, len(text)), Form(q="x")).abstract
    assert "<mark>We colour" in shown(Hit(paper, 0.1, 1, 1, 0.5, 0, len(text) - 5), Form(q="x")).abstract


def test_of_many_authors_the_first_are_named(app: FastAPI) -> None:
    paper = app.state.service.paper("2401.00001")
    many = ", ".join(f"Author Number{number}" for number in range(500))
    hit = shown(Hit(type(paper)(**{**vars(paper), "authors": many}), 0.1, 1, 1, 0.5, 0, 5), Form(q="x"))
    assert hit.more_authors
    assert many.startswith(hit.authors + ", ")
