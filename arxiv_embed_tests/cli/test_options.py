"""Options: where `--db-name` and `--db-host` put the store."""

from __future__ import annotations

import pytest
from psycopg.conninfo import conninfo_to_dict

from arxiv_embed.cli.options import store_url
from arxiv_embed.errors import ArxivEmbedError
from arxiv_embed.settings import Settings


def test_a_name_alone_is_that_of_an_embedded_store(settings: Settings) -> None:
    assert store_url("bge", settings) == str(settings.stores / "bge")
    assert store_url(None, settings) == settings.store


@pytest.mark.parametrize("host", ["localhost", "db.example.org", "::1", "/var/run/postgresql"])
def test_with_a_host_it_is_a_database_of_that_server(settings: Settings, host: str) -> None:
    assert conninfo_to_dict(store_url(None, settings, host)) == {"host": host, "dbname": "papers"}
    odd = store_url("my papers/@?", settings, host, 5433, "me:@/")
    assert conninfo_to_dict(odd) == {"host": host, "port": "5433", "user": "me:@/", "dbname": "my papers/@?"}


@pytest.mark.parametrize(("port", "user"), [(5432, None), (None, "me")])
def test_a_port_or_a_user_needs_a_host(settings: Settings, port: int | None, user: str | None) -> None:
    with pytest.raises(ArxivEmbedError, match="give its --db-host too"):
        store_url("papers", settings, None, port, user)
