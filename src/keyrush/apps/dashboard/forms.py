"""Forms: what is read of one that was sent, and the token that says it is ours.

A token is of one form, one who is signed in, and one time: a MAC over the three under a secret that
only the service's processes have. It says nothing by itself, and nothing is kept of it, unless it
may be sent but once.
"""

from __future__ import annotations

import hmac
import secrets
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple
from urllib.parse import parse_qsl

from keyrush.core.times import SECOND

#: Bytes of a form that are read. The longest of ours has a name, and some scopes.
MAX_FORM = 64 * 1024

#: Fields of a form that are read.
MAX_FIELDS = 1000

#: Milliseconds for which a form may stay open.
FORM_AGE = 12 * 3600 * SECOND

#: The field of the token.
TOKEN = "_token"  # noqa: S105  # its name

_NONCE, _TIME, _MAC = 16, 8, 32


class TooLarge(Exception):
    """More was sent than any form of ours has."""


class NoForm(Exception):
    """What was sent is no form."""


class Fields(Mapping[str, str]):
    """The fields of a form that was sent, in their order; of several with one name the last."""

    def __init__(self, pairs: Sequence[tuple[str, str]]) -> None:
        self.pairs = tuple(pairs)
        self._last = dict(pairs)

    def __getitem__(self, name: str) -> str:
        return self._last[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._last)

    def __len__(self) -> int:
        return len(self._last)

    def __repr__(self) -> str:
        return f"<Fields {', '.join(self._last)}>"  # not what was typed

    def all(self, name: str) -> list[str]:
        """Every value of a field, as of boxes that were ticked."""
        return [value for key, value in self.pairs if key == name]


def parse(body: bytes, content_type: str) -> Fields:
    """The fields of `application/x-www-form-urlencoded`.

    Raises:
        NoForm: It is something else, or has too many fields.
    """
    if content_type.partition(";")[0].strip().lower() != "application/x-www-form-urlencoded":
        raise NoForm("no urlencoded form")
    try:
        text = body.decode("ascii")
        pairs = parse_qsl(text, keep_blank_values=True, errors="strict", max_num_fields=MAX_FIELDS)
    except ValueError as error:
        raise NoForm("no urlencoded form") from error
    return Fields([(name, value.replace("\r\n", "\n")) for name, value in pairs])


class Opened(NamedTuple):
    """A token that is good."""

    nonce: str  #: unlike that of any other
    ends_at: int  #: Unix milliseconds


class Tokens:
    """Makes and knows tokens, under the first of the `keys` and under any."""

    def __init__(self, keys: Sequence[bytes]) -> None:
        self._keys = tuple(keys)

    def make(self, who: str, form: str, now: int) -> str:
        """A token for somebody's form, good for `FORM_AGE` from now."""
        head = secrets.token_bytes(_NONCE) + now.to_bytes(_TIME)
        return urlsafe_b64encode(head + _mac(self._keys[0], who, form, head)).decode().rstrip("=")

    def open(self, token: str, who: str, form: str, now: int) -> Opened | None:
        """The token, None where it is none of theirs for this form, or too old."""
        if len(token) > 2 * (_NONCE + _TIME + _MAC) or not token.isascii():
            return None
        try:
            raw = urlsafe_b64decode(token + "=" * (-len(token) % 4))
        except ValueError:
            return None
        head, mac = raw[: _NONCE + _TIME], raw[_NONCE + _TIME :]
        if len(mac) != _MAC or not any(
            hmac.compare_digest(_mac(key, who, form, head), mac) for key in self._keys
        ):
            return None
        ends_at = int.from_bytes(head[_NONCE:]) + FORM_AGE
        return Opened(head[:_NONCE].hex(), ends_at) if now < ends_at else None

    def seal(self, who: str, text: str) -> str:
        """The text, so that nobody else can have said it to them."""
        data = text.encode("utf-8", "replace")
        return urlsafe_b64encode(_mac(self._keys[0], who, "said", data) + data).decode()

    def unseal(self, who: str, sealed: str) -> str | None:
        """A text that was sealed, None where it was not."""
        try:
            raw = urlsafe_b64decode(sealed.encode("ascii"))
        except ValueError:
            return None
        mac, data = raw[:_MAC], raw[_MAC:]
        known = any(hmac.compare_digest(_mac(key, who, "said", data), mac) for key in self._keys)
        return data.decode("utf-8", "replace") if known else None


def _mac(key: bytes, who: str, what: str, data: bytes) -> bytes:
    # What comes first has no NUL in it, and what is last is of any length.
    said = f"{who}\0{what}\0".encode("utf-8", "replace")
    return hmac.digest(key, said + data, "sha256")
