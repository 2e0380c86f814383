"""The operations on accounts and keys, and the answer that each bad input has."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any
from urllib.parse import unquote

import pytest

from keyrush import Gate, InvalidArgument, NotFound, TooManyKeys
from keyrush.authentication.keyring import Fingerprints, Hashing
from keyrush.core.identity import account_subject, key_subject
from keyrush.core.key_search import Search
from keyrush.core.key_text import KeyFormat
from keyrush.core.model import INHERIT, ApiKey, Limit, Override
from keyrush.core.times import LATEST, iso, month_of
from keyrush.errors import BeyondCaller
from keyrush.operations.accounts import Accounts
from keyrush.operations.credits import Credits
from keyrush.operations.documents import credential_json
from keyrush.operations.key_records import KeyRecords
from keyrush.operations.keys import Keys
from keyrush.operations.sessions import Sessions
from keyrush.operations.usage import Usage
from keyrush.store import memory_links
from tests.conftest import Clock, settings
from tests.support.values import HIDINGS, api_key

DAY = 86_400_000

ISSUER = {"issuer": "https://i", "kind": "session", "audience": "api", "scopes": ["*"]}

PLANS = {
    "free": {"limits": "60/minute", "monthly_quota": 100, "overage_price": "0.50"},
    "team": {"per": "account", "monthly_quota": 10},
    "open": {},
}


@pytest.fixture
def gate(clock: Clock) -> Iterator[Gate]:
    """A gate with known scopes, three plans, and the accounts `acct_a` and `acct_b`."""
    opened = Gate.open(
        settings(
            plans=PLANS,
            scopes="read:articles,read:entities,read:breaking",
            key_prefix="rsh",
            issuers=[ISSUER],
        ),
        clock=clock,
    )
    opened.accounts.create("acct_a")
    opened.accounts.create("acct_b")
    yield opened
    opened.close()


def is_refused(field: str, allowed: str = "") -> Any:
    """The block raises InvalidArgument for the field, saying what is allowed."""
    return pytest.raises(InvalidArgument, match=f"^{field}: .*{re.escape(allowed)}")


# --- keys where they don't belong ----------------------------------------------------------------

#: What the operations take.
RIGHT: dict[str, Any] = {
    "account_id": "acct_a",
    "name": "n",
    "plan": "team",
    "limits": "1/minute",
    "credits": 1,
    "scopes": ["read:articles"],
    "issuer": ISSUER["issuer"],
    "subject": "user-1",
    "search": Search(),
}

#: What some of them have texts in.
WRAPPED: dict[str, Callable[[str], object]] = {"scopes": lambda text: [text], "search": Search}

#: The operations of a gate, by its attributes.
GROUPS = {
    "accounts": Accounts,
    "keys": Keys,
    "key_records": KeyRecords,
    "sessions": Sessions,
    "credits": Credits,
    "usage": Usage,
}

#: Every operation with each of its arguments.
PLACES = [
    (group, operation, argument)
    for group, operations in GROUPS.items()
    for operation, function in inspect.getmembers(operations, inspect.isfunction)
    # `find` is given keys, to find them; `of` an account that has been looked up.
    if not operation.startswith("_") and operation not in {"find", "of"}
    for argument in list(inspect.signature(function).parameters)[1:]
]


@pytest.mark.parametrize("way", sorted(HIDINGS))
@pytest.mark.parametrize(("group", "operation", "argument"), PLACES)
def test_keys_are_refused_wherever_they_are_given(
    gate: Gate, group: str, operation: str, argument: str, way: str
) -> None:
    """O22: no argument of any operation takes a key: it is neither stored nor echoed."""
    made = gate.keys.create("acct_a", "n")
    function = getattr(getattr(gate, group), operation)
    given = {
        name: made.key.id if name == "key_id" else RIGHT.get(name)
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.default is parameter.empty
    }
    hidden = HIDINGS[way](made.text)
    before = (gate.accounts.list(), gate.keys.list())
    with pytest.raises((InvalidArgument, NotFound)) as refused:
        function(**given | {argument: WRAPPED.get(argument, str)(hidden)})
    assert made.text[-30:] not in unquote(unquote(str(refused.value)))
    assert hidden not in repr(refused.value)
    assert (gate.accounts.list(), gate.keys.list()) == before


# --- accounts ------------------------------------------------------------------------------------


def test_create_account(gate: Gate, clock: Clock) -> None:
    """A new account is on the first plan of the table, with no credits and the plan's limits."""
    made = gate.accounts.create()
    assert re.fullmatch(r"acct_[0-9A-Za-z]{16}", made.id)
    assert (made.plan, made.balance, made.limits, made.created_at) == ("free", 0, None, clock.now)
    assert gate.accounts.get(made.id) == made
    assert made in gate.accounts.list()


def test_create_account_with_everything(gate: Gate) -> None:
    """Id, plan and limits may be given."""
    made = gate.accounts.create("user@example.com", plan="team", limits="5/minute;9/hour")
    assert (made.id, made.plan) == ("user@example.com", "team")
    assert made.limits == (Limit(5, 60), Limit(9, 3600))


@pytest.mark.parametrize("account_id", ["", "a b", "a\n", "<b>", "é", "a" * 65, "a/b"])
def test_account_ids(gate: Gate, account_id: str) -> None:
    """An id is 1 to 64 letters, digits or `_.@-`."""
    with is_refused("account", "1 to 64"):
        gate.accounts.create(account_id)


def test_account_that_exists(gate: Gate) -> None:
    """An id that is taken is refused."""
    with is_refused("account", "acct_a exists already"):
        gate.accounts.create("acct_a")


@pytest.mark.parametrize("plan", ["", "Free", "gold", "free\n"])
def test_unknown_plan(gate: Gate, plan: str) -> None:
    """A plan that is not in the table is refused, naming those that are."""
    with is_refused("plan", "free, team, open"):
        gate.accounts.create("acct_x", plan=plan)
    with is_refused("plan", "free, team, open"):
        gate.accounts.set_plan("acct_a", plan)
    assert gate.accounts.get("acct_a").plan == "free"
    assert len(gate.accounts.list()) == 2


@pytest.mark.parametrize("limits", ["", "100", "-1/minute", "5/fortnight", "5/minute;6/minute"])
def test_malformed_limits(gate: Gate, limits: str) -> None:
    """A malformed limit is refused wherever it may be given, and changes nothing."""
    made = gate.keys.create("acct_a", "production").key
    for operation in (
        lambda: gate.accounts.create("acct_x", limits=limits),
        lambda: gate.accounts.set_limits("acct_a", limits),
        lambda: gate.keys.create("acct_a", "production", limits=limits),
        lambda: gate.keys.set_limits(made.id, limits),
    ):
        with is_refused("limits"):
            operation()
    assert gate.accounts.get("acct_a").limits is None
    assert list(gate.keys.list()) == [made]


@pytest.mark.parametrize(
    ("text", "limits"),
    [("0/minute", (Limit(0, 60),)), ("unlimited", ()), (None, None), ("5/hour", (Limit(5, 3600),))],
)
def test_limits_of_account_and_key(
    gate: Gate, text: str | None, limits: tuple[Limit, ...] | None
) -> None:
    """O13: an account or a key may have its own; 0, unlimited and none are three things."""
    assert gate.accounts.set_limits("acct_a", text).limits == limits
    made = gate.keys.create("acct_a", "production", limits=text).key
    assert made.limits == limits
    assert gate.keys.set_limits(made.id, None).limits is None
    assert gate.keys.set_limits(made.id, text).limits == limits


def test_wrong_ends_of_limits(gate: Gate, clock: Clock) -> None:
    """Limits that hold for a time end after now, and before the year 10000."""
    wrong: list[Any] = [0, -1, clock.now, LATEST + 1, 1.5, True, "2030-01-01"]
    for until in wrong:
        with is_refused("until"):
            gate.accounts.set_limits("acct_a", "5/minute", until=until)
    with is_refused("until"):
        gate.accounts.set_limits("acct_a", None, until=clock.now + 1)
    assert gate.accounts.get("acct_a").override is None


def test_limits_for_a_time(gate: Gate, clock: Clock) -> None:
    """O13: what is set with an end holds before it; what holds for good stays, and is asked for by
    an instant.
    """
    gate.accounts.set_limits("acct_a", "5/hour")
    account = gate.accounts.set_limits("acct_a", "9/minute", until=clock.now + 7)
    assert account.limits == (Limit(5, 3600),)
    assert account.override == Override((Limit(9, 60),), clock.now + 7)
    assert account.limits_at(clock.now + 6) == (Limit(9, 60),)
    assert account.limits_at(clock.now + 7) == (Limit(5, 3600),)
    assert gate.accounts.set_limits("acct_a", None).limits_at(clock.now) is None


@pytest.mark.parametrize("number", [0, -1, 1_000_001, 1.0, True, "5"])
def test_wrong_numbers_at_once(gate: Gate, number: Any) -> None:
    """How many requests of a key may be under way at once is a whole number from 1 on."""
    made = gate.keys.create("acct_a", "production", max_concurrent=5).key
    with is_refused("max_concurrent"):
        gate.keys.create("acct_a", "production", max_concurrent=number)
    if number != INHERIT:  # which an edit takes
        with is_refused("max_concurrent"):
            gate.keys.edit(made.id, max_concurrent=number)
    assert list(gate.keys.list()) == [made]


@pytest.mark.parametrize("by", ["owner:host", None])
def test_number_at_once_of_a_key(gate: Gate, by: str | None) -> None:
    """A key has its own `max_concurrent` through edits and rotations, and gives it up for its
    plan's; operator and owner set it.
    """
    made = gate.keys.create("acct_a", "production", max_concurrent=5, by=by).key
    assert gate.keys.edit(made.id, max_concurrent=7, by=by).max_concurrent == 7
    newer = gate.keys.rotate(made.id, by=by).key
    assert newer.max_concurrent == 7
    assert gate.keys.edit(newer.id, name="other", by=by).max_concurrent == 7
    assert gate.keys.edit(newer.id, max_concurrent=INHERIT, by=by).max_concurrent is None


def test_no_key_gives_a_number_at_once(gate: Gate) -> None:
    """O17: a key or a session sets no `max_concurrent`, of itself or of others: it may be more than
    its own plan's; and a key that has one makes no others, and gives none more than it has.
    """
    wide, narrow = (gate.keys.create("acct_a", "n", max_concurrent=most).key for most in (None, 5))
    for key in (wide, narrow):
        for by in (wide.id, narrow.id, "sub_a"):
            with pytest.raises(BeyondCaller):
                gate.keys.edit(key.id, max_concurrent=3, by=by)
            with pytest.raises(BeyondCaller):
                gate.keys.create("acct_a", "n", max_concurrent=3, by=by)
    with pytest.raises(BeyondCaller):
        gate.keys.create("acct_a", "n", by=narrow.id)
    with pytest.raises(BeyondCaller):
        gate.keys.rotate(wide.id, by=narrow.id)
    assert gate.keys.rotate(narrow.id, by=narrow.id).key.max_concurrent == 5
    assert len(gate.keys.list()) == 3


def test_unknown_account(gate: Gate) -> None:
    """Every operation on an account that is not there says so."""
    for operation in (
        lambda: gate.accounts.get("acct_x"),
        lambda: gate.accounts.set_plan("acct_x", "team"),
        lambda: gate.accounts.set_limits("acct_x", None),
        lambda: gate.credits.grant("acct_x", 1),
        lambda: gate.usage.this_month("acct_x"),
        lambda: gate.keys.create("acct_x", "production"),
    ):
        with pytest.raises(NotFound, match="acct_x"):
            operation()


# --- credits -------------------------------------------------------------------------------------


def test_grant(gate: Gate) -> None:
    """O19: credits add up."""
    assert gate.credits.grant("acct_a", 1000) == 1000
    assert gate.credits.grant("acct_a", 10**9) == 10**9 + 1000
    assert gate.accounts.get("acct_a").balance == 10**9 + 1000


@pytest.mark.parametrize("credits", [0, -1, 10**9 + 1, 1.5, True, "5", None, float("nan")])
def test_grant_of_nonsense(gate: Gate, credits: Any) -> None:
    """Credits are whole numbers from 1 to 1,000,000,000."""
    with is_refused("credits"):
        gate.credits.grant("acct_a", credits)
    assert gate.accounts.get("acct_a").balance == 0


# --- usage ---------------------------------------------------------------------------------------


def test_usage_of_a_key(gate: Gate, clock: Clock) -> None:
    """R6, R12, R13: where a plan counts keys, a key's usage is its own; else the account's."""
    made = gate.keys.create("acct_a", "production").key
    month = month_of(clock.now)
    gate.store.add_usage(month, {key_subject(made.id): 103, account_subject("acct_a"): 200})
    used = gate.usage.this_month("acct_a", made.id)
    assert (used.month, used.counted, used.limit, used.overage) == ("2026-11", 103, 100, 3)
    assert iso(used.resets_at) == "2026-12-01T00:00:00Z"
    assert str(used.overage_price) == "0.50"
    assert gate.usage.this_month("acct_a").counted == 200
    gate.accounts.set_plan("acct_a", "team")
    used = gate.usage.this_month("acct_a", made.id)
    assert (used.counted, used.limit, used.overage) == (200, 10, 190)
    gate.accounts.set_plan("acct_a", "open")
    used = gate.usage.this_month("acct_a", made.id)
    assert (used.counted, used.limit, used.overage) == (103, None, 0)
    assert gate.usage.this_month("acct_b").counted == 0


def test_usage_of_another_accounts_key(gate: Gate) -> None:
    """Another account's key is not found."""
    other = gate.keys.create("acct_b", "theirs").key
    with pytest.raises(NotFound):
        gate.usage.this_month("acct_a", other.id)


def test_usage_follows_the_lineage(gate: Gate, clock: Clock) -> None:
    """R17: a replacement carries on with the history of the key it replaces."""
    first = gate.keys.create("acct_a", "production").key
    gate.store.add_usage(month_of(clock.now), {key_subject(first.id): 42})
    second = gate.keys.rotate(first.id).key
    third = gate.keys.rotate(second.id).key
    assert gate.usage.this_month("acct_a", third.id).counted == 42


# --- creating keys -------------------------------------------------------------------------------


def test_create_key(gate: Gate, clock: Clock) -> None:
    """R2–R4, O2: no scopes are `*`, no environment is the first, and no key text is stored."""
    made = gate.keys.create("acct_a", "  production  ")
    assert re.fullmatch(r"rsh_live_[0-9A-Za-z]{36}", made.text)
    key = made.key
    assert re.fullmatch(r"cred_[0-9A-Za-z]{16}", key.id)
    assert key == api_key(
        key.id,
        name="production",
        prefix=f"{made.text[:15]}...",
        fingerprint=key.fingerprint,
        hash=key.hash,
        pepper_id=key.pepper_id,
        created_at=clock.now,
        proof=key.proof,
    )
    assert gate.store.key(key.id) == key
    assert Hashing().verify(key.hash, made.text.encode())
    assert made.text not in (key.hash, key.fingerprint)
    for shown in (repr(made), repr(key), str(credential_json(key, clock.now))):
        assert made.text not in shown
        assert made.text[20:] not in shown


def test_create_key_with_everything(gate: Gate, clock: Clock) -> None:
    """R3: a name, an expiration and scopes, each scope once, and an environment."""
    made = gate.keys.create(
        "acct_a",
        "x" * 120,
        scopes=["read:articles", "read:*", "read:articles"],
        environment="test",
        expires_at=clock.now + 1,
        limits="5/minute",
    )
    assert made.text.startswith("rsh_test_")
    assert made.key.environment == "test"
    assert made.key.scopes == ("read:articles", "read:*")
    assert made.key.expires_at == clock.now + 1
    assert made.key.limits == (Limit(5, 60),)


@pytest.mark.parametrize("scope", ["*", "read:*", "read:articles", "read:entities"])
def test_scopes_that_exist(gate: Gate, scope: str) -> None:
    """R4: the documented scopes, and wildcards over them."""
    assert gate.keys.create("acct_a", "n", scopes=[scope]).key.scopes == (scope,)


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("name", {"name": ""}),
        ("name", {"name": " \t\n"}),
        ("name", {"name": "x" * 121}),
        ("name", {"name": "<script>alert(1)</script>"}),
        ("name", {"name": "a > b"}),
        ("name", {"name": "a\0b"}),
        ("name", {"name": "a\nb"}),
        ("name", {"name": "a\x85b"}),
        ("name", {"name": "a\u2028b"}),
        ("name", {"name": "a\u202eb"}),
        ("name", {"name": "a\ud800b"}),
        ("name", {"name": 5}),
        ("name", {"name": None}),
        ("scopes", {"scopes": ["read:nothing"]}),
        ("scopes", {"scopes": ["write:*"]}),
        ("scopes", {"scopes": ["READ:ARTICLES"]}),
        ("scopes", {"scopes": [""]}),
        ("scopes", {"scopes": ["read:articles read:entities"]}),
        ("scopes", {"scopes": ["read:articles\n"]}),
        ("scopes", {"scopes": ['read:"x"']}),
        ("scopes", {"scopes": "read:articles"}),
        ("environment", {"environment": "prod"}),
        ("environment", {"environment": ""}),
        ("environment", {"environment": "LIVE"}),
        ("expires_at", {"expires_at": 0}),
        ("expires_at", {"expires_at": -(10**18)}),
        ("expires_at", {"expires_at": LATEST + 1}),
        ("expires_at", {"expires_at": 2**63}),
        ("limits", {"limits": "lots"}),
    ],
)
def test_keys_that_are_refused(gate: Gate, field: str, values: dict[str, Any]) -> None:
    """Bad input is refused, naming the field, and no key is made."""
    with is_refused(field) as caught:
        gate.keys.create("acct_a", **{"name": "production", **values})
    assert caught.value.field == field
    assert caught.value.message
    assert list(gate.keys.list("acct_a")) == []


def test_expiry_is_from_now_on(gate: Gate, clock: Clock) -> None:
    """R5: a key can't expire now or before; a moment later it can."""
    with is_refused("expires_at", "in the past"):
        gate.keys.create("acct_a", "n", expires_at=clock.now)
    with is_refused("expires_at", "give milliseconds, not seconds"):
        gate.keys.create("acct_a", "n", expires_at=clock.now // 1000 + 60)
    given = {"'30d'": "30d", "a datetime": datetime(2099, 1, 31, tzinfo=UTC), "a bool": True}
    for shown, wrong in given.items():
        with is_refused("expires_at", f"{shown} is no Unix time in milliseconds; of a datetime"):
            gate.keys.create("acct_a", "n", expires_at=wrong)  # type: ignore[arg-type]
    assert gate.keys.create("acct_a", "n", expires_at=clock.now + 1).key.is_active(clock.now)
    latest = gate.keys.create("acct_a", "n", expires_at=LATEST).key
    assert credential_json(latest, clock.now)["expires_at"] == "9999-12-31T23:59:59.999Z"


def test_any_scope_where_none_is_known(clock: Clock) -> None:
    """Where neither settings nor rules name scopes, a key may have any that is one."""
    gate = Gate.open(settings(), clock=clock)
    gate.accounts.create("acct_a")
    made = gate.keys.create("acct_a", "n", scopes=["anything:at-all"])
    assert made.key.scopes == ("anything:at-all",)
    with is_refused("scopes", "write one like read:articles"):
        gate.keys.create("acct_a", "n", scopes=["two words"])
    gate.close()


def test_keys_without_environment(clock: Clock) -> None:
    """O2: where keys have no environments, none may be given."""
    gate = Gate.open(settings(key_prefix="or", key_environments=""), clock=clock)
    gate.accounts.create("acct_a")
    made = gate.keys.create("acct_a", "n")
    assert re.fullmatch(r"or_[0-9A-Za-z]{36}", made.text)
    assert made.key.environment is None
    assert re.fullmatch(r"or_[0-9A-Za-z]{6}\.\.\.", made.key.prefix)
    with is_refused("environment", "keys have none here"):
        gate.keys.create("acct_a", "n", environment="live")
    gate.close()


def test_keys_under_the_newest_pepper(clock: Clock) -> None:
    """New keys are made under the first pepper of the list."""
    peppers = ["0123456789abcdef0123456789abcdef", "fedcba9876543210fedcba9876543210"]
    gate = Gate.open(settings(pepper=",".join(peppers)), clock=clock)
    gate.accounts.create("acct_a")
    made = gate.keys.create("acct_a", "n")
    newest = Fingerprints([peppers[0].encode()])
    assert made.key.fingerprint == newest.new(made.text.encode())
    assert made.key.pepper_id == newest.pepper_ids[0]
    gate.close()


# --- keys ----------------------------------------------------------------------------------------


def test_create_many(gate: Gate, clock: Clock) -> None:
    """R3, O2: many keys at once are as those made one by one, each with a text of its own."""
    made = gate.keys.create_many(
        "acct_a", " fleet ", 20, scopes=["read:articles"], limits="5/minute", environment="test"
    )
    texts = {one.text for one in made}
    assert len(texts) == len({one.key.id for one in made}) == 20
    assert sorted(gate.keys.list("acct_a"), key=key_id) == sorted(
        (one.key for one in made), key=key_id
    )
    for one in made:
        assert (one.key.name, one.key.environment) == ("fleet", "test")
        assert (one.key.scopes, one.key.limits) == (("read:articles",), (Limit(5, 60),))
        assert gate.keys.find(one.text) == one.key


def key_id(key: ApiKey) -> str:
    return key.id


@pytest.mark.parametrize("count", [0, -1, 5001, True, 1.5, None, "2"])
def test_so_many_can_not_be_made(gate: Gate, count: Any) -> None:
    """From 1 to 5,000 keys are made in one step."""
    with pytest.raises(InvalidArgument, match="from 1 to 5,000"):
        gate.keys.create_many("acct_a", "n", count)
    assert not gate.keys.list("acct_a")


def test_no_room_for_all(gate: Gate) -> None:
    """Where the plan has room for some of many keys, none is made, and none is hashed."""
    gate.keys.create_many("acct_a", "n", 49)
    with pytest.raises(TooManyKeys, match=r"no room for 2 more: its plan allows 50 active keys"):
        gate.keys.create_many("acct_a", "n", 2)
    assert len(gate.keys.list("acct_a", limit=100)) == 49
    assert len(gate.keys.create_many("acct_a", "n", 1)) == 1


def test_keys_of_an_account(gate: Gate, clock: Clock) -> None:
    """O5: an account's keys, revoked ones too, and never another's."""
    first = gate.keys.create("acct_a", "first").key
    clock.advance(1)
    second = gate.keys.create("acct_a", "second").key
    other = gate.keys.create("acct_b", "other").key
    gate.keys.revoke(second.id)
    assert [key.name for key in gate.keys.list("acct_a")] == ["first", "second"]
    everyone = gate.keys.list()
    assert {key.id for key in everyone} == {first.id, second.id, other.id}
    assert gate.keys.get(first.id) == gate.keys.get(first.id, "acct_a") == first


@pytest.mark.parametrize("operation", ["get", "revoke", "rotate"])
def test_keys_that_are_not_there(gate: Gate, operation: str) -> None:
    """O6, O15: an unknown id and another account's are the same: not found, and unchanged."""
    other = gate.keys.create("acct_b", "theirs").key
    messages = set()
    for key_id in (other.id, "cred_unknown", "", "'; DROP TABLE keyrush_keys; --"):
        with pytest.raises(NotFound) as caught:
            getattr(gate.keys, operation)(key_id, "acct_a")
        messages.add(str(caught.value))
    assert messages == {"no such credential: give its id, cred_…"}
    assert list(gate.keys.list("acct_b")) == [other]
    with pytest.raises(NotFound):
        gate.keys.set_limits("cred_unknown", None)


def test_revoke(gate: Gate, clock: Clock) -> None:
    """O6: for good, at once, and again is no error."""
    made = gate.keys.create("acct_a", "production").key
    generation = gate.cache.generation
    revoked = gate.keys.revoke(made.id, "acct_a")
    assert revoked.revoked_at == clock.now
    assert not revoked.is_active(clock.now)
    assert gate.cache.generation > generation
    clock.advance(5)
    assert gate.keys.revoke(made.id) == revoked


def test_changes_are_told_to_the_cache(gate: Gate) -> None:
    """What is cached of a key does not outlive a change made in the same process."""
    made = gate.keys.create("acct_a", "production").key
    for change in (
        lambda: gate.accounts.set_plan("acct_a", "team"),
        lambda: gate.accounts.set_limits("acct_a", "1/minute"),
        lambda: gate.keys.set_limits(made.id, "1/minute"),
        lambda: gate.keys.rotate(made.id),
        lambda: gate.keys.revoke(made.id),
    ):
        generation = gate.cache.generation
        change()
        assert gate.cache.generation > generation


# --- rotation ------------------------------------------------------------------------------------


def test_rotate(gate: Gate, clock: Clock) -> None:
    """R17: the replacement keeps all but its id and text; both work until the grace ends."""
    old = gate.keys.create(
        "acct_a",
        "production",
        scopes=["read:articles"],
        environment="test",
        expires_at=clock.now + 90 * DAY,
        limits="5/minute",
    )
    clock.advance(1000)
    new = gate.keys.rotate(old.key.id, "acct_a", grace=3600)
    kept = ("account_id", "name", "scopes", "environment", "expires_at", "limits", "lineage")
    assert all(getattr(new.key, name) == getattr(old.key, name) for name in kept)
    assert new.text != old.text
    assert new.key.id != old.key.id
    assert new.key.created_at == clock.now
    assert new.key.last_used_at is None
    clock.advance(3_599_999)
    assert gate.keys.get(old.key.id).is_active(clock.now)
    clock.advance(1)
    assert not gate.keys.get(old.key.id).is_active(clock.now)
    assert gate.keys.get(new.key.id).is_active(clock.now)


def test_rotation_keeps_the_lineage(gate: Gate) -> None:
    """R17: a chain of rotations has one history."""
    first = gate.keys.create("acct_a", "production").key
    second = gate.keys.rotate(first.id).key
    third = gate.keys.rotate(second.id).key
    assert {first.lineage, second.lineage, third.lineage} == {first.id}


def test_rotate_at_once(gate: Gate, clock: Clock) -> None:
    """R17: without grace the old key stops at once."""
    old = gate.keys.create("acct_a", "production").key
    gate.keys.rotate(old.id, grace=0)
    assert not gate.keys.get(old.id).is_active(clock.now)


def test_default_grace_is_a_day(gate: Gate, clock: Clock) -> None:
    """R17: unless said otherwise the old key works for one more day, and is shown to end then."""
    old = gate.keys.create("acct_a", "production").key
    gate.keys.rotate(old.id)
    shown = credential_json(gate.keys.get(old.id), clock.now)
    assert (shown["is_active"], shown["expires_at"]) == (True, iso(clock.now + DAY))


def test_grace_does_not_prolong(gate: Gate, clock: Clock) -> None:
    """R17: a key that expires earlier still does."""
    old = gate.keys.create("acct_a", "production", expires_at=clock.now + 5000).key
    gate.keys.rotate(old.id, grace=3600)
    assert not gate.keys.get(old.id).is_active(clock.now + 5000)


def test_rotate_with_another_expiry(gate: Gate, clock: Clock) -> None:
    """R5, R17: the replacement may expire at another time, but not in the past."""
    old = gate.keys.create("acct_a", "production", expires_at=clock.now + DAY).key
    with is_refused("expires_at", "in the past"):
        gate.keys.rotate(old.id, expires_at=clock.now)
    assert gate.keys.get(old.id) == old
    new = gate.keys.rotate(old.id, expires_at=clock.now + 30 * DAY).key
    assert new.expires_at == clock.now + 30 * DAY


@pytest.mark.parametrize("grace", [-1, 30 * 86_400 + 1, 1.5, True, "60", None, float("inf")])
def test_grace_out_of_bounds(gate: Gate, grace: Any) -> None:
    """The grace is whole seconds from 0 to 30 days."""
    old = gate.keys.create("acct_a", "production").key
    with is_refused("grace"):
        gate.keys.rotate(old.id, grace=grace)
    assert list(gate.keys.list()) == [old]


@pytest.mark.parametrize("end", ["revoke", "expire", "rotate"])
def test_rotating_what_has_ended(gate: Gate, clock: Clock, end: str) -> None:
    """R17: a key that is revoked, expired or rotated already has no replacement."""
    old = gate.keys.create("acct_a", "production", expires_at=clock.now + 5000).key
    if end == "revoke":
        gate.keys.revoke(old.id)
    elif end == "expire":
        clock.advance(5000)
    else:
        gate.keys.rotate(old.id)
    before = list(gate.keys.list())
    with is_refused("credential"):
        gate.keys.rotate(old.id)
    assert list(gate.keys.list()) == before


def test_rotation_that_loses_a_race(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    """R17: when another process rotates or revokes first, this one says so and makes no key."""
    old = gate.keys.create("acct_a", "production").key
    monkeypatch.setattr(gate.store, "replace", lambda *_: "gone")
    with is_refused("credential"):
        gate.keys.rotate(old.id)
    assert list(gate.keys.list()) == [old]


# --- as JSON -------------------------------------------------------------------------------------


def test_credential_json(clock: Clock) -> None:
    """O4: the documented object, with these fields in this order, and no key."""
    key = api_key(created_at=clock.now, last_used_at=clock.now + 1, expires_at=clock.now + 1000)
    assert list(credential_json(key, clock.now).items()) == [
        ("id", "cred_a"),
        ("account_id", "acct_a"),
        ("name", "production"),
        ("prefix", "kr_live_abc123..."),
        ("is_active", True),
        ("created_at", "2026-11-18T11:07:00Z"),
        ("last_used_at", "2026-11-18T11:07:00.001Z"),
        ("expires_at", "2026-11-18T11:07:01Z"),
    ]
    bare = credential_json(api_key(revoked_at=clock.now), clock.now)
    assert (bare["is_active"], bare["last_used_at"], bare["expires_at"]) == (False, None, None)


def test_mint_and_parse_agree(gate: Gate) -> None:
    """S80: what is created is what the gate can parse."""
    made = gate.keys.create("acct_a", "production", environment="test")
    parsed = KeyFormat("rsh", ("live", "test")).parse(made.text.encode())
    assert parsed is not None
    assert (parsed.environment, parsed.display) == ("test", made.key.prefix)


# --- links ---------------------------------------------------------------------------------------


def test_link(gate: Gate) -> None:
    """O8: a subject is linked with one account; once more with that is no more."""
    named: dict[str, Any] = {"issuer": "https://i", "subject": "user-1"}
    link = gate.accounts.link("acct_a", **named)
    assert gate.accounts.link("acct_a", **named) == link
    assert gate.accounts.links("acct_a") == [link]
    with is_refused("subject", "linked with another account"):
        gate.accounts.link("acct_b", **named)
    with pytest.raises(NotFound):
        gate.accounts.unlink("acct_b", **named)
    ended = gate.accounts.unlink("acct_a", **named)
    assert (ended.id, ended.ended_at) == (link.id, gate.clock())
    assert gate.accounts.link("acct_b", **named).account_id == "acct_b"


def test_unlink_one_of_many(gate: Gate, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """O8: a subject can be unlinked however many others act for the account, and nothing that can
    be none's is looked for.
    """
    monkeypatch.setattr(memory_links, "MAX_LINKS", 2)
    for number in range(4):
        gate.accounts.link("acct_a", issuer="https://i", subject=f"user-{number}")
        clock.advance(1)
    ended = gate.accounts.unlink("acct_a", issuer="https://i", subject="user-3")
    assert ended.subject == "user-3"
    assert gate.store.find_link("https://i", "user-3", month_of(clock())) is None
    for subject in ("user-3", "user-4", "\x00", "", 7):
        with pytest.raises(NotFound, match="no such link"):
            gate.accounts.unlink("acct_a", issuer="https://i", subject=subject)  # type: ignore[arg-type]


def test_link_needs_what_there_is(gate: Gate) -> None:
    """O8: account and issuer must be there, and the subject one that an issuer may name."""
    with pytest.raises(NotFound):
        gate.accounts.link("acct_x", issuer="https://i", subject="s")
    with is_refused("issuer", "https://i"):
        gate.accounts.link("acct_a", issuer="https://i/", subject="s")
    for subject in ("", "é", "a" * 256, "a\n"):
        with is_refused("subject", "1 to 255 printable ASCII"):
            gate.accounts.link("acct_a", issuer="https://i", subject=subject)


def test_revoke_sessions(gate: Gate, clock: Clock) -> None:
    """O17: of one issuer or of any; what was issued in this very second is among it."""
    gate.accounts.link("acct_a", issuer="https://i", subject="user-1")
    clock.advance(1500)
    for issuer in (None, "https://i"):
        (link,) = gate.sessions.revoke("user-1", issuer=issuer)
        assert link.revoked_before == clock() + 500
    with pytest.raises(NotFound):
        gate.sessions.revoke("user-2")
