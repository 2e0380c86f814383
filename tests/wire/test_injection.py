"""No header and no body of a refusal carries what a request has smuggled into it (S16, S27)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given
from hypothesis import settings as runs
from hypothesis import strategies as st

from keyrush import Gate, Principal, Refused
from keyrush.core.refusal import Refusal
from tests.conftest import settings
from tests.support.calls import Asgi, Reply, Sent, Wsgi

INJECTED = 'read\r\nSet-Cookie: a=b\r\n\r\n<script>"'

NAMES = st.lists(
    st.text(st.one_of(st.characters(), st.sampled_from('\r\n\x00" \\:,')), max_size=20), max_size=3
)

GENERATED = runs(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)

Act = Callable[[Principal], object]


class Apps:
    """An ASGI and a WSGI app that do what a test says with the principal of a rightful request."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        gate.accounts.create("acct_a", limits="unlimited")
        self._key = gate.keys.create("acct_a", "k", scopes=["read:a"]).text

    def replies(self, act: Act) -> Iterator[Reply]:
        async def asgi(scope: Any, receive: Any, send: Any) -> None:
            act(scope["keyrush"])

        def wsgi(environ: Any, start_response: Any) -> list[bytes]:
            act(environ["keyrush.principal"])
            raise AssertionError("not refused")

        sent = Sent(headers=[("X-API-Key", self._key)])
        yield Asgi(self._gate, asgi).send(sent)
        yield Wsgi(self._gate, wsgi).send(sent)


@pytest.fixture(params=["documented", "problem"])
def apps(request: pytest.FixtureRequest) -> Iterator[Apps]:
    """The apps, behind gates with each kind of body."""
    gate = Gate.open(settings(errors=request.param))
    yield Apps(gate)
    gate.close()


def check(reply: Reply, names: list[str]) -> None:
    """Fail if a header could hold more than one line, or a name is echoed that no text may hold."""
    assert reply.status in {403, 429}
    for name, value in reply.headers:
        assert re.fullmatch(r"[a-z0-9-]+", name)
        assert re.fullmatch(r"[\x20-\x7e]*", value)
    assert "set-cookie" not in reply
    said = reply.json.get("error") or reply.json["detail"]
    assert re.fullmatch(r"[\x20\x21\x23-\x5b\x5d-\x7e]+", said)
    if "www-authenticate" in reply:
        challenge = r'Bearer realm="api", error="insufficient_scope"(?:, scope="([^"\\]+)")?'
        found = re.fullmatch(challenge, reply["www-authenticate"])
        assert found
        assert found[1] is None or found[1].split(" ") == names
        assert found[1] is None or re.fullmatch(r"[\x20\x21\x23-\x5b\x5d-\x7e]+", found[1])


@example([INJECTED])
@example(["read:b", INJECTED])
@example(["read:b write:b"])
@example(["read:b", "write:b"])
@example(["x" * 121])
@GENERATED
@given(NAMES)
def test_scopes_that_the_request_names(apps: Apps, names: list[str]) -> None:
    """S16, S27: `scope=` holds scope-tokens (RFC 6749 §3.3) or is left out; the text likewise."""
    for reply in apps.replies(lambda principal: principal.require_scope("read:b", *names)):
        check(reply, ["read:b", *names])
        named = all(re.fullmatch(r"[\x21\x23-\x5b\x5d-\x7e]+", name) for name in names)
        assert ("scope=" in reply["www-authenticate"]) is named


@example([INJECTED])
@GENERATED
@given(NAMES)
def test_modules_that_the_request_names(apps: Apps, names: list[str]) -> None:
    """S16, S18: a module that no plan has is not echoed."""
    for reply in apps.replies(lambda principal: principal.require_module("none", *names)):
        check(reply, names)
        assert reply.status == 403
        assert "www-authenticate" not in reply
        assert "a requested module" in reply.body.decode()


@example([INJECTED], b"x-a\r\nSet-Cookie: a=b", b"c")
@example([], b"x-a", b"c\r\nSet-Cookie: a=b")
@GENERATED
@given(NAMES, st.binary(max_size=8), st.binary(max_size=8))
def test_refusals_of_the_apps_own(apps: Apps, names: list[str], field: bytes, value: bytes) -> None:
    """S27: a refusal that the app has made itself sends no header that ends another."""
    headers = ((field, value),)

    def refuse(principal: Principal) -> None:
        reason: Any = "module_not_in_plan" if names else "rate_limited"
        raise Refused(Refusal(reason, tuple(names), retry_after=3, headers=headers))

    for reply in apps.replies(refuse):
        assert reply["retry-after"] == "3"
        for name, sent in reply.headers:
            assert not re.search(r"[\x00-\x08\x0a-\x1f\x7f]", name + sent)
        assert "set-cookie" not in reply
