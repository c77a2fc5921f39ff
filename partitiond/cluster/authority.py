"""Issues the certificates of a fleet's hosts, as its small authority.

The authority is a key and a certificate in the head's state folder. The key is made there, is
readable by the daemon's user alone, and is in no bundle and no backup. A head that is restored
elsewhere makes another authority, and each host needs a new bundle from it.
"""

import ipaddress
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final

from partitiond.cluster.certificates import (
    CA_FILE,
    KEY_FILE,
    HostFiles,
    is_address,
)
from partitiond.cluster.private_files import make_private, refuse_open, write_private, writing
from partitiond.core.errors import InputError, SettingsError

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec

FOLDER: Final = "cluster-ca"
"""Name of the authority's folder in the head's state folder."""
AUTHORITY_DAYS: Final = 3650
"""Days an authority is valid. Chosen: replacing it means a new bundle for each host at once, so it
outlives the machines."""
HOST_DAYS: Final = 400
"""Days a host's certificate is valid. Chosen: a year, and a month to be late in. No shorter: Ray
reads a new certificate only when it starts, and nothing renews one by itself. No longer: nothing
takes back the certificate of a host that was stolen."""
VALID_FROM: Final = datetime(2020, 1, 1, tzinfo=UTC)
"""Chosen: clocks of hosts differ before anybody has set them, and a certificate that was made while
this one's was ahead has to be good once it is right."""


def ensure_authority(folder: Path, now: datetime) -> None:
    """Make the authority's key and certificate if there are none.

    Args:
        folder: of the authority, in the head's state folder.
        now: with a time zone.

    Raises:
        SettingsError: the package `cryptography` is missing, the folder cannot be written, one of
            the two files is missing, or others may read the key.
    """
    key_path, certificate_path = folder / KEY_FILE, folder / CA_FILE
    there = [path for path in (key_path, certificate_path) if path.exists()]
    if len(there) == 1:
        raise SettingsError(
            f"{folder} has {there[0].name} alone, and the fleet's authority is two files.",
            hint=f"Put {KEY_FILE} and {CA_FILE} back, or remove {folder} and the head's "
            "cluster-tls: then a new authority is made, and each host needs a new bundle.",
            facts={"folder": str(folder)},
        )
    if there:
        remedy = (
            "remove the folder, cluster-tls and cluster-token of the head, restart Ray and daemon, "
            "and give each host a new bundle"
        )
        mode = key_path.stat().st_mode
        refuse_open(key_path, mode, "the key of the fleet's authority", remedy)
        return
    key, certificate = _new_authority(now)
    hint = "Run it as the daemon's user, who owns the state folder."
    with writing("the fleet's authority", folder, hint):
        make_private(folder)
        write_private(key_path, _key_text(key))
        try:
            write_private(certificate_path, _certificate_text(certificate))
        except OSError:  # one file alone would be refused for ever
            key_path.unlink(missing_ok=True)
            raise


def issue(folder: Path, host: str, addresses: Sequence[str], now: datetime) -> HostFiles:
    """Return a new key and certificate of a host, with the authority's certificate.

    The certificate is for both ends of a connection, because each host of Ray is a server and a
    client of the others.

    Args:
        folder: of the authority; see `ensure_authority`.
        addresses: IP addresses or host names at which the others reach the host, one at least. Ray
            checks the address that it connects to, which is an IP address.
        now: with a time zone.

    Raises:
        InputError: an address is none.
        SettingsError: the package `cryptography` is missing, or the authority cannot be read.
    """
    _require_cryptography()
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    authority_key, authority = _read_authority(folder)
    key = ec.generate_private_key(ec.SECP256R1())
    both = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)]))
        .issuer_name(authority.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(min(VALID_FROM, now))
        .not_valid_after(min(now + timedelta(days=HOST_DAYS), authority.not_valid_after_utc))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(both), critical=False)
        .add_extension(x509.SubjectAlternativeName(_names(host, addresses)), critical=False)
        .add_extension(_issuer_key(authority), critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    return HostFiles(
        ca=_certificate_text(authority),
        certificate=_certificate_text(certificate),
        key=_key_text(key),
    )


def _names(host: str, addresses: Sequence[str]) -> "list[x509.GeneralName]":
    """Return the names of a certificate. Raises InputError."""
    from cryptography import x509

    found: list[x509.GeneralName] = []
    for name in dict.fromkeys((host, *addresses)):
        try:
            found.append(
                x509.IPAddress(ipaddress.ip_address(name))
                if is_address(name)
                else x509.DNSName(name)
            )
        except ValueError as error:
            raise InputError(
                f"{name!r} is neither a host name nor an address.",
                hint="Write an address at which the other hosts reach it, as 10.0.0.5.",
            ) from error
    return found


def _new_authority(now: datetime) -> "tuple[ec.EllipticCurvePrivateKey, x509.Certificate]":
    _require_cryptography()
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    serial = x509.random_serial_number()
    # The number in the name tells two authorities apart, also for programs that go by names.
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"partitiond fleet {serial:x}"[:40])])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(serial)
        .not_valid_before(min(VALID_FROM, now))
        .not_valid_after(now + timedelta(days=AUTHORITY_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return key, certificate


def _usage(*, signs_certificates: bool) -> "x509.KeyUsage":
    from cryptography import x509

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


def _issuer_key(authority: "x509.Certificate") -> "x509.AuthorityKeyIdentifier":
    from cryptography import x509

    own = authority.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own)


def _read_authority(folder: Path) -> "tuple[ec.EllipticCurvePrivateKey, x509.Certificate]":
    """Read the authority's files. Raises SettingsError."""
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    try:
        key = serialization.load_pem_private_key((folder / KEY_FILE).read_bytes(), password=None)
        certificate = x509.load_pem_x509_certificate((folder / CA_FILE).read_bytes())
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise TypeError("the key is of another kind")
        if key.public_key() != certificate.public_key():
            raise ValueError("the key and the certificate do not belong together")
        certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
    except (OSError, ValueError, TypeError, x509.ExtensionNotFound) as error:
        raise SettingsError(
            f"the fleet's authority in {folder} cannot be read: {error}.",
            hint=f"Put {KEY_FILE} and {CA_FILE} back, or remove {folder} and the head's "
            "cluster-tls: then a new authority is made, and each host needs a new bundle.",
            facts={"folder": str(folder)},
        ) from error
    return key, certificate


def _key_text(key: "ec.EllipticCurvePrivateKey") -> str:
    from cryptography.hazmat.primitives import serialization

    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    ).decode("ascii")


def _certificate_text(certificate: "x509.Certificate") -> str:
    from cryptography.hazmat.primitives import serialization

    return certificate.public_bytes(serialization.Encoding.PEM).decode("ascii")


def _require_cryptography() -> None:
    """Raise SettingsError if certificates cannot be made here."""
    try:
        import cryptography  # noqa: F401
    except ImportError as error:
        raise SettingsError(
            "certificates are made with the Python package cryptography, which is not installed.",
            hint="Install partitiond[cluster] on the head, or bring your own certificates: "
            "cluster.tls_dir.",
        ) from error
