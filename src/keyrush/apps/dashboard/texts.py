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
        #: Texts as they are said: markup without values, or what is between the places of values,
        #: and these. A page says hundreds, and each is looked through for places once.
        self._read: dict[str, Markup | tuple[list[str], list[str]]] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._texts or f"{name}.other" in self._texts

    def __call__(self, name: str, /, **values: object) -> Markup:
        """The text `name` with its values, as markup: what is not `Markup` already is escaped.

        Raises:
            KeyError: There is no such text.
        """
        if name not in self._texts:
            form = "one" if values.get("n") in {1, "1"} else "other"
            name = f"{name}.{form}" if self._texts.get(f"{name}.{form}") else f"{name}.other"
        read = self._read.get(name)
        if read is None:
            read = self._read[name] = _read(self._texts[name])
        if isinstance(read, Markup):
            return read
        said = [read[0][0]]
        for place, text in zip(read[1], read[0][1:], strict=True):
            said += (escape(values[place]) if place in values else f"{{{place}}}", text)
        return Markup("".join(said))  # noqa: S704  # each part is escaped


def _read(text: str) -> Markup | tuple[list[str], list[str]]:
    """A text as it is said: itself, or what is between its places, and what these are called."""
    parts = _PLACE.split(text)
    if len(parts) == 1:
        return escape(text)
    return [str(escape(part)) for part in parts[::2]], parts[1::2]


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
