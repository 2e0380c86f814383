"""Keys as people look for them: text, status, order and pages."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyrush.core.key_search import SOON, Order, Search, found_in, outline_of, status_of
from tests.support.values import NOW, api_key


@pytest.mark.parametrize(
    ("values", "status"),
    [
        ({}, "active"),
        ({"expires_at": NOW + SOON + 1}, "active"),
        ({"expires_at": NOW + SOON}, "expiring"),
        ({"expires_at": NOW}, "expired"),
        ({"retires_at": NOW + 1}, "retiring"),
        ({"retires_at": NOW + 1, "expires_at": NOW + 1}, "retiring"),
        ({"retires_at": NOW}, "expired"),
        ({"retires_at": NOW + 1, "expires_at": NOW}, "expired"),
        ({"expires_at": NOW - 1, "revoked_at": NOW}, "revoked"),
    ],
)
def test_status(values: dict[str, Any], status: str) -> None:
    """R5, R17: how a key stands; it works exactly where that is none of expired and revoked."""
    key = api_key(**values)
    assert status_of(key, NOW) == status_of(outline_of(key), NOW) == status
    assert key.is_active(NOW) == (status not in {"expired", "revoked"})


@pytest.mark.parametrize("text", ["PROD", "cred_a", "kr_live_abc", "kr_live_abc123...", " oduc "])
def test_text(text: str) -> None:
    """Text is found in names, ids and prefixes, whatever its case."""
    key = outline_of(api_key())
    assert found_in([key], Search(text), NOW).keys == [key]
    assert found_in([key], Search(f"{text}no"), NOW).total == 0 or text.startswith("kr_live_abc123")


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=30),
    st.sampled_from(["name", "used", "created"]),
    st.booleans(),
    st.integers(1, 7),
)
def test_pages(kinds: list[tuple[int, int]], order: Order, descending: bool, per: int) -> None:
    """Each key is on one page, in one order, however many are alike; a page beyond is the last."""
    keys = [
        outline_of(api_key(f"cred_{n}", name=f"n{name}", last_used_at=used or None))
        for n, (name, used) in enumerate(kinds)
    ]
    search = Search(order=order, descending=descending, per_page=per)
    first = found_in(keys, search, NOW)
    found = [
        key
        for page in range(1, first.pages + 1)
        for key in found_in(keys, search._replace(page=page), NOW).keys
    ]
    assert sorted(found) == sorted(keys)
    assert found == list(found_in(keys, search._replace(per_page=999), NOW).keys)
    assert found_in(keys, search._replace(page=999), NOW).page == first.pages
