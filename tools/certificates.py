"""Make the certificates of a car's broker and its clients: a private authority, and one for each.

    python tools/certificates.py FOLDER --broker broker.car 10.0.0.2

FOLDER gets `ca.pem` with `ca-key.pem`, `broker.pem` with `broker-key.pem` for the names and
addresses by which clients reach the broker, and a certificate with its key for each role of
systemd/mosquitto/whodrives.acl. The common name of a client's certificate is its role: the broker
takes it for the user name. What is there already is kept, so that a role can be added later, or
made anew once its file is deleted. Keys are readable by their owner alone. Keep `ca-key.pem` away
from the car: whoever has it can be anybody.
"""

from __future__ import annotations

import argparse
import contextlib
import ipaddress
import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

ROLES = ("whodrives", "ecu", "gateway", "headunit", "monitor")
"""The users of systemd/mosquitto/whodrives.acl."""

CLOCK_SLACK = timedelta(days=1)
"""Certificates begin so long ago: a car's clock may be behind."""

DAYS = 825
AUTHORITY_DAYS = 3650


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate and its private key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    def write(self, folder: Path, name: str) -> None:
        """Write `<name>.pem`, and `<name>-key.pem` that its owner alone may read."""
        encoding, format_ = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
        key = self.key.private_bytes(encoding, format_, serialization.NoEncryption())
        with open(
            folder / f"{name}-key.pem", "wb", opener=lambda path, flags: os.open(path, flags, 0o600)
        ) as out:
            out.write(key)
        (folder / f"{name}.pem").write_bytes(self.certificate.public_bytes(encoding))


def read(folder: Path, name: str) -> Pair:
    """The pair that `Pair.write` wrote; raises OSError or ValueError."""
    certificate = x509.load_pem_x509_certificate((folder / f"{name}.pem").read_bytes())
    key = serialization.load_pem_private_key((folder / f"{name}-key.pem").read_bytes(), None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ValueError(f"{folder / name}-key.pem: not a key that this program made")  # noqa: TRY004
    return Pair(certificate, key)


def authority(now: datetime, name: str = "whodrives car CA") -> Pair:
    """A new certificate authority, which signs clients and brokers and no other authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    built = (
        _builder(name, key, now, AUTHORITY_DAYS)
        .issuer_name(_named(name))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .sign(key, hashes.SHA256())
    )
    return Pair(built, key)


def client(ca: Pair, role: str, now: datetime, days: int = DAYS) -> Pair:
    """A client's certificate; its common name is the role."""
    return _signed(ca, role, now, days, purpose=ExtendedKeyUsageOID.CLIENT_AUTH)


def broker(ca: Pair, hosts: Iterable[str], now: datetime, days: int = DAYS) -> Pair:
    """The broker's certificate, for the names and addresses by which clients reach it."""
    names = [_alternative(host) for host in hosts]
    purpose = ExtendedKeyUsageOID.SERVER_AUTH
    return _signed(ca, "broker", now, days, purpose=purpose, hosts=names)


def _signed(
    ca: Pair,
    name: str,
    now: datetime,
    days: int,
    *,
    purpose: x509.ObjectIdentifier,
    hosts: Iterable[x509.GeneralName] = (),
) -> Pair:
    key = ec.generate_private_key(ec.SECP256R1())
    ski = ca.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    built = (
        _builder(name, key, now, days)
        .issuer_name(ca.certificate.subject)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(ski), critical=False
        )
    )
    if hosts:
        built = built.add_extension(x509.SubjectAlternativeName(hosts), critical=False)
    return Pair(built.sign(ca.key, hashes.SHA256()), key)


def _builder(
    name: str, key: ec.EllipticCurvePrivateKey, now: datetime, days: int
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(_named(name))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SLACK)
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _alternative(host: str) -> x509.GeneralName:
    with contextlib.suppress(ValueError):
        return x509.IPAddress(ipaddress.ip_address(host))
    return x509.DNSName(host)


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def fill(folder: Path, hosts: Iterable[str], roles: Iterable[str], days: int) -> list[str]:
    """Make what the folder lacks; returns the names of what was made.

    Raises:
        OSError, ValueError: the folder cannot be written, or its authority cannot be read.
    """
    now = datetime.now(UTC)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    made = []
    if not (folder / "ca.pem").exists():
        authority(now).write(folder, "ca")
        made.append("ca")
    ca = read(folder, "ca")
    if not (folder / "broker.pem").exists():
        broker(ca, hosts, now, days).write(folder, "broker")
        made.append("broker")
    for role in roles:
        if not (folder / f"{role}.pem").exists():
            client(ca, role, now, days).write(folder, role)
            made.append(role)
    return made


def main(arguments: list[str] | None = None) -> None:
    """Fill the folder."""
    parser = argparse.ArgumentParser(description="Make the certificates of broker and clients.")
    parser.add_argument("folder", type=Path, help="where to write; made if it is not there")
    parser.add_argument(
        "--broker",
        nargs="+",
        default=["localhost", "127.0.0.1", "::1"],
        metavar="HOST",
        help="names and addresses by which clients reach the broker (this machine)",
    )
    parser.add_argument("--role", nargs="+", default=ROLES, help=f"clients ({' '.join(ROLES)})")
    parser.add_argument("--days", type=int, default=DAYS, help=f"they are good for ({DAYS})")
    options = parser.parse_args(arguments)
    try:
        made = fill(options.folder, options.broker, options.role, options.days)
    except (OSError, ValueError) as error:
        sys.exit(f"certificates: {error}")
    print(f"{options.folder}: made {', '.join(made) or 'nothing: all of it is there'}")


if __name__ == "__main__":
    main()
