"""URLs with several hosts: of PostgreSQL as libpq takes them, of Sentinels and of a Cluster."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg

from keyrush import ConfigurationError, Gate
from keyrush.sql.engine import Database
from keyrush.sql.hosts import database_url
from keyrush.store.sql import SqlStore
from tests.conftest import settings
from tests.support.calls import decide
from tests.support.proxy import proxy
from tests.support.running import Runner
from tests.support.valkey import Valkey, Watched, free_port

PEPPER = "p" * 32


@pytest.fixture
def run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Runner:
    """The command in a folder with nothing in it."""
    return Runner(monkeypatch, capsys, tmp_path)


@pytest.mark.parametrize(
    ("places", "host", "port"),
    [
        ("h1:1,h2:2", "h1,h2", "1,2"),
        ("h1,h2", "h1,h2", "5432,5432"),
        ("h1,h2:7", "h1,h2", "5432,7"),
        ("h1:,h2", "h1,h2", "5432,5432"),
        ("[::1]:1,[fe80::2],10.0.0.1:3", "::1,fe80::2,10.0.0.1", "1,5432,3"),
    ],
)
@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+psycopg"])
def test_what_libpq_is_told(scheme: str, places: str, host: str, port: str) -> None:
    """Hosts and ports reach libpq in their order, beside all else that the URL says."""
    url = database_url(
        f"{scheme}://me:s%2Cx@{places}/keys?target_session_attrs=primary&sslmode=prefer"
    )
    dialect: Any = PGDialect_psycopg
    _, told = dialect().create_connect_args(url)
    assert told == {
        "user": "me",
        "password": "s,x",
        "dbname": "keys",
        "host": host,
        "port": port,
        "target_session_attrs": "primary",
        "sslmode": "prefer",
    }


def test_a_host_that_can_be_written_is_looked_for(postgres_url: str) -> None:
    """Of several hosts those that have become replicas are passed over, as after a failover; where
    none is left, that is said.
    """
    assert database_url("postgresql://h1,h2/keys").query["target_session_attrs"] == "read-write"
    there = parse_qs(urlsplit(postgres_url).query)["host"][0] + "/.s.PGSQL.5432"
    name = urlsplit(postgres_url).path
    with proxy(there) as server:
        one = f"postgresql://postgres:@127.0.0.1:{server.port}{name}"
        store = SqlStore(Database(one))
        with store.database.engine.begin() as connection:
            statement = f"ALTER DATABASE {name[1:]} SET default_transaction_read_only = on"
            connection.exec_driver_sql(statement)
        store.close()
        with pytest.raises(ConfigurationError, match="session is read-only"):
            SqlStore(Database(one.replace(name, f",127.0.0.1:{server.port}{name}")))
        assert server.connections >= 3  # each of the two was asked


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:p@h1:1,h2:x/keys",
        "postgresql://u:p@h1:1:2,h2/keys",
        "postgresql://u:p@h1,h2/keys?host=h3",
        "postgresql://u:p@h1,h2/keys?port=7",
    ],
)
def test_hosts_that_are_none(url: str) -> None:
    """Where several hosts can't be told apart the URL is refused, as any that is none."""
    with pytest.raises(
        ConfigurationError, match=r"not a database URL.* several hosts as in "
    ) as no:
        SqlStore(Database(url))
    assert "u:p" not in str(no.value)


def test_a_comma_in_a_password() -> None:
    """O22: a login is a login, whatever is in it."""
    url = database_url("postgresql://QX,ZJ:1@127.0.0.1:1/keys")
    assert (url.username, url.password, url.host, url.port) == ("QX,ZJ", "1", "127.0.0.1", 1)
    assert not url.query


def test_one_of_two_is_there(postgres_url: str, run: Runner) -> None:
    """The host that answers is used, wherever in the list it is; doctor says that all is well."""
    socket = parse_qs(urlsplit(postgres_url).query)["host"][0] + "/.s.PGSQL.5432"
    name = urlsplit(postgres_url).path
    with proxy(socket) as server:
        for places in ((free_port(), server.port), (server.port, free_port())):
            hosts = ",".join(f"127.0.0.1:{port}" for port in places)
            url = f"postgresql://postgres:@{hosts}{name}"
            gate = Gate.open(settings(store_url=url, pepper=PEPPER))
            account = gate.accounts.create(f"acct_{places[0]}")
            key = gate.keys.create(account.id, "n").text
            assert isinstance(decide(gate, key), tuple)
            gate.close()
            run.env(KEYRUSH_STORE_URL=url, KEYRUSH_PEPPER=PEPPER)
            result = run("doctor")
            assert result.code == 0, result.out
            assert hosts in result.out


def test_no_host_is_there(run: Runner) -> None:
    """Where none answers doctor says so: exit code 3."""
    url = f"postgresql://me:hunter2@127.0.0.1:{free_port()},127.0.0.1:{free_port()}/keys"
    run.env(KEYRUSH_STORE_URL=url, KEYRUSH_PEPPER=PEPPER)
    result = run("doctor")
    assert result.code == 3
    assert "problem  store: KEYRUSH_STORE_URL: can't open postgresql://***@127" in result.out
    assert "hunter2" not in result.out


def test_doctor_on_a_sentinel(run: Runner, watched: Watched) -> None:
    """The documented form of a Sentinel's URL, with several of them, one of which is away."""
    away = f"127.0.0.1:{free_port()}"
    run.env(
        KEYRUSH_LIMITER_URL=f"redis+sentinel://{away},127.0.0.1:{watched.sentinel.port}/mymaster"
    )
    result = run("doctor")
    assert result.code == 0, result.out
    assert "counted together on their own server" in result.out


def test_doctor_on_a_cluster(run: Runner, cluster_url: str) -> None:
    """The documented form of a Cluster's URL."""
    run.env(KEYRUSH_LIMITER_URL=cluster_url)
    result = run("doctor")
    assert result.code == 0, result.out
    assert "counted together on their own server" in result.out


@pytest.mark.parametrize("form", ["redis+sentinel://{}/service", "redis+cluster://{}"])
def test_doctor_where_none_is_there(run: Runner, form: str) -> None:
    """Several servers none of which answers are a problem, said in words: exit code 3."""
    places = f"127.0.0.1:{free_port()},127.0.0.1:{free_port()}"
    run.env(KEYRUSH_LIMITER_URL=form.format(places))
    result = run("doctor")
    assert result.code == 3
    (line,) = (line for line in result.out.splitlines() if line.startswith("problem"))
    assert "can't be counted" in line
    assert "object at 0x" not in line
    assert len(line) < 400


def test_doctor_on_a_node_of_a_cluster(run: Runner, valkey_cluster: list[Valkey]) -> None:
    """A Cluster behind plain `redis://`, of which each node counts but a part of the keys, is a
    problem, with what to write instead: exit code 2; whichever node it is.
    """
    for node in valkey_cluster:
        run.env(KEYRUSH_LIMITER_URL=f"{node.url}?prefix=plain{os.getpid()}")
        result = run("doctor")
        assert result.code >= 2
        assert "write redis+cluster://" in result.out
