"""For tests of an app behind the gate: a gate in memory, keys, callers, a clock to turn.

    pytest_plugins = ["keyrush.testing"]  # in conftest.py

brings the fixtures of `keyrush.fixtures`; everything here also works without pytest.

PYTEST_DONT_REWRITE: there is no assertion here, and a conftest.py may import this and name it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from keyrush.authentication.cache import Entry
from keyrush.core.refusal import Refusal, Refused
from keyrush.gate.admission import Begun
from keyrush.gate.gate import Gate
from keyrush.gate.principal import Anonymous, Principal
from keyrush.operations.keys import NewKey
from keyrush.settings.settings import Settings
from keyrush.usage.activity import Peer
from keyrush.wire.request import MISSING, NOTHING, Credential, Header, Noted

#: What pytest finds here as a plugin.
pytest_plugins = ["keyrush.fixtures"]

#: The account of keys, where no other is named.
ACCOUNT = "acct_test"

#: At the beginning of a minute, an hour, a day and a month.
_START = datetime(2030, 1, 1, tzinfo=UTC)

#: Nothing is kept or asked for elsewhere, whatever the environment says, and no proof costs
#: time: the fingerprint is enough, and argon2id is at its cheapest where a key is made.
_SETTINGS: dict[str, Any] = {
    "store_url": "memory://",
    "limiter_url": "memory://",
    "verify": "fingerprint",
    "argon2_time_cost": 1,
    "argon2_memory_cost": 8,
    "argon2_parallelism": 1,
}


class Clock:
    """A gate's clock that stands still until it is turned; `now` is Unix milliseconds."""

    def __init__(self, start: datetime = _START) -> None:
        self.now = round(start.timestamp() * 1000)

    def __call__(self) -> int:
        return self.now

    def advance(self, seconds: float) -> None:
        """Move it forward by so many seconds."""
        self.now += round(seconds * 1000)


def open_gate(clock: Callable[[], int] | None = None, **values: Any) -> Gate:
    """A gate that keeps everything in memory; `values` are settings, by their names.

    Other settings come from where they do in production: `config="keyrush.toml"` names your plans
    and rules, and `KEYRUSH_*` variables apply. Close the gate when the test is over.

    Raises:
        ConfigurationError: A setting is wrong.
    """
    return Gate.open(Settings(**_SETTINGS | values), clock=clock)


def create_key(
    gate: Gate,
    account_id: str = ACCOUNT,
    *,
    name: str = "test",
    plan: str | None = None,
    credits: int = 0,
    **values: Any,
) -> NewKey:
    """A new key. Its account is made if needed, put on `plan`, and given `credits`.

    `values` are those of `Keys.create`, such as `scopes` and `environment`.

    Raises:
        InvalidArgument: One of them is wrong.
    """
    if gate.store.account(account_id) is None:
        gate.accounts.create(account_id, plan=plan)
    elif plan is not None:
        gate.accounts.set_plan(account_id, plan)
    if credits:
        gate.credits.grant(account_id, credits)
    return gate.keys.create(account_id, name, **values)


def headers(gate: Gate, key: NewKey) -> dict[str, str]:
    """The request header that presents the key to this gate."""
    name, value = _presented(gate, key)
    return {name.decode("ascii"): value.decode("ascii")}


def caller(gate: Gate, key: NewKey) -> Principal:
    """The caller with this key, for code that takes one. Counts no request and asks no limit.

    Raises:
        Refused: The key is not good (any more).
    """
    entry = gate.finishing.verification.verify(Credential(key.text.encode()))
    if isinstance(entry, Refusal):
        raise Refused(entry)
    assert isinstance(entry, Entry)  # noqa: S101  # without workers it waits for all
    return Principal(entry.verified, gate.deciding.means, gate.clock(), [gate.vary])


@contextmanager
def calling(gate: Gate, key: NewKey) -> Iterator[NewKey]:
    """Within this context, a request to this gate without a key counts as made with this key.

    Rules, limits, quotas and credits apply as always, and a key that is sent is checked.
    """
    admission = gate.admission
    begin, presented = admission.begin, _presented(gate, key)

    def begin_with_key(  # noqa: PLR0917  # as `Admission.begin`
        method: str,
        path: str,
        raw_path: bytes | None,
        root: str,
        headers: Iterable[Header],
        query: bytes,
        peer: Peer = None,
        noted: Noted = NOTHING,
        before: Anonymous | None = None,
    ) -> Begun:
        given = list(headers)
        if gate.credential_headers.credential(given) is MISSING:
            given.append(presented)
        return begin(method, path, raw_path, root, given, query, peer, noted, before)

    admission.begin = begin_with_key  # type: ignore[method-assign]  # put back below
    try:
        yield key
    finally:
        admission.begin = begin  # type: ignore[method-assign]  # as it was


def _presented(gate: Gate, key: NewKey) -> Header:
    name, text = gate.credential_headers.names[0], key.text.encode("ascii")
    return name, b"Bearer " + text if name == b"authorization" else text
