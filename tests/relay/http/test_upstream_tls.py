"""TLS towards the upstream: what is verified, what is refused and how it is said."""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from certificates import Authority, Pair
from upstreams import CHUNKED, OK, Peer, Script, answering, ask, closing_after, on_both_loops, upstream, whole

from mcp_audit.config.model import Tls, UpstreamTls
from mcp_audit.errors import ConfigError
from mcp_audit.relay.http.pool import BrokenBody, Pool, UpstreamUnavailable
from mcp_audit.relay.http.tls import client_context

MiB = 1024 * 1024


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def loopback(authority: Authority) -> Pair:
    return authority.issue("127.0.0.1")


@asynccontextmanager
async def pool_over_tls(
    server: ssl.SSLContext, settings: UpstreamTls | None, *scripts: Script
) -> AsyncIterator[tuple[Pool, int]]:
    """Serve scripts over TLS, with a pool in front."""
    async with upstream(*scripts, tls=server) as running:
        name = settings.server_name if settings else ""
        pool = Pool(running.target, client_context(settings) if settings else None, server_name=name)
        try:
            yield pool, running.target.port
        finally:
            await pool.close()


# -- verified ----------------------------------------------------------------------------------------------------------


@on_both_loops
async def test_a_trusted_upstream_is_used_as_without_tls(authority: Authority, loopback: Pair) -> None:
    """Requests and answers pass, one connection serves several of them, large bodies go both ways."""
    size = 8 * MiB

    async def script(peer: Peer) -> None:
        for _ in range(3):
            body = (await peer.request()).body
            await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        await peer.closed()

    settings = UpstreamTls(ca_file=authority.ca_file)
    async with pool_over_tls(authority.server(loopback), settings, script) as (pool, _):
        for body in (b"small", os.urandom(size), b"small again"):
            assert await whole(await ask(pool, b"POST", body)) == body


@on_both_loops
async def test_the_name_to_verify_can_be_set(authority: Authority) -> None:
    """`server_name` takes the place of the host, and is what the server is asked for."""
    asked: list[str | None] = []
    server = authority.server(authority.issue("upstream.example"))
    server.sni_callback = lambda _, name, __: asked.append(name)
    settings = UpstreamTls(ca_file=authority.ca_file, server_name="upstream.example")

    async with pool_over_tls(server, settings, answering(OK)) as (pool, _):
        assert await whole(await ask(pool)) == b"ok"
    assert asked == ["upstream.example"]


@on_both_loops
async def test_verification_can_be_switched_off(authority: Authority) -> None:
    """Any certificate will do then; the operator said so."""
    server = authority.server(authority.issue("elsewhere.example"))
    async with pool_over_tls(server, UpstreamTls(insecure_skip_verify=True), answering(OK)) as (pool, _):
        assert await whole(await ask(pool)) == b"ok"


@on_both_loops
async def test_we_show_who_we_are(authority: Authority, loopback: Pair) -> None:
    """An upstream that asks for a client certificate gets it."""
    ours = authority.issue("the-proxy")
    names: list[str] = []

    async def script(peer: Peer) -> None:
        await peer.request()
        shown = peer.writer.get_extra_info("peercert")
        names.append(shown["subject"][0][0][1])
        await peer.send(OK)

    settings = UpstreamTls(ca_file=authority.ca_file, client_cert_file=ours.cert, client_key_file=ours.key)
    async with pool_over_tls(authority.server(loopback, ask_for_client=True), settings, script) as (pool, _):
        assert await whole(await ask(pool)) == b"ok"
    assert names == ["the-proxy"]


# -- refused -----------------------------------------------------------------------------------------------------------


@on_both_loops
async def test_an_unknown_authority_is_refused(authority: Authority, loopback: Pair) -> None:
    """Without settings the system's authorities count, and the request is not sent."""
    async with pool_over_tls(authority.server(loopback), None, answering(OK)) as (pool, port):
        with pytest.raises(UpstreamUnavailable) as raised:
            await ask(pool)
    assert raised.value.cause.startswith(f"TLS with 127.0.0.1:{port} failed: certificate verify failed: ")
    assert raised.value.sent is False


@pytest.mark.parametrize(
    ("name", "alternative"),
    [
        pytest.param("another.example", True, id="another-name"),
        pytest.param("upstream.example", False, id="common-name-only"),
    ],
)
@on_both_loops
async def test_a_certificate_for_somebody_else_is_refused(tmp_path: Path, name: str, alternative: bool) -> None:
    """The common name alone names nobody (RFC 9110 section 4.3.4)."""
    own = Authority(tmp_path)
    server = own.server(own.issue(name, alternative=alternative))
    settings = UpstreamTls(ca_file=own.ca_file, server_name="upstream.example")
    async with pool_over_tls(server, settings, answering(OK)) as (pool, _):
        with pytest.raises(UpstreamUnavailable, match=r"certificate verify failed: .*[Hh]ostname mismatch"):
            await ask(pool)


@on_both_loops
async def test_an_upstream_that_wants_a_certificate_we_lack(authority: Authority, loopback: Pair) -> None:
    """The cause speaks of certificates, whichever step of the handshake it comes in."""
    server = authority.server(loopback, ask_for_client=True)
    async with pool_over_tls(server, UpstreamTls(ca_file=authority.ca_file), answering(OK)) as (pool, _):
        with pytest.raises(UpstreamUnavailable, match=r"certificate required|handshake failure|it (closed|reset)"):
            await ask(pool)


@pytest.mark.parametrize(
    ("greeting", "cause"),
    [
        pytest.param(b"HTTP/1.1 400 Bad Request\r\n\r\n", "failed: wrong version number|record layer", id="plain-http"),
        pytest.param(b"", "failed: it closed the connection during the handshake", id="closes"),
    ],
)
@on_both_loops
async def test_an_upstream_that_speaks_no_tls(greeting: bytes, cause: str) -> None:
    """It is told apart from one that cannot be reached."""

    async def script(peer: Peer) -> None:
        await peer.reader.read(1)
        await peer.send(greeting)

    async with upstream(script) as running:
        pool = Pool(running.target._replace(scheme="https"))
        with pytest.raises(UpstreamUnavailable, match=cause) as raised:
            await ask(pool)
        assert raised.value.sent is False
        await pool.close()


@on_both_loops
async def test_a_handshake_can_be_given_up() -> None:
    """An upstream that accepts and says nothing holds nobody who lost patience."""
    gone = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.closed()
        gone.set()

    async with upstream(script) as running:
        pool = Pool(running.target._replace(scheme="https"))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await ask(pool)
        await asyncio.wait_for(gone.wait(), 5)
        await pool.close()


# -- the end -----------------------------------------------------------------------------------------------------------


@on_both_loops
async def test_only_a_close_in_good_order_ends_a_body_without_length(authority: Authority, loopback: Pair) -> None:
    """A bare TCP close may be an attacker's, so what has no other end is broken (RFC 9112 section 9.8)."""
    settings = UpstreamTls(ca_file=authority.ca_file)
    endless = b"HTTP/1.1 200 OK\r\n\r\nall"
    taken = asyncio.Event()

    async def torn(peer: Peer) -> None:
        await peer.request()
        await peer.send(endless)
        await taken.wait()
        peer.writer.transport.abort()

    async with pool_over_tls(authority.server(loopback), settings, closing_after(endless), torn) as (pool, _):
        assert await whole(await ask(pool)) == b"all"
        response = await ask(pool)
        assert await response.read() == b"all"
        taken.set()
        with pytest.raises(BrokenBody, match=r"it (closed|reset) the connection in the middle"):
            await response.read()


@on_both_loops
async def test_an_abort_does_not_wait_for_the_goodbye_of_tls(authority: Authority, loopback: Pair) -> None:
    """The upstream sees the end within a moment."""
    gone = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(CHUNKED + b"1\r\nx\r\n")
        await peer.closed()
        gone.set()

    settings = UpstreamTls(ca_file=authority.ca_file)
    async with pool_over_tls(authority.server(loopback), settings, script) as (pool, _):
        response = await ask(pool)
        assert await response.read() == b"x"
        response.abort()
        await asyncio.wait_for(gone.wait(), 0.5)


# -- settings ----------------------------------------------------------------------------------------------------------


def test_a_wrong_file_is_named_with_its_key(tmp_path: Path, authority: Authority, loopback: Pair) -> None:
    """Each sentence says which key, which file, what is wrong and what to give instead."""
    junk = tmp_path / "junk.pem"
    junk.write_text("no PEM in here\n")
    other = authority.issue("other")
    locked = authority.issue("locked", password=b"secret")
    missing = str(tmp_path / "missing.pem")

    def problem(**given: str) -> str:
        with pytest.raises(ConfigError) as raised:
            client_context(UpstreamTls(**given))
        return str(raised.value)

    def identity(cert: str, key: str) -> str:
        return problem(ca_file=authority.ca_file, client_cert_file=cert, client_key_file=key)

    assert problem(ca_file=missing) == (
        f"proxy.tls.ca_file: cannot read {missing}: No such file or directory; give the path of a PEM file"
    )
    assert problem(ca_file=str(tmp_path)) == (
        f"proxy.tls.ca_file: cannot read {tmp_path}: Is a directory; give the path of a PEM file"
    )
    assert problem(ca_file=str(junk)) == (
        f"proxy.tls.ca_file: {junk} holds no certificates in PEM form; give a file with those to trust"
    )
    assert identity(missing, loopback.key).startswith(f"proxy.tls.client_cert_file: cannot read {missing}: ")
    assert identity(loopback.cert, missing).startswith(f"proxy.tls.client_key_file: cannot read {missing}: ")
    assert identity(str(junk), loopback.key) == (
        f"proxy.tls.client_cert_file: {junk} holds no certificate in PEM form; give ours, then its issuers"
    )
    assert identity(loopback.cert, str(junk)) == (
        f"proxy.tls.client_key_file: {junk} holds no private key in PEM form; give the key of {loopback.cert}"
    )
    assert identity(loopback.cert, other.key) == (
        f"proxy.tls.client_key_file: {other.key} is not the key of {loopback.cert} (proxy.tls.client_cert_file); "
        "give the one it was issued for"
    )
    assert identity(locked.cert, locked.key) == (
        f"proxy.tls.client_key_file: {locked.key} is encrypted, and nobody is there to type the passphrase; "
        "give a key without one"
    )


def test_another_section_names_its_own_keys(tmp_path: Path) -> None:
    """The exporter's TLS has the same settings under another name."""
    with pytest.raises(ConfigError, match=r"^otel\.tls\.ca_file: cannot read"):
        client_context(Tls(ca_file=str(tmp_path / "none")), key="otel.tls")


def test_session_secrets_stay_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment that asks for a key log gets none."""
    monkeypatch.setenv("SSLKEYLOGFILE", str(tmp_path / "keys.log"))

    assert client_context(UpstreamTls()).keylog_filename is None
    assert not (tmp_path / "keys.log").exists()


def test_what_is_verified_by_default() -> None:
    """Certificates and host names are, old versions of TLS are not spoken."""
    context = client_context(UpstreamTls())

    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname
    assert context.minimum_version >= ssl.TLSVersion.TLSv1_2
