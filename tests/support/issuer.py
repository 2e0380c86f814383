"""An issuer of tokens on a free port: what it publishes is served by a real server, what it signs
is signed by PyJWT, and what no issuer would sign is put together by hand.
"""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

#: Of Supabase, as it stands in each token of a person.
SUBJECT = "0b8f9d5e-1a2b-4c3d-8e4f-5a6b7c8d9e0f"
SESSION = "7c9e6679-7425-40de-944b-e07fc1f90ae7"

_RSA = rsa.generate_private_key(65537, 2048)  # one for all, because it takes long to make


def b64(data: bytes) -> bytes:
    """Base64url without padding, as a segment of a token has it."""
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def segment(value: object) -> bytes:
    """A segment of JSON, or of the bytes given."""
    return b64(value if isinstance(value, bytes) else json.dumps(value).encode())


class Signer(NamedTuple):
    """A private key, and its public one as it is published."""

    private: Any
    algorithm: str
    jwk: Mapping[str, Any]

    def sign(self, payload: object, header: Mapping[str, Any] | None = None, **more: Any) -> str:
        """A token; `header` replaces all of it, `more` is added to the usual one."""
        head = {"alg": self.algorithm, "kid": self.jwk.get("kid"), "typ": "JWT"} | more
        said = head if header is None else header
        signed = segment({k: v for k, v in said.items() if v is not None})
        return self.over(signed + b"." + segment(payload))

    def over(self, signed: bytes) -> str:
        """A token of these two segments, whatever they hold, with a signature that is good."""
        made = jwt.get_algorithm_by_name(self.algorithm)
        return (signed + b"." + b64(made.sign(signed, self.private))).decode()


def signer(algorithm: str = "ES256", kid: str | None = "k1", **members: Any) -> Signer:
    """A new key, with these members beside those that make it."""
    private: Any
    if algorithm.startswith("ES"):
        curves = {"ES256": ec.SECP256R1(), "ES384": ec.SECP384R1(), "ES512": ec.SECP521R1()}
        private = ec.generate_private_key(curves[algorithm])
    elif algorithm == "EdDSA":
        private = ed25519.Ed25519PrivateKey.generate()
    else:
        private = _RSA
    made: Any = jwt.get_algorithm_by_name(algorithm)
    public = made.to_jwk(private.public_key(), as_dict=True)
    public.pop("key_ops", None)
    named = {"kid": kid} if kid is not None else {}
    return Signer(private, algorithm, public | named | members)


def secret_signer(secret: bytes) -> Signer:
    """HS256."""
    return Signer(secret, "HS256", {})


class Issuer:
    """What it publishes, and what it was asked for. `respond`, where set, answers in its place:
    status, header fields and body by the path.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.signer = signer()
        self.keys: list[Any] = [self.signer.jwk]
        self.asked: list[str] = []
        self.respond: Callable[[str], tuple[int, dict[str, str], bytes] | None] | None = None
        self.go_on = threading.Event()  # cleared, whoever asks waits
        self.go_on.set()

    @property
    def documents(self) -> dict[str, Any]:
        """What is served, by its path."""
        keys_url = f"{self.url}/.well-known/jwks.json"
        metadata = {"issuer": self.url, "jwks_uri": keys_url}
        return {
            "/.well-known/oauth-authorization-server": metadata,
            "/.well-known/jwks.json": {"keys": self.keys},
        }

    def rotate(self, kid: str) -> None:
        """Have another key alone."""
        self.signer = signer(kid=kid)
        self.keys = [self.signer.jwk]

    def token(self, now: int, signer: Signer | None = None, **claims: Any) -> str:
        """A token that is good for an hour from `now`, Unix milliseconds. A claim that is None is
        left out.
        """
        return (signer or self.signer).sign(self.payload(now, **claims))

    def payload(self, now: int, **claims: Any) -> dict[str, Any]:
        """What a good token says."""
        said = {
            "iss": self.url,
            "sub": "user-1",
            "aud": "api",
            "iat": now // 1000,
            "exp": now // 1000 + 3600,
        }
        return {name: value for name, value in (said | claims).items() if value is not None}

    def supabase(self, now: int, **claims: Any) -> dict[str, Any]:
        """What a token of Supabase's says."""
        said = {
            "sub": SUBJECT,
            "aud": "authenticated",
            "role": "authenticated",
            "session_id": SESSION,
            "aal": "aal1",
            "email": "somebody@example.com",
            "is_anonymous": False,
        }
        return self.payload(now, **said | claims)


@contextmanager
def served() -> Iterator[Issuer]:
    """An issuer on a free port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:  # named by the standard library
            issuer.asked.append(self.path)
            issuer.go_on.wait(60)
            found = issuer.respond(self.path) if issuer.respond else None
            if found is None:
                document = issuer.documents.get(self.path)
                headers = {"Content-Type": "application/json"}
                found = (200 if document else 404), headers, json.dumps(document).encode()
            status, headers, body = found
            self.send_response(status)
            for name, value in ({"Content-Length": str(len(body))} | headers).items():
                self.send_header(name, value)
            self.end_headers()
            with suppress(OSError):  # whoever has asked has given up
                self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    issuer = Issuer(f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield issuer
    finally:
        issuer.go_on.set()
        server.shutdown()
        server.server_close()
        thread.join()
