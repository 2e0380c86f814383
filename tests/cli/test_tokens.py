"""`keyrush accounts link`, `unlink`, `keyrush sessions revoke`, and doctor of issuers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from keyrush import Gate, Settings
from keyrush.runtime.clock import now_ms
from tests.conftest import still
from tests.support.calls import Sent, Wsgi
from tests.support.issuer import Issuer, secret_signer, served
from tests.support.running import Runner


@pytest.fixture
def run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Runner:
    """The command, in a folder of its own."""
    return Runner(monkeypatch, capsys, tmp_path)


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    """An issuer that is served."""
    with served() as made:
        yield made


def known(run: Runner, issuer: Issuer, **values: Any) -> None:
    """Have the settings name the issuer."""
    table = {"issuer": issuer.url, "kind": "session", "audience": "api", "scopes": ["*"]}
    run.env(KEYRUSH_ISSUERS=json.dumps([table | values]))


def test_link_revoke_unlink(run: Runner, issuer: Issuer) -> None:
    """O8, O17: whoever is linked gets in; what was issued before is refused once it is revoked, and
    everything once it is unlinked, in an app that runs meanwhile.
    """
    known(run, issuer)
    assert run("accounts", "create", "acct_a").code == 0
    gate = still(Gate.open(Settings()))
    gate.watch.poll()

    def status(token: str) -> int:
        gate.watch.poll()
        sent = Sent("/", [("Authorization", f"Bearer {token}")])
        found: int = Wsgi(gate).send(sent).status
        return found

    old = issuer.token(now_ms(), jti="1")
    assert status(old) == 401
    named = ("--issuer", issuer.url, "--subject", "user-1")
    linked = run("accounts", "link", "acct_a", *named, "--json")
    assert linked.code == 0, linked.err
    assert linked.json["account_id"] == "acct_a"
    assert linked.json["id"].startswith("sub_")
    token = issuer.token(now_ms(), jti="2")
    assert status(token) == 200
    shown = run("accounts", "show", "acct_a", "--json").json["links"]
    assert [it["id"] for it in shown] == [linked.json["id"]]
    assert "user-1" in run("accounts", "show", "acct_a").out
    revoked = run("sessions", "revoke", "--subject", "user-1", "--json")
    assert revoked.code == 0, revoked.err
    assert [it["id"] for it in revoked.json] == [linked.json["id"]]
    assert revoked.json[0]["revoked_before"] is not None
    assert status(token) == 401
    later = issuer.token(now_ms() + 2000)
    assert status(later) == 200
    assert run("accounts", "unlink", "acct_a", *named, "--json").json["ended_at"] is not None
    assert status(later) == 401
    assert run("accounts", "unlink", "acct_a", *named).code == 1
    gate.close()


def test_for_people(run: Runner, issuer: Issuer) -> None:
    """Each says what it has done."""
    known(run, issuer)
    run("accounts", "create", "acct_a")
    named = ("--issuer", issuer.url, "--subject", "user-1")
    assert "user-1" in run("accounts", "link", "acct_a", *named).out
    assert "user-1" in run("sessions", "revoke", "--subject", "user-1").out
    assert "Unlinked" in run("accounts", "unlink", "acct_a", *named).out


def test_mistakes(run: Runner, issuer: Issuer) -> None:
    """What is not there, or can't be, is said in a line: nobody is linked by it."""
    known(run, issuer)
    run("accounts", "create", "acct_a")
    run("accounts", "create", "acct_b")
    named = ("--issuer", issuer.url, "--subject", "user-1")
    assert run("accounts", "link", "acct_a", *named).code == 0
    assert run("accounts", "link", "acct_a", *named).code == 0  # once more is no more
    for words, code, said in (
        (("accounts", "link", "acct_x", *named), 2, "another account"),
        (("accounts", "link", "acct_b", *named), 2, "linked with another account"),
        (("accounts", "link", "acct_x", *named[:3], "user-2"), 1, "no account"),
        (("accounts", "link", "acct_a", "--issuer", "https://x", *named[2:]), 2, "issuer: "),
        (("accounts", "link", "acct_a", *named[:3], "user\n1"), 2, "subject: must be"),
        (("accounts", "unlink", "acct_b", *named), 1, "no such link"),
        (("sessions", "revoke", "--subject", "user-2"), 1, "no such subject"),
        (("sessions", "revoke", *named[2:], "--issuer", "https://x"), 2, "issuer: "),
    ):
        result = run(*words)
        assert result.code == code, words
        assert said in result.err


# --- doctor ------------------------------------------------------------------------------------


def findings(run: Runner) -> tuple[int, list[tuple[str, str]]]:
    """How doctor ends, and what it says of issuers."""
    result = run("doctor", "--json")
    found = [
        (it["level"], it["text"])
        for it in result.json["findings"]
        if it["about"].startswith("issuer ")
    ]
    return result.code, found


def test_doctor(run: Runner, issuer: Issuer) -> None:
    """S51: doctor fetches an issuer's keys, and says how many are of use, for which algorithms."""
    known(run, issuer)
    issuer.keys.append({"kty": "oct", "kid": "x", "k": "aa"})
    assert findings(run) == (0, [("ok", "1 key for ES256; 1 other of no use here")])


def test_doctor_of_what_is_away(run: Runner, issuer: Issuer) -> None:
    """S51: it says why keys can't be had."""
    known(run, issuer)
    issuer.respond = lambda _: (500, {}, b"")
    code, found = findings(run)
    assert code == 3
    assert [level for level, _ in found] == ["problem"]
    assert "answers 500" in found[0][1]


def test_doctor_of_no_keys(run: Runner, issuer: Issuer) -> None:
    """S54: a Supabase project that signs by a secret publishes no keys, which doctor knows."""
    known(run, issuer, preset="supabase", audience=[])
    issuer.keys = []
    code, found = findings(run)
    assert code == 2
    assert "0 keys, none for verifying by ES256, RS256" in found[0][1]
    assert "shared secret" in found[0][1]


def test_doctor_of_secrets(run: Runner, issuer: Issuer) -> None:
    """S48, S54: HS256 is warned of, the secret shown nowhere, and no key asked for."""
    secret = "s3cret" * 6
    known(run, issuer, secret=secret)
    code, found = findings(run)
    assert (code, [level for level, _ in found]) == (1, ["warning"])
    assert "HS256" in found[0][1]
    assert issuer.asked == []
    assert secret not in run("doctor").out
    assert secret not in run("doctor", "--json").out
    gate = still(Gate.open(Settings()))
    token = issuer.token(now_ms(), secret_signer(secret.encode()))
    assert Wsgi(gate).send(Sent("/", [("Authorization", f"Bearer {token}")])).status == 401
    gate.close()


def test_doctor_of_anonymous_users(run: Runner, issuer: Issuer) -> None:
    """S52: who lets anonymous users in is told so."""
    known(run, issuer, preset="supabase", audience=[], anonymous=True)
    code, found = findings(run)
    assert code == 0
    assert [level for level, _ in found] == ["ok", "note"]
