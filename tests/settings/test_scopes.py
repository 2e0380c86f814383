"""Scopes that rules may ask for, and scopes that keys may have."""

from __future__ import annotations

import pytest

from keyrush import ConfigurationError, InvalidArgument, Settings
from keyrush.core.checks import checked_scopes


@pytest.mark.parametrize("scope", ["read:articles", "*", "!", "~", "a" * 120, "é", "", "a" * 121])
@pytest.mark.parametrize("wrong", ["", " ", '"', "\\", "\n", "\x7f"])
def test_scopes_of_rules_and_keys(scope: str, wrong: str) -> None:
    """R4: what is a scope of a rule is one of a key, and nothing else is."""
    text = scope + wrong
    rule = {"path": "/a", "scopes": [text]}
    try:
        assert checked_scopes([text], ()) == (text,)
    except InvalidArgument:
        with pytest.raises(ConfigurationError):
            Settings(rules=[rule])
    else:
        assert Settings(rules=[rule]).catalog().rules[0].scopes == (text,)
