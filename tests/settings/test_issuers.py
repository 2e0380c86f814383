"""`[[issuers]]`: what may stand there, and how mistakes are said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from keyrush import ConfigurationError, Gate, Settings
from keyrush.core.issuers import ALGORITHMS, NEW_ACCOUNTS, Issuer
from keyrush.settings.effective import effective, shown
from keyrush.store.memory import MemoryStore
from tests.conftest import settings
from tests.support.scripts import run_anew

URL = "https://project.supabase.co/auth/v1"

SECRET = "a secret that is as long as it must be"


def taken(**values: Any) -> Issuer:
    (found,) = settings(issuers=[values]).issuer_values
    return found


def test_supabase() -> None:
    """S52, S54: the preset knows where the keys are and what the tokens are for."""
    found = taken(issuer=URL, kind="session", preset="supabase", scopes=["*"], accounts="create")
    assert found == Issuer(
        issuer=URL,
        kind="session",
        audience=frozenset({"authenticated"}),
        jwks_url=f"{URL}/.well-known/jwks.json",
        preset="supabase",
        scopes=("*",),
        creates=True,
    )


def test_defaults() -> None:
    """S41, S54: ES256 and RS256, nobody let in by themselves, no secret, keys by discovery."""
    found = taken(issuer="https://i", kind="oauth")
    assert found == Issuer(issuer="https://i", kind="oauth", audience=frozenset())
    assert (found.algorithms, found.creates, found.new_accounts) == (
        ALGORITHMS,
        False,
        NEW_ACCOUNTS,
    )


def test_everything() -> None:
    """Every name of a table is taken."""
    found = taken(
        issuer="http://127.0.0.1:9000",
        kind="session",
        audience=["a", "b"],
        algorithms="HS256",
        secret=SECRET,
        typ="at+jwt",
        scope_claim="permissions",
        accounts="create",
        plan="pro",
        new_accounts=5,
    )
    assert found.audience == {"a", "b"}
    assert (found.algorithms, found.secret, found.typ) == (("HS256",), SECRET.encode(), "at+jwt")
    assert (found.scope_claim, found.plan, found.new_accounts) == ("permissions", "pro", 5)


def test_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """`KEYRUSH_ISSUERS` is JSON; what is none is said without a word of it."""
    table = {"issuer": "https://i", "kind": "oauth", "audience": "https://api"}
    monkeypatch.setenv("KEYRUSH_ISSUERS", json.dumps([table]))
    assert Settings().issuers[0].audience == ("https://api",)
    monkeypatch.setenv("KEYRUSH_ISSUERS", f"[{SECRET}")
    with pytest.raises(ConfigurationError, match=r"^KEYRUSH_ISSUERS: must be JSON here$"):
        Settings()


def test_from_the_file(tmp_path: Path) -> None:
    """`[[issuers]]` of the TOML file; a mistake is said with its line."""
    path = tmp_path / "keyrush.toml"
    path.write_text('[[issuers]]\nissuer = "https://i"\nkind = "oauth"\n')
    assert Settings(config=path).issuer_names == ("https://i",)
    path.write_text('[[issuers]]\nissuer = "https://i"\nkind = "cookie"\n')
    with pytest.raises(ConfigurationError, match=r"issuers\.0\.kind: .*line 3\)$"):
        Settings(config=path)
    path.write_text('[[issuers]]\nissuer = "https://i"\nkind = "oauth"\naudiance = "x"\n')
    with pytest.raises(ConfigurationError, match="did you mean audience"):
        Settings(config=path)


GOOD: dict[str, Any] = {"issuer": "https://i", "kind": "session", "audience": "a", "scopes": []}

WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no https": ({"issuer": "http://i.example"}, "issuers.0.issuer: must be an https URL"),
    "a login": ({"issuer": "https://u:pw@i"}, "issuers.0.issuer: must be an https URL"),
    "a query": ({"issuer": "https://i?a=b"}, "issuers.0.issuer: must be an https URL"),
    "a fragment": ({"issuer": "https://i#a"}, "issuers.0.issuer: must be an https URL"),
    "no URL": ({"issuer": "supabase"}, "issuers.0.issuer: must be an https URL"),
    "too long": ({"issuer": "https://i/" + "a" * 250}, "at most 255"),
    "a host that begins like loopback": ({"issuer": "http://127.0.0.1.evil.example"}, "https"),
    "a host that is like loopback": ({"issuer": "http://localhost.evil.example"}, "https"),
    "keys over http": ({"jwks_url": "http://i/keys"}, "issuers.0.jwks_url: must be an https"),
    "keys in a file": ({"jwks_url": "file:///etc/passwd"}, "issuers.0.jwks_url"),
    "a kind that there is not": ({"kind": "cookie"}, "issuers.0.kind"),
    "none": ({"algorithms": ["none"]}, "none not among ES256"),
    "an algorithm of another case": ({"algorithms": "es256"}, "es256 not among"),
    "HS384": ({"algorithms": "HS384", "secret": SECRET}, "HS384 not among"),
    "HS256 without a secret": ({"algorithms": ["HS256"]}, "HS256 needs a secret"),
    "a secret for nothing": ({"algorithms": "ES256", "secret": SECRET}, "a secret is for HS256"),
    "a short secret": ({"secret": "s" * 31}, "issuers.0.secret: must have at least 32 bytes"),
    "a public key": ({"secret": "-----BEGIN PUBLIC KEY-----" + "A" * 40}, "a key that others know"),
    "a JWK": ({"secret": '{"kty": "EC", "crv": "P-256", "x": "abc"}'}, "a key that others know"),
    "no audience": ({"audience": []}, "say what a session is good for: audience"),
    "an empty audience": ({"audience": [""]}, "issuers.0.audience.0"),
    "no scopes": ({"scopes": None}, "say what a session may do"),
    "both": ({"scope_claim": "scope"}, "give scopes or scope_claim, not both"),
    "no scope": ({"scopes": ["a b"]}, "issuers.0.scopes.0"),
    "anonymous for nothing": ({"anonymous": True}, "anonymous is for preset"),
    "a plan that there is not": ({"plan": "gold"}, "the plan 'gold' is not in the table"),
    "nobody": ({"new_accounts": 0}, "issuers.0.new_accounts"),
    "a preset that there is not": ({"preset": "auth0"}, "issuers.0.preset"),
    "accounts": ({"accounts": "maybe"}, "issuers.0.accounts"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong(case: str) -> None:
    """S48: a mistake stops the start-up, is said with its field, and shows no value."""
    values, said = WRONG[case]
    with pytest.raises(ConfigurationError) as caught:
        settings(issuers=[GOOD | values])
    assert said in str(caught.value)
    secret = values.get("secret")
    assert secret is None or secret not in str(caught.value)


def test_no_secret_in_any_mistake() -> None:
    """S82: nor is a secret shown where something else of its table is wrong, or all of it."""
    for values in (
        {"secret": SECRET, "anonymous": True},
        {"secret": SECRET, "kind": None},
        {"secret": [SECRET]},
        {"secret": {"k": SECRET}},
        {"secret": SECRET, "more": SECRET},
        {"secret": SECRET, "issuer": f"https://{SECRET}@i"},
    ):
        with pytest.raises(ConfigurationError) as caught:
            settings(issuers=[GOOD | values])
        assert SECRET not in str(caught.value)
        assert SECRET not in repr(caught.value.__cause__)
    with pytest.raises(ConfigurationError) as caught:
        settings(issuers=SECRET)
    assert SECRET not in str(caught.value)


def test_secrets_are_masked() -> None:
    """S82: a secret is in no repr, and in nothing that is shown."""
    made = settings(issuers=[GOOD | {"secret": SECRET}])
    found = effective(made)["issuers"]
    assert found[0]["secret"] == f"({len(SECRET)} bytes)"
    assert shown(found) == "https://i"
    for text in (repr(made), repr(made.issuers), repr(made.issuer_values), repr(found)):
        assert SECRET not in text


def test_one_preset() -> None:
    """S53: where an issuer has sessions and clients, a preset is for both: what is no session by it
    would else be a client's.
    """
    session = {"issuer": "https://i", "kind": "session", "preset": "supabase", "scopes": []}
    client = {"issuer": "https://i", "kind": "oauth"}
    with pytest.raises(ConfigurationError, match="the same preset for both kinds"):
        settings(issuers=[session, client])
    another = client | {"issuer": "https://j"}
    assert len(settings(issuers=[session, client | {"preset": "supabase"}, another]).issuers) == 3


@pytest.mark.parametrize("audience", ["https://api.example.com/mcp", "HTTPS://API.example.com/mcp"])
def test_audience_of_a_resource(audience: str) -> None:
    """S59, S86: an audience that is a resource's is no issuer's: it would be good everywhere."""
    resource = {
        "path": "/mcp",
        "resource": "https://api.example.com/mcp",
        "authorization_servers": ["https://i"],
    }
    client = {"issuer": "https://i", "kind": "oauth", "audience": ["https://api", audience]}
    with pytest.raises(ConfigurationError, match="is that of a resource"):
        settings(issuers=[client], resources=[resource])
    client["audience"] = ["https://api", audience + "2"]
    assert settings(issuers=[client], resources=[resource]).issuers


def test_one_issuer_once_for_each_kind() -> None:
    """S53: an issuer may have sessions and clients, but not two tables for one."""
    client = {"issuer": "https://i", "kind": "oauth"}
    assert settings(issuers=[GOOD, client]).issuer_names == ("https://i",)
    with pytest.raises(ConfigurationError, match="names one issuer twice for one kind"):
        settings(issuers=[GOOD, GOOD | {"audience": "b"}])


def test_a_store_without_links() -> None:
    """A store of one's own that can't keep whom issuers know stops the start-up; without issuers it
    is as good as ever.
    """

    class Own(MemoryStore):
        find_link = None  # type: ignore[assignment]  # as in one that was written without

    own: Any = Own()
    Gate.open(settings(), store=own).close()
    with pytest.raises(ConfigurationError, match=r"^KEYRUSH_ISSUERS: the store can't keep"):
        Gate.open(settings(issuers=[GOOD]), store=own)


def test_without_what_verifies_tokens() -> None:
    """What verifies tokens is an extra: nobody needs it without issuers, and it is named with."""
    out = run_anew(
        """
        import sys

        class Blocker:
            def find_spec(self, name, path=None, target=None):
                if name.partition(".")[0] in {"jwt", "httpx2"}:
                    raise ModuleNotFoundError(f"No module named {name!r}", name=name)

        sys.meta_path.insert(0, Blocker())
        from keyrush import ConfigurationError, Gate, Settings

        Gate.open(Settings(store_url="memory://")).close()
        table = {"issuer": "https://i", "kind": "oauth"}
        try:
            Gate.open(Settings(store_url="memory://", issuers=[table]))
        except ConfigurationError as error:
            print(error)
        """
    )
    assert out.startswith("KEYRUSH_ISSUERS: tokens need the module '")
    assert "pip install 'keyrush[tokens]'" in out


def test_nothing_is_loaded_without_issuers() -> None:
    """What verifies tokens costs 250 ms, and is loaded where there are issuers alone."""
    out = run_anew(
        """
        import sys
        from keyrush import Gate, Settings

        Gate.open(Settings(store_url="memory://")).close()
        print(sorted({"jwt", "httpx2", "cryptography"} & set(sys.modules)))
        """
    )
    assert out == "[]\n"
