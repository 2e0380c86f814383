"""What proves who calls: an authenticator for each kind of credential.

Everything behind it is the same for all kinds: what is proved is cached for `CACHE_TTL`, by the
BLAKE2b of the credential, proved once however many requests wait for it, renewed ahead of need,
and good for `STALE_IF_ERROR` more while its authenticator can't say. What is refused is
remembered, too, and every refusal reads alike.

Methods are plain, and called from any thread. One that can't tell, because what it asks is away,
raises whatever it likes: the caller gets 503 then (S19), unless it was proved before.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, NamedTuple, Protocol, TypeVar

from keyrush.core.identity import Claims
from keyrush.core.model import Account
from keyrush.errors import Away
from keyrush.wire.request import Credential

#: What an authenticator keeps of a proof, so that the next one costs less. Nobody else reads it.
E = TypeVar("E")


class Proof(NamedTuple, Generic[E]):
    """Who calls, and for whom."""

    claims: Claims
    account: Account
    key_count: int  #: requests of the claims' lineage counted this month, by the store
    account_count: int  #: requests of all the account's credentials counted this month
    evidence: E


#: The rest of a proof that takes milliseconds of a core: run in the threads that are for that.
Work = Callable[[], Proof[E] | None]


class Later(Away):
    """Raised where what a proof needs is on its way, as from a server elsewhere: to be asked again,
    once, when `coming` is done, which is soon whatever becomes of it. No thread has to wait.
    """

    def __init__(self, coming: Future[None]) -> None:
        super().__init__("what the proof needs is on its way")
        self.coming = coming


class Authenticator(Protocol[E]):
    """Knows one kind of credential. Instants are Unix milliseconds.

    The first one says of a credential that it may be its own, of those in a row, is asked about
    it, then and later, and nobody else.
    """

    def may_be_mine(self, credential: Credential) -> bool:
        """Whether the credential has the shape of this kind; the same at all times. No I/O. One
        that raises is passed over: what nobody takes for its own is refused with 401.
        """
        ...

    def prove(self, credential: Credential, known: E | None, now: int) -> Proof[E] | Work[E] | None:
        """Whose the credential is, None where it is not (or no longer) good; may block for I/O.

        `known` is the evidence of an earlier proof of the same credential.

        Raises:
            Later: To be asked again before long. Anything else: nobody can say.
        """
        ...

    def renew(self, known: E, now: int) -> Proof[E] | None:
        """`prove`, from the evidence alone; None where the credential is needed, or no longer
        good. May block for I/O.
        """
        ...
