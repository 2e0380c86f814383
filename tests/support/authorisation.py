"""A small authorisation server over the SDK's own routes: registration, code with PKCE, tokens.

Whoever asks is `subject`, and says yes. Tokens are those of RFC 9068, signed with ES256.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mcp.server.auth.provider import (
    AuthorizationCode,
    AuthorizationParams,
    AuthorizeError,
    RefreshToken,
    TokenError,
    construct_redirect_uri,
)
from mcp.server.auth.routes import create_auth_routes
from mcp.server.auth.settings import ClientRegistrationOptions
from mcp.shared.auth import OAuthClientInformationFull, OAuthToken
from pydantic import AnyHttpUrl
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route

from tests.support.issuer import signer
from tests.support.serving import listening, serve, url_of


class AuthorisationServer:
    """Its state, and what it was asked for. It issues tokens for `resources` alone."""

    def __init__(self, url: str, resources: list[str], scopes: list[str]) -> None:
        self.url = url
        self.resources = resources
        self.scopes = scopes
        self.subject = "user-1"
        self.asked: list[str] = []
        self.clients: dict[str, OAuthClientInformationFull] = {}
        self.codes: dict[str, AuthorizationCode] = {}
        self.fresh: dict[str, RefreshToken] = {}
        self.signer = signer()

    def rotate(self) -> None:
        """Sign by another key alone."""
        self.signer = signer(kid=secrets.token_hex(4))

    def session(self, audience: str) -> str:
        """A token of the subject's own, for a dashboard."""
        return self.token(audience, [], typ="JWT", client_id=None, scope=None)

    def token(self, resource: str, scopes: list[str], typ: str = "at+jwt", **claims: Any) -> str:
        """An access token. A claim that is None is left out."""
        now = int(time.time())
        said = {
            "iss": self.url,
            "sub": self.subject,
            "aud": resource,
            "client_id": "a-client",
            "iat": now,
            "exp": now + 300,
            "jti": secrets.token_hex(8),
            "scope": " ".join(scopes),
        }
        payload = {name: value for name, value in (said | claims).items() if value is not None}
        return self.signer.sign(payload, typ=typ)

    # --- what the SDK's routes ask of a provider ---

    async def get_client(self, client_id: str) -> OAuthClientInformationFull | None:
        return self.clients.get(client_id)

    async def register_client(self, client_info: OAuthClientInformationFull) -> None:
        client_info.scope = " ".join(self.scopes)  # which later requests are held against
        assert client_info.client_id is not None
        self.clients[client_info.client_id] = client_info

    async def authorize(
        self, client: OAuthClientInformationFull, params: AuthorizationParams
    ) -> str:
        if params.resource not in self.resources:
            raise AuthorizeError("invalid_target", "unknown resource")
        code = secrets.token_urlsafe(24)
        assert client.client_id is not None
        self.codes[code] = AuthorizationCode(
            code=code,
            scopes=params.scopes or [],
            expires_at=time.time() + 60,
            client_id=client.client_id,
            code_challenge=params.code_challenge,
            redirect_uri=params.redirect_uri,
            redirect_uri_provided_explicitly=params.redirect_uri_provided_explicitly,
            resource=params.resource,
            subject=self.subject,
        )
        return construct_redirect_uri(
            str(params.redirect_uri), code=code, state=params.state, iss=self.url
        )

    async def load_authorization_code(
        self, client: OAuthClientInformationFull, authorization_code: str
    ) -> AuthorizationCode | None:
        return self.codes.get(authorization_code)

    async def exchange_authorization_code(
        self, client: OAuthClientInformationFull, authorization_code: AuthorizationCode
    ) -> OAuthToken:
        if self.codes.pop(authorization_code.code, None) is None:
            raise TokenError("invalid_grant")
        return self._issued(client, authorization_code.scopes, authorization_code.resource)

    async def load_refresh_token(
        self, client: OAuthClientInformationFull, refresh_token: str
    ) -> RefreshToken | None:
        return self.fresh.get(refresh_token)

    async def exchange_refresh_token(
        self, client: OAuthClientInformationFull, refresh_token: RefreshToken, scopes: list[str]
    ) -> OAuthToken:
        self.fresh.pop(refresh_token.token, None)
        return self._issued(client, scopes, refresh_token.resource)

    def _issued(
        self, client: OAuthClientInformationFull, scopes: list[str], resource: str | None
    ) -> OAuthToken:
        assert resource is not None
        assert client.client_id is not None
        fresh = secrets.token_urlsafe(24)
        self.fresh[fresh] = RefreshToken(
            token=fresh, client_id=client.client_id, scopes=scopes, resource=resource
        )
        token = self.token(resource, scopes, client_id=client.client_id)
        return OAuthToken(
            access_token=token, expires_in=300, scope=" ".join(scopes), refresh_token=fresh
        )

    async def load_access_token(self, token: str) -> None:
        return None

    async def exchange_identity_assertion(self, client: Any, params: Any) -> OAuthToken:
        raise TokenError("unsupported_grant_type")

    async def revoke_token(self, token: Any) -> None:
        return None

    # --- what it serves ---

    def app(self) -> Starlette:
        """Its routes, and its metadata and keys, which the SDK has not."""

        async def metadata(_: Any) -> JSONResponse:
            self.asked.append("metadata")
            return JSONResponse(
                {
                    "issuer": self.url,
                    "authorization_endpoint": f"{self.url}/authorize",
                    "token_endpoint": f"{self.url}/token",
                    "registration_endpoint": f"{self.url}/register",
                    "jwks_uri": f"{self.url}/keys",
                    "scopes_supported": self.scopes,
                    "response_types_supported": ["code"],
                    "grant_types_supported": ["authorization_code", "refresh_token"],
                    "token_endpoint_auth_methods_supported": ["none", "client_secret_post"],
                    "code_challenge_methods_supported": ["S256"],
                    "authorization_response_iss_parameter_supported": True,
                }
            )

        async def keys(_: Any) -> JSONResponse:
            self.asked.append("keys")
            return JSONResponse({"keys": [self.signer.jwk]})

        options = ClientRegistrationOptions(
            enabled=True, valid_scopes=self.scopes, default_scopes=self.scopes
        )
        routes = create_auth_routes(self, AnyHttpUrl(self.url), client_registration_options=options)
        own = [
            Route("/.well-known/oauth-authorization-server", metadata),
            Route("/keys", keys),
        ]
        return Starlette(routes=[*own, *routes])


@contextmanager
def authorising(resources: list[str], scopes: list[str]) -> Iterator[AuthorisationServer]:
    """An authorisation server on a free port."""
    listener = listening()
    server = AuthorisationServer(url_of(listener), resources, scopes)
    with serve(server.app(), listener, http="h11"):
        yield server
