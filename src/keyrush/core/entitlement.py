"""Which plan, limits and scopes hold for whoever has been proved to call."""

from __future__ import annotations

from functools import lru_cache

from keyrush.core.catalog import Catalog
from keyrush.core.concurrency import CONCURRENT, NO_WANTS, Want, Wants
from keyrush.core.identity import (
    KEY,
    Claims,
    MonthlyCount,
    Overridden,
    Session,
    Verified,
    account_subject,
)
from keyrush.core.model import Account, Limit, Scopes
from keyrush.core.sliding import GROUP, Window
from keyrush.core.times import NEVER
from keyrush.errors import ConfigurationError

#: Texts and sets of scopes that many callers have in common are kept once; so many of each.
_SHARED = 1024


def verified(
    claims: Claims,
    account: Account,
    catalog: Catalog,
    counts: tuple[MonthlyCount, MonthlyCount],
    now: int,
) -> Verified:
    """The caller with all that a warm request needs, from `now` on, Unix milliseconds.

    The narrowest limits hold alone: the credential's own, else the account's, else the plan's;
    its own are counted on their own, and so is what is under way at once. Those of the account
    may be others for a time (`Overridden`). A plan that is only observed is so in what it says
    itself: limits that somebody was given are enforced. `counts` are the credential's and the
    account's.

    Raises:
        ConfigurationError: The account is on a plan that the catalog does not have.
    """
    plan = catalog.plans.get(account.plan)
    if plan is None:
        raise ConfigurationError(f"{account.id} is on the plan {account.plan!r}: not in the table")
    limits = plan.limits if account.limits is None else account.limits
    is_observed = plan.is_observed and account.limits is None and claims.limits is None
    own = counts[0].subject  # `key_subject`, as the object that is there already
    if GROUP in own:  # of an authenticator of one's own: it would begin a group of another's
        own = own.replace(GROUP, "%7C")
    subject = own
    if claims.limits is not None:
        limits = claims.limits
    elif plan.per == "account":
        subject = account_subject(account.id)
    most, wants = claims.max_concurrent, NO_WANTS
    if most is not None:
        wants = Wants((Want(own, most),))
    elif plan.max_concurrent is not None:
        most = plan.max_concurrent
        want = Want(account_subject(account.id) if plan.per == "account" else own, most)
        wants = Wants((), ((CONCURRENT, want),)) if plan.is_observed else Wants((want,))
    found = Verified(
        key_id=claims.id,
        account_id=_one(account.id),
        name=_one(claims.name),
        prefix=claims.prefix,
        environment=None if claims.environment is None else _one(claims.environment),
        scopes=_scopes(tuple(claims.scopes)),
        plan=plan,
        windows=_windows(subject, limits),
        expires_at=NEVER if claims.ends_at is None else claims.ends_at,
        quota_count=counts[plan.quota_per == "account"],
        subject=own,
        counts=() if claims.environment in catalog.unmetered else counts,
        max_concurrent=most,
        wants=wants,
        is_observed=is_observed,
        has_limits=plan.is_observed or most is not None,
        source=claims.source,
        session=None if claims.source == KEY else _session(claims),
    )
    override = account.override_at(now) if claims.limits is None else None
    if override is None:
        return found
    common = {name: getattr(found, name) for name in Verified.__slots__}
    common |= {"windows": _windows(subject, override.limits), "is_observed": False}
    return Overridden(**common, until=override.until, then=found)


def _windows(subject: str, limits: tuple[Limit, ...]) -> tuple[Window, ...]:
    return tuple(
        Window(f"{subject}:{limit.seconds}", limit.seconds * 1000, limit.amount, limit.name)
        for limit in limits
    )


def _session(claims: Claims) -> Session:
    return Session(
        claims.audience, claims.subject, claims.session_id, claims.client_id, claims.issued_at
    )


@lru_cache(_SHARED)
def _one(text: str) -> str:
    """The text, the same object for all who have it in common."""
    return text


@lru_cache(_SHARED)
def _scopes(granted: tuple[str, ...]) -> Scopes:
    return Scopes(granted)
