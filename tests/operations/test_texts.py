"""Whatever text is given to the operations: an answer, never a driver's error, nor an outage."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from keyrush import Gate, InvalidArgument, NotFound
from keyrush.core.key_search import Search
from keyrush.core.model import Account, ApiKey
from keyrush.core.paging import Page, cursor_of, page_of, parse_cursor
from keyrush.errors import CallerEnded
from keyrush.operations.accounts import Accounts
from keyrush.operations.credits import Credits
from keyrush.operations.key_records import KeyRecords
from keyrush.operations.keys import Keys
from keyrush.operations.sessions import Sessions
from keyrush.operations.usage import Usage
from tests.conftest import Clock, settings
from tests.support.values import NOW, account, api_key

#: The operations of a gate, by its attributes.
GROUPS = {
    "accounts": Accounts,
    "keys": Keys,
    "key_records": KeyRecords,
    "sessions": Sessions,
    "credits": Credits,
    "usage": Usage,
}

ISSUER = {"issuer": "https://i", "kind": "session", "audience": "api", "scopes": ["*"]}

#: Each operation that takes text, with `text` in each place that text may be given in.
OPERATIONS: dict[str, Callable[[Gate, str, str], object]] = {
    "accounts create id": lambda gate, text, _: gate.accounts.create(text),
    "accounts create plan": lambda gate, text, _: gate.accounts.create(plan=text),
    "accounts create limits": lambda gate, text, _: gate.accounts.create(limits=text),
    "accounts get": lambda gate, text, _: gate.accounts.get(text),
    "accounts list after": lambda gate, text, _: gate.accounts.list(after=text),
    "accounts set_plan account": lambda gate, text, _: gate.accounts.set_plan(text, "starter"),
    "accounts set_plan plan": lambda gate, text, _: gate.accounts.set_plan("acct_a", text),
    "accounts set_limits account": lambda gate, text, _: gate.accounts.set_limits(text, None),
    "accounts set_limits limits": lambda gate, text, _: gate.accounts.set_limits("acct_a", text),
    "accounts link account": lambda gate, text, _: gate.accounts.link(
        text, issuer="https://i", subject="s"
    ),
    "accounts link issuer": lambda gate, text, _: gate.accounts.link(
        "acct_a", issuer=text, subject="s"
    ),
    "accounts link subject": lambda gate, text, _: gate.accounts.link(
        "acct_a", issuer="https://i", subject=text
    ),
    "accounts unlink account": lambda gate, text, _: gate.accounts.unlink(
        text, issuer="https://i", subject="s"
    ),
    "accounts unlink issuer": lambda gate, text, _: gate.accounts.unlink(
        "acct_a", issuer=text, subject="s"
    ),
    "accounts unlink subject": lambda gate, text, _: gate.accounts.unlink(
        "acct_a", issuer="https://i", subject=text
    ),
    "accounts links account": lambda gate, text, _: gate.accounts.links(text),
    "sessions revoke subject": lambda gate, text, _: gate.sessions.revoke(text),
    "sessions revoke issuer": lambda gate, text, _: gate.sessions.revoke("s", issuer=text),
    "credits add account": lambda gate, text, _: gate.credits.add(text, 1),
    "credits add reason": lambda gate, text, _: gate.credits.add(
        "acct_a",
        1,
        reason=text,  # type: ignore[arg-type]  # as a user may call it
    ),
    "credits add reference": lambda gate, text, _: gate.credits.add("acct_a", 1, reference=text),
    "credits add note": lambda gate, text, _: gate.credits.add("acct_a", 1, note=text),
    "credits ledger account": lambda gate, text, _: gate.credits.ledger(text),
    "credits ledger reason": lambda gate, text, _: gate.credits.ledger(
        "acct_a",
        reasons=[text],  # type: ignore[list-item]  # as a user may call it
    ),
    "credits ledger cursor": lambda gate, text, _: gate.credits.ledger("acct_a", cursor=text),
    "credits balance": lambda gate, text, _: gate.credits.balance(text),
    "credits expiring": lambda gate, text, _: gate.credits.expiring(text),
    "credits grant account": lambda gate, text, _: gate.credits.grant(text, 1),
    "usage this_month account": lambda gate, text, _: gate.usage.this_month(text),
    "usage this_month key": lambda gate, text, _: gate.usage.this_month("acct_a", text),
    "keys create account": lambda gate, text, _: gate.keys.create(text, "n"),
    "keys create name": lambda gate, text, _: gate.keys.create("acct_a", text),
    "keys create scope": lambda gate, text, _: gate.keys.create("acct_a", "n", scopes=[text]),
    "keys create environment": lambda gate, text, _: gate.keys.create(
        "acct_a", "n", environment=text
    ),
    "keys create limits": lambda gate, text, _: gate.keys.create("acct_a", "n", limits=text),
    "keys create by": lambda gate, text, _: gate.keys.create("acct_a", "n", by=text),
    "keys create_many account": lambda gate, text, _: gate.keys.create_many(text, "n", 2),
    "keys create_many name": lambda gate, text, _: gate.keys.create_many("acct_a", text, 2),
    "keys create_many scope": lambda gate, text, _: gate.keys.create_many(
        "acct_a", "n", 2, scopes=[text]
    ),
    "keys create_many environment": lambda gate, text, _: gate.keys.create_many(
        "acct_a", "n", 2, environment=text
    ),
    "keys create_many limits": lambda gate, text, _: gate.keys.create_many(
        "acct_a", "n", 2, limits=text
    ),
    "keys create_many by": lambda gate, text, _: gate.keys.create_many("acct_a", "n", 2, by=text),
    "keys check_room account": lambda gate, text, _: gate.keys.check_room(text, 1),
    "keys check_room plan": lambda gate, text, _: gate.keys.check_room("acct_new", 1, text),
    "keys find text": lambda gate, text, _: gate.keys.find(text),
    "keys get": lambda gate, text, _: gate.keys.get(text),
    "keys get account": lambda gate, text, key: gate.keys.get(key, text),
    "keys list account": lambda gate, text, _: gate.keys.list(text),
    "keys list after": lambda gate, text, _: gate.keys.list("acct_a", after=text),
    "keys revoke": lambda gate, text, _: gate.keys.revoke(text),
    "keys revoke account": lambda gate, text, key: gate.keys.revoke(key, text),
    "keys revoke by": lambda gate, text, key: gate.keys.revoke(key, by=text),
    "keys revoke_with_descendants": lambda gate, text, _: gate.keys.revoke_with_descendants(text),
    "keys revoke_with_descendants account": lambda gate, text, key: (
        gate.keys.revoke_with_descendants(key, text)
    ),
    "keys revoke_with_descendants by": lambda gate, text, key: gate.keys.revoke_with_descendants(
        key, by=text
    ),
    "keys rotate": lambda gate, text, _: gate.keys.rotate(text),
    "keys rotate account": lambda gate, text, key: gate.keys.rotate(key, text),
    "keys rotate granted": lambda gate, text, key: gate.keys.rotate(key, granted=["*", text]),
    "keys rotate by": lambda gate, text, key: gate.keys.rotate(key, by=text),
    "keys edit": lambda gate, text, _: gate.keys.edit(text),
    "keys edit account": lambda gate, text, key: gate.keys.edit(key, text),
    "keys edit by": lambda gate, text, key: gate.keys.edit(key, by=text),
    "keys edit name": lambda gate, text, key: (
        gate.keys.edit(key, name=text),
        gate.keys.edit(key, name="n"),
    ),
    "keys edit scope": lambda gate, text, key: gate.keys.edit(key, scopes=[text]),
    "keys edit granted": lambda gate, text, key: gate.keys.edit(
        key, scopes=["*"], by=gate.keys.create("acct_a", "m").key.id, granted=[text]
    ),
    "key_records history key": lambda gate, text, _: gate.key_records.history(text),
    "key_records history account": lambda gate, text, key: gate.key_records.history(key, text),
    "key_records outlines account": lambda gate, text, _: gate.key_records.outlines(text),
    "key_records outlines among": lambda gate, text, _: gate.key_records.outlines("acct_a", [text]),
    "key_records search account": lambda gate, text, _: gate.key_records.search(text, Search()),
    "key_records search search": lambda gate, text, _: gate.key_records.search(
        "acct_a", Search(text)
    ),
    "keys set_limits key": lambda gate, text, _: gate.keys.set_limits(text, None),
    "keys set_limits limits": lambda gate, text, key: gate.keys.set_limits(key, text),
}

#: Any text, lone surrogates and control characters too, and what is worst for drivers.
TEXT = st.one_of(
    st.text(st.characters(exclude_categories=()), max_size=80),
    st.sampled_from(
        [
            *("\0", "a\0", "\ud800", "a\udfffb", "\x7f", "\u202e", "\r\n", "\U0010ffff"),
            *("é" * 40, "a" * 65, "x" * 100_000),
            *("acct_a", "'; DROP TABLE keyrush_keys; --", "1/minute"),
        ]
    ),
)


@pytest.fixture(params=["memory", "sqlite", "postgresql"])
def gate(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Gate]:
    """A gate over each store, with an account that has a key."""
    urls: dict[str, Callable[[], str]] = {
        "memory": lambda: "memory://",
        "sqlite": lambda: f"sqlite:///{tmp_path}/keyrush.db",
        "postgresql": lambda: request.getfixturevalue("postgres_url"),
    }
    plans = {"starter": {"max_keys": 1_000_000}}
    opened = Gate.open(
        settings(
            store_url=urls[request.param](),
            plans=plans,
            pepper="p" * 32,
            limiter_url="memory://",
            issuers=[ISSUER],
        )
    )
    opened.accounts.create("acct_a")
    yield opened
    opened.close()


def test_every_operation_is_tried() -> None:
    """The table has every operation, with every argument that takes text."""
    expected = set()
    for group, operations in GROUPS.items():
        for name, method in inspect.getmembers(operations, inspect.isfunction):
            if not name.startswith("_"):
                for argument, parameter in inspect.signature(method).parameters.items():
                    if "str" in str(parameter.annotation):
                        expected.add((group, name, argument))
    tried = {tuple(name.split()) for name in OPERATIONS}
    named = {"account_id": "account", "key_id": "key", "scopes": "scope"}
    for group, operation, argument in expected:
        short = named.get(argument, argument)
        places = {(group, operation, *place) for place in ((short,), (), ("id",))}
        assert places & tried, (group, operation, argument)


@hypothesis_settings(
    max_examples=80,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    derandomize=True,
)
@given(operation=st.sampled_from(sorted(OPERATIONS)), text=TEXT)
@example("keys get", "\0")
@example("accounts get", "\ud800")
@example("keys create name", "a\0b")
def test_any_text(gate: Gate, operation: str, text: str) -> None:
    """O15, S19: any text in any place is done, refused or not found, on every store; the store is
    taken for away by nobody.
    """
    key = gate.keys.create("acct_a", "n").key.id
    with contextlib.suppress(InvalidArgument, NotFound, CallerEnded):
        OPERATIONS[operation](gate, text, key)
    assert gate.circuit.is_closed
    assert gate.keys.get(key).name == "n"


class Silent:
    """A store that must not be asked."""

    def __getattr__(self, name: str) -> Any:
        def call(*_: object) -> None:
            raise AssertionError(f"{name} was asked")

        return call


#: The operations whose text is the first id that they look for, or a new one.
BY_ID = [
    "accounts create id",
    "accounts get",
    "accounts list after",
    "accounts set_plan account",
    "accounts set_limits account",
    "credits balance",
    "credits expiring",
    "credits grant account",
    "usage this_month account",
    "keys create account",
    "keys get",
    "keys list account",
    "keys list after",
    "keys revoke",
    "keys revoke_with_descendants",
    "keys rotate",
    "keys set_limits key",
]


@pytest.mark.parametrize("text", ["", "\0", "\ud800", "a b", "a" * 65, "é", "a\n", "a/b", "%00"])
@pytest.mark.parametrize("operation", BY_ID)
def test_ids_that_can_not_be_ids(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, operation: str, text: str
) -> None:
    """O6, O15: what can't be an id is not looked for: the store is not asked."""
    gate = Gate.open(settings(), clock=clock)
    silent: Any = Silent()
    for group in GROUPS:  # as if it had been opened with this one
        monkeypatch.setattr(getattr(gate, group), "_store", silent)
    with pytest.raises((InvalidArgument, NotFound)):
        OPERATIONS[operation](gate, text, "cred_a")
    gate.close()


# --- pages ---------------------------------------------------------------------------------------


@given(
    created_at=st.integers(0, 10**14),
    key_id=st.from_regex(r"[A-Za-z0-9_.@-]{1,64}", fullmatch=True),
)
def test_cursors_come_back(created_at: int, key_id: str) -> None:
    """O5: a cursor names its place exactly, and is safe in a URL."""
    cursor = cursor_of(api_key(key_id, created_at=created_at))
    assert parse_cursor(cursor) == (created_at, key_id)
    assert not set(cursor) - set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")


@given(text=TEXT)
@example(cursor_of(api_key()) + "=")
@example(cursor_of(api_key()) + "A")
@example("MDEuYQ")  # "01.a"
@example("MS4")  # "1."
def test_other_texts_are_no_cursors(text: str) -> None:
    """O16: any other text is refused; what is taken is what would be given."""
    try:
        place = parse_cursor(text)
    except InvalidArgument as error:
        assert error.field == "cursor"  # noqa: PT017  # what is taken is as good
    else:
        assert place is not None
        assert cursor_of(api_key(place.id, created_at=place.created_at)) == text


def test_pages(gate: Gate) -> None:
    """O5: accounts and keys come by pages, the last of which has no cursor."""
    for _ in range(5):
        gate.accounts.create()
        gate.keys.create("acct_a", "n")
    lists: list[Callable[[str | None], Page[Any]]] = [
        lambda after: gate.accounts.list(limit=2, after=after),
        lambda after: gate.keys.list(limit=2, after=after),
        lambda after: gate.keys.list("acct_a", limit=2, after=after),
    ]
    for read, total in zip(lists, (6, 5, 5), strict=True):
        page = read(None)
        found = list(page)
        while page.cursor is not None:
            page = read(page.cursor)
            assert 1 <= len(page) <= 2
            found += page
        assert len({one.id for one in found}) == len(found) == total
    assert gate.keys.list("acct_unknown") == Page(())


def test_page_that_ends_with_the_list() -> None:
    """A page that takes the last item says so."""
    items = [account(f"acct_{number}") for number in range(3)]
    assert page_of(items, 3) == Page(tuple(items))
    page = page_of(items, 2)
    assert list(page) == items[:2]
    assert (page[0], page[-1:], len(page)) == (items[0], (items[1],), 2)
    assert parse_cursor(page.cursor) == (NOW, "acct_1")


@pytest.mark.parametrize("limit", [0, -1, 101, 1.5, True, "5", None])
def test_wrong_limits_of_pages(gate: Gate, limit: Any) -> None:
    """A page has from 1 to 100 items."""
    for read in (gate.accounts.list, gate.keys.list):
        with pytest.raises(InvalidArgument, match=r"^limit: "):
            read(limit=limit)


def test_types_of_pages(gate: Gate) -> None:
    """Pages are sequences of what they list."""
    made = gate.keys.create("acct_a", "n").key
    keys: Page[ApiKey] = gate.keys.list()
    owners: Page[Account] = gate.accounts.list()
    assert made in keys
    assert [one.id for one in owners] == ["acct_a"]


def test_grants_are_told(gate: Gate) -> None:
    """O19: who knows a balance to be short learns of a grant."""
    generation = gate.cache.generation
    gate.credits.grant("acct_a", 5)
    assert gate.cache.generation > generation
