"""What `keyrush.testing` gives to tests of an app, with pytest and without."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from keyrush import Gate, Refused, Settings, testing
from keyrush.authentication.keyring import Hashing

#: What they are called in an app's own tests.
from keyrush.fixtures import (
    keyrush_caller,
    keyrush_calling,
    keyrush_clock,
    keyrush_gate,
    keyrush_headers,
    keyrush_key,
    keyrush_settings,
)
from keyrush.gate.principal import Principal
from keyrush.operations.keys import NewKey
from keyrush.testing import Clock
from tests.conftest import settings
from tests.support.calls import Asgi, Headers, Sent, Wsgi
from tests.support.pages import PAGES
from tests.support.scripts import run_anew
from tests.support.stores import forget_proofs

__all__ = [
    "keyrush_caller",
    "keyrush_calling",
    "keyrush_clock",
    "keyrush_gate",
    "keyrush_headers",
    "keyrush_key",
    "keyrush_settings",
]

ADAPTERS = pytest.mark.parametrize("adapter", [Asgi, Wsgi])
RULES = [{"path": "/write", "scopes": ["write"]}, {"path": "/dear", "credits": 10}]


@pytest.fixture
def opened() -> Iterator[tuple[Gate, Clock]]:
    """A gate with rules, and its clock."""
    clock = Clock()
    values = {"one": {"limits": "2/minute"}, "two": {"limits": "9/minute"}}
    gate = testing.open_gate(clock, rules=RULES, scopes=["read"], plans=values)
    yield gate, clock
    gate.close()


def test_nothing_outside_is_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A test never reaches what production uses, though the rest of the settings is the same."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KEYRUSH_STORE_URL", "postgresql://nowhere.invalid/db")
    monkeypatch.setenv("KEYRUSH_LIMITER_URL", "redis://nowhere.invalid")
    monkeypatch.setenv("KEYRUSH_KEY_PREFIX", "own")
    gate = testing.open_gate()
    assert testing.create_key(gate).text.startswith("own_live_")
    assert (gate.settings.store_url, gate.settings.limiter_url) == ("memory://", "memory://")
    gate.close()
    assert list(tmp_path.iterdir()) == []


@ADAPTERS
def test_key_and_headers(adapter: Any, opened: tuple[Gate, Clock]) -> None:
    """A key of a new account, or of one that there is, on the plan and with the credits named."""
    gate, _ = opened
    send = adapter(gate).send
    first = testing.create_key(gate, scopes=["read"], credits=10)
    other = testing.create_key(gate, plan="two", name="other")
    for key, limit in ((first, "9"), (other, "9")):
        reply = send(Sent("/", [*testing.headers(gate, key).items()]))
        assert (reply.status, reply["x-ratelimit-limit"]) == (200, limit)
    assert send(Sent("/write", [*testing.headers(gate, first).items()])).status == 403
    assert send(Sent("/dear", [*testing.headers(gate, first).items()])).status == 200
    assert send(Sent("/dear", [*testing.headers(gate, other).items()])).status == 402


@ADAPTERS
@pytest.mark.parametrize("names", ["authorization", "x-api-key", "x-own,authorization"])
def test_the_first_header_presents_it(adapter: Any, names: str) -> None:
    """O1: whatever headers the gate looks at."""
    gate = testing.open_gate(credential_headers=names)
    key = testing.create_key(gate)
    assert adapter(gate).send(Sent("/", [*testing.headers(gate, key).items()])).status == 200
    with testing.calling(gate, key):
        assert adapter(gate).send(Sent("/")).status == 200
    gate.close()


def test_the_clock_is_turned(opened: tuple[Gate, Clock]) -> None:
    """R15: waiting takes no time."""
    gate, clock = opened
    key = testing.create_key(gate, expires_at=clock.now + 3_600_000)
    sent = Sent("/", [*testing.headers(gate, key).items()])
    send = Asgi(gate).send
    assert [send(sent).status for _ in range(3)] == [200, 200, 429]
    clock.advance(120)
    assert send(sent).status == 200
    clock.advance(3600)
    assert send(sent).status == 401
    assert Clock(datetime(2027, 1, 1, tzinfo=UTC)).now == 1_798_761_600_000


@ADAPTERS
def test_calling(adapter: Any, opened: tuple[Gate, Clock]) -> None:
    """Requests without a key are those of one: rules, limits and credits hold; others are as ever,
    and so is all when it is over.
    """
    gate, _ = opened
    send = adapter(gate).send
    key = testing.create_key(gate, scopes=["read"], name="injected", plan="two")
    other = testing.create_key(gate, "acct_b", name="sent")
    sent: Headers = [*testing.headers(gate, other).items()]
    with testing.calling(gate, key):
        assert send(Sent("/")).body == b"acct_test live injected"
        assert send(Sent("/write")).status == 403
        assert send(Sent("/dear")).status == 402
        assert send(Sent("/", sent)).body == b"acct_b live sent"
        assert send(Sent("/", [("X-API-Key", "nonsense")])).status == 401
        with testing.calling(gate, other):
            assert send(Sent("/")).body == b"acct_b live sent"
        statuses = [send(Sent("/")).status for _ in range(10)]
        assert (statuses[0], statuses[-1]) == (200, 429)
    assert send(Sent("/")).status == 401


def test_caller(opened: tuple[Gate, Clock]) -> None:
    """A principal for code that takes one; nothing is counted, and charges are the account's."""
    gate, _ = opened
    key = testing.create_key(gate, scopes=["read"], credits=10)
    principal = testing.caller(gate, key)
    assert (principal.account_id, principal.key_id) == ("acct_test", key.key.id)
    with pytest.raises(Refused, match="403"):
        principal.require_scope("write")
    assert principal.charge(4) == 6
    gate.flush()
    assert gate.usage.this_month("acct_test").counted == 0
    gate.keys.revoke(key.key.id)
    with pytest.raises(Refused, match="401"):
        testing.caller(gate, key)


def test_no_proof_is_paid_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A caller is injected without hashing; where a gate asks for the proof, with it."""
    gate = testing.open_gate()
    key = testing.create_key(gate)
    asked = []
    verify = Hashing.verify

    def verify_and_tell(*arguments: Any) -> bool:
        asked.append(arguments)
        return verify(*arguments)

    monkeypatch.setattr(Hashing, "verify", verify_and_tell)
    testing.caller(gate, key)
    with testing.calling(gate, key):
        assert Asgi(gate).send(Sent("/")).status == 200
    assert asked == []
    gate.close()
    proving = Gate.open(settings())
    known_by_its_hash = testing.create_key(proving)
    forget_proofs(proving.store)
    testing.caller(proving, known_by_its_hash)
    assert len(asked) == 1
    proving.close()


def test_fixtures(
    keyrush_gate: Gate,
    keyrush_key: NewKey,
    keyrush_headers: dict[str, str],
    keyrush_caller: Principal,
    keyrush_clock: Clock,
) -> None:
    """The fixtures belong together: one gate, its clock, its key, and who that is."""
    assert keyrush_gate.clock is keyrush_clock
    assert keyrush_caller.key_id == keyrush_key.key.id
    assert Asgi(keyrush_gate).send(Sent("/", [*keyrush_headers.items()])).status == 200
    assert Asgi(keyrush_gate).send(Sent("/")).status == 401


def test_calling_fixture(keyrush_gate: Gate, keyrush_calling: NewKey) -> None:
    """With it a test sends no key at all."""
    assert Asgi(keyrush_gate).send(Sent("/")).body == b"acct_test live test"


def test_as_a_plugin(tmp_path: Path) -> None:
    """The page's tests pass as they stand, in a folder of their own, with warnings as errors; a
    conftest.py may name the plugin and import from it, and override its settings.
    """
    (code,) = PAGES["docs/testing.md"].code("python")
    (tmp_path / "test_app.py").write_text(code)
    (tmp_path / "conftest.py").write_text(
        "import pytest\nfrom keyrush.testing import Clock\n\n"
        'pytest_plugins = ["keyrush.testing"]\n\n\n'
        "@pytest.fixture\ndef keyrush_settings():\n"
        '    return {"key_prefix": "own"}\n'
    )
    (tmp_path / "test_own.py").write_text(
        "def test_own(keyrush_key):\n    assert keyrush_key.text.startswith('own_')\n"
    )
    done = subprocess.run(  # noqa: S603  # our own text
        [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider", tmp_path],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{code.count('def test_') + 1} passed" in done.stdout


def test_without_pytest() -> None:
    """`keyrush.testing` needs no pytest, nor does it load one."""
    out = run_anew(
        """
        import sys
        sys.modules["pytest"] = None
        from keyrush import testing
        gate = testing.open_gate(testing.Clock())
        print(testing.caller(gate, testing.create_key(gate)).name)
        gate.close()
        """
    )
    assert out == "test\n"


def test_wrong_settings_are_told() -> None:
    """What is set is held against the same rules as in production."""
    with pytest.raises(ValueError, match="KEY_PREFIX"):
        testing.open_gate(key_prefix="_")
    assert Settings.model_fields.keys() >= testing._SETTINGS.keys()  # noqa: SLF001  # else they say nothing
