"""TLS towards the upstream, from the settings `proxy.tls`.

Certificates are verified, host name included, unless the operator says otherwise. A key is never asked for at the
terminal, and no secrets of a session are ever logged, whatever the environment says.
"""

from __future__ import annotations

import os
import ssl

from mcp_audit.config.model import Tls, UpstreamTls
from mcp_audit.errors import ConfigError

__all__ = ["client_context", "default_context"]

_KEY = "proxy.tls"


def default_context() -> ssl.SSLContext:
    """Return the context that verifies against the system's authorities."""
    return client_context(UpstreamTls())


def client_context(settings: Tls, key: str = _KEY) -> ssl.SSLContext:
    """Return the context for connections to an HTTPS peer; its `server_name` is for whoever connects.

    Args:
        key: the dotted key of the section, for error sentences.

    Raises:
        ConfigError: a file cannot be read, or does not hold what it should.
    """
    # Not `create_default_context`: it logs session keys to where SSLKEYLOGFILE says, and what it refuses changes with
    # the version of Python.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.hostname_checks_common_name = False  # RFC 9110 section 4.3.4
    context.set_alpn_protocols(["http/1.1"])
    if settings.insecure_skip_verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif settings.ca_file:
        _trust(context, settings.ca_file, f"{key}.ca_file")
    else:
        context.load_default_certs()
    if isinstance(settings, UpstreamTls) and settings.client_cert_file and settings.client_key_file:
        _identify(context, settings, key)
    return context


def _trust(context: ssl.SSLContext, path: str, key: str) -> None:
    _must_be_readable(path, key)
    try:
        context.load_verify_locations(cafile=path)
    except ssl.SSLError:
        raise ConfigError(key, f"{path} holds no certificates in PEM form; give a file with those to trust") from None


class _Encrypted(Exception):
    """The key needs a passphrase."""


def _identify(context: ssl.SSLContext, settings: UpstreamTls, key: str) -> None:
    cert, private = settings.client_cert_file, settings.client_key_file
    cert_key, private_key = f"{key}.client_cert_file", f"{key}.client_key_file"
    _must_be_readable(cert, cert_key)
    _must_be_readable(private, private_key)
    try:
        context.load_cert_chain(cert, private, password=_no_passphrase)
    except _Encrypted:
        problem = f"{private} is encrypted, and nobody is there to type the passphrase; give a key without one"
        raise ConfigError(private_key, problem) from None
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            problem = f"{private} is not the key of {cert} ({cert_key}); give the one it was issued for"
            raise ConfigError(private_key, problem) from None
        if _holds_certificate(cert):
            problem = f"{private} holds no private key in PEM form; give the key of {cert}"
            raise ConfigError(private_key, problem) from None
        raise ConfigError(cert_key, f"{cert} holds no certificate in PEM form; give ours, then its issuers") from None


def _no_passphrase() -> str:
    raise _Encrypted


def _holds_certificate(path: str) -> bool:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cafile=path)
    except ssl.SSLError:
        return False
    return True


def _must_be_readable(path: str, key: str) -> None:
    try:
        with open(path, "rb"):
            return
    except OSError as error:
        problem = f"cannot read {path}: {os.strerror(error.errno or 0)}; give the path of a PEM file"
        raise ConfigError(key, problem) from None
