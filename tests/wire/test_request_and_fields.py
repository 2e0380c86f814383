"""What HTTP says: credentials, rate-limit fields, refusals, and who is at the other end."""

from __future__ import annotations

import ipaddress
import json
import re
from hashlib import blake2b
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyrush.core.key_text import MAX_LENGTH, KeyFormat
from keyrush.core.model import Quota
from keyrush.core.refusal import Reason, Refusal
from keyrush.core.sliding import UNLIMITED, Tally, Window
from keyrush.wire.fields import Fields, seconds_until
from keyrush.wire.refusals import Refusals
from keyrush.wire.request import (
    INVALID,
    MAX_VALUE,
    MISSING,
    TWO,
    Credential,
    CredentialHeaders,
    Header,
    is_preflight,
)
from keyrush.wire.sender import MAX_FORWARDED, client_address
from tests.support.values import NOW, verified

# --- credentials ---------------------------------------------------------------------------------

credential = CredentialHeaders().credential


def lines(*headers: str) -> list[Header]:
    """Raw headers from `"name: value"`; the value is everything after the first space."""
    pairs = (header.partition(": ") for header in headers)
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, _, value in pairs]


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param(["authorization: Bearer k"], id="O1 Bearer"),
        pytest.param(["x-api-key: k"], id="O1 X-API-Key"),
        pytest.param(["authorization: bEaReR k"], id="S1 scheme in any case"),
        pytest.param(["authorization: Bearer   k"], id="S2 several spaces"),
        pytest.param(["authorization:  \tBearer k \t"], id="space around the value"),
        pytest.param(["x-api-key:  \tk\t "], id="space around the key"),
        pytest.param(["authorization: Bearer k", "x-api-key: k"], id="S7 the same key twice"),
        pytest.param(["x-api-key: k", "authorization: Bearer  k"], id="S7 in the other order"),
        pytest.param(["x-api-key: k", "x-api-key: k"], id="S8 two lines with the same key"),
        pytest.param(["x-api-key: k, k"], id="S8 joined by a server"),
        pytest.param(["authorization: Basic abc", "x-api-key: k"], id="another scheme for others"),
        pytest.param(["authorization: Api-Key k"], id="the scheme Api-Key"),
        pytest.param(["authorization: api-key  k"], id="S1, S2 Api-Key in any case, with spaces"),
        pytest.param(["authorization: Api-Key k", "x-api-key: k"], id="S7 Api-Key, the same twice"),
        pytest.param(
            ["authorization: Negotiate " + "a" * 65_536, "x-api-key: k"], id="a long other scheme"
        ),
        pytest.param(["Authorization: Bearer k"], id="S11 name in upper case"),
        pytest.param(["X-API-KEY: k"], id="S11 key name in upper case"),
        pytest.param(["x-api-keys: z", "x_api_key: z", "x-api-key: k"], id="similar names"),
    ],
)
def test_credential(headers: list[str]) -> None:
    """S1, S2, S7, S8, S11: the one credential, however it is written."""
    found = credential(lines(*headers))
    assert isinstance(found, Credential)
    assert (found.text, found.digest) == (b"k", blake2b(b"k", digest_size=32).digest())


@pytest.mark.parametrize(
    ("headers", "refusal"),
    [
        pytest.param([], MISSING, id="S4 none"),
        pytest.param(["cookie: key=k", "host: x"], MISSING, id="S4 elsewhere"),
        pytest.param(["authorization: Basic dXNlcjpwYXNz"], MISSING, id="S5 Basic"),
        pytest.param(["authorization: Digest a=b, c=d"], MISSING, id="S5 Digest"),
        pytest.param(["authorization: ApiKey k"], MISSING, id="S5 unknown scheme"),
        pytest.param(["authorization: k"], MISSING, id="S5 no scheme"),
        pytest.param(["authorization: Bearer\tk"], MISSING, id="S2 tab"),
        pytest.param(["authorization: Bearer\xa0k"], MISSING, id="no-break space"),
        pytest.param(["authorization: Bearerk"], MISSING, id="no space"),
        pytest.param(["authorization: "], MISSING, id="empty value"),
        pytest.param(["authorization: Bearer"], INVALID, id="S6 nothing after it"),
        pytest.param(["authorization: Bearer  "], INVALID, id="S6 only spaces after it"),
        pytest.param(["x-api-key: "], INVALID, id="empty key"),
        pytest.param(["x-api-key: ,"], INVALID, id="empty keys"),
        pytest.param(["x-api-key: " + "a" * 257], INVALID, id="long key"),
        pytest.param(["x-api-key: " + "a" * 65_536], INVALID, id="S12 64 KiB"),
        pytest.param(["authorization: Bearer " + "a" * 65_536], INVALID, id="S12 64 KiB Bearer"),
        pytest.param(["authorization: Bearer a", "x-api-key: b"], TWO, id="S7 different"),
        pytest.param(["authorization: Bearer a", "x-api-key: "], TWO, id="S7 one of them empty"),
        pytest.param(["authorization: Bearer é", "x-api-key: è"], TWO, id="S7 not ASCII"),
        pytest.param(["authorization: Bearer a"] * 2, TWO, id="S8 two lines"),
        pytest.param(["authorization: Basic a", "authorization: Bearer b"], TWO, id="S8 schemes"),
        pytest.param(["authorization: Bearer a, Bearer b"], TWO, id="S8 joined"),
        pytest.param(["authorization: Bearer a,bearer b"], TWO, id="S8 joined without space"),
        pytest.param(["authorization: Basic a, Bearer b"], TWO, id="S8 schemes joined"),
        pytest.param(["authorization: Basic a, Api-Key b"], TWO, id="S8 schemes joined, Api-Key"),
        pytest.param(["authorization: Api-Key a", "x-api-key: b"], TWO, id="S7 Api-Key, different"),
        pytest.param(["x-api-key: a", "x-api-key: b"], TWO, id="S8 two keys"),
        pytest.param(["x-api-key: a, b"], TWO, id="S8 two keys joined"),
        pytest.param(["x-api-key: a,a,b"], TWO, id="S8 three keys joined"),
    ],
)
def test_no_credential(headers: list[str], refusal: Refusal) -> None:
    """S2, S4–S8, S12: why there is no one credential."""
    assert credential(lines(*headers)) == refusal


def test_any_number_of_names() -> None:
    """S11, S12: however many names of headers have come, few are remembered, none of them long, and
    a credential is seen in whatever case its name is written.
    """
    headers = CredentialHeaders()
    key = (b"AUTHORIZATION", b"Bearer k")
    flood = [(b"x-%d" % number, b"") for number in range(2000)]
    for lines_ in ([(b"x" * 10_000_000, b"")], flood, [(b"x-" + b"a" * 100, b"")]):
        found = headers.credential([*lines_, key])
        assert isinstance(found, Credential)
        assert headers.credential([*lines_, key, (b"aUTHORIZATION", b"Bearer j")]) is TWO
        assert headers.credential(lines_) is MISSING
    remembered = headers._kinds  # noqa: SLF001  # nothing else tells how many they are
    assert len(remembered) <= 256
    assert max(map(len, remembered)) <= 64


@given(st.lists(st.tuples(st.sampled_from([b"authorization", b"X-Api-Key"]), st.binary())))
def test_hostile_headers(headers: list[Header]) -> None:
    """S3, S12: bytes of any kind give a credential or a refusal, never an exception."""
    found = credential(headers)
    if isinstance(found, Credential):
        assert 0 < len(found.text) <= MAX_LENGTH
        assert KeyFormat("kr").parse(found.text) is None
    else:
        assert found in (MISSING, INVALID, TWO)


def test_credential_repr() -> None:
    """O22: a credential in a log or a traceback shows nothing."""
    found = credential(lines("x-api-key: hunter2hunter2"))
    assert "hunter2" not in repr(found)
    assert "hunter2" not in str(found)


class Measured(bytes):
    """A value that may be measured, and read where it is short; anything else is a failure."""

    def __getitem__(self, where: Any) -> Any:
        part: Any = bytes.__getitem__(self, where)
        assert len(part) <= MAX_FORWARDED, "a long value is read"
        return part

    def _read(self, *_: object) -> None:
        raise AssertionError("a long value is read before it is measured")

    split = strip = partition = rpartition = lower = decode = find = __contains__ = _read  # type: ignore[assignment]  # each is a fault


@pytest.mark.parametrize("filling", [b",", b" ", b"a", b"Bearer a,", b"Basic a, "])
@pytest.mark.parametrize("name", [b"x-api-key", b"authorization"])
@pytest.mark.parametrize("lines_", [1, 2])
def test_long_values_are_only_measured(name: bytes, filling: bytes, lines_: int) -> None:
    """S12: of a value that is too long to hold a key, nothing is split, stripped or compared."""
    value = Measured(filling * (1_000_000 // len(filling)))
    assert credential([(name, value)] * lines_) in (MISSING, INVALID, TWO)


@given(st.integers(0, 3), st.binary(max_size=2 * MAX_VALUE))
def test_length_decides_before_content(lines_: int, value: bytes) -> None:
    """S12: no value above the bound gives a credential, whatever is in it."""
    found = credential([(b"x-api-key", value)] * lines_)
    if isinstance(found, Credential):
        assert len(value) <= MAX_VALUE


@pytest.mark.parametrize(
    ("names", "headers", "text"),
    [
        (["x-api-key"], ["authorization: Bearer infra", "x-api-key: k"], b"k"),
        (["x-api-key"], ["authorization: Bearer a, Bearer b", "x-api-key: k"], b"k"),
        (["x-api-key"], ["authorization: Bearer k"], None),
        (["authorization"], ["authorization: Bearer k", "x-api-key: other"], b"k"),
        (["authorization"], ["x-api-key: k"], None),
        (["x-rushed-key"], ["X-Rushed-Key: k", "x-api-key: z", "authorization: Bearer z"], b"k"),
        (["x-rushed-key", "x-api-key"], ["x-rushed-key: k", "x-api-key: k"], b"k"),
    ],
)
def test_which_headers_are_read(names: list[str], headers: list[str], text: bytes | None) -> None:
    """R1, O1: only the configured headers may hold a key; others are no business of the gate."""
    found = CredentialHeaders(names).credential(lines(*headers))
    assert (found.text if isinstance(found, Credential) else found) == (text or MISSING)


def test_headers_named_for_caches_and_hidden() -> None:
    """S23: caches are told of every header that is read; what may hold a key can be left out."""
    assert CredentialHeaders().vary == (b"vary", b"Authorization, X-API-Key")
    only = CredentialHeaders(["x-rushed-key"])
    assert only.vary == (b"vary", b"X-Rushed-Key")
    kept = lines("host: h", "x-api-key: a", "cookie: c")
    assert only.without([*kept, (b"X-Rushed-Key", b"k")]) == kept


# --- rate-limit fields ---------------------------------------------------------------------------

MINUTE = Window("key:a:60", 60_000, 100, "minute")
HOUR = Window("key:a:3600", 3_600_000, 1000, "hour")
TALLY = Tally(True, MINUTE, 42, NOW + 17_001)


def fields(style: str, quota: Quota | None = None, used: int = 0) -> dict[str, str]:
    """The fields of one response, by name; none comes twice."""
    caller = verified(quota=quota, used=used, windows=(MINUTE, HOUR))
    found = Fields(style).of(caller, TALLY, NOW)
    assert len({name for name, _ in found}) == len(found)
    return {name.decode("ascii"): value.decode("ascii") for name, value in found}


def test_x_ratelimit() -> None:
    """R11: limit, remaining and the Unix second of the reset, rounded up; nothing monthly."""
    assert fields("x-ratelimit") == {
        "x-ratelimit-limit": "100",
        "x-ratelimit-remaining": "42",
        "x-ratelimit-reset": str(NOW // 1000 + 18),
    }


@pytest.mark.parametrize(
    ("amount", "used", "expected"),
    [
        (500_000, 0, ("500000", "500000", None)),
        (500_000, 499_999, ("500000", "1", None)),
        (500_000, 500_000, ("500000", "0", None)),
        (500_000, 500_001, ("500000", "0", "1")),
        (500_000, 612_345, ("500000", "0", "112345")),
        (0, 0, ("0", "0", None)),
        (0, 3, ("0", "0", "3")),
    ],
)
def test_monthly_fields(amount: int, used: int, expected: tuple[str, str, str | None]) -> None:
    """R12, R13: remaining is never negative; overage only above the quota; 0 is a quota."""
    found = fields("x-ratelimit", quota=Quota(amount), used=used)
    assert (
        found["x-ratelimit-monthly-limit"],
        found["x-ratelimit-monthly-remaining"],
        found.get("x-ratelimit-monthly-overage"),
    ) == expected


def test_no_limits_no_fields() -> None:
    """R12: a caller whom nothing limits gets no fields."""
    assert Fields("both").of(verified(), UNLIMITED, NOW) == []


STRING = r'"(?:[\x20\x21\x23-\x5b\x5d-\x7e]|\\["\\])*"'
INTEGER = r"(?:0|[1-9][0-9]{0,14})"
ITEM = rf"{STRING}(?:;[a-z]+={INTEGER})*"


def structured(text: str) -> list[tuple[str, dict[str, int]]]:
    """A List of Strings with integer parameters (RFC 9651), strictly."""
    assert re.fullmatch(rf"{ITEM}(?:, {ITEM})*", text)
    return [
        (item.split('"')[1], {k: int(v) for k, v in re.findall(r";([a-z]+)=([0-9]+)", item)})
        for item in re.findall(ITEM, text)
    ]


def test_ietf() -> None:
    """S28, S29, S31, S33: both fields parse as structured fields; `t` counts from now; no pk."""
    found = fields("ietf", quota=Quota(500_000))
    assert set(found) == {"ratelimit", "ratelimit-policy"}
    assert structured(found["ratelimit-policy"]) == [
        ("minute", {"q": 100, "w": 60}),
        ("hour", {"q": 1000, "w": 3600}),
        ("month", {"q": 500_000, "w": 30 * 86_400}),
    ]
    assert structured(found["ratelimit"]) == [("minute", {"r": 42, "t": 18})]


@given(
    st.integers(0, 2**53 // 60_000),
    st.integers(-5, 10**12),
    st.integers(0, 10**15 - 1),
    st.integers(0, 10**9),
)
def test_ietf_of_anything(amount: int, wait: int, quota: int, remaining: int) -> None:
    """S28–S33: integers of at most 15 digits, `r` never negative, `w` at least 1."""
    window = Window("w", 60_000, amount, "minute")
    caller = verified(quota=Quota(quota), windows=(window,))
    found = dict(Fields("ietf").of(caller, Tally(True, window, remaining, NOW + wait), NOW))
    ((_, rate),) = structured(found[b"ratelimit"].decode("ascii"))
    assert rate["r"] >= 0
    assert rate["t"] >= 1
    for _, policy in structured(found[b"ratelimit-policy"].decode("ascii")):
        assert policy["w"] >= 1


def test_both() -> None:
    """`both` is the two sets together."""
    quota = Quota(5)
    both = fields("both", quota=quota)
    assert both == fields("x-ratelimit", quota=quota) | fields("ietf", quota=quota)


@given(st.integers(0, 10**13), st.integers(0, 10**8))
def test_one_number(now: int, wait: int) -> None:
    """S21, S30: Retry-After is whole seconds, at least 1, never too early, and leads to Reset."""
    seconds = seconds_until(now + wait, now)
    assert seconds >= 1
    assert now + seconds * 1000 >= now + wait
    window = Window("w", 1000, 1, "second")
    tally = Tally(False, window, 0, now + wait)
    found = dict(Fields("both").of(verified(windows=(window,)), tally, now))
    reset = int(found[b"x-ratelimit-reset"])
    assert reset * 1000 >= now + wait
    assert seconds == max(1, reset - now // 1000)
    assert structured(found[b"ratelimit"].decode("ascii"))[0][1]["t"] == seconds


# --- refusals ------------------------------------------------------------------------------------

KEYS_URL = "https://dash.therushed.com.br/api-keys"
RUSHED = Refusals("documented", "api", KEYS_URL)
INVALID_TOKEN = (
    'Bearer realm="api", error="invalid_token", '
    'error_description="The credential is invalid or expired"'
)

REFUSED: list[tuple[Refusal, int, str, str | None]] = [
    (
        MISSING,
        401,
        f"Invalid or missing API key. Get your key at {KEYS_URL}",
        'Bearer realm="api"',
    ),
    (
        INVALID,
        401,
        f"Invalid or missing API key. Get your key at {KEYS_URL}",
        INVALID_TOKEN,
    ),
    (
        TWO,
        400,
        "Send exactly one credential: Authorization or X-API-Key.",
        (
            'Bearer realm="api", error="invalid_request", '
            'error_description="Send exactly one credential"'
        ),
    ),
    (
        Refusal("malformed_path"),
        400,
        "The path must be in plain form, without empty or dot segments.",
        None,
    ),
    (
        Refusal("unruled"),
        403,
        "API keys are not admitted to this path by this method.",
        None,
    ),
    (
        Refusal("insufficient_scope", names=("read:articles", "read:entities")),
        403,
        "The API key lacks the scope read:articles, read:entities.",
        'Bearer realm="api", error="insufficient_scope", scope="read:articles read:entities"',
    ),
    (
        Refusal("beyond_caller"),
        403,
        "An API key can't make one that may do more than itself, or manage such.",
        None,
    ),
    (
        Refusal("too_many_keys", names=("50",)),
        403,
        "The account has 50 active keys, as many as its plan allows.",
        None,
    ),
    (
        Refusal("gated_feature", names=("sentiment",)),
        402,
        "Your plan does not include sentiment.",
        None,
    ),
    (
        Refusal("module_not_in_plan", names=("sentiment",)),
        403,
        "Your plan does not include sentiment.",
        None,
    ),
    (
        Refusal("module_not_in_plan"),
        403,
        "Your plan does not include a requested module.",
        None,
    ),
    (
        Refusal("rate_limited", retry_after=32),
        429,
        "Rate limit exceeded. Try again in 32 seconds.",
        None,
    ),
    (
        Refusal("quota_exceeded", retry_after=86_400),
        429,
        "Monthly quota exceeded. Try again in 86400 seconds.",
        None,
    ),
    (Refusal("insufficient_credits"), 402, "Not enough credits.", None),
    (Refusal("method_not_allowed"), 405, "Method not allowed.", None),
    (
        Refusal("body_too_large", names=("65,536",)),
        413,
        "The request body has more than 65,536 bytes.",
        None,
    ),
    (
        Refusal("not_json"),
        400,
        "The request body must be JSON in UTF-8, in which no member comes twice.",
        None,
    ),
    (
        Refusal("not_json_rpc"),
        400,
        "The request body must be a message of JSON-RPC 2.0.",
        None,
    ),
    (Refusal("batch_refused"), 400, "JSON-RPC batches are not taken here.", None),
    (Refusal("call_without_id"), 400, "A call that is paid for needs an id.", None),
    (
        Refusal("id_in_use"),
        400,
        "A call of this session with the same id has not been answered.",
        None,
    ),
    (Refusal("header_mismatch"), 400, "The MCP headers and the request body differ.", None),
    (Refusal("not_found"), 404, "Not found.", None),
    (
        Refusal("unavailable", retry_after=5),
        503,
        "Service unavailable. Try again in 5 seconds.",
        None,
    ),
]

each_refusal = pytest.mark.parametrize(
    ("refusal", "status", "text", "challenge"), REFUSED, ids=[row[0].reason for row in REFUSED]
)


def test_every_reason_is_tabled() -> None:
    """The table below leaves no reason out."""
    assert {row[0].reason for row in REFUSED} == set(get_args(Reason))


@each_refusal
def test_documented(refusal: Refusal, status: int, text: str, challenge: str | None) -> None:
    """R8–R10, S13–S18, S20–S22: body, texts and headers, letter by letter."""
    response = RUSHED.response(refusal)
    assert response.status == status
    assert json.loads(response.body) == {"success": False, "error": text, "statusCode": status}
    expected = {
        b"content-type": b"application/json",
        b"content-length": str(len(response.body)).encode(),
        b"cache-control": b"no-store",
    }
    if challenge:
        expected[b"www-authenticate"] = challenge.encode()
    if refusal.retry_after:
        expected[b"retry-after"] = str(refusal.retry_after).encode()
    assert dict(response.headers) == expected
    assert len(response.headers) == len(expected)


@each_refusal
def test_challenges_are_well_formed(
    refusal: Refusal, status: int, text: str, challenge: str | None
) -> None:
    """S13–S16: every 401 has one; quoted strings only; each attribute at most once."""
    assert status != 401 or challenge
    assert text.isascii()
    found = dict(RUSHED.response(refusal).headers).get(b"www-authenticate", b"").decode()
    if found:
        parameter = r'[a-z_]+="[\x20\x21\x23-\x5b\x5d-\x7e]*"'
        assert re.fullmatch(rf"Bearer {parameter}(?:, {parameter})*", found)
        names = re.findall(r'([a-z_]+)="', found)
        assert len(set(names)) == len(names)


@each_refusal
def test_problem(refusal: Refusal, status: int, text: str, challenge: str | None) -> None:
    """S25: problem+json says the same, with the same status and headers."""
    response = Refusals("problem", "api", KEYS_URL).response(refusal)
    body = json.loads(response.body)
    assert (body["status"], body["detail"]) == (status, text)
    assert body["type"] == "about:blank"
    assert body["title"]
    headers = dict(response.headers)
    assert headers[b"content-type"] == b"application/problem+json"
    assert headers.get(b"www-authenticate") == (challenge.encode() if challenge else None)
    assert headers[b"content-length"] == str(len(response.body)).encode()


def test_body_of_ones_own() -> None:
    """A callable gets the refusal and its text, and decides on type and body alone."""

    def body(refusal: Refusal, text: str) -> tuple[str, bytes]:
        return "text/plain; charset=utf-8", f"{refusal.status} {refusal.reason} {text} é".encode()

    response = Refusals(body, "api", None).response(MISSING)
    headers = dict(response.headers)
    assert response.body.decode() == "401 missing_credential Invalid or missing API key. é"
    assert headers[b"content-type"] == b"text/plain; charset=utf-8"
    assert headers[b"content-length"] == str(len(response.body)).encode()
    assert headers[b"www-authenticate"] == b'Bearer realm="api"'


def test_realm_and_keys_url_are_settings() -> None:
    """R9: the URL is configuration, and left out where there is none."""
    refusals = Refusals("documented", "mcp", None)
    assert refusals.text(INVALID) == "Invalid or missing API key."
    assert dict(refusals.response(MISSING).headers)[b"www-authenticate"] == b'Bearer realm="mcp"'


def test_rate_limit_fields_are_appended() -> None:
    """R11: the refusal of an authenticated caller carries its fields."""
    refusal = Refusal("rate_limited", retry_after=1, headers=((b"x-ratelimit-limit", b"100"),))
    assert RUSHED.response(refusal).headers[-1] == (b"x-ratelimit-limit", b"100")


# --- who is at the other end ---------------------------------------------------------------------

TRUSTED = [ipaddress.ip_network(text) for text in ("10.0.0.0/8", "2001:db8::/32")]


@pytest.mark.parametrize(
    ("peer", "forwarded_for", "expected"),
    [
        (None, [], None),
        (None, ["1.1.1.1"], None),
        ("9.9.9.9", [], "9.9.9.9"),
        ("9.9.9.9", ["1.1.1.1"], "9.9.9.9"),
        ("10.0.0.1", ["1.1.1.1"], "1.1.1.1"),
        ("10.0.0.1", ["6.6.6.6", "1.1.1.1"], "1.1.1.1"),
        ("10.0.0.1", ["6.6.6.6", "1.1.1.1", " 10.0.0.2 "], "1.1.1.1"),
        ("10.0.0.1", ["6.6.6.6, 1.1.1.1, 10.0.0.2"], "1.1.1.1"),
        ("10.0.0.1", ["6.6.6.6", "1.1.1.1,10.0.0.2"], "1.1.1.1"),
        ("10.0.0.1", ["10.0.0.3", "10.0.0.2"], "10.0.0.3"),
        ("10.0.0.1", [], "10.0.0.1"),
        ("2001:db8::1", ["2001:db9::1"], "2001:db9::1"),
        ("::ffff:10.0.0.1", ["1.1.1.1"], "1.1.1.1"),
        ("unix:", ["1.1.1.1"], "unix:"),
        ("testclient", ["1.1.1.1"], "testclient"),
    ],
)
def test_client_address(peer: str | None, forwarded_for: list[str], expected: str | None) -> None:
    """Traps: `X-Forwarded-For` counts only as far as configured proxies wrote it."""
    lines_ = [value.encode("latin-1") for value in forwarded_for]
    assert client_address(peer, lines_, TRUSTED) == expected


@pytest.mark.parametrize("peer", [None, "", "localhost", "/run/app.sock", "@app", "unix:"])
def test_unix_sockets(peer: str | None) -> None:
    """Traps: `unix` is whoever the server says to be at a Unix socket; no hop is, whatever its
    name, and nobody is who has an address.
    """
    trusted = (*TRUSTED, "unix")
    assert client_address(peer, [b"6.6.6.6, 1.1.1.1"], trusted) == "1.1.1.1"
    assert client_address(peer, [b"6.6.6.6, 1.1.1.1, 10.0.0.2"], trusted) == "1.1.1.1"
    assert client_address(peer, [b"6.6.6.6, unix:"], trusted) == "unix:"
    assert client_address(peer, [b"6.6.6.6, localhost"], trusted) == "localhost"
    assert client_address(peer, [b"6.6.6.6, /, , "], trusted) == "/"
    assert client_address(peer, [b"1.1.1.1"], TRUSTED) == peer
    assert client_address("9.9.9.9", [b"1.1.1.1"], trusted) == "9.9.9.9"


def test_nobody_is_trusted_by_default() -> None:
    """Traps: without configured proxies the header says nothing."""
    assert client_address("10.0.0.1", [b"1.1.1.1"], []) == "10.0.0.1"


@pytest.mark.parametrize(
    ("trusted", "expected"), [([], "10.0.0.1"), (TRUSTED, "9.9.9.9")], ids=["nobody", "proxies"]
)
def test_long_forwarded_for_is_read_from_the_right(trusted: Any, expected: str) -> None:
    """Traps: of ten megabytes of X-Forwarded-For only the end is read, and nothing without need."""
    value = Measured(b"1.1.1.1," * 1_250_000 + b"9.9.9.9")
    assert client_address("10.0.0.1", [value], trusted) == expected


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        (["origin: https://x", "access-control-request-method: POST"], True),
        (["Origin: https://x", "Access-Control-Request-Method: POST"], True),
        (["origin: https://x"], False),
        (["access-control-request-method: POST"], False),
        (["origin: https://x", "access-control-request-headers: x"], False),
        ([], False),
    ],
)
def test_is_preflight(headers: list[str], expected: bool) -> None:
    """S76: only OPTIONS with both headers is a preflight."""
    assert is_preflight(lines(*headers)) is expected
