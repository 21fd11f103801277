"""How the conformance client gets its tokens: the flows of the `auth/` scenarios.

Promise: a login asks nobody for anything but what its flow prescribes. DPoP and workload identity federation are beyond
the SDK: their scenarios are tried with a plain authorization code, and fail.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx2
from mcp.client.auth import AuthorizationCodeResult, OAuthClientProvider
from mcp.client.auth.extensions.client_credentials import (
    ClientCredentialsOAuthProvider,
    PrivateKeyJWTOAuthProvider,
    SignedJWTParameters,
)
from mcp.client.auth.extensions.identity_assertion import IdentityAssertionOAuthProvider
from mcp.shared.auth import OAuthClientInformationFull, OAuthClientMetadata, OAuthToken
from pydantic import AnyUrl

__all__ = ["login"]

CALLBACK = "http://localhost:3000/callback"
METADATA_URL = "https://conformance-test.local/client-metadata.json"

Context = Mapping[str, Any]


class Memory:
    """Tokens and registrations, for the life of the process."""

    def __init__(self, client: OAuthClientInformationFull | None = None) -> None:
        self._client, self._tokens = client, None

    async def get_tokens(self) -> OAuthToken | None:
        return self._tokens

    async def set_tokens(self, tokens: OAuthToken) -> None:
        self._tokens = tokens

    async def get_client_info(self) -> OAuthClientInformationFull | None:
        return self._client

    async def set_client_info(self, client_info: OAuthClientInformationFull) -> None:
        self._client = client_info


class Browser:
    """A user who logs in at once: it asks for the authorization page and keeps what the redirect says."""

    def __init__(self) -> None:
        self._result: AuthorizationCodeResult | None = None

    async def open(self, url: str) -> None:
        """Visit the authorization page; the redirect is the answer and is not followed."""
        async with httpx2.AsyncClient() as web:
            answer = await web.get(url)
        query = parse_qs(urlsplit(answer.headers["location"]).query)
        state, iss = (query.get(name, [None])[0] for name in ("state", "iss"))
        self._result = AuthorizationCodeResult(code=query["code"][0], state=state, iss=iss)

    async def result(self) -> AuthorizationCodeResult:
        """What the redirect said, once."""
        assert self._result is not None, "nobody opened the authorization page"
        result, self._result = self._result, None
        return result


def _registered(context: Context) -> OAuthClientInformationFull | None:
    """The registration a scenario hands out beforehand, if it does."""
    if "client_secret" not in context:
        return None
    return OAuthClientInformationFull(
        client_id=context["client_id"],
        client_secret=context["client_secret"],
        redirect_uris=[AnyUrl(CALLBACK)],
        token_endpoint_auth_method="client_secret_basic",
        issuer=context.get("issuer"),
    )


async def _with_code(url: str, context: Context) -> httpx2.Auth:
    """The authorization code flow: discovery, registration, login, token."""
    browser = Browser()
    metadata = OAuthClientMetadata(client_name="conformance-client", redirect_uris=[AnyUrl(CALLBACK)])
    memory = Memory(_registered(context))
    return OAuthClientProvider(url, metadata, memory, browser.open, browser.result, client_metadata_url=METADATA_URL)


async def _with_key(url: str, context: Context) -> httpx2.Auth:
    """The client credentials flow, with a signed assertion."""
    name = context["client_id"]
    signed = SignedJWTParameters(
        issuer=name,
        subject=name,
        signing_key=context["private_key_pem"],
        signing_algorithm=context["signing_algorithm"],
    )
    return PrivateKeyJWTOAuthProvider(
        url, Memory(), client_id=name, assertion_provider=signed.create_assertion_provider()
    )


async def _with_secret(url: str, context: Context) -> httpx2.Auth:
    """The client credentials flow, with a password."""
    return ClientCredentialsOAuthProvider(url, Memory(), context["client_id"], context["client_secret"])


async def _with_company(url: str, context: Context) -> httpx2.Auth:
    """Exchange the company's identity token for a grant, and the grant for a token."""

    async def exchange(audience: str, resource: str) -> str:
        form = {
            "grant_type": "urn:ietf:params:oauth:grant-type:token-exchange",
            "requested_token_type": "urn:ietf:params:oauth:token-type:id-jag",
            "subject_token": context["idp_id_token"],
            "subject_token_type": "urn:ietf:params:oauth:token-type:id_token",
            "audience": audience,
            "resource": resource,
            "client_id": context["idp_client_id"],
        }
        async with httpx2.AsyncClient() as web:
            answer = await web.post(context["idp_token_endpoint"], data=form)
        return str(answer.raise_for_status().json()["access_token"])

    return IdentityAssertionOAuthProvider(
        url,
        Memory(),
        client_id=context["client_id"],
        client_secret=context["client_secret"],
        issuer=await _issuer(url),
        assertion_provider=exchange,
        token_endpoint_auth_method="client_secret_basic",
    )


async def _issuer(url: str) -> str:
    """The authorization server of a resource, which a company would have configured (RFC 9728)."""
    parts = urlsplit(url)
    async with httpx2.AsyncClient() as web:
        for path in (parts.path, ""):
            answer = await web.get(f"{parts.scheme}://{parts.netloc}/.well-known/oauth-protected-resource{path}")
            if answer.status_code == 200:
                return str(answer.json()["authorization_servers"][0])
    raise LookupError(f"{url} does not say who authorizes its clients")


LOGINS: Mapping[str, Callable[[str, Context], Awaitable[httpx2.Auth]]] = {
    "auth/client-credentials-jwt": _with_key,
    "auth/client-credentials-basic": _with_secret,
    "auth/enterprise-managed-authorization": _with_company,
}


async def login(scenario: str, url: str, context: Context) -> httpx2.Auth | None:
    """Return what authenticates requests in a scenario; None where nothing has to."""
    if not scenario.startswith("auth/"):
        return None
    return await LOGINS.get(scenario, _with_code)(url, context)
