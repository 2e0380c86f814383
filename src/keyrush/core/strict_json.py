"""JSON of which every reader says the same (S50): no names twice, UTF-8 alone, no NaN."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any, NoReturn


def parse(text: bytes) -> Any:
    """The value in `text`.

    Raises:
        ValueError: It is none, says a name twice, wherever that is, is not UTF-8 or begins with a
            byte order mark, holds a number that is none, or is nested beyond reason.
    """
    try:
        return _decode(text.decode("utf-8"))
    except RecursionError:
        raise ValueError("nested too deeply") from None


def parse_object(text: bytes) -> dict[str, Any]:
    """The object in `text`.

    Raises:
        ValueError: It is none, or not what `parse` takes.
    """
    found = parse(text)
    if not isinstance(found, dict):
        raise ValueError("no object")  # noqa: TRY004  # of the text, which is the argument
    return found


def _once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name twice")
    return found


def _no_number(_: str) -> NoReturn:
    raise ValueError("no number")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):  # as 1e999
        raise ValueError("no number")
    return number


_decoder = json.JSONDecoder(object_pairs_hook=_once, parse_constant=_no_number, parse_float=_finite)


def _decode(text: str) -> Any:
    # `json.loads` would take bytes of UTF-16 and UTF-32; its decoder takes no byte order mark.
    return _decoder.decode(text)
