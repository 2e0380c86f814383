"""The requests that the demo sends, and what must come back."""

from __future__ import annotations

import http.client
import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from keyrush.core.key_text import KeyFormat
from keyrush.gate.gate import Gate
from keyrush.operations.keys import NewKey

#: Requests per month on the demo's own plan, small enough to go over it.
QUOTA = 3

#: Limits that are reached, and free again, within seconds.
LIMITED = "3/2second"
_LIMITED_MS = 2000

#: What is asked for.
PATH = "/api/articles"

_HEADERS = re.compile(r"x-ratelimit-.*|retry-after|www-authenticate")


@dataclass(frozen=True, slots=True)
class Answer:
    """A response: its headers by lower-case name, its body read as JSON."""

    status: int
    headers: Mapping[str, str]
    body: Any


@dataclass(frozen=True, slots=True)
class Row:
    """One request, what came back, and how that differs from what is documented."""

    what: str
    path: str
    key: str | None  #: the display prefix
    status: int
    headers: dict[str, str]
    body: Any
    wrong: list[str] = field(default_factory=list)
    method: str = "GET"
    header: str = "X-API-Key"  #: that the credential came in


class Demo:
    """The requests and what must come back, as the contract of the two services has it."""

    def __init__(self, gate: Gate, port: int) -> None:
        self.rows: list[Row] = []
        self.url = f"http://127.0.0.1:{port}"
        self._gate = gate
        self._port = port
        self._key_text = f"Invalid or missing API key. Get your key at {gate.settings.keys_url}"
        for plan in gate.settings.plans:
            gate.accounts.create(f"acct_{plan}", plan=plan)

    def key(self, name: str, plan: str = "starter", **options: Any) -> NewKey:
        """A new key of the account on `plan`."""
        return self._gate.keys.create(f"acct_{plan}", name, **options)

    def walk(self) -> None:
        """Send all requests and keep the rows."""
        ends_at = self._gate.clock() + 1500
        short = self.key("short-lived", expires_at=ends_at)
        self._let_in()
        self._keys_refused()
        self._not_allowed()
        self._limited()
        self._over_quota()
        self._rotated()
        time.sleep(max(0, ends_at - self._gate.clock()) / 1000)
        self._refused_key("expired key", short.text, short.key.prefix)

    def _let_in(self) -> None:
        self._row("public path", path="/health", body={"status": "ok"})
        live, test = self.key("production"), self.key("sandbox", environment="test")
        fields = {"x-ratelimit-limit": "100", "x-ratelimit-remaining": "99"}
        month = {"x-ratelimit-monthly-limit": "500000", "x-ratelimit-monthly-remaining": "499999"}
        self._row("live key: live data, counted", live, headers=fields | month, first="art_1")
        month["x-ratelimit-monthly-remaining"] = "500000"
        self._row(
            "test key: test data, not counted", test, headers=fields | month, first="test_art_1"
        )

    def _keys_refused(self) -> None:
        challenge = {"www-authenticate": 'Bearer realm="api"'}
        self._row("no key", status=401, headers=challenge, text=self._key_text)
        settings = self._gate.settings
        unknown = KeyFormat(settings.key_prefix, settings.key_environments).mint("live")
        self._refused_key("unknown key", unknown.text.decode(), unknown.display)
        self._refused_key("malformed key", "rsh_live_oops", "rsh_live_oops")
        revoked = self.key("revoked")
        self._row("key that is about to be revoked", revoked, first="art_1")
        self._gate.keys.revoke(revoked.key.id)
        self._refused_key("revoked key", revoked.text, revoked.key.prefix)

    def _refused_key(self, what: str, text: str, display: str) -> None:
        challenge = (
            'Bearer realm="api", error="invalid_token", '
            'error_description="The credential is invalid or expired"'
        )
        headers = {"www-authenticate": challenge}
        self._row(what, (text, display), status=401, headers=headers, text=self._key_text)

    def _not_allowed(self) -> None:
        self._row(
            "key without the scope",
            self.key("entities only", scopes=["read:entities"]),
            status=403,
            headers={
                "www-authenticate": 'Bearer realm="api", error="insufficient_scope", '
                'scope="read:articles"'
            },
            text="The API key lacks the scope read:articles.",
        )
        path = f"{PATH}?include=sentiment"
        self._row(
            "module outside the plan",
            self.key("starter"),
            path=path,
            status=403,
            headers={"www-authenticate": None},
            text="Your plan does not include sentiment.",
        )
        limit = {"x-ratelimit-limit": "500"}
        self._row(
            "the same on Pro", self.key("pro", "pro"), path=path, headers=limit, first="art_1"
        )

    def _limited(self) -> None:
        key = self.key("limited", limits=LIMITED)
        into = self._gate.clock() % _LIMITED_MS
        if into > _LIMITED_MS // 2:  # not across the end of a period, where one is given back
            time.sleep((_LIMITED_MS - into) / 1000)
        for left in ("2", "1", "0"):
            fields = {"x-ratelimit-limit": "3", "x-ratelimit-remaining": left}
            self._row(f"limit of {LIMITED}, {left} left", key, headers=fields, first="art_1")
        answer = self._row("one more", key, status=429, headers={"x-ratelimit-remaining": "0"})
        longest = _LIMITED_MS // 1000 + 1  # a period and a millisecond, in whole seconds
        wait = int(answer.headers.get("retry-after", "0"))
        text = f"Rate limit exceeded. Try again in {wait} seconds."
        if answer.body.get("error") != text or not 1 <= wait <= longest:
            self.rows[-1].wrong.append(f"a Retry-After of 1 to {longest}, and the text {text!r}")
        time.sleep(wait)
        self._row(f"the same {wait} s later", key, first="art_1")

    def _over_quota(self) -> None:
        key = self.key("over quota", "tiny")
        for _ in range(QUOTA):
            self._ask(PATH, key.text)
        over = {"limit": str(QUOTA), "remaining": "0", "overage": "1"}
        headers = {f"x-ratelimit-monthly-{name}": value for name, value in over.items()}
        self._row(f"monthly quota of {QUOTA}, exceeded", key, headers=headers, first="art_1")

    def _rotated(self) -> None:
        old = self.key("rotated")
        new = self._gate.keys.rotate(old.key.id)
        self._row("rotation: the old key", old, first="art_1")
        self._row("rotation: the new key", new, first="art_1")
        self._gate.keys.revoke(old.key.id)
        self._refused_key("rotation: the old key, revoked", old.text, old.key.prefix)
        self._row("rotation: the new key still", new, first="art_1")

    def _row(
        self,
        what: str,
        key: NewKey | tuple[str, str] | None = None,
        *,
        path: str = PATH,
        status: int = 200,
        headers: Mapping[str, str | None] | None = None,
        text: str | None = None,
        first: str | None = None,
        body: Any = None,
    ) -> Answer:
        """Send a request and keep a row that says where the answer is not as given here.

        A header of None must be absent; `text` is that of a refusal; `first` is the id of the
        first article. Every answer to a key that was let in has the rate-limit fields (R11).
        """
        secret, display = (
            (key.text, key.key.prefix) if isinstance(key, NewKey) else key or (None, None)
        )
        answer = self._ask(path, secret)
        wrong = []
        if answer.status != status:
            wrong.append(f"status {status}")
        for name, value in (headers or {}).items():
            if answer.headers.get(name) != value:
                wrong.append(f"{name}: {value}" if value is not None else f"no {name}")
        if secret is not None and status != http.client.UNAUTHORIZED:
            names = [f"x-ratelimit-{name}" for name in ("limit", "remaining", "reset")]
            wrong += [
                f"a number as {n}" for n in names if not answer.headers.get(n, "").isdecimal()
            ]
        if text is not None:
            body = {"success": False, "error": text, "statusCode": status}
        if body is not None and answer.body != body:
            wrong.append(f"the body {json.dumps(body)}")
        if first is not None and not _begins_with(answer.body, first):
            wrong.append(f"a first article {first}")
        shown = {name: value for name, value in answer.headers.items() if _HEADERS.fullmatch(name)}
        self.rows.append(Row(what, path, display, answer.status, shown, answer.body, wrong))
        return answer

    def _ask(self, path: str, key: str | None) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=30)
        try:
            connection.request("GET", path, headers={} if key is None else {"X-API-Key": key})
            response = connection.getresponse()
            headers = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, headers, json.loads(response.read()))
        finally:
            connection.close()


def _begins_with(body: Any, first: str) -> bool:
    return body.get("success") is True and bool(body["data"]) and body["data"][0]["id"] == first
