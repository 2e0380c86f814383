"""Limits of rules, beside those of plans: whose requests they count, and together with what."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import quote

from keyrush.core.concurrency import CONCURRENT, Want
from keyrush.core.identity import Verified, account_subject
from keyrush.core.model import Limit
from keyrush.core.sliding import Window

#: Whose requests a rule's limits count: each key's, each account's, or each client address's.
Counted = Literal["key", "account", "address"]

#: Subjects whose windows are kept made, of each rule: about 8 MB for one with two limits.
_KEPT = 16_384


@dataclass(frozen=True, slots=True)
class RuleLimits:
    """What requests of a rule are limited to, on top of their plan.

    `limits` hold for every plan but those of `by_plan`. `group` names the windows: rules of one
    group share them. `per` says whose requests are counted together. `label` is for people;
    in header fields it is `shown`. `max_concurrent` of them may be under way at once. With
    `is_observed` what is over is told and never refused.
    """

    group: str
    label: str
    limits: tuple[Limit, ...] = ()
    by_plan: Mapping[str, tuple[Limit, ...]] = field(default_factory=dict)
    per: Counted = "key"
    max_concurrent: int | None = None
    is_observed: bool = False
    _made: dict[tuple[str, str], tuple[Window, ...]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    _of_plan: dict[str, tuple[Window, ...]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    @property
    def all(self) -> tuple[Limit, ...]:
        """Its limits, of whatever plan."""
        return self.limits + tuple(one for some in self.by_plan.values() for one in some)

    @property
    def shown(self) -> str:
        """The label as header fields hold it: visible ASCII, without quotes."""
        return quote(self.label, safe="/{}:@!$&'()*+,;=~ ")

    @property
    def slots_name(self) -> str:
        """What a maximum of requests under way is told by."""
        return f"{self.shown}-{CONCURRENT}"

    def of(self, verified: Verified, address: str) -> tuple[Window, ...]:
        """The windows of a caller, who asks from the subject `address`."""
        return self._windows(self._subject(verified, address), verified.plan.name)

    def want_of(self, verified: Verified, address: str) -> Want | None:
        """What a request of the caller's takes a slot of; None where any number may go on."""
        return self._want(self._subject(verified, address))

    def want_of_anonymous(self, address: str) -> Want | None:
        """The same of somebody without a key: by address, whatever `per` says."""
        return self._want(address)

    def _want(self, subject: str) -> Want | None:
        if self.max_concurrent is None:
            return None
        return Want(f"{subject}|{self.group}", self.max_concurrent)

    def _subject(self, verified: Verified, address: str) -> str:
        if self.per == "key":
            return verified.subject
        return account_subject(verified.account_id) if self.per == "account" else address

    def of_anonymous(self, address: str) -> tuple[Window, ...]:
        """The windows of somebody without a key, or plan: by address, whatever `per` says."""
        return self._windows(address, "")

    def _windows(self, subject: str, plan: str) -> tuple[Window, ...]:
        made = self._made.get((subject, plan))
        if made is None:
            if len(self._made) >= _KEPT:
                self._made.clear()
            made = self._made[subject, plan] = tuple(
                Window(subject + key, length, amount, name)
                for key, length, amount, name in self._parts(plan)
            )
        return made

    def _parts(self, plan: str) -> tuple[Window, ...]:
        """The windows of a plan, as those of nobody: of each caller only the key differs."""
        parts = self._of_plan.get(plan)
        if parts is None:
            parts = self._of_plan[plan] = tuple(
                Window(
                    f"|{self.group}:{limit.seconds}",
                    limit.seconds * 1000,
                    limit.amount,
                    f"{self.shown}-{limit.name}",
                )
                for limit in self.by_plan.get(plan, self.limits)
            )
        return parts

    def __hash__(self) -> int:
        return hash((self.group, self.per, self.is_observed))


def address_subject(address: str) -> str:
    """The subject that windows of a client address belong to."""
    return f"address:{address}"
