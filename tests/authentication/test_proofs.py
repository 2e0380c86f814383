"""That a hash has matched its key is kept with the key: argon2 runs once, wherever it is used."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from keyrush import Gate
from keyrush.authentication.keyring import Fingerprints, Hashing
from keyrush.core.model import ApiKey
from keyrush.store.memory import MemoryStore
from keyrush.store.protocol import Store
from tests.conftest import Clock, settings, still
from tests.support.calls import Sent, Wsgi
from tests.support.stores import forget_proofs

OLD, NEW = "old pepper of 32 bytes or more ..", "new pepper of 32 bytes or more .."


@pytest.fixture
def verified(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The hashes that argon2 was run against."""
    found: list[str] = []
    verify = Hashing.verify

    def noting(self: Hashing, stored: str, text: bytes) -> bool:
        found.append(stored)
        return verify(self, stored, text)

    monkeypatch.setattr(Hashing, "verify", noting)
    return found


class Opening:
    """Opens gates that do nothing by themselves, over a database or a store in memory."""

    def __init__(self, clock: Clock, **values: Any) -> None:
        self._clock = clock
        self._values: dict[str, Any] = {"pepper": OLD, "limiter_url": "memory://", **values}
        self.gates: list[Gate] = []

    def __call__(self, store: Store | None = None, **values: Any) -> Gate:
        gate = Gate.open(settings(**self._values | values), store=store, clock=self._clock)
        self.gates.append(gate)
        return still(gate)


@pytest.fixture
def opened(clock: Clock) -> Iterator[Opening]:
    """Opens gates, and closes them at the end."""
    opening = Opening(clock)
    yield opening
    for gate in opening.gates:
        gate.close()


@pytest.fixture
def store() -> MemoryStore:
    """A store that outlives the gates of a test."""
    return MemoryStore()


def made(gate: Gate) -> str:
    """A new key of acct_a."""
    if not gate.accounts.list():
        gate.accounts.create("acct_a")
    return gate.keys.create("acct_a", "k").text


def status(gate: Gate, key: str) -> int:
    return Wsgi(gate).send(Sent("/", [("X-API-Key", key)])).status


def only(store: Store) -> ApiKey:
    """The one key that there is."""
    (key,) = store.keys()
    return key


# --- once for a key and an installation ---------------------------------------------------------


def test_a_fleet_that_restarts(url: str, opened: Opening, verified: list[str]) -> None:
    """Keys whose proof is kept cost no argon2, however many processes begin anew; those of an
    older keyrush are proved once by the first that sees them.
    """
    first = opened(store_url=url, plans={"free": {"max_keys": 100}})
    first.accounts.create("acct_a")
    keys = [one.text for one in first.keys.create_many("acct_a", "n", 100)]

    def restart() -> int:
        gates = [opened(store_url=url, plans={"free": {"max_keys": 100}}) for _ in range(4)]
        assert {status(gate, key) for gate in gates for key in keys[:25]} == {200}
        assert {status(gates[0], key) for key in keys} == {200}
        found, verified[:] = len(verified), []
        for gate in gates:
            gate.close()
        return found

    assert restart() == 0
    forget_proofs(first.store)
    assert {status(first, key) for key in keys} == {200}
    assert len(verified) == 100
    verified.clear()
    first.flush()
    assert restart() == 0


def test_no_request_waits_for_it(
    opened: Opening, store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A first request makes one call of the store, the look-up; proofs are written together."""
    gate = opened(store)
    keys = [made(gate) for _ in range(3)]
    forget_proofs(store)
    calls: list[str] = []
    for name in ("find", "record_proofs", "refingerprint"):
        monkeypatch.setattr(store, name, counted(store, name, calls))
    for key in keys:
        assert status(gate, key) == 200
    assert calls == ["find"] * 3
    gate.flush()
    gate.flush()
    assert calls == ["find"] * 3 + ["record_proofs"]


def counted(store: MemoryStore, name: str, calls: list[str]) -> Callable[..., Any]:
    """A method of the store that says that it is called."""
    method = getattr(store, name)

    def call(*args: Any) -> Any:
        calls.append(name)
        return method(*args)

    return call


@pytest.mark.parametrize("closes", [False, True])
def test_store_away(
    opened: Opening, store: MemoryStore, verified: list[str], clock: Clock, closes: bool
) -> None:
    """A proof that can't be written is kept for the next time, and for the end."""
    gate = opened(store)
    key = made(gate)
    forget_proofs(store)
    assert status(gate, key) == 200

    def away(*_: Any) -> Any:
        raise ConnectionError("away")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "record_proofs", away)
        gate.flush()
    assert only(store).proof is None
    clock.advance(1000)
    gate.close() if closes else gate.flush()
    assert only(store).proof is not None
    verified.clear()
    assert status(opened(store), key) == 200
    assert verified == []


# --- what makes it void -------------------------------------------------------------------------

#: What somebody may write who has no pepper: into the row of the key, from that of another.
FORGED: dict[str, Callable[[ApiKey, ApiKey], ApiKey]] = {
    "another hash": lambda key, other: replace(key, hash=Hashing(1, 8, 1).hash(b"another")),
    "the hash of another": lambda key, other: replace(key, hash=other.hash),
    "the hash and proof of another": lambda key, other: replace(
        key, hash=other.hash, proof=other.proof
    ),
    "no hash": lambda key, other: replace(key, hash=""),
    "no hash, no proof": lambda key, other: replace(key, hash="", proof=None),
    "no hash, the proof of another": lambda key, other: replace(key, hash="", proof=other.proof),
    "an invented proof": lambda key, other: replace(key, hash="", proof="0" * 64),
    "text for a proof": lambda key, other: replace(key, hash="", proof="é"),
}


@pytest.mark.parametrize("forged", FORGED)
@pytest.mark.parametrize("is_known", [False, True])
def test_forged(opened: Opening, store: MemoryStore, forged: str, is_known: bool) -> None:
    """O2: without the pepper no proof can be made for a key whose hash was changed, or taken away,
    nor can that of another key be used: it is refused, by a process that knows it, too.
    """
    gate = opened(store)
    key = made(gate)
    mine, other = gate.keys.find(key), gate.keys.find(made(gate))
    if is_known:
        assert status(gate, key) == 200
    store._put(FORGED[forged](mine, other))  # noqa: SLF001  # what nobody is to do
    gate.cache.drop(None)
    assert status(gate, key) == 401


@pytest.mark.parametrize("is_known", [False, True])
def test_one_key_in_the_place_of_another(
    opened: Opening, store: MemoryStore, is_known: bool
) -> None:
    """O2: who puts the fingerprint and proof of a key without a hash into the row of another is
    refused as that one.
    """
    quick = opened(store, verify="fingerprint")
    key = made(quick)
    me, victim = quick.keys.find(key), quick.keys.find(made(quick))
    gate = opened(store)
    if is_known:
        assert status(gate, key) == 200
    store.refingerprint(me.id, "0" * 64, me.pepper_id, None)
    store.refingerprint(victim.id, me.fingerprint, me.pepper_id, me.proof)
    gate.cache.drop(None)
    assert status(gate, key) == 401


def test_proof_needs_the_pepper() -> None:
    """A proof holds for the pepper that the key was found by, while that is in use, and for id,
    fingerprint and hash as they are.
    """
    old, new = OLD.encode(), NEW.encode()
    fingerprints = Fingerprints([old])
    fingerprint = fingerprints.new(b"the text")
    key = ApiKey(
        id="cred_a",
        account_id="acct_a",
        lineage="cred_a",
        name="n",
        prefix="kr_live_abc123...",
        environment=None,
        scopes=(),
        fingerprint=fingerprint,
        hash="h",
        pepper_id=fingerprints.pepper_ids[0],
        created_at=0,
        proof=fingerprints.proof("cred_a", fingerprint, "h"),
    )
    assert Fingerprints([old]).has_proof(key)
    assert Fingerprints([new, old]).has_proof(key)
    assert not Fingerprints([new]).has_proof(key)
    for other in ({"id": "cred_b"}, {"fingerprint": "f" * 64}, {"hash": ""}, {"proof": None}):
        assert not Fingerprints([old]).has_proof(replace(key, **other))


# --- peppers rotate -----------------------------------------------------------------------------


@pytest.mark.parametrize("verify", ["argon2id", "fingerprint"])
@pytest.mark.parametrize("made_by", ["argon2id", "fingerprint"])
def test_a_proof_moves_with_its_fingerprint(
    opened: Opening, store: MemoryStore, verified: list[str], made_by: str, verify: str
) -> None:
    """A key that moves to a newer pepper takes its proof along: argon2 does not run again."""
    key = made(opened(store, verify=made_by))
    assert status(opened(store, verify=verify, pepper=f"{NEW},{OLD}"), key) == 200
    assert Fingerprints([NEW.encode()]).has_proof(only(store))
    assert status(opened(store, pepper=NEW), key) == 200
    assert verified == []


def test_proved_as_it_moves(opened: Opening, store: MemoryStore, verified: list[str]) -> None:
    """A key that has no proof yet gets the one under the newer pepper."""
    key = made(opened(store))
    forget_proofs(store)
    assert status(opened(store, pepper=f"{NEW},{OLD}"), key) == 200
    assert status(opened(store, pepper=NEW), key) == 200
    assert len(verified) == 1


def test_fingerprints_prove_no_hash(opened: Opening, store: MemoryStore) -> None:
    """With VERIFY=fingerprint a key gets no proof of what nobody has looked at, not even as it
    moves: what somebody has changed is no key later either.
    """
    key = made(opened(store))
    store._put(replace(only(store), hash=""))  # noqa: SLF001  # what nobody is to do
    trusting = opened(store, verify="fingerprint", pepper=f"{NEW},{OLD}")
    assert status(trusting, key) == 200
    trusting.flush()
    assert only(store).pepper_id == Fingerprints([NEW.encode()]).pepper_ids[0]
    assert only(store).proof is None
    assert status(opened(store, pepper=NEW), key) == 401


# --- keys without a hash ------------------------------------------------------------------------


def test_no_argon2_at_all(
    opened: Opening, store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With VERIFY=fingerprint keys are made, rotated and used without argon2."""

    def never(*_: Any) -> Any:
        raise AssertionError("argon2 must not run")

    for name in ("hash", "verify"):
        monkeypatch.setattr(Hashing, name, never)
    gate = opened(store, verify="fingerprint")
    key = made(gate)
    assert only(store).hash == ""
    rotated = gate.keys.rotate(only(store).id)
    assert {status(gate, one) for one in (key, rotated.text)} == {200}


def test_hashes_wanted_later(url: str, opened: Opening, verified: list[str]) -> None:
    """A key that was made without a hash works where hashes are wanted later, by its proof, and by
    nothing else; its text is kept nowhere meanwhile.
    """
    key = made(opened(store_url=url, verify="fingerprint"))
    gate = opened(store_url=url)
    assert status(gate, key) == 200
    gate.flush()
    assert only(gate.store).hash == ""
    forget_proofs(gate.store)
    assert status(opened(store_url=url), key) == 401
    assert verified == []


def test_moves_without_a_hash(opened: Opening, store: MemoryStore, verified: list[str]) -> None:
    """A key without a hash that is found under an old pepper takes its proof along."""
    key = made(opened(store, verify="fingerprint"))
    assert status(opened(store, pepper=f"{NEW},{OLD}"), key) == 200
    assert status(opened(store, pepper=NEW), key) == 200
    assert verified == []


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")  # what is forked here is known
def test_child_leaves_it_to_its_parent(opened: Opening, store: MemoryStore) -> None:
    """What waits to be written when a process forks is the parent's to do."""
    gate = opened(store)
    key = made(gate)
    forget_proofs(store)
    assert status(gate, key) == 200
    pid = os.fork()
    if pid == 0:  # pragma: no cover  # coverage does not see the child
        gate.proofs.flush()
        os._exit(0 if only(store).proof is None else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    gate.flush()
    assert only(store).proof is not None
