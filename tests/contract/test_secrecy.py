"""No raw key in logs, reprs, tracebacks, refusals, the store, or memory after the request (S82)."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import sys
import traceback
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import keyrush
from keyrush import Gate, Principal, Refused
from keyrush.core.key_text import KeyFormat
from keyrush.gate.finishing import Pending
from keyrush.wire.request import Credential, CredentialHeaders
from tests.conftest import settings
from tests.support.calls import Asgi, Sent, Wsgi, asgi_app, begin, decide, wsgi_app
from tests.support.faults import until

#: Where keyrush's own code is.
SOURCE = str(Path(keyrush.__file__).parent)


def held_in_memory(secret: bytes) -> list[object]:
    """The containers that hold `secret`, as bytes or text, or something that has it in it."""
    text = secret.decode()
    found: list[object] = []
    for container in gc.get_objects():
        # By its type: to be asked, some objects of frameworks would make themselves first.
        if not issubclass(type(container), dict | list | tuple | set | frozenset):
            continue
        items = [*container, *container.values()] if isinstance(container, dict) else container
        if any(
            (issubclass(type(item), bytes) and secret in item)
            or (issubclass(type(item), str) and text in item)
            for item in list(items)
        ):
            found.append(container)
    return found


@pytest.mark.parametrize("adapter", [Asgi, Wsgi])
def test_no_key_stays_in_memory(gate: Gate, adapter: Any) -> None:
    """S82: after the request nothing holds the key: not the cache, not a closure, not a future."""
    gate.accounts.create("acct_a")
    hexed = gate.keys.create("acct_a", "k").text.encode().hex()

    def request(fault: bool) -> int:
        key = bytes.fromhex(hexed) + (b"x" if fault else b"")
        status: int = adapter(gate).send(Sent(headers=[("X-API-Key", key)])).status
        return status

    assert [request(False), request(False), request(True)] == [200, 200, 401]
    gc.collect()
    assert held_in_memory(bytes.fromhex(hexed)[-36:]) == []


def test_no_key_in_the_database(tmp_path: Path) -> None:
    """O2: the database holds hash, fingerprint and display prefix, never a retrievable key."""
    gate = Gate.open(settings(store_url=f"sqlite:///{tmp_path}/k.db"))
    gate.accounts.create("acct_a")
    key = gate.keys.create("acct_a", "k").text.encode()
    assert Wsgi(gate).send(Sent(headers=[("X-API-Key", key)])).status == 200
    gate.close()
    stored = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert b"$argon2id$v=19$m=8,t=1,p=1$" in stored
    assert key[: len("kr_live_") + 6] + b"..." in stored
    assert key[-30:] not in stored


def test_reprs_show_the_display_prefix_only(gate: Gate) -> None:
    """O22, S82: no repr on the way of a key shows more than its display prefix."""
    gate.accounts.create("acct_a")
    made = gate.keys.create("acct_a", "k")
    credential = CredentialHeaders().credential([(b"x-api-key", made.text.encode())])
    assert isinstance(credential, Credential)
    parsed = KeyFormat("kr", ("live", "test")).parse(made.text.encode())
    pending = begin(gate, made.text)
    shown = repr(
        [made, made.key, credential, parsed, pending, pending.finish(lambda: None), gate.settings]
    )
    assert made.key.prefix in shown
    assert made.text[-30:] not in shown
    assert made.key.hash not in shown
    assert made.key.fingerprint not in shown


def keys_in_frames(key: str) -> list[str]:
    """The functions of keyrush that are running in any thread, or waiting in a task, and hold the
    key, or something that holds it, in a local.
    """
    frames = list(sys._current_frames().values())  # noqa: SLF001  # there is no other way
    with contextlib.suppress(RuntimeError):
        frames += [frame for task in asyncio.all_tasks() for frame in task.get_stack()]
    found = []
    for frame in frames:
        here: FrameType | None = frame
        while here is not None:
            if here.f_code.co_filename.startswith(SOURCE):
                for name, value in here.f_locals.items():
                    if holds(value, key):
                        found.append(f"{here.f_code.co_qualname}: {name}")
            here = here.f_back
    return found


def lasting_in_frames(key: str) -> list[str]:
    """The same, once threads that have done their part are through with it."""
    with contextlib.suppress(AssertionError):
        until(lambda: not keys_in_frames(key))
    return keys_in_frames(key)


def holds(value: object, key: str) -> bool:
    """Whether a local is the key, or an object of keyrush that has it."""
    if isinstance(value, str | bytes):
        return key in value if isinstance(value, str) else key.encode() in value
    if isinstance(value, Credential | Pending):
        return True
    return isinstance(value, tuple | list) and any(holds(item, key) for item in value)


@pytest.mark.parametrize("adapter", [Asgi, Wsgi])
@pytest.mark.parametrize("is_warm", [False, True])
def test_no_frame_keeps_the_key(gate: Gate, adapter: Any, is_warm: bool) -> None:
    """S82: while the app runs, no frame of keyrush has the key in a local: the decision is made."""
    gate.accounts.create("acct_a")
    key = gate.keys.create("acct_a", "k").text
    found: list[list[str]] = []

    async def asgi(scope: Any, receive: Any, send: Any) -> None:
        found.append(lasting_in_frames(key))
        await asgi_app(scope, receive, send)

    def wsgi(environ: Any, start_response: Any) -> Any:
        found.append(lasting_in_frames(key))
        return wsgi_app(environ, start_response)

    through = adapter(gate, asgi if adapter is Asgi else wsgi)
    for _ in range(1 + is_warm):
        assert through.send(Sent(headers=[("X-API-Key", key)])).status == 200
    assert found == [[]] * (1 + is_warm)


def test_outage_and_refusals_log_no_key(
    gate: Gate, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """O22: what is logged of an outage or a refusal, tracebacks included, holds no key."""
    gate.accounts.create("acct_a")
    key = gate.keys.create("acct_a", "k").text

    def broken(*_: Any) -> Any:
        raise ConnectionError("away")

    monkeypatch.setattr(gate.store, "find", broken)
    with caplog.at_level(logging.DEBUG):
        assert Wsgi(gate).send(Sent(headers=[("X-API-Key", key)])).status == 503
        assert Wsgi(gate).send(Sent(headers=[("X-API-Key", key[:-1])])).status == 401
    assert "ConnectionError: away" in caplog.text
    assert "401 invalid_credential from 127.0.0.1" in caplog.text
    assert key[-20:-1] not in caplog.text


def test_traceback_of_a_refusal_holds_no_key(gate: Gate) -> None:
    """S82: the exception that refuses a request, printed with the frames' values, shows no key."""
    gate.accounts.create("acct_a")
    key = gate.keys.create("acct_a", "k", scopes=["read:a"]).text
    admitted = decide(gate, key)
    assert isinstance(admitted, tuple)
    caller = admitted[0]
    assert isinstance(caller, Principal)
    with pytest.raises(Refused) as raised:
        caller.require_scope("read:b")
    printed = traceback.TracebackException.from_exception(raised.value, capture_locals=True)
    frames = [frame for frame in printed.stack if "keyrush" in frame.filename]
    assert frames
    assert key not in "".join(
        str(frame.locals) for frame in frames if "tests" not in frame.filename
    )
