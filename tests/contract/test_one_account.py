"""The page on one account, tried as somebody new would: with its settings, its app and an issuer
that is like Supabase.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from starlette.testclient import TestClient

from keyrush.runtime.clock import now_ms
from tests.conftest import CHEAP
from tests.contract.test_pages import execute
from tests.support.issuer import served
from tests.support.pages import PAGES

PAGE = PAGES["docs/one-account.md"]

NAMED = "https://YOUR-PROJECT.supabase.co/auth/v1"


def test_supabase_in_ten_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """O8, O9, O17: the page's settings and its app take the token of a session, which makes a key
    of the same account; role tokens and clients are refused.
    """
    monkeypatch.chdir(tmp_path)
    for name, value in CHEAP.items():
        monkeypatch.setenv(f"KEYRUSH_{name.upper()}", str(value))
    (toml,) = PAGE.code("toml")
    assert len(toml.splitlines()) <= 10
    with served() as issuer:
        (tmp_path / "keyrush.toml").write_text(toml.replace(NAMED, issuer.url))

        def bearer(**claims: object) -> dict[str, str]:
            token = issuer.signer.sign(issuer.supabase(now_ms(), **claims))
            return {"Authorization": f"Bearer {token}"}

        with TestClient(execute(PAGE.code("python")[0])["app"]) as client:
            first = client.get("/me", headers=bearer())
            assert (first.status_code, first.json()["by"]) == (200, "session")
            made = client.post(
                "/v1/me/api-credentials", headers=bearer(), json={"name": "ci"}
            ).json()
            by_key = client.get("/me", headers={"X-API-Key": made["key"]}).json()
            assert by_key == {"account": first.json()["account"], "by": "key"}
            for claims in ({"role": "anon"}, {"client_id": "c1"}, {"is_anonymous": True}):
                assert client.get("/me", headers=bearer(**claims)).status_code == 401


def test_commands_name_the_issuer_of_the_page() -> None:
    """What the page types is about the issuer that its settings name."""
    named = [word for line in PAGE.commands for word in line.split() if word.startswith("https")]
    assert set(named) == {NAMED}
    assert NAMED in PAGE.code("toml")[0]


def test_table_of_issuers() -> None:
    """The table has each name that a table of issuers may have."""
    from keyrush.settings.issuers import IssuerTable  # noqa: PLC0415  # for this alone

    rows = [name for (name,) in PAGE.rows(r" `(\w+)` [|] [^|]* [|] [^|]*")]
    issuers = set(IssuerTable.model_fields) - {"issuer", "kind"}
    assert issuers <= set(rows)
    principal = {"source", "key_id", "subject", "session_id", "client_id", "scopes", "environment"}
    assert set(rows) - issuers <= principal
