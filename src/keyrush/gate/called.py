"""What a request to a resource of MCP has called, as activity has it: a row for each call.

What is free is no request to windows and counts, and none here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from keyrush.core.calls import TOOLS_CALL, Call, Calls
from keyrush.core.policy import Needs
from keyrush.core.refusal import Refusal
from keyrush.core.resources import Resource
from keyrush.gate.principal import Charge, Principal
from keyrush.usage.activity import Came, Recording
from keyrush.usage.shown import PATH_LOOKED_AT, shown_path

#: Characters of a method of MCP that are noted.
_METHOD = 64

#: From this status on nothing shows that there is such a tool.
_REDIRECT = 300


class Called:
    """The calls of one request, which `came`; `asked` is None where it brings no messages."""

    def __init__(self, came: Came, resource: Resource, asked: Calls | None, needs: Needs) -> None:
        self._came = came
        self._resource = resource
        self._weight = needs.weight
        self._calls: list[tuple[Call, int, str]] = []  # each with its price and rule
        self._failed: set[tuple[type, str | int]] = set()  # ids
        if asked is not None and len(needs.rules) == len(asked.calls):  # none, where it is refused
            is_each = needs.weight == len(asked.calls)
            for call, price, rule in zip(asked.calls, needs.prices or (), needs.rules, strict=True):
                if is_each or not call.is_free:
                    self._calls.append((call, price, rule))

    def came(self) -> Came:
        """What it is to the ledger: the call, where it is one; a tool by its name."""
        if len(self._calls) != 1:
            return self._came
        call, _, rule = self._calls[0]
        name = call.name if call.method == TOOLS_CALL else None
        return self._came_of(call, rule if name is None else shown_path(name))

    def fail(self, failed: Iterable[str | int]) -> None:
        """The calls with these ids have come to nothing."""
        self._failed.update((type(one), one) for one in failed)

    def refuse(self, recording: Recording, refusal: Refusal) -> None:
        """Record that the gate has refused it: one row, be it a batch."""
        came = self._came
        if len(self._calls) == 1:
            call, _, rule = self._calls[0]
            came = self._came_of(call, _told_apart(recording, call, rule, is_new=False))
        recording.refuse(came, refusal)

    def record(  # noqa: PLR0917  # what came of it
        self,
        recording: Recording,
        caller: Principal,
        charges: Sequence[Charge],
        status: int,
        refusal: Refusal | None,
        is_broken: bool,
    ) -> None:
        """Record what came of it; `charges` are those that are kept."""
        charged = {charge.reference: charge.credits for charge in charges}
        priced = iter(caller.paid)
        rows = []
        for call, price, rule in self._calls:
            charge = next(priced, None) if price else None
            credits = charged.pop(charge.reference, 0) if charge else 0
            has_failed = is_broken or (type(call.id), call.id) in self._failed
            is_new = not has_failed and refusal is None and 0 < status < _REDIRECT
            name = _told_apart(recording, call, rule, is_new=is_new)
            rows.append((self._came_of(call, name), credits, has_failed))
        if not rows and (self._weight or refusal is not None or charged):
            rows.append((self._came, 0, is_broken))
        more = sum(charged.values())  # by the app itself, nobody knows for which of them
        for came, credits, has_failed in rows:
            recording.add(came, status, refusal, credits + more, has_failed, caller.would_limit)
            more = 0

    def _came_of(self, call: Call, rule: str) -> Came:
        verified, at, began, method, _, _, peer, noted, is_mcp = self._came
        name = call.name or self._resource.path
        path = "" if name == rule else name[:PATH_LOOKED_AT]
        method = (call.method or method)[:_METHOD]
        return verified, at, began, method, path, rule, peer, noted, is_mcp


def _told_apart(recording: Recording, call: Call, rule: str, *, is_new: bool) -> str:
    """The tool's name, where that is known to be one; else the rule that holds."""
    name = call.name
    if call.method == TOOLS_CALL and name and name != rule:
        return name if recording.is_tool(name, is_new=is_new) else rule
    return rule
