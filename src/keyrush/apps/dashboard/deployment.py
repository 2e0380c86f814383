"""How this very service is called: by its own address, headers, paths and resources."""

from __future__ import annotations

import json
import re
from typing import NamedTuple

from keyrush.apps.dashboard.visit import Visit
from keyrush.core.resources import Resource

#: Stands where a key belongs: never is there one.
PLACEHOLDER = "YOUR_API_KEY"

_HOST = re.compile(r"[A-Za-z0-9.-]{1,253}(:[0-9]{1,5})?|\[[0-9A-Fa-f:.]{2,45}\](:[0-9]{1,5})?")
_SIMPLE = re.compile(r"/[A-Za-z0-9/_.~-]*")


class Snippet(NamedTuple):
    """An example to copy; `note` says where it goes, by its text."""

    name: str
    text: str
    note: str | None = None


def base_url(visit: Visit) -> str:
    """Where the API is reached: as set, or as this page is."""
    if public := visit.gate.settings.public_url:
        return public
    url = visit.request.url
    host = url.netloc if _HOST.fullmatch(url.netloc) else "api.example.com"
    return f"{url.scheme}://{host}"


def header_of(visit: Visit) -> tuple[str, str]:
    """The header that a key is sent in, and what is before the key in it."""
    names = visit.gate.settings.credential_headers
    own = [name for name in names if name != "authorization"]
    return (written(own[0]), "") if own else ("Authorization", "Bearer ")


def written(header: str) -> str:
    """The name of a header as people write it."""
    parts = ("API" if part == "api" else part.capitalize() for part in header.split("-"))
    return "-".join(parts)


def path_of(visit: Visit) -> str:
    """A path to try: the first that a rule has without anything to fill in."""
    for rule in visit.gate.catalog.rules:
        is_read = not rule.methods or "GET" in rule.methods
        if is_read and rule.mcp is None and _SIMPLE.fullmatch(rule.path):
            return rule.path
    return "/"


def first_request(visit: Visit, base: str, key: str) -> str:
    """A request by curl; `key` is what stands for one, or the shell's name of it."""
    header, before = header_of(visit)
    return f'curl {base}{path_of(visit)} \\\n  -H "{header}: {before}{key}"'


def requests_of(visit: Visit) -> list[Snippet]:
    """How to send a request, by what with."""
    base, path = base_url(visit), path_of(visit)
    header, before = header_of(visit)
    python = (
        "import httpx\n\n"
        "answer = httpx.get(\n"
        f'    "{base}{path}",\n'
        f'    headers={{"{header}": "{before}{PLACEHOLDER}"}},\n'
        ")\n"
        "print(answer.status_code, answer.text)"
    )
    script = (
        f'const answer = await fetch("{base}{path}", {{\n'
        f'  headers: {{ "{header}": "{before}{PLACEHOLDER}" }},\n'
        "});\n"
        "console.log(answer.status, await answer.text());"
    )
    return [
        Snippet("curl", first_request(visit, base, PLACEHOLDER)),
        Snippet("Python", python),
        Snippet("JavaScript", script),
    ]


def resource_of(visit: Visit) -> Resource | None:
    """The server of MCP that agents are shown, None where there is none."""
    resources = visit.gate.catalog.resources
    return resources[0] if resources else None


def agents_of(visit: Visit, resource: Resource, *, has_key: bool) -> list[Snippet]:
    """How agents are connected: they sign in by a browser, or are given a key."""
    name = _name(resource, visit.brand.name)
    header, value = "Authorization", f"Bearer {PLACEHOLDER}"
    server: dict[str, object] = {"url": resource.uri}
    command = f"claude mcp add --transport http {name} {resource.uri}"
    if has_key:
        server["headers"] = {header: value}
        command += f' \\\n  --header "{header}: {value}"'
    return [
        Snippet("Claude Code", command, "setup.note_key" if has_key else "setup.note_sign_in"),
        Snippet("Cursor", _json({"mcpServers": {name: server}}), "setup.note_cursor"),
        Snippet(
            "VS Code", _json({"servers": {name: {"type": "http", **server}}}), "setup.note_vscode"
        ),
    ]


def _name(resource: Resource, product: str) -> str:
    plain = re.sub(r"[^a-z0-9]+", "-", (resource.name or product).lower()).strip("-")
    return plain or "api"


def _json(value: object) -> str:
    return json.dumps(value, indent=2)
