"""JSON of which every reader says the same."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyrush.core.audience import canonical
from keyrush.core.strict_json import parse_object

REFUSED = {
    "no object": b"[1]",
    "nothing": b"",
    "a name twice": b'{"a": 1, "a": 1}',
    "a name twice, deep inside": b'{"a": [{"b": {"c": 1, "c": 2}}]}',
    "a name twice, once escaped": b'{"sub": "a", "\\u0073ub": "b"}',
    "NaN": b'{"a": NaN}',
    "Infinity": b'{"a": Infinity}',
    "-Infinity": b'{"a": -Infinity}',
    "a number beyond all": b'{"a": 1e999}',
    "a number of too many digits": b'{"a": ' + b"9" * 5000 + b"}",
    "a byte order mark": b'\xef\xbb\xbf{"a": 1}',
    "UTF-16": '{"a": 1}'.encode("utf-16"),
    "UTF-16 without a mark": '{"a": 1}'.encode("utf-16-le"),
    "UTF-32": '{"a": 1}'.encode("utf-32"),
    "no UTF-8": b'{"a": "\xff"}',
    "a surrogate": b'{"a": "\xed\xa0\x80"}',
    "something after it": b'{"a": 1} {"a": 2}',
    "nested beyond reason": b'{"a": ' + b"[" * 5000 + b"]" * 5000 + b"}",
    "a control character": b'{"a": "\x00"}',
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str) -> None:
    """S50: what another reader might read otherwise is refused, with no other error."""
    with pytest.raises(ValueError, match=r"."):
        parse_object(REFUSED[case])


def test_taken() -> None:
    """S50: what is an object is taken, with white space round it as JSON has it."""
    assert parse_object(b' {"a": 1, "b": {"a": null}, "c": [1.5, "\xc3\xa9"]}\n') == {
        "a": 1,
        "b": {"a": None},
        "c": [1.5, "é"],
    }


_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(st.text(), _VALUES, max_size=5))
def test_as_it_was_written(value: dict[str, object]) -> None:
    """S50: an object that was written as JSON is read as what it was."""
    assert parse_object(json.dumps(value).encode()) == value


@given(st.binary(max_size=200))
def test_any_bytes(text: bytes) -> None:
    """S50: whatever comes, it is an object or a ValueError."""
    try:
        found = parse_object(text)
    except ValueError:
        return
    assert isinstance(found, dict)


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("https://API.Example.com/Mcp", "https://api.example.com/Mcp"),
        ("HTTPS://h/", "https://h"),
        ("https://h", "https://h"),
        ("https://h/mcp/", "https://h/mcp/"),
        ("https://h/?a=B", "https://h/?a=B"),
        ("authenticated", "authenticated"),
        ("https://\u212aey.example/mcp", "https://\u212aey.example/mcp"),  # the Kelvin sign
        ("https://h\n", "https://h\n"),
    ],
)
def test_canonical(name: str, found: str) -> None:
    """S86: scheme and host are compared in lower case, no path and / are the same, all else is to
    the byte, and no letter becomes another one.
    """
    assert canonical(name) == found
