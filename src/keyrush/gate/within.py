"""A request that has passed this gate before, on its way to an app in the app behind the same gate.

It is counted once; what its path asks for there besides is looked at here, and taken.
"""

from __future__ import annotations

from keyrush.core.paths import is_plain
from keyrush.core.policy import ANY_KEY, UNRULED, Needs, Policy
from keyrush.core.refusal import Refusal
from keyrush.gate.addresses import AddressSubjects
from keyrush.gate.admission import MALFORMED_PATH
from keyrush.gate.principal import Caller, Principal
from keyrush.gate.weighing import Weighing
from keyrush.wire.request import INVALID


class Within:
    """What is asked of requests further in. Safe to use from any thread or event loop."""

    def __init__(self, policy: Policy, weighing: Weighing, addresses: AddressSubjects) -> None:
        self._policy = policy
        self._weighing = weighing
        self._addresses = addresses

    def needs(  # noqa: PLR0917  # as `Admission.begin`
        self,
        caller: Caller,
        method: str,
        path: str,
        raw_path: bytes | None,
        root: str,
        query: bytes,
    ) -> Refusal | Needs:
        """What the rules say of it: a refusal, or what it needs, which is to be taken."""
        policy = self._policy
        if policy.has_rules and not is_plain(path, raw_path):
            return MALFORMED_PATH
        if policy.is_public(method, path, raw_path, root) or not isinstance(caller, Principal):
            return ANY_KEY
        needs = policy.needs(method, path, root)
        if caller.resource is not None:  # whose body is read, and decided on as a whole
            return ANY_KEY
        if needs.resource is not None:
            return UNRULED
        session = caller.verified.session
        if session is not None and not needs.are_for(session):
            return INVALID
        if needs is ANY_KEY:
            return needs
        return policy.authorise(caller.verified, needs, query) or needs

    def take(self, caller: Principal, needs: Needs) -> None:
        """Take what `needs` says, as far as it has not been taken; may block.

        Raises:
            Refused: Why that can't be.
        """
        if needs.has_limits:
            self._weighing.within(caller, needs, self._address_of(caller, needs))
        if needs.credits > caller.charged:
            caller.charge(needs.credits - caller.charged)

    async def take_async(self, caller: Principal, needs: Needs) -> None:
        """`take`, awaited."""
        if needs.has_limits:
            await self._weighing.within_async(caller, needs, self._address_of(caller, needs))
        if needs.credits > caller.charged:
            await caller.charge_async(needs.credits - caller.charged)

    def _address_of(self, caller: Principal, needs: Needs) -> str:
        """The subject of the client's, where limits count by it."""
        if caller.came is None or not needs.is_by_address:
            return ""
        return self._addresses.of(caller.came[6], caller.came[7][2])
