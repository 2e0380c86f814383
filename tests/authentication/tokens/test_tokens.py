"""Tokens at the gate, by a real issuer: whom they stand for, and all that is no token."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization

from keyrush import Gate
from keyrush.authentication.tokens.issuer_keys import REFRESH
from keyrush.core.issuers import MIN_SECRET
from keyrush.gate import gate as gate_module
from keyrush.store.memory import MemoryStore
from tests.conftest import Clock, settings, still
from tests.support.calls import Asgi, Reply, Sent, Wsgi, asgi_call, run, scope_of, together
from tests.support.faults import until
from tests.support.issuer import Issuer, Signer, b64, secret_signer, segment, served, signer

both = pytest.mark.parametrize("adapter", [Asgi, Wsgi])

PLANS: dict[str, Any] = {
    "starter": {"limits": "100/minute", "per": "account"},
    "pro": {"limits": "500/minute"},
}

RULES = [{"path": "/admin", "scopes": ["admin"]}, {"path": "/paid", "credits": 2}]


class World:
    """A gate that knows an issuer; `values` are the issuer's settings, `given` are others."""

    def __init__(
        self,
        issuer: Issuer,
        clock: Clock,
        store: Any = None,
        given: dict[str, Any] | None = None,
        **values: Any,
    ) -> None:
        self.issuer = issuer
        self.clock = clock
        said = {
            "issuer": issuer.url,
            "kind": "session",
            "audience": "api",
            "scopes": ["read"],
            "accounts": "create",
        }
        self.store = store or MemoryStore()
        self.gate = still(
            Gate.open(
                settings(
                    issuers=[said | values],
                    plans=PLANS,
                    rules=RULES,
                    pepper="p" * 32,
                    **given or {},
                ),
                store=self.store,
                clock=clock,
            )
        )

    def token(self, signer: Signer | None = None, **claims: Any) -> str:
        return self.issuer.token(self.clock(), signer, **claims)

    def ask(self, token: str | bytes, path: str = "/", adapter: Any = Wsgi) -> Reply:
        text = token.encode() if isinstance(token, str) else token
        sent = Sent(path, [("Authorization", b"Bearer " + text)])
        reply: Reply = adapter(self.gate).send(sent)
        return reply

    def admits(self, token: str | bytes) -> bool:
        status = self.ask(token).status
        assert status in {200, 401}
        return status == 200

    @property
    def fetches(self) -> int:
        return self.issuer.asked.count("/.well-known/jwks.json")

    @property
    def accounts(self) -> int:
        return len(self.store.accounts(100))


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    """An issuer that is served."""
    with served() as made:
        yield made


@pytest.fixture
def world(issuer: Issuer, clock: Clock) -> Iterator[World]:
    made = World(issuer, clock)
    yield made
    made.gate.close()


# --- whom they stand for -----------------------------------------------------------------------


@both
def test_one_account_for_a_subject(world: World, adapter: Any) -> None:
    """O8: a session maps to one account, whatever its tokens are; windows are the account's."""
    replies = [world.ask(world.token(jti=str(n)), adapter=adapter) for n in range(3)]
    assert [reply.status for reply in replies] == [200] * 3
    assert [reply["x-ratelimit-remaining"] for reply in replies] == ["99", "98", "97"]
    assert len({reply.body for reply in replies}) == 1
    assert world.accounts == 1
    assert world.fetches == 1


def test_shared_with_keys(world: World) -> None:
    """O9: a key of the account and a session share windows and credits."""
    account_id = world.ask(world.token()).body.split()[0].decode()
    key = world.gate.keys.create(account_id, "ci").text
    assert world.ask(key)["x-ratelimit-remaining"] == "98"
    world.gate.credits.grant(account_id, 5)
    assert [world.ask(it, "/paid").status for it in (key, world.token(), key)] == [200, 200, 402]
    assert world.ask(world.token(jti="another"))["x-ratelimit-remaining"] == "95"


def test_known_to_the_app(world: World) -> None:
    """O8: the app sees whether a key, a session or a client calls, and whose it is."""
    found: list[Any] = []

    def app(environ: Any, start_response: Any) -> list[bytes]:
        found.append(environ["keyrush.principal"])
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b""]

    token = world.token(session_id="s1")
    Wsgi(world.gate, app).send(Sent("/", [("Authorization", f"Bearer {token}")]))
    key = world.gate.keys.create(found[0].account_id, "ci").text
    Wsgi(world.gate, app).send(Sent("/", [("Authorization", f"Bearer {key}")]))
    session, of_key = found
    assert (session.source, session.key_id) == ("session", None)
    assert (session.subject, session.session_id, session.client_id) == ("user-1", "s1", None)
    assert set(session.scopes) == {"read"}
    assert session.identity.startswith("sub_")
    assert session.verified.session.audience == {"api", ""}
    assert of_key.source == "key"
    assert of_key.key_id.startswith("cred_")
    assert (of_key.subject, of_key.session_id, of_key.client_id) == (None, None, None)
    assert of_key.verified.session is None
    assert token not in repr(session)


def test_one_key_for_a_subject(issuer: Issuer, clock: Clock) -> None:
    """O8, R6: where limits are per key, all tokens of a subject are one, and none with a key."""
    world = World(issuer, clock, plan="pro")
    replies = [world.ask(world.token(jti=str(n))) for n in range(2)]
    assert [reply["x-ratelimit-remaining"] for reply in replies] == ["499", "498"]
    account_id = replies[0].body.split()[0].decode()
    key = world.gate.keys.create(account_id, "ci").text
    assert world.ask(key)["x-ratelimit-remaining"] == "499"
    world.gate.close()


@pytest.mark.parametrize(
    ("environments", "sandboxes", "answer"),
    [
        (["test", "live", "eu"], ["test"], ("live", 402)),
        (["live", "test"], ["test"], ("live", 402)),
        (["test", "dev"], ["test", "dev"], ("test", 200)),
        ([], [], ("None", 402)),
    ],
)
def test_no_sandbox(
    issuer: Issuer,
    clock: Clock,
    environments: list[str],
    sandboxes: list[str],
    answer: tuple[str, int],
) -> None:
    """O8, R2: whoever comes with a token is counted and charged, in whichever order the
    environments are, unless all of them are sandboxes.
    """
    given = {"key_environments": environments, "unmetered_environments": sandboxes}
    world = World(issuer, clock, given=given)
    environment = world.ask(world.token()).body.split()[1].decode()
    assert (environment, world.ask(world.token(), "/paid").status) == answer
    world.gate.close()


def test_linked(issuer: Issuer, clock: Clock) -> None:
    """O8: where nobody is let in by themselves, a subject acts for the account it is linked with,
    until it is unlinked; another issuer's subject of that name is somebody else.
    """
    world = World(issuer, clock, accounts="link")
    assert not world.admits(world.token())
    world.gate.accounts.create("acct_a")
    link = world.gate.accounts.link("acct_a", issuer=issuer.url, subject="user-1")
    assert world.gate.accounts.links("acct_a") == [link]
    token = world.token(jti="2")
    assert world.ask(token).body.startswith(b"acct_a ")
    assert not world.admits(world.token(sub="user-2"))
    world.gate.accounts.unlink("acct_a", issuer=issuer.url, subject="user-1")
    assert not world.admits(token)
    assert not world.admits(world.token(jti="3"))
    assert world.accounts == 1
    world.gate.close()


def test_unlinked_is_not_made_anew(world: World) -> None:
    """Closed by default: who has been unlinked gets no other account for it."""
    account_id = world.ask(world.token()).body.split()[0].decode()
    world.gate.accounts.unlink(account_id, issuer=world.issuer.url, subject="user-1")
    assert not world.admits(world.token(jti="2"))
    assert world.accounts == 1
    world.gate.accounts.link(account_id, issuer=world.issuer.url, subject="user-1")
    assert world.admits(world.token(jti="3"))


@pytest.mark.parametrize("backend", ["asyncio"], indirect=True)
def test_one_account_however_many_come(world: World, backend: str) -> None:
    """O8: as many first tokens of a subject as come at once make one account."""
    tokens = iter([world.token(jti=str(n)) for n in range(40)])
    gate = Asgi(world.gate)

    async def one() -> int:
        sent = Sent("/", [("Authorization", f"Bearer {next(tokens)}")])
        reply = await asgi_call(gate.middleware, scope_of(sent))
        return reply.status

    assert run(together(one, 40)) == [200] * 40
    assert world.accounts == 1


def test_bounded_newcomers(issuer: Issuer, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """S19: beyond so many new accounts a minute who is new is asked to wait, and who is known goes
    on; the store is not asked again each time.
    """
    world = World(issuer, clock, new_accounts=3)
    statuses = [world.ask(world.token(sub=f"user-{n}")).status for n in range(3)]
    assert statuses == [200] * 3
    added: list[Any] = []
    add_link = world.store.add_link

    def counted(*values: Any) -> Any:
        added.append(values)
        return add_link(*values)

    monkeypatch.setattr(world.store, "add_link", counted)
    replies = [world.ask(world.token(sub=f"more-{n}")) for n in range(10)]
    assert {(reply.status, reply["retry-after"]) for reply in replies} == {(503, "5")}
    assert world.admits(world.token(sub="user-1", jti="2"))
    assert (len(added), world.accounts) == (1, 3)
    clock.advance(60_000)
    assert world.admits(world.token(sub="more-1"))
    world.gate.close()


# --- what is no token --------------------------------------------------------------------------


def test_same_body(world: World) -> None:
    """S26, S34: a token that nobody signed, one that has ended, one of nobody, an unknown key and
    rubbish are refused with one and the same answer.
    """
    world.gate.accounts.create("acct_a")
    key = world.gate.keys.create("acct_a", "ci")
    world.gate.keys.revoke(key.key.id)
    answers = [
        world.ask(it)
        for it in (
            world.token(signer()),
            world.token(exp=1),
            world.token(sub=None),
            world.token(iss="https://nobody.example"),
            "a.b.c",
            "rubbish",
            key.text,
            "x" * 9000,
        )
    ]
    assert answers == [answers[0]] * len(answers)
    assert answers[0].status == 401
    assert world.accounts == 1


def test_two_credentials(world: World) -> None:
    """S7, S8: a token and a key are two credentials, and so are two tokens; one twice is one."""
    one, other = world.token(), world.token(jti="2" * 900)
    world.gate.accounts.create("acct_a")
    key = world.gate.keys.create("acct_a", "ci").text
    bearer: tuple[str, str | bytes] = ("Authorization", f"Bearer {one}")
    cases: list[list[tuple[str, str | bytes]]] = [
        [bearer, ("X-API-Key", key)],
        [bearer, ("X-API-Key", other)],
        [bearer, bearer],
        [("Authorization", f"Bearer {one}, Bearer {other}")],
        [("Authorization", f"Bearer {other}, Bearer {one}")],
        [("X-API-Key", f"{other}, {one}")],
    ]
    for headers in cases:
        assert Wsgi(world.gate).send(Sent("/", headers)).status == 400
        assert Asgi(world.gate).send(Sent("/", headers)).status == 400
    assert Wsgi(world.gate).send(Sent("/", [bearer, ("X-API-Key", one)])).status == 200


@both
def test_long_tokens(world: World, adapter: Any) -> None:
    """S50: up to 8 KiB is a token, a byte more is none; a scheme may be in any case (S1)."""
    room = len(world.token(pad=""))
    long = world.token(pad="x" * ((8192 - room) * 3 // 4))
    assert 8188 <= len(long) <= 8192
    assert world.ask(long, adapter=adapter).status == 200
    assert world.ask(long + "x" * (8193 - len(long)), adapter=adapter).status == 401
    for scheme in ("bEaReR ", "Bearer   "):
        sent = Sent("/", [("Authorization", scheme + long)])
        assert adapter(world.gate).send(sent).status == 200
    assert adapter(world.gate).send(Sent("/", [("Authorization", "Basic " + long)])).status == 401
    reply = adapter(world.gate).send(Sent("/", [("Authorization", "Bearer " + "x" * 65_536)]))
    assert reply.status == 401


def public_pem(made: Signer) -> bytes:
    encoded: bytes = made.private.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return encoded


def public_der(made: Signer) -> bytes:
    encoded: bytes = made.private.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return encoded


def by_hmac(key: bytes, payload: Any, alg: str = "HS256") -> str:
    """A token signed by HMAC with whatever bytes, as PyJWT would refuse to do for some."""
    import hmac  # noqa: PLC0415  # for this alone

    signed = segment({"alg": alg, "kid": "k1", "typ": "JWT"}) + b"." + segment(payload)
    return (signed + b"." + b64(hmac.digest(key, signed, "sha256"))).decode()


def forged(world: World) -> dict[str, str | bytes]:
    """What somebody may send who knows all but the private key."""
    mine, good = world.issuer.signer, world.issuer.payload(world.clock())
    stranger = signer(kid="k1")
    token = mine.sign(good)
    header, payload, signature = token.split(".")
    unsigned = f"{segment({'alg': 'none', 'typ': 'JWT'}).decode()}.{payload}"
    raw, other = b64(signature.encode()), segment(good | {"sub": "root"})
    return {
        "S41: none, no signature": f"{unsigned}.",
        "S41: none, any signature": f"{unsigned}.{signature}",
        "S41: None": mine.sign(good, alg="None"),
        "S41: hs256": by_hmac(public_pem(mine), good, "hs256"),
        "S41: es256": mine.sign(good, alg="es256"),
        "S42: the public key as a secret, PEM": by_hmac(public_pem(mine), good),
        "S42: the public key as a secret, DER": by_hmac(public_der(mine), good),
        "S42: the JWK as a secret": by_hmac(json.dumps(mine.jwk).encode(), good),
        "S42: no secret": by_hmac(b"", good),
        "S42: another algorithm, same key": mine.sign(good, alg="RS256"),
        "S43: crit that PyJWT takes": mine.sign(good, crit=["b64"], b64=True),
        "S43: crit": mine.sign(good, crit=["exp"]),
        "S43: b64": mine.sign(good, b64=False),
        "S44: its own key": stranger.sign(good, jwk=stranger.jwk),
        "S44: its own key, named": stranger.sign(good, kid="mine", jwk=stranger.jwk),
        "S44: a key of its own site": stranger.sign(good, jku=f"{world.issuer.url}/mine.json"),
        "S44: a certificate": stranger.sign(good, x5u="https://evil.example", x5c=["MIIB"]),
        "S44: a path as the name": stranger.sign(good, kid="../../../dev/null"),
        "S44: SQL as the name": stranger.sign(good, kid="' UNION SELECT 'x"),
        "S44: a list as the name": stranger.sign(good, kid=["k1"]),
        "S44: no name": stranger.sign(good, kid=None),
        "another's signature": stranger.sign(good),
        "the signature of another token": f"{header}.{other.decode()}.{signature}",
        "no signature": f"{header}.{payload}.",
        "zeros as the signature": f"{header}.{payload}.{b64(bytes(64)).decode()}",
        "the signature in DER": f"{header}.{payload}.{raw.decode()}",
        "S45: another issuer": mine.sign(good | {"iss": world.issuer.url + "/"}),
        "S46: no audience": mine.sign({k: v for k, v in good.items() if k != "aud"}),
        "S46: another audience": mine.sign(good | {"aud": ["web", "mobile"]}),
        "S47: an end that PyJWT takes": mine.sign(good | {"exp": "9_999_999_999"}),
        "S47: true": mine.sign(good | {"exp": True}),
        "S47: beyond all time": mine.sign(good | {"exp": 1e306}),
        "S47: begins beyond all time": mine.sign(good | {"nbf": 1e306}),
        "S47: NaN": mine.over(segment({"alg": "ES256", "kid": "k1"}) + b"." + segment(
            json.dumps(good).replace(str(good["exp"]), "NaN").encode()
        )),
        "S49: a logout token": mine.sign(good, typ="logout+jwt"),
        "S50: padding": f"{header}.{payload}==.{signature}",
        "S50: a member twice": mine.over(segment({"alg": "ES256", "kid": "k1"}) + b"." + segment(
            json.dumps(good)[:-1].encode() + b', "sub": "root"}'
        )),
        "S50: the header's alg twice": mine.over(
            segment(b'{"alg": "none", "kid": "k1", "alg": "ES256"}') + b"." + segment(good)
        ),
        "S50: UTF-16": mine.over(
            segment({"alg": "ES256", "kid": "k1"}) + b"." + b64(json.dumps(good).encode("utf-16"))
        ),
        "S50: a byte order mark": mine.over(
            segment({"alg": "ES256", "kid": "k1"})
            + b"."
            + b64(b"\xef\xbb\xbf" + json.dumps(good).encode())
        ),
        "S50: five segments": f"{header}.{payload}.{signature}.{payload}.{signature}",
        "S50: in JSON": json.dumps({"protected": header, "payload": payload}),
        "S52: a role token": mine.sign(good | {"role": "service_role"}),
        "S53: a client's": mine.sign(good | {"client_id": "c1"}),
    }  # fmt: skip


def test_forged(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """S41 to S53: nothing that somebody without the private key can make is a token, nor what the
    issuer has signed for something else; nobody gets an account, no fault is logged, and what is
    fetched is the issuer's keys, once.
    """
    for case, token in forged(world).items():
        assert world.ask(token).status == 401, case
    assert world.accounts == 0
    assert set(world.issuer.asked) <= {
        "/.well-known/oauth-authorization-server",
        "/.well-known/jwks.json",
    }
    assert world.fetches == 1
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert world.admits(world.token())


def test_refused_before_any_key(world: World) -> None:
    """S41: what is refused by its header or claims alone costs the issuer nothing."""
    mine, good = world.issuer.signer, world.issuer.payload(world.clock())
    for token in (
        mine.sign(good, alg="none"),
        mine.sign(good, alg="HS256"),
        mine.sign(good, crit=["b64"]),
        mine.sign(good | {"aud": "web"}),
        mine.sign(good | {"exp": 1}),
        mine.sign(good, kid=["k1"]),
    ):
        assert not world.admits(token)
    assert world.issuer.asked == []


def test_keys_of_use_enc(world: World) -> None:
    """S51: a key that PyJWT takes though it is for encryption is none."""
    other = signer(kid="k2", use="enc")
    world.issuer.keys.append(other.jwk)
    assert not world.admits(world.token(other))
    assert world.admits(world.token())


def test_another_issuers_key(clock: Clock) -> None:
    """S44, S45: a key is looked up among its own issuer's alone, whatever it is called."""
    with served() as one, served() as other:
        said = [
            {
                "issuer": it.url,
                "kind": "session",
                "audience": "api",
                "scopes": [],
                "accounts": "create",
            }
            for it in (one, other)
        ]
        gate = still(Gate.open(settings(issuers=said), clock=clock))
        other.signer = signer(kid="theirs")
        other.keys = [other.signer.jwk]

        def status(token: str) -> int:
            found: int = Wsgi(gate).send(Sent("/", [("Authorization", f"Bearer {token}")])).status
            return found

        assert [status(it.token(clock())) for it in (one, other)] == [200, 200]
        assert status(one.token(clock(), other.signer)) == 401
        assert status(other.token(clock(), one.signer)) == 401
        assert len(gate.accounts.list()) == 2  # one subject of each
        gate.close()


def test_a_signature_that_is_another_text(world: World) -> None:
    """S50: who turns s into n − s has another text of the same token, for the same account: a
    token's text is no identity.
    """
    token = world.token()
    head, _, signature = token.rpartition(".")
    made = jwt.utils.base64url_decode(signature)
    order = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
    turned = made[:32] + (order - int.from_bytes(made[32:], "big")).to_bytes(32, "big")
    world.ask(token)
    assert world.admits(f"{head}.{b64(turned).decode()}")
    assert world.accounts == 1
    world.gate.sessions.revoke("user-1")
    assert not world.admits(token)
    assert not world.admits(f"{head}.{b64(turned).decode()}")


def test_secrets(issuer: Issuer, clock: Clock) -> None:
    """S41, S42, S48: where a secret is set, tokens by HS256 are good, and those of keys are not."""
    secret = b"s" * MIN_SECRET
    world = World(issuer, clock, secret=secret.decode())
    assert world.admits(world.token(secret_signer(secret)))
    assert not world.admits(world.token())
    assert not world.admits(world.token(secret_signer(b"t" * MIN_SECRET)))
    assert issuer.asked == []
    world.gate.close()


def test_off_by_default(world: World) -> None:
    """S54: without a secret nothing is verified by one."""
    assert not world.admits(world.token(secret_signer(b"s" * MIN_SECRET)))


# --- for how long ------------------------------------------------------------------------------


@both
def test_ends_to_the_second(world: World, adapter: Any) -> None:
    """S47: on every hit, warm or not, also while store and issuer are away."""
    token = world.token(exp=world.clock() // 1000 + 4)
    assert world.ask(token, adapter=adapter).status == 200
    world.clock.advance(3999)
    assert world.ask(token, adapter=adapter).status == 200
    world.clock.advance(1)
    assert world.ask(token, adapter=adapter).status == 401
    assert world.fetches == 1


def test_issuer_away(world: World) -> None:
    """S19, S54: known tokens go on to their end, new ones with a known key are verified at once,
    and others are told to come again, without a fetch each.
    """
    known = world.token()
    assert world.admits(known)
    world.issuer.respond = lambda _: (503, {}, b"")
    world.clock.advance(3_500_000)
    assert world.admits(known)
    assert world.admits(world.token(jti="new"))
    asked = len(world.issuer.asked)
    stranger = signer(kid="k2")
    replies = [world.ask(world.token(stranger, jti=str(n))) for n in range(10)]
    assert {(reply.status, reply["retry-after"]) for reply in replies} == {(503, "5")}
    assert "www-authenticate" not in replies[0]
    assert len(world.issuer.asked) == asked + 1
    world.clock.advance(100_001)
    assert not world.admits(known)


def test_store_away(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """S19: while the store is away a known token goes on for as long as a key does, and not beyond
    its end; a new one gets 503.
    """
    token = world.token(exp=world.clock() // 1000 + 60)
    assert world.admits(token)

    def away(*_: object) -> None:
        raise ConnectionError("away")

    monkeypatch.setattr(world.store, "find_link", away)
    world.clock.advance(30_000)
    assert world.admits(token)
    assert world.ask(world.token(jti="2")).status == 503
    world.clock.advance(30_000)
    assert not world.admits(token)


def test_rotated(world: World) -> None:
    """S51: once the issuer has taken a key back, tokens of it are no longer good, and those of the
    new one are.
    """
    old = world.token()
    assert world.admits(old)
    world.issuer.rotate("k2")
    world.clock.advance(60_000)
    assert world.admits(world.token())
    assert not world.admits(old)


def test_taken_back(world: World) -> None:
    """S51: who is known by a key that the issuer has taken back is so no more once that is known,
    however fresh.
    """
    old = world.token()
    assert world.admits(old)
    world.issuer.rotate("k2")
    world.clock.advance(60_000)
    assert world.admits(old)
    assert world.admits(world.token())
    assert not world.admits(old)


def test_keys_in_the_background(
    issuer: Issuer, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S54: keys are fetched again though no token asks for one, by a gate that is running."""
    monkeypatch.setattr(gate_module, "LOOK_AT_KEYS", 0.01)
    world = World(issuer, clock)
    old = world.token()
    assert world.admits(old)
    issuer.rotate("k2")
    clock.advance(int(REFRESH * 1000))
    del world.gate.background.start  # `still` has set it
    world.gate.background.start()
    until(lambda: world.fetches == 2)
    until(lambda: not world.admits(old))
    world.gate.close()


def test_verified_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A token is verified once: what changes in the account is looked up, and nothing more."""
    verified: list[bytes] = []
    algorithm = type(jwt.get_algorithm_by_name("ES256"))
    verify = algorithm.verify

    def counted(self: Any, msg: bytes, key: Any, sig: bytes) -> bool:
        verified.append(msg)
        return bool(verify(self, msg, key, sig))

    monkeypatch.setattr(algorithm, "verify", counted)
    token = world.token()
    account_id = world.ask(token).body.split()[0].decode()
    world.gate.accounts.set_plan(account_id, "pro")
    assert world.ask(token)["x-ratelimit-limit"] == "500"
    world.clock.advance(60_000)
    assert world.admits(token)
    assert len(verified) == 1


# --- revoked -----------------------------------------------------------------------------------


def test_revoked(world: World) -> None:
    """O17: what was issued to a subject before now is refused, warm or new; what is issued after
    is good, and other subjects are not concerned.
    """
    old, other = world.token(), world.token(sub="user-2")
    assert world.admits(old)
    assert world.admits(other)
    world.clock.advance(10_500)
    (link,) = world.gate.sessions.revoke("user-1")
    assert link.subject == "user-1"
    assert not world.admits(old)
    assert not world.admits(world.token(iat=world.clock() // 1000 - 1))
    assert not world.admits(world.token(jti="of this second"))
    assert not world.admits(world.token(iat=None))
    assert not world.admits(world.token(iat="now"))
    assert world.admits(other)
    world.clock.advance(1000)
    assert world.admits(world.token())
    assert world.accounts == 2


def test_revoked_and_linked_again(world: World) -> None:
    """O17: no token that was revoked comes back with a new link of its subject."""
    old = world.token()
    account_id = world.ask(old).body.split()[0].decode()
    world.clock.advance(5000)
    world.gate.sessions.revoke("user-1")
    whom = {"issuer": world.issuer.url, "subject": "user-1"}
    world.gate.accounts.unlink(account_id, **whom)
    linked = world.gate.accounts.link(account_id, **whom)
    assert world.gate.accounts.links(account_id) == [linked]
    world.clock.advance(20_000)
    assert not world.admits(old)
    assert not world.admits(world.token(jti="2", iat=world.clock() // 1000 - 21))
    assert world.admits(world.token(jti="3"))


def test_revoked_elsewhere(clock: Clock, url: str) -> None:
    """O17: in other processes, too, as fast as a key's revocation, over each database."""
    with served() as issuer:
        values: dict[str, Any] = {
            "store_url": url,
            "pepper": "p" * 32,
            "issuers": [
                {
                    "issuer": issuer.url,
                    "kind": "session",
                    "audience": "api",
                    "scopes": [],
                    "accounts": "create",
                }
            ],
        }
        one, other = (still(Gate.open(settings(**values), clock=clock)) for _ in range(2))
        for gate in (one, other):
            gate.watch.poll()
        token = issuer.token(clock())
        sent = Sent("/", [("Authorization", f"Bearer {token}")])
        assert [Wsgi(gate).send(sent).status for gate in (one, other)] == [200, 200]
        one.sessions.revoke("user-1", issuer=issuer.url)

        def is_told() -> bool:
            other.watch.poll()
            return Wsgi(other).send(sent).status == 401

        assert Wsgi(one).send(sent).status == 401
        until(is_told)  # by a notification, or by PostgreSQL's table within a second
        for gate in (one, other):
            gate.close()


# --- clients -----------------------------------------------------------------------------------


def test_scopes(issuer: Issuer, clock: Clock) -> None:
    """S17, S64: a client may do what its token says, and a broader scope passes."""
    world = World(issuer, clock, kind="oauth", scopes=None)
    for scope, status in (("read", 403), ("read admin", 200), ("*", 200), ("", 403)):
        assert world.ask(world.token(client_id="c1", scope=scope), "/admin").status == status
    assert world.ask(world.token(client_id="c1", scp=["admin"]), "/admin").status == 200
    world.gate.close()


def test_both_kinds_of_one_issuer(issuer: Issuer, clock: Clock) -> None:
    """S53, O9: where an issuer has sessions and clients, each token is one of them alone, and both
    act for one account.
    """
    said: dict[str, Any] = {"issuer": issuer.url, "preset": "supabase", "accounts": "create"}
    gate = still(
        Gate.open(
            settings(
                issuers=[
                    said | {"kind": "session", "scopes": ["*"]},
                    said | {"kind": "oauth", "audience": "authenticated", "scopes": ["read"]},
                ]
            ),
            clock=clock,
        )
    )
    told: list[Any] = []

    def app(environ: Any, start_response: Any) -> list[bytes]:
        told.append(environ["keyrush.principal"])
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b""]

    for claims in ({}, {"client_id": "c1"}):
        payload = issuer.supabase(clock(), **claims)
        sent = Sent("/", [("Authorization", f"Bearer {issuer.signer.sign(payload)}")])
        assert Wsgi(gate, app).send(sent).status == 200
    assert [it.source for it in told] == ["session", "oauth"]
    assert [set(it.scopes) for it in told] == [{"*"}, {"read"}]
    assert [it.client_id for it in told] == [None, "c1"]
    assert len({it.account_id for it in told}) == 1
    gate.close()
