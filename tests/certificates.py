"""A small authority for tests: certificates for servers and clients, as PEM files."""

from __future__ import annotations

import datetime
import ipaddress
import ssl
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


class Pair(NamedTuple):
    cert: str
    key: str


class Authority:
    """Signs what it is asked to; `ca_file` holds its own certificate."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _named("the authority of the tests")
        ca = x509.BasicConstraints(ca=True, path_length=0)
        cert = _builder(self._name, self._name, self._key.public_key()).add_extension(ca, critical=True)
        self.ca_file = str(folder / "ca.pem")
        Path(self.ca_file).write_bytes(_pem(cert.sign(self._key, hashes.SHA256())))

    def issue(self, name: str, *, alternative: bool = True, password: bytes = b"") -> Pair:
        """Issue a certificate for a host name or address; without `alternative` only the common name holds it."""
        key = ec.generate_private_key(ec.SECP256R1())
        builder = _builder(_named(name), self._name, key.public_key())
        if alternative:
            builder = builder.add_extension(x509.SubjectAlternativeName([_general(name)]), critical=False)
        pair = Pair(str(self._folder / f"{name}.pem"), str(self._folder / f"{name}{'.enc' * bool(password)}.key"))
        Path(pair.cert).write_bytes(_pem(builder.sign(self._key, hashes.SHA256())))
        how = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
        raw = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, how)
        Path(pair.key).write_bytes(raw)
        return pair

    def server(self, pair: Pair, *, ask_for_client: bool = False) -> ssl.SSLContext:
        """Return the context of a server that shows `pair`."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pair.cert, pair.key)
        if ask_for_client:
            context.load_verify_locations(self.ca_file)
            context.verify_mode = ssl.CERT_REQUIRED
        return context


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder(issuer, subject, key, x509.random_serial_number())
    return builder.not_valid_before(now - datetime.timedelta(hours=1)).not_valid_after(now + datetime.timedelta(days=2))


def _pem(cert: x509.Certificate) -> bytes:
    return cert.public_bytes(serialization.Encoding.PEM)
