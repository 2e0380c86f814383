"""What can be caught, and what is one family."""

from __future__ import annotations

import inspect

import pytest

from keyrush import errors
from keyrush.errors import ConfigurationError, KeyrushError, Unavailable
from keyrush.runtime.workers import Busy

AWAY = [errors.StoreError, errors.LimiterError, errors.Away, errors.NotTold, errors.Unreachable]


@pytest.mark.parametrize("kind", [*AWAY, Busy])
def test_what_is_away_is_one_family(kind: type[Exception]) -> None:
    """S19: whatever can't be had as things stand is caught by one name."""
    assert issubclass(kind, Unavailable)


def test_what_is_wrong_is_not_away() -> None:
    """S19: what another call would meet again is none of them."""
    members = inspect.getmembers(errors, inspect.isclass)
    own = {kind for _, kind in members if kind.__module__ == errors.__name__}
    assert all(issubclass(kind, KeyrushError) for kind in own)
    assert {kind for kind in own if issubclass(kind, Unavailable)} == {*AWAY, Unavailable}
    assert not issubclass(ConfigurationError, Unavailable)
