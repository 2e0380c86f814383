"""The text of keys: minting, parsing, checksums, fingerprints, hashes, and what is never shown."""

from __future__ import annotations

import hashlib
import hmac
import math
import pprint
import random
import re
import zlib
from collections.abc import Callable

import argon2
import pytest
from argon2.exceptions import VerificationError
from hypothesis import given
from hypothesis import strategies as st

from keyrush.authentication.keyring import Fingerprints, Hashing
from keyrush.core.key_text import ALPHABET, RANDOM_LENGTH, KeyFormat, KeyText, checksum

RUSHED = KeyFormat("rsh", ("live", "test"))
OPENRUSH = KeyFormat("or", ())
ODD = KeyFormat("a", ("x-1_y", "Z"))

VECTOR = "zQWBuTSOoRi4A9spHcVY5ncnsDkxkJ"

formats = st.sampled_from(
    [(format, name) for format in (RUSHED, OPENRUSH, ODD) for name in format.environments or [None]]
)


def chosen(seed: int) -> Callable[[str], str]:
    """Repeatable in place of `secrets.choice`."""
    return random.Random(seed).choice  # noqa: S311  # not for real keys


minted = st.tuples(formats, st.integers(0, 2**32)).map(
    lambda drawn: (drawn[0][0], drawn[0][0].mint(drawn[0][1], chosen(drawn[1])))
)


def test_checksum_vector() -> None:
    """S80: the checksum of the vector in the standards list."""
    assert checksum(VECTOR) == "0mLq17"


def test_crc_check_value() -> None:
    """S80: the CRC-32 is the common one, whose check value is CBF43926."""
    assert zlib.crc32(b"123456789") == 0xCBF43926
    digits = [ALPHABET.index(digit) for digit in checksum("123456789")]
    assert sum(digit * 62**place for place, digit in enumerate(reversed(digits))) == 0xCBF43926


@given(st.text(ALPHABET, min_size=30, max_size=30))
def test_checksum_is_six_characters(text: str) -> None:
    """S80: zero-padded to 6 characters of the same alphabet."""
    assert re.fullmatch("[0-9A-Za-z]{6}", checksum(text))


def test_alphabet_and_randomness() -> None:
    """S78, S80: base 62 in the order 0-9A-Za-z, and at least 112 random bits."""
    assert "".join(sorted(set(ALPHABET))) == ALPHABET
    assert len(ALPHABET) == 62
    assert RANDOM_LENGTH * math.log2(62) >= 112


@pytest.mark.parametrize(
    ("format", "environment", "pattern"),
    [
        (RUSHED, "live", r"rsh_live_[0-9A-Za-z]{36}"),
        (RUSHED, "test", r"rsh_test_[0-9A-Za-z]{36}"),
        (OPENRUSH, None, r"or_[0-9A-Za-z]{36}"),
    ],
)
def test_formats_of_the_two_services(
    format: KeyFormat, environment: str | None, pattern: str
) -> None:
    """R2, O2: `rsh_live_…`, `rsh_test_…` and `or_…` are just settings."""
    key = format.mint(environment)
    assert re.fullmatch(pattern, key.text.decode())
    assert key.environment == environment
    mark = key.text[:-36].decode()
    assert key.display == f"{mark}{key.text[-36:-30].decode()}..."


def test_keys_differ() -> None:
    """S78: every key is new."""
    assert len({OPENRUSH.mint(None).text for _ in range(1000)}) == 1000


@given(minted)
def test_round_trip(drawn: tuple[KeyFormat, KeyText]) -> None:
    """A minted key is parsed back to what it is."""
    format, key = drawn
    assert format.parse(key.text) == key


@given(minted, st.integers(0, 255), st.integers(0, 200))
def test_one_changed_character_is_refused(
    drawn: tuple[KeyFormat, KeyText], byte: int, position: int
) -> None:
    """S80: a typing error anywhere is refused without a look-up."""
    format, key = drawn
    position %= len(key.text)
    changed = key.text[:position] + bytes([byte]) + key.text[position + 1 :]
    parsed = format.parse(changed)
    assert (parsed is None) is (changed != key.text)


@given(minted, st.binary(min_size=1, max_size=3), st.integers(0, 200))
def test_inserted_bytes_are_refused(
    drawn: tuple[KeyFormat, KeyText], inserted: bytes, position: int
) -> None:
    """Nothing may be added anywhere."""
    format, key = drawn
    position %= len(key.text) + 1
    assert format.parse(key.text[:position] + inserted + key.text[position:]) is None


@given(st.binary(max_size=300))
def test_anything_is_refused_without_an_exception(text: bytes) -> None:
    """S12: bytes of any kind are refused, never an error."""
    assert OPENRUSH.parse(text) is None


KEY = RUSHED.mint("live", chosen(1)).text


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(b"", id="empty"),
        pytest.param(KEY + b"\n", id="newline at the end"),
        pytest.param(b"\n" + KEY, id="newline before"),
        pytest.param(KEY + b" ", id="space"),
        pytest.param(KEY + b"\0", id="NUL"),
        pytest.param(KEY[:-1], id="short"),
        pytest.param(KEY + b"0", id="long"),
        pytest.param(KEY.upper(), id="upper case"),
        pytest.param(KEY.swapcase(), id="swapped case"),
        pytest.param(KEY.replace(b"live", b"prod"), id="unknown environment"),
        pytest.param(KEY.replace(b"_live", b""), id="no environment"),
        pytest.param(KEY.replace(b"rsh", b"or"), id="other prefix"),
        pytest.param(KEY.replace(b"_", b"-"), id="other separator"),
        pytest.param(OPENRUSH.mint(None, chosen(1)).text, id="key of another service"),
        pytest.param(KEY * 10, id="over 256 bytes"),
        pytest.param(b"a" * 65_536, id="64 KiB"),
        pytest.param(KEY[:-1] + b"\xff", id="not ASCII"),
        pytest.param(KEY[:-1] + "\N{FULLWIDTH DIGIT ZERO}".encode(), id="wide digit"),
    ],
)
def test_parse_refuses(text: bytes) -> None:
    """S3, S12, S80: bad prefix, alphabet, length or checksum."""
    assert RUSHED.parse(text) is None


def test_environment_is_not_covered_by_the_checksum() -> None:
    """A live key with its environment rewritten parses as a test key: only the store refuses it."""
    parsed = RUSHED.parse(KEY.replace(b"live", b"test"))
    assert parsed is not None
    assert parsed.environment == "test"


def test_repr_shows_the_display_prefix_only() -> None:
    """S82: no way of printing a key object shows the key."""
    key = RUSHED.mint("live")
    secret = key.text[-30:].decode()
    for shown in (repr(key), str(key), f"{key}", pprint.pformat(key), repr([key])):
        assert secret not in shown
        assert key.display in shown


# --- for secret scanners -------------------------------------------------------------------------


@given(minted, st.sampled_from(["", " ", "\n", '"', "'", "=", "(", "/", "-", "."]))
def test_scanner_finds_keys_in_text(drawn: tuple[KeyFormat, KeyText], around: str) -> None:
    """The pattern finds a key in whatever stands around it, and finds all of it."""
    format, key = drawn
    text = f"token{around or ' '}{key.text.decode()}{around}"
    assert re.findall(format.scanner_pattern(), text) == [key.text.decode()]


@pytest.mark.parametrize(
    "text",
    [f"x{KEY.decode()}", f"_{KEY.decode()}", f"{KEY.decode()}0", KEY.decode()[:-1], "rsh_live_"],
)
def test_scanner_finds_nothing_else(text: str) -> None:
    """What only looks like a part of a key is not found."""
    assert not re.search(RUSHED.scanner_pattern(), text)


# --- fingerprints --------------------------------------------------------------------------------


def test_fingerprint_is_hmac_sha_256() -> None:
    """O2: the look-up value is HMAC-SHA-256 of the key under the pepper, in hexadecimal."""
    expected = hmac.new(b"pepper", KEY, hashlib.sha256).hexdigest()
    assert Fingerprints([b"pepper"]).new(KEY) == expected


def test_peppers_rotate() -> None:
    """The newest pepper makes new fingerprints; keys made with older ones are still found."""
    old, new = Fingerprints([b"old"]), Fingerprints([b"new", b"old"])
    assert new.new(KEY) != old.new(KEY)
    assert new.all(KEY) == (new.new(KEY), old.new(KEY))
    assert new.pepper_ids[1:] == old.pepper_ids
    assert old.new(KEY) not in Fingerprints([b"new"]).all(KEY)


def test_pepper_id_tells_nothing_of_the_pepper() -> None:
    """A pepper's id is 16 hexadecimal digits, its own, and no fingerprint."""
    (one,), (other,) = Fingerprints([b"one"]).pepper_ids, Fingerprints([b"other"]).pepper_ids
    assert re.fullmatch("[0-9a-f]{16}", one)
    assert one != other
    assert not hashlib.sha256(b"one").hexdigest().startswith(one)


@pytest.mark.parametrize("peppers", [[], [b""], [b"good", b""]])
def test_empty_peppers_are_refused(peppers: list[bytes]) -> None:
    """A fingerprint without a secret would be a plain hash."""
    with pytest.raises(ValueError, match="pepper"):
        Fingerprints(peppers)


def test_fingerprints_repr_shows_no_pepper() -> None:
    """O22: the object that holds the peppers does not print them."""
    assert "hunter2" not in repr(Fingerprints([b"hunter2"]))


# --- argon2 --------------------------------------------------------------------------------------


def test_hash_and_verify() -> None:
    """S78: the stored hash is argon2id with its own salt, and verifies this key alone."""
    hashing = Hashing(1, 8, 1)
    stored = hashing.hash(KEY)
    assert stored.startswith("$argon2id$")
    assert KEY.decode() not in stored
    assert hashing.hash(KEY) != stored
    assert hashing.verify(stored, KEY)
    assert not hashing.verify(stored, KEY[:-1])


@pytest.mark.parametrize(("arguments", "expected"), [((), (2, 19456, 1)), ((3, 16, 2), (3, 16, 2))])
def test_argon2_parameters(arguments: tuple[int, ...], expected: tuple[int, int, int]) -> None:
    """The defaults are m=19456 KiB, t=2, p=1; all three are configurable."""
    found = argon2.extract_parameters(Hashing(*arguments).hash(KEY))
    assert (found.time_cost, found.memory_cost, found.parallelism) == expected


def test_verify_uses_the_parameters_of_the_hash() -> None:
    """Keys hashed before the cost was changed go on working."""
    assert Hashing(2, 16, 1).verify(Hashing(1, 8, 1).hash(KEY), KEY)


@pytest.mark.parametrize("stored", ["", "nonsense"])
def test_what_is_no_hash_verifies_nothing(stored: str) -> None:
    """What is no hash refuses the key instead of failing the request."""
    assert not Hashing(1, 8, 1).verify(stored, KEY)


@pytest.mark.parametrize("stored", ["$argon2id$", "$argon2id$v=19$m=8,t=1,p=1$x$y"])
def test_faults_say_nothing_of_the_key(stored: str) -> None:
    """S19: an error of argon2, as for a damaged hash or want of memory, is no wrong key."""
    with pytest.raises(VerificationError):
        Hashing(1, 8, 1).verify(stored, KEY)
