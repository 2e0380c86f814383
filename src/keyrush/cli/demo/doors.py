"""One account, three doors: one balance, drained by a key, a session and an agent's token."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Mapping
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route

from keyrush import KeyrushMiddleware
from keyrush.apps import account_api
from keyrush.cli.demo.walk import Answer, Row
from keyrush.gate.gate import Gate
from keyrush.settings.settings import Settings

#: Credits that the account begins with, and what its one tool costs.
CREDITS = 100
PRICE = 10

_API, _MCP, _BALANCE = "/v1/tools/audit_site", "/mcp", "/v1/me/credits"
_ACTIVITY = "/v1/me/activity?source=mcp"
_METADATA = "/.well-known/oauth-protected-resource/mcp"

_ACCOUNT, _SUBJECT = "acct_openrush", "user-1"
_PRIVATE = ec.generate_private_key(ec.SECP256R1())


def settings(url: str) -> Settings:
    """OpenRush in small, at a URL; it is its own issuer of tokens."""
    known = {"issuer": url, "jwks_url": f"{url}/keys"}
    tool: dict[str, Any] = {"tool": "audit_site", "credits": PRICE}
    return Settings(
        config="",
        store_url="memory://",
        key_prefix="or",
        key_environments=(),
        unmetered_environments=(),
        public_paths=("/keys",),
        resources=[
            {"path": _MCP, "resource": f"{url}{_MCP}", "authorization_servers": [url]},
        ],
        rules=[
            tool | {"path": _API},
            tool | {"path": _MCP, "mcp": "tools/call", "scopes": ["tools"]},
        ],
        issuers=[
            known | {"kind": "session", "audience": "dashboard", "scopes": ["*"]},
            known | {"kind": "oauth"},
        ],
    )


def app(gate: Gate) -> Starlette:
    """The tool over the API and over MCP, the account API, and the issuer's keys."""
    routes = [
        Route(_API, _audit, methods=["POST"]),
        Route(_MCP, _answer, methods=["POST"]),
        Route("/keys", _keys),
        Mount("/v1", account_api),
    ]
    found = Starlette(routes=routes)
    found.add_middleware(KeyrushMiddleware, gate=gate)
    return found


async def _audit(_: Request) -> Response:
    return JSONResponse({"issues": []})


async def _answer(request: Request) -> Response:
    """What a server of MCP says: the call `broken` fails."""
    asked = await request.json()
    has_failed = asked["params"]["arguments"].get("site") == "broken"
    content = [{"type": "text", "text": "can't be read" if has_failed else "no issues"}]
    result = {"content": content, "isError": has_failed}
    return JSONResponse({"jsonrpc": "2.0", "id": asked["id"], "result": result})


async def _keys(_: Request) -> Response:
    public = jwt.get_algorithm_by_name("ES256").to_jwk(_PRIVATE.public_key(), as_dict=True)
    return JSONResponse({"keys": [public | {"kid": "demo", "alg": "ES256", "use": "sig"}]})


class Doors:
    """The requests, and what must come back (contract O3, O8, O9, O11, O20)."""

    def __init__(self, gate: Gate, url: str) -> None:
        self.rows: list[Row] = []
        self._gate = gate
        self._url = url
        gate.accounts.create(_ACCOUNT)
        gate.credits.grant(_ACCOUNT, CREDITS)
        gate.accounts.link(_ACCOUNT, issuer=url, subject=_SUBJECT)
        self._key = gate.keys.create(_ACCOUNT, "production")
        self._session = self._token("dashboard", "JWT")
        self._agent = self._token(f"{url}{_MCP}", "at+jwt", client_id="agent", scope="tools")

    def _token(self, audience: str, kind: str, **claims: str) -> str:
        said: dict[str, Any] = {"iss": self._url, "sub": _SUBJECT, "aud": audience}
        ends = {"iat": int(time.time()), "exp": int(time.time()) + 300}
        headers = {"kid": "demo", "typ": kind}
        return jwt.encode(said | ends | claims, _PRIVATE, "ES256", headers=headers)

    def walk(self) -> None:
        """Send all requests and keep the rows."""
        key, session, agent = (
            ("X-API-Key", self._key.text, self._key.key.prefix),
            ("Authorization", f"Bearer {self._session}", "Bearer (a session's token)"),
            ("Authorization", f"Bearer {self._agent}", "Bearer (an agent's token)"),
        )
        named = f'resource_metadata="{self._url}{_METADATA}"'
        self._row("MCP: no token, and where to get one", _MCP, None, status=401, challenge=named)
        self._row("MCP: the metadata, to anybody", _METADATA, None, resource=f"{self._url}{_MCP}")
        self._row(f"a key calls a tool of the API: {PRICE} credits", _API, key, issues=[])
        left = CREDITS - PRICE
        self._row("the dashboard's session reads the balance", _BALANCE, session, balance=left)
        self._row(f"an agent calls the tool over MCP: {PRICE} credits", _MCP, agent, id=1)
        left -= PRICE
        self._row("one balance: the key reads it", _BALANCE, key, balance=left)
        self._row("MCP: a call that fails", _MCP, agent, site="broken", id=1)
        self._row("and costs nothing", _BALANCE, session, balance=left)
        self._row("the agent's token is for MCP alone", _BALANCE, agent, status=401)
        self._gate.flush()  # as by itself within a second
        self._row("activity has each by its door: two over MCP", _ACTIVITY, session, total=2)

    def _row(
        self,
        what: str,
        path: str,
        sent: tuple[str, str, str] | None,
        *,
        status: int = 200,
        challenge: str | None = None,
        site: str = "example",
        **members: Any,
    ) -> None:
        """Send a request, and keep a row that says where the answer is not as given here: what
        `WWW-Authenticate` has in it, and which members its body.
        """
        method = "POST" if path in {_API, _MCP} else "GET"
        headers = {} if sent is None else {sent[0]: sent[1]}
        answer = self._ask(method, path, headers, site)
        wrong = [] if answer.status == status else [f"status {status}"]
        if challenge is not None and challenge not in answer.headers.get("www-authenticate", ""):
            wrong.append(f"a challenge with {challenge}")
        for name, value in members.items():
            if answer.body.get(name) != value:
                wrong.append(f"{name}: {json.dumps(value)}")
        shown = {
            name: value for name, value in answer.headers.items() if name == "www-authenticate"
        }
        key, header = (sent[2], sent[0]) if sent else (None, "")
        self.rows.append(
            Row(what, path, key, answer.status, shown, answer.body, wrong, method, header)
        )

    def _ask(self, method: str, path: str, headers: Mapping[str, str], site: str) -> Answer:
        params = {"name": "audit_site", "arguments": {"site": site}}
        asked = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
        body = json.dumps(asked if path == _MCP else {"site": site}) if method == "POST" else None
        host = self._url.removeprefix("http://")
        connection = http.client.HTTPConnection(host, timeout=30)
        try:
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            found = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, found, json.loads(response.read()))
        finally:
            connection.close()
