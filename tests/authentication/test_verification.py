"""The cold path: what proves a key, what overtakes a look-up, and what a fault on the way means."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from keyrush import Gate
from keyrush.authentication.keyring import Hashing
from keyrush.core.policy import ANY_KEY
from keyrush.runtime.cpus import hashing_slots
from keyrush.store.memory import MemoryStore
from keyrush.wire.request import INVALID
from tests.conftest import Clock, settings
from tests.support.calls import Asgi, Reply, Sent, Wsgi
from tests.support.stores import forget_proofs

OLD, NEW = "old pepper of 32 bytes or more ..", "new pepper of 32 bytes or more .."


@pytest.fixture
def store() -> MemoryStore:
    """A store that outlives the gates of a test."""
    return MemoryStore()


@pytest.fixture
def opened(store: MemoryStore, clock: Clock) -> Iterator[Any]:
    """Opens gates over the store, and closes them at the end."""
    gates: list[Gate] = []

    def open_gate(**values: Any) -> Gate:
        gate = Gate.open(settings(**{"pepper": OLD, **values}), store=store, clock=clock)
        gates.append(gate)
        return gate

    yield open_gate
    for gate in gates:
        gate.close()


def make_key(gate: Gate, **options: Any) -> str:
    """A key of acct_a, which is made if it has to be."""
    if not gate.accounts.list():
        gate.accounts.create("acct_a")
    return gate.keys.create("acct_a", "k", **options).text


def get(gate: Gate, key: str, path: str = "/") -> Reply:
    return Wsgi(gate).send(Sent(path, [("X-API-Key", key)]))


def test_fingerprint_alone(opened: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """With VERIFY=fingerprint a new process hashes nothing: the HMAC match is the proof."""
    key = make_key(opened())
    gate = opened(verify="fingerprint")

    def never(*_: Any) -> bool:
        raise AssertionError("argon2 must not run")

    monkeypatch.setattr(Hashing, "verify", never)
    assert get(gate, key).status == 200
    assert get(gate, key[:-7] + key[-6:] + "0").status == 401


def test_fingerprint_of_another_key_is_no_proof(opened: Any, store: MemoryStore) -> None:
    """O2: what the fingerprint finds must be what was hashed."""
    gate = opened()
    key, other = make_key(gate), make_key(gate)
    first, second = store.keys()
    store.revoke(second.id, 1)
    store.refingerprint(first.id, second.fingerprint, second.pepper_id, second.proof)
    found = {text: get(gate, text).status for text in (key, other)}
    assert set(found.values()) == {401}


def test_peppers_rotate(opened: Any, store: MemoryStore) -> None:
    """A key moves to the newest pepper with its first use; then the old one can go."""
    key = make_key(opened())
    both = opened(pepper=f"{NEW},{OLD}")
    assert get(both, key).status == 200
    (moved,) = store.keys()
    assert store.peppers(0) == {moved.pepper_id: 1}
    assert get(opened(pepper=NEW), key).status == 200


def test_moving_to_a_new_pepper_may_fail(
    opened: Any, store: MemoryStore, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    """A store that can't take the new fingerprint is no reason to refuse the key."""
    key = make_key(opened())

    def fails(*_: Any) -> None:
        raise ConnectionError("read-only")

    monkeypatch.setattr(store, "refingerprint", fails)
    assert get(opened(pepper=f"{NEW},{OLD}"), key).status == 200
    assert "stays under an old pepper: ConnectionError: read-only" in caplog.text


def test_plan_that_has_left_the_table(opened: Any, caplog: pytest.LogCaptureFixture) -> None:
    """S19: an account on an unknown plan is the operator's fault: 503, and said in the log."""
    key = make_key(opened())
    gate = opened(plans={"other": {}})
    reply = get(gate, key)
    assert (reply.status, reply["retry-after"]) == (503, "5")
    assert "acct_a is on the plan 'starter': not in the table" in caplog.text


@pytest.mark.parametrize("change", ["revoke", "plan"])
def test_change_during_a_look_up(
    opened: Any, store: MemoryStore, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    """A look-up that a revocation or a change of plan overtakes is made again."""
    gate = opened()
    key = make_key(gate)
    (record,) = store.keys()
    find, finds = store.find, []

    def overtaken(*args: Any) -> Any:
        found = find(*args)
        finds.append(found)
        if len(finds) == 1 and change == "revoke":
            gate.keys.revoke(record.id)
        elif len(finds) == 1:
            gate.accounts.set_plan("acct_a", "pro")
        return found

    monkeypatch.setattr(store, "find", overtaken)
    reply = get(gate, key)
    if change == "revoke":
        assert reply.status == 401
    else:
        assert reply["x-ratelimit-limit"] == "500"
    assert len(finds) == 2


def test_changes_that_never_end(opened: Any, store: MemoryStore) -> None:
    """A key whose account keeps changing is let in by what was found last, and argon2 runs once."""
    gate = opened()
    key = make_key(gate)
    forget_proofs(gate.store)
    find, verify, verified = store.find, Hashing.verify, []

    def changing(*args: Any) -> Any:
        found = find(*args)
        gate.accounts.set_plan("acct_a", "pro")
        return found

    def counted(self: Hashing, stored: str, text: bytes) -> bool:
        verified.append(stored)
        return verify(self, stored, text)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "find", changing)
        patch.setattr(Hashing, "verify", counted)
        assert get(gate, key).status == 200
    assert len(verified) == 1
    assert len(gate.cache) == 0


def test_want_of_memory_is_no_wrong_key(opened: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """S19: when argon2 can't run, the answer is 503, and once it can, the key works."""
    gate = opened()
    key = make_key(gate)
    forget_proofs(gate.store)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Hashing, "verify", lambda *_: 1 / 0)
        assert get(gate, key).status == 503
    assert get(gate, key).status == 200


@pytest.mark.parametrize("adapter", [Asgi, Wsgi])
def test_ends_while_it_is_proved(
    opened: Any, clock: Clock, monkeypatch: pytest.MonkeyPatch, adapter: Any
) -> None:
    """R5: a key that ends while argon2 runs has ended."""
    gate = opened()
    key = make_key(gate, expires_at=clock.now + 1000)
    forget_proofs(gate.store)
    verify = Hashing.verify

    def slow(self: Hashing, stored: str, text: bytes) -> bool:
        clock.advance(1000)
        return verify(self, stored, text)

    monkeypatch.setattr(Hashing, "verify", slow)
    assert adapter(gate).send(Sent(headers=[("X-API-Key", key)])).status == 401
    (entry,) = gate.cache._entries.values()  # noqa: SLF001  # what would let it in
    assert gate.deciding.at_once(entry.verified, ANY_KEY, b"") is INVALID


def test_store_away_while_charging(
    opened: Any, store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S19, O15: a priced request whose charge can't be made is 503, and takes nothing."""
    gate = opened(rules=[{"path": "/paid", "credits": 2}])
    key = make_key(gate)

    def away(*_: Any) -> Any:
        raise ConnectionError("away")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "charge", away)
        assert get(gate, key, "/paid").status == 503
    assert get(gate, key)["x-ratelimit-remaining"] == "99"


def test_credits_that_can_not_be_given_back_yet(
    opened: Any,
    store: MemoryStore,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """O11: credits that the store does not take back are owed; the log says that it is away."""
    gate = opened(rules=[{"path": "/paid", "credits": 2}])
    key = make_key(gate)
    gate.credits.grant("acct_a", 2)

    def app(environ: Any, start_response: Any) -> Any:
        raise ZeroDivisionError

    def away(*_: Any) -> Any:
        raise ConnectionError("away")

    monkeypatch.setattr(store, "reverse", away)
    with pytest.raises(ZeroDivisionError):
        Wsgi(gate, app).send(Sent("/paid", [("X-API-Key", key)]))
    assert "the store is away: ConnectionError: away" in caplog.text


def test_limiter_that_takes_nothing_back(
    opened: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A refusal stays what it is when the limiter can't take back what the request took."""
    gate = opened(rules=[{"path": "/paid", "credits": 2}])
    key = make_key(gate)

    def away(*_: Any) -> Any:
        raise ConnectionError("away")

    monkeypatch.setattr(gate.limiter, "give_back", away)
    assert get(gate, key, "/paid").status == 402
    assert "the limiter can't take back a request of cred_" in caplog.text


def test_closed_gate_opens_again(opened: Any) -> None:
    """A gate that was closed may be used again, as test clients do between their runs."""
    gate = opened()
    key = make_key(gate)
    for _ in range(2):
        assert Asgi(gate).send(Sent(headers=[("X-API-Key", key)])).status == 200
        gate.close()


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")  # what is forked here is known
def test_child_of_a_busy_parent(opened: Any) -> None:
    """A child forked while the parent holds every lock and argon2 slot verifies keys of its own."""
    gate = opened()
    key = make_key(gate)
    api_keys: Any = gate.finishing.verification.authenticators[0]
    slots = api_keys._argon2_slots  # noqa: SLF001  # see above
    for _ in range(hashing_slots()):
        slots.acquire()
    locks = (gate.cache._lock, gate.counts._lock, gate.limiter._lock)  # noqa: SLF001  # see above
    for lock in locks:
        lock.acquire()
    pid = os.fork()
    if pid == 0:  # pragma: no cover  # coverage does not see the child
        os._exit(0 if get(gate, key).status == 200 else 1)
    for lock in locks:
        lock.release()
    for _ in range(hashing_slots()):
        slots.release()
    assert os.waitstatus_to_exitcode(_waited(pid)) == 0


def _waited(pid: int) -> int:
    """The status of the child, which is ended if it hangs."""
    killer = threading.Timer(20, os.kill, (pid, 9))
    killer.start()
    try:
        return os.waitpid(pid, 0)[1]
    finally:
        killer.cancel()
