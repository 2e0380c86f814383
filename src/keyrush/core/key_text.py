"""The text of a key: mint, parse, checksum, display prefix.

A key is `{prefix}_[{environment}_]{30 base62}{6 base62 CRC-32}` (S80): 178 random bits, and
a checksum that lets a typing error or a guess be refused without asking the store.
"""

from __future__ import annotations

import re
import secrets
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import unquote

ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


RANDOM_LENGTH = 30  # 30 × log2(62) = 178 bits; S78 asks for at least 112


CHECKSUM_LENGTH = 6  # 62**6 > 2**32


DISPLAYED = 6  # characters of the random part that the display prefix shows


#: Longer credentials are refused unread; the longest key of any allowed format is shorter.
MAX_LENGTH = 256


#: How often text may have been percent-encoded and still be looked through for keys.
_ENCODINGS = 4


def checksum(random: str) -> str:
    """The CRC-32 of the random part in base 62, zero-padded to 6 characters (S80)."""
    value = zlib.crc32(random.encode("ascii"))
    digits = ""
    for _ in range(CHECKSUM_LENGTH):
        value, digit = divmod(value, 62)
        digits = ALPHABET[digit] + digits
    return digits


@dataclass(frozen=True, slots=True)
class KeyText:
    """A well-formed key, taken apart. `text` is the whole key and never shown."""

    text: bytes = field(repr=False)
    environment: str | None
    display: str


class KeyFormat:
    """The keys of one service: a prefix and its environments.

    `KeyFormat("rsh", ("live", "test"))` makes `rsh_live_…` and `rsh_test_…`;
    `KeyFormat("or", ())` makes `or_…` (contract R2, O2).
    """

    def __init__(self, prefix: str, environments: Sequence[str] = ()) -> None:
        self.prefix = prefix
        self.environments = tuple(environments)
        marks = [f"{prefix}_{name}_" for name in self.environments] or [f"{prefix}_"]
        self.pattern = (
            f"(?:{'|'.join(re.escape(mark) for mark in marks)})"
            f"[0-9A-Za-z]{{{RANDOM_LENGTH + CHECKSUM_LENGTH}}}"
        )
        self._match = re.compile(self.pattern.encode()).fullmatch
        self._search = re.compile(self.pattern).search

    def mint(
        self, environment: str | None, choose: Callable[[str], str] = secrets.choice
    ) -> KeyText:
        """A new key. `environment` is one of the format's, or None where it has none."""
        random = "".join(choose(ALPHABET) for _ in range(RANDOM_LENGTH))
        mark = f"{self.prefix}_{environment}_" if environment else f"{self.prefix}_"
        return KeyText(
            (mark + random + checksum(random)).encode("ascii"),
            environment,
            f"{mark}{random[:DISPLAYED]}...",
        )

    def parse(self, text: bytes) -> KeyText | None:
        """The key in `text`, or None where prefix, alphabet, length or checksum is wrong."""
        if len(text) > MAX_LENGTH or not self._match(text):
            return None
        tail = text[-(RANDOM_LENGTH + CHECKSUM_LENGTH) :].decode("ascii")
        random = tail[:RANDOM_LENGTH]
        if checksum(random) != tail[RANDOM_LENGTH:]:
            return None
        mark = text[: -(RANDOM_LENGTH + CHECKSUM_LENGTH)].decode("ascii")
        environment = mark[len(self.prefix) + 1 : -1] if self.environments else None
        return KeyText(text, environment, f"{mark}{random[:DISPLAYED]}...")

    def is_in(self, value: object) -> bool:
        """True when a key is in the text, whatever surrounds it and however it is percent-encoded;
        or in a list, or in the names or values of a mapping.
        """
        if isinstance(value, Mapping):
            return any(self.is_in(item) for pair in value.items() for item in pair)
        if isinstance(value, list | tuple | set | frozenset):
            return any(self.is_in(item) for item in value)
        if isinstance(value, bytes):
            value = value.decode("latin-1")
        if not isinstance(value, str):
            return False
        for _ in range(_ENCODINGS):
            if self._search(value):
                return True
            if (decoded := unquote(value)) == value:
                return False
            value = decoded
        return self._search(value) is not None

    def scanner_pattern(self) -> str:
        """A regular expression for secret scanners, bounded on both sides by non-key characters."""
        return rf"(?<![0-9A-Za-z_]){self.pattern}(?![0-9A-Za-z_])"
