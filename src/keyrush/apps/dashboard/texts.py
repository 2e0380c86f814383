"""All that the dashboard says, in one catalogue: `texts/en.toml`, and a file for another language.

A text is known by its place, as in `keys.title`. `{name}` in it stands for a value. A table with
`one` and `other` is a text that depends on the number `n`.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path

from markupsafe import Markup, escape

_PLACE = re.compile(r"\{([a-z_]+)\}")

#: The language that every text is there in.
ENGLISH = "en"


class Texts:
    """The texts in a language; what it lacks is said in English."""

    def __init__(self, texts: Mapping[str, str]) -> None:
        self._texts = texts

    def __contains__(self, name: str) -> bool:
        return name in self._texts or f"{name}.other" in self._texts

    def __call__(self, name: str, /, **values: object) -> Markup:
        """The text `name` with its values, as markup: what is not `Markup` already is escaped.

        Raises:
            KeyError: There is no such text.
        """
        text = self._texts.get(name)
        if text is None:
            form = "one" if values.get("n") in {1, "1"} else "other"
            text = self._texts.get(f"{name}.{form}") or self._texts[f"{name}.other"]

        def value(found: re.Match[str]) -> str:
            return escape(values[found[1]]) if found[1] in values else found[0]

        return Markup(_PLACE.sub(value, escape(text)))  # noqa: S704  # each part is escaped


def texts_in(language: str, own: Path | None = None) -> Texts:
    """The texts in a language, as far as there are some, after those of a file of one's own."""
    found = dict(_built_in(ENGLISH))
    for name in (language.partition("-")[0], language):
        found |= _built_in(name)
    if own is not None:
        found |= _flat(tomllib.loads(own.read_text("utf-8")))
    return Texts(found)


@cache
def _built_in(language: str) -> Mapping[str, str]:
    file = files("keyrush.apps.dashboard") / "texts" / f"{language}.toml"
    return _flat(tomllib.loads(file.read_text("utf-8"))) if file.is_file() else {}


def _flat(table: Mapping[str, object], at: str = "") -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in table.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{at}{name}.")
        else:
            found[f"{at}{name}"] = str(value)
    return found
