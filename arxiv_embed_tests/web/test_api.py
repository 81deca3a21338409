"""The JSON API: what it answers, one shape for what it refuses, and its document, tried by generated requests."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from fastapi import FastAPI
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
)
from starlette.testclient import TestClient

from arxiv_embed.web.guards import LARGEST_BODY
from arxiv_embed.web.guide import endpoints
from arxiv_embed_tests.stores.shard_rows import SPACE
from arxiv_embed_tests.web.conftest import RECORDS

ALL = {record.id for record in RECORDS}
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    negative_data_rejection,
]
REFUSALS = [400, 404, 405, 413, 414, 422]
REQUESTS = 1_000


def ids(answer: dict[str, Any]) -> list[str]:
    return [hit["paper_id"] for hit in answer["hits"]]


def test_a_search_answers_with_papers_and_why(client: TestClient) -> None:
    answer = client.get("/api/search", params={"q": "colour graphs", "k": 2}).json()
    assert answer["space"] == SPACE.fingerprint
    assert answer["seconds"] > 0
    first, _ = answer["hits"]
    record = RECORDS[0]
    assert first["paper_id"] == record.id
    assert (first["title"], first["abstract"], first["authors"]) == (record.title, record.text, record.authors)
    assert first["categories"] == list(record.categories)
    assert first["text_rank"] == 1
    assert first["score"] > 1 / 61
    assert first["score_parts"].keys() == {"meaning", "words"}
    assert sum(first["score_parts"].values()) == pytest.approx(first["score"])
    assert first["chunk"]["text"] == record.paper.text[first["chunk"]["start"] : first["chunk"]["end"]]
    assert first["abs_url"] == "https://arxiv.org/abs/2401.00001"
    assert first["pdf_url"] == "https://arxiv.org/pdf/2401.00001"


@pytest.mark.parametrize(
    ("filters", "found"),
    [
        ({"category": "math"}, {"2401.00001", "2401.00003"}),
        ({"category": ""}, ALL),
        ({"since": "2020-01-01"}, {"hep-th/9901001"}),
        ({"until": "2020-01-01"}, ALL - {"hep-th/9901001"}),
        ({"withdrawn": True}, {"2401.00004"}),
        ({"withdrawn": False}, ALL - {"2401.00004"}),
    ],
)
def test_filters_narrow_a_search_by_either_method(client: TestClient, filters: dict[str, Any], found: set[str]) -> None:
    asked = {"q": "graphs", **filters}
    assert set(ids(client.get("/api/search", params=asked).json())) == found
    assert set(ids(client.post("/api/search", json=asked).json())) == found
    similar = client.get("/api/papers/2401.00002/similar", params=filters).json()
    assert set(ids(similar)) == found - {"2401.00002"}


def test_a_body_takes_a_query_that_no_address_could(client: TestClient) -> None:
    answer = client.post("/api/search", json={"q": "words " * 16_000, "k": 3, "category": None})
    assert answer.status_code == 200
    assert len(answer.json()["hits"]) == 3


@pytest.mark.parametrize("written", ["hep-th/9901001", "hep-th%2F9901001", "arXiv:hep-th/9901001v2"])
def test_a_paper_is_known_by_any_usual_way_of_writing_its_id(client: TestClient, written: str) -> None:
    assert client.get(f"/api/papers/{written}").json()["title"] == "Strings"
    assert set(ids(client.get(f"/api/papers/{written}/similar").json())) == ALL - {"hep-th/9901001"}


def test_the_store_is_described(client: TestClient, app: FastAPI) -> None:
    client.get("/api/store")
    app.state.service.catalog.wait()
    answer = client.get("/api/store").json()
    assert (answer["papers"], answer["rows"], answer["model"], answer["newest"]) == (5, 18, "tiny", "2021-03-04")
    [space] = answer["spaces"]
    assert (space["fingerprint"], space["papers"], space["rows"], space["searched"]) == (SPACE.fingerprint, 5, 18, True)


@pytest.mark.parametrize(
    ("address", "status", "said"),
    [
        ("/api/search?q=%20", 400, "The query is empty"),
        ("/api/search?q=x&since=2024-01-02&until=2024-01-01", 400, "exchange the two days"),
        ("/api/search", 422, "q: Field required"),
        ("/api/search?q=x&k=0", 422, "k: "),
        ("/api/search?q=x&k=101", 422, "k: "),
        ("/api/search?q=x&since=yesterday", 422, "since: write a day as 2024-01-31"),
        ("/api/search?q=x&since=1700000000", 422, "since: "),
        ("/api/search?q=x&withdrawn=perhaps", 422, "withdrawn: "),
        ("/api/search?q=x&unknown=1", 422, "unknown: "),
        ("/api/papers/nonsense", 400, "is no arXiv id"),
        ("/api/papers/", 400, "is no arXiv id"),
        ("/api/papers/2401.99999", 404, "The store holds no paper 2401.99999"),
        ("/api/papers/2401.99999/similar", 404, "The store holds no paper 2401.99999"),
        ("/api/nothing", 404, "There is nothing at this address"),
    ],
)
def test_a_refusal_has_one_shape(client: TestClient, address: str, status: int, said: str) -> None:
    answer = client.get(address)
    assert answer.status_code == status
    assert answer.json().keys() == {"status", "error"}
    assert answer.json()["status"] == status
    assert said in answer.json()["error"]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 422),
        (b"{", 422),
        (b"[" * 100_000, 400),
        (b'{"q": "\\ud800"}', 422),
        (b'{"q": "\xed\xa0\x80"}', 422),
        (b'{"q": "\\u0000"}', 200),
        (b'{"q": "' + b"x" * 100_001 + b'"}', 422),
        (b" " * (LARGEST_BODY + 1), 413),
    ],
    ids=range(8),
)
def test_any_body_has_an_answer(client: TestClient, body: bytes, status: int) -> None:
    answer = client.post("/api/search", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == status
    assert status == 200 or answer.json()["status"] == status


@pytest.mark.parametrize(
    ("body", "kind", "said"),
    [
        (b'{"q": "graphs"}', "application/x-www-form-urlencoded", "not sent as content-type: application/json"),
        (b"[]", "application/json", "the body is no JSON object"),
        (b'{"q": "\xff"}', "application/json", "send a JSON object in UTF-8"),
    ],
)
def test_a_body_that_cannot_be_read_says_how_to_send_it(client: TestClient, body: bytes, kind: str, said: str) -> None:
    assert said in client.post("/api/search", content=body, headers={"content-type": kind}).json()["error"]


def test_a_body_that_does_not_say_how_large_it_is_is_read_so_far_and_no_further(client: TestClient) -> None:
    pieces = (b" " * 100_000 for _ in range(100))
    answer = client.post("/api/search", content=pieces, headers={"content-type": "application/json"})
    assert answer.status_code == 413


def test_another_method_is_refused(client: TestClient) -> None:
    answer = client.delete("/api/search")
    assert (answer.status_code, answer.json()["status"]) == (405, 405)
    assert "GET" in answer.headers["allow"]


def test_health_is_that_of_the_store(client: TestClient, folder: Path) -> None:
    assert client.get("/api/health").json() == {"status": "ok"}
    folder.rename(folder.with_name("elsewhere"))
    for address in ("/api/health", "/api/store", "/api/search?q=x", "/api/papers/2401.00001"):
        answer = client.get(address)
        assert answer.status_code == 503, address
        assert str(folder) not in answer.text


def test_every_field_of_the_document_is_described(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    for name, schema in document["components"]["schemas"].items():
        assert schema.get("description"), name
        for field, described in schema["properties"].items():
            assert described.get("description"), (name, field)
    for methods in document["paths"].values():
        for operation in methods.values():
            assert operation["description"]
            assert {"414", "503"} <= set(operation["responses"])
            for parameter in operation.get("parameters", []):
                assert parameter.get("description"), parameter


def test_the_guide_names_every_endpoint_with_a_command_that_works(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    listed = endpoints(document, "http://testserver")
    html = client.get("/api").text
    assert len(listed) == sum(map(len, document["paths"].values())) == 6
    for one in listed:
        assert one.path in html
        assert one.parameters or "parameters" not in document["paths"][one.path][one.method.lower()]
        if one.method == "GET":
            address = one.command.removeprefix("curl ").strip("'")
            assert client.get(address).status_code in (200, 404)  # the example's paper is of another store
    assert "cdn" not in html


def test_a_thousand_generated_requests_are_answered_as_the_document_says(app: FastAPI) -> None:
    config = schemathesis.Config.from_dict({"checks": {"negative_data_rejection": {"expected-statuses": REFUSALS}}})
    schema = schemathesis.openapi.from_asgi("/openapi.json", app, config=config)
    operations = [result.ok() for result in schema.get_all_operations()]
    sent = itertools.count(1)
    open_ended = [one for one in operations if one.path not in ("/api/store", "/api/health")]
    assert len(open_ended) == 4
    for operation in open_ended:
        asked = st.one_of(operation.as_strategy(mode) for mode in GenerationMode)

        @settings(
            max_examples=1 + REQUESTS // len(open_ended),
            deadline=None,
            derandomize=True,  # what is found here is mended here, and stops nobody else
            suppress_health_check=list(HealthCheck),
        )
        @given(asked)
        def answered(case: schemathesis.Case) -> None:
            next(sent)
            case.call_and_validate(checks=CHECKS)

        answered()
    assert next(sent) > REQUESTS
