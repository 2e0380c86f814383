"""Whatever an app serves without the scope, module or credits that its rule asks for is a failure:
oddly spelled paths through every framework.

Many: `python -m tests.long.path_fuzz --paths 20000`.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.client import BAD_REQUEST
from itertools import chain, islice
from random import Random
from typing import Any, NamedTuple

from keyrush import Gate
from tests.support.frameworks import FRAMEWORKS, NEEDS, PUBLIC, SERVED, Framework, Keys, gate_for
from tests.support.targets import (
    ASGI_SERVERS,
    ORDINARY,
    WSGI_SERVERS,
    Made,
    Server,
    Target,
    decoded,
    environ_for,
    scope_for,
    targets,
)

#: Changed only to look for more: failures are to be found again.
SEED = 20_260_725

#: What a browser asks before it sends a request of another origin.
PREFLIGHT = [("origin", "https://a.example"), ("access-control-request-method", "GET")]


#: Of the gate; what else is answered is the app's.
REFUSALS = {400, 401, 402, 403, 429, 503}


class Answer(NamedTuple):
    """What came back; `raised` where the app let an exception out instead."""

    status: int = 0
    served: str | None = None
    location: str | None = None
    raised: str | None = None


class Caller:
    """Sends to an app in process, ASGI or WSGI."""

    def __init__(self, framework: Framework, app: Any) -> None:
        self._is_wsgi = framework.is_wsgi
        self._app = app

    async def send(self, made: Made, method: str, headers: list[tuple[str, str]]) -> Answer:
        """One request; its body is empty."""
        try:
            if self._is_wsgi:
                return self._wsgi(environ_for(made, method, headers))
            return await self._asgi(scope_for(made, method, headers))
        except Exception as error:
            return Answer(raised=type(error).__name__)

    async def _asgi(self, scope: Made) -> Answer:
        bodies: list[Any] = [{"type": "http.request", "body": b"", "more_body": False}]
        starts: list[Any] = []

        async def receive() -> Any:
            if not bodies:
                await asyncio.get_running_loop().create_future()  # the client stays
            return bodies.pop()

        async def send(message: Any) -> None:
            if message["type"] == "http.response.start":
                starts.append(message)

        await self._app(scope, receive, send)
        (start,) = starts
        headers = {name.lower(): value.decode() for name, value in start["headers"]}
        return Answer(start["status"], headers.get(SERVED.encode()), headers.get(b"location"))

    def _wsgi(self, environ: Made) -> Answer:
        starts: list[Any] = []

        def start_response(status: str, headers: list[tuple[str, str]], *_: Any) -> Any:
            starts[:] = [int(status[:3]), {name.lower(): value for name, value in headers}]

        items = self._app(environ, start_response)
        try:
            list(items)
        finally:
            if hasattr(items, "close"):
                items.close()
        status, headers = starts
        return Answer(status, headers.get(SERVED), headers.get("location"))


def is_plain(path: str) -> bool:
    """True for a path that begins with one slash, and has no empty segment but the last, no `.`
    or `..`, no backslash and no control character.
    """
    segments = path.split("/")
    if segments[0] or len(segments) < 2:
        return False
    inner = segments[1:-1] + ([segments[-1]] if segments[-1] else [])
    has_odd_segment = any(segment in {"", ".", ".."} for segment in inner)
    return not has_odd_segment and not re.search(r"[\\\x00-\x1f\x7f]", path)


def front_of(framework: Framework, server: Server) -> str:
    """What stands before the paths of the app in a target that is sent to the server."""
    return "" if server.strips and framework.server_root else framework.prefix


def _is_ordinary(made: Made) -> bool:
    """True where nothing about the path is odd, and no module is asked for that no plan has."""
    path, raw = decoded(made)
    query = made["QUERY_STRING"] if "PATH_INFO" in made else made["query_string"].decode("latin-1")
    is_plain_raw = raw is None or is_plain(raw)
    has_c1 = re.search(r"[\x80-\x9f]", path) is not None
    return is_plain(path) and is_plain_raw and not has_c1 and query in {"", "include=sentiment"}


@dataclass
class Report:
    """What a run found: failures in words, and how often each marker was served at all."""

    sent: int = 0
    failures: list[str] = field(default_factory=list)
    served: Counter[str] = field(default_factory=Counter)
    statuses: Counter[int] = field(default_factory=Counter)


def may_see(served: str | None, key: str | None, keys: Keys, wants: str) -> bool:
    """True where nothing was served, or what this key may see: it has all but what `wants` needs,
    or nothing at all, or there is none.
    """
    if served is None or served in PUBLIC:
        return True
    if key is None:
        return False
    if key == keys.nothing:
        return served not in NEEDS
    return NEEDS.get(served) != NEEDS[wants]


def fuzz(framework: Framework, spelling: str, paths: int, seed: int = SEED) -> Report:
    """Send `paths` targets, with rules that are spelled with the prefix `spelling`."""
    gate = gate_for(framework, spelling)
    try:
        with framework.around():
            run = _Run(framework, gate, Random(f"{seed} {framework.name} {spelling}"))  # noqa: S311  # repeatable, not secret
            asyncio.run(run.send(paths))
    finally:
        gate.close()
    return run.report


def fuzz_open(framework: Framework, paths: int, seed: int = SEED) -> Report:
    """Send `paths` targets without a key to a gate without rules: what is open is all that may be
    served, which is sent as it is written first. The same once more where keys are optional on
    what is open.
    """
    report = Report()
    random = Random(f"{seed} {framework.name} open")  # noqa: S311  # repeatable, not secret
    opened = list(PUBLIC.values())
    ways = [{"public_paths": opened}, {"public_paths": [], "optional_paths": opened}]
    gates = [gate_for(framework, "", rules=[], **way) for way in ways]

    async def send() -> None:
        callers = [Caller(framework, framework.make(gate)) for gate in gates]
        bare = Caller(framework, framework.make(None))
        odd = islice(_made(random, framework, open_too=True), paths)
        for server, made, target in chain(_open(framework), odd):
            headers = PREFLIGHT if target.method == "OPTIONS" else []
            for caller in callers:
                answer = await caller.send(made, target.method, headers)
                report.sent += 1
                report.statuses[answer.status] += 1
                where = f"{framework} on {server.name}, {target}"
                if answer.served:
                    report.served[answer.served] += 1
                if answer.served and answer.served not in PUBLIC:
                    report.failures.append(f"{where} served {answer.served} to nobody")
                elif answer.status not in REFUSALS or answer.raised:
                    expected = await bare.send(made, target.method, headers)
                    if answer != expected:
                        report.failures.append(f"{where} gave {answer}, and bare {expected}")

    with framework.around():
        asyncio.run(send())
    for gate in gates:
        gate.close()
    return report


class _Run:
    """One app behind the gate, beside the bare one."""

    def __init__(self, framework: Framework, gate: Gate, random: Random) -> None:
        self.report = Report()
        self._framework = framework
        self._random = random
        self._spelling = gate.settings.rules[0].path.removesuffix("/v1/tools/audit") or "/"
        self._keys = Keys(gate)
        self._gated = Caller(framework, framework.make(gate))
        self._bare = Caller(framework, framework.make(None))

    async def send(self, paths: int) -> None:
        """Send so many targets and judge what comes back."""
        for server, made, target in islice(_made(self._random, self._framework), paths):
            where = f"{self._framework} on {server.name}, rules {self._spelling}…, {target}"
            await self._attack(made, target, where)
            if _is_ordinary(made) and self._random.random() < 0.5:
                await self._compare(made, target, where)

    async def _attack(self, made: Made, target: Target, where: str) -> None:
        """Send without a key, with one that may do nothing, and with one that lacks just this."""
        keys, path = self._keys, decoded(made)[0]
        must_refuse = self._framework.is_outside and not is_plain(path)
        callers = {"no key": None, "nothing": keys.nothing, "the rest": keys.lacking(target.wants)}
        for who, key in callers.items():
            headers = [("x-api-key", key)] if key else []
            if key is None and target.method == "OPTIONS":
                headers = PREFLIGHT
            answer = await self._gated.send(made, target.method, headers)
            self.report.sent += 1
            self.report.statuses[answer.status] += 1
            if not may_see(answer.served, key, keys, target.wants):
                self._fail(f"{where} served {answer.served} to who has {who}")
            if must_refuse and answer.status != BAD_REQUEST:
                self._fail(f"{where}: {path!r} is not plain and gave {answer} to who has {who}")
            if answer.raised and answer != await self._bare.send(made, target.method, headers):
                self._fail(f"{where} raised {answer.raised} in the gate")
            if key and answer.status not in REFUSALS:
                return  # the app has answered, and answers all callers alike

    async def _compare(self, made: Made, target: Target, where: str) -> None:
        """Send with a key that has all rights, which the gate must not be noticed by."""
        headers = [("x-api-key", self._keys.everything)]
        expected = await self._bare.send(made, target.method, headers)
        answer = await self._gated.send(made, target.method, headers)
        self.report.sent += 1
        if answer.served:
            self.report.served[answer.served] += 1
        if answer != expected:
            self._fail(f"{where} gave {answer} to who has all rights, and bare {expected}")

    def _fail(self, words: str) -> None:
        self.report.failures.append(words)


def _made(
    random: Random, framework: Framework, *, open_too: bool = False
) -> Iterator[tuple[Server, Made, Target]]:
    """Targets, each with what one of the servers makes of it; those it refuses are left out."""
    servers = WSGI_SERVERS if framework.is_wsgi else ASGI_SERVERS
    streams = {one: targets(random, front_of(framework, one), open_too=open_too) for one in servers}
    while True:
        server = random.choice(servers)
        target = next(streams[server])
        made = server.make(target.bytes, framework.server_root)
        if made is not None:
            yield server, made, target


def _open(framework: Framework) -> Iterator[tuple[Server, Made, Target]]:
    """What is open, as it is written, through each server that hands it on."""
    for server in WSGI_SERVERS if framework.is_wsgi else ASGI_SERVERS:
        for name in PUBLIC:
            target = Target("GET", (front_of(framework, server) + ORDINARY[name]).encode(), name)
            made = server.make(target.bytes, framework.server_root)
            if made is not None:
                yield server, made, target


def spellings(framework: Framework) -> tuple[str, ...]:
    """The prefixes that rules may be written with: all of them must hold."""
    return ("", framework.prefix) if framework.prefix else ("",)


def main() -> None:
    """Fuzz every framework; print what was found, and exit with 1 if that is anything."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--paths", type=int, default=20_000, help="of each framework")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--only", default="", help="frameworks whose name has this in it")
    options = parser.parse_args()
    print(f"seed {options.seed}")  # noqa: T201  # a command
    failed = False
    for framework in FRAMEWORKS:
        if options.only not in framework.name:
            continue
        ways = spellings(framework)
        for spelling in ways:
            report = fuzz(framework, spelling, options.paths // len(ways), options.seed)
            failed = failed or bool(report.failures)
            served = ", ".join(f"{name} {count}" for name, count in sorted(report.served.items()))
            found = f"{report.sent} requests, {len(report.failures)} failures"
            words = [f"{framework}, rules {spelling or '/'}…: {found}; all rights: {served}"]
            print("\n  ".join(words + report.failures[:20]), flush=True)  # noqa: T201  # the table
        report = fuzz_open(framework, options.paths, options.seed)
        failed = failed or bool(report.failures)
        words = [f"{framework}, no rules: {report.sent} requests, {len(report.failures)} failures"]
        print("\n  ".join(words + report.failures[:20]), flush=True)  # noqa: T201  # the table
    sys.exit(failed)


if __name__ == "__main__":
    main()
