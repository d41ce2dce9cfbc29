"""Keys and certificates of a local cluster.

Two authorities: the cluster's signs servers and identities, etcd's own signs only etcd and its one
client. With one authority for both, every identity (also the node's) could read all of etcd.
``ensure`` runs at each ``up`` and replaces what is missing or about to expire.
"""

import os
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

LIFETIME = timedelta(days=365)
AUTHORITY_LIFETIME = timedelta(days=3650)
RENEW_BEFORE = timedelta(days=60)
LOCAL_HOSTS = ("127.0.0.1", "localhost")
CLUSTER_HOSTS = (
    *LOCAL_HOSTS,
    "10.96.0.1",
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
    "kubernetes.default.svc.cluster.local",
)
KUBELET_HOSTS = ("10.199.0.1", "containerd-node")


@dataclass(frozen=True)
class Identity:
    """What a certificate says: a user and its groups, or the hosts of a server."""

    name: str
    common_name: str
    groups: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()


IDENTITIES = (
    Identity("kube-apiserver", "kube-apiserver", hosts=CLUSTER_HOSTS),
    Identity("serving", "localhost", hosts=LOCAL_HOSTS),
    Identity("apiserver-kubelet-client", "kube-apiserver-kubelet-client", ("system:masters",)),
    Identity("admin", "kubetune-admin", ("system:masters",)),
    Identity("operator", "kubetune-operator"),
    Identity("kube-controller-manager", "system:kube-controller-manager"),
    Identity("kube-scheduler", "system:kube-scheduler"),
    Identity("node", "system:node:process-node", ("system:nodes",)),
    Identity("kubelet", "system:node:containerd-node", ("system:nodes",), KUBELET_HOSTS),
    Identity("dns", "kubetune-dns"),
)
ETCD_IDENTITIES = (
    Identity("etcd", "etcd", hosts=LOCAL_HOSTS),
    Identity("etcd-client", "kube-apiserver"),
)


def ensure(folder: Path) -> None:
    """Make all keys and certificates below ``folder``, keeping those that are still good."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for authority, identities in (("ca", IDENTITIES), ("etcd-ca", ETCD_IDENTITIES)):
        renewed = not _usable(folder, authority, issuer=authority)
        if renewed:
            _issue(folder, Identity(authority, f"kubetune-local-{authority}"), issuer=authority)
        for identity in identities:
            if renewed or not _usable(folder, identity.name, issuer=authority):
                _issue(folder, identity, issuer=authority)
    if not (folder / "service-account.key").exists():
        _write_key(folder / "service-account.key", ec.generate_private_key(ec.SECP256R1()))


def _usable(folder: Path, name: str, issuer: str) -> bool:
    try:
        certificate = _certificate(folder, name)
        certificate.verify_directly_issued_by(_certificate(folder, issuer))
        complete = (folder / f"{name}.key").exists()
    except Exception:  # missing, damaged or of another authority: all cured by issuing it again
        return False
    return complete and certificate.not_valid_after_utc - datetime.now(UTC) > RENEW_BEFORE


def _certificate(folder: Path, name: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate((folder / f"{name}.crt").read_bytes())


def _issue(folder: Path, identity: Identity, issuer: str) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    is_authority = identity.name == issuer
    subject = x509.Name(
        [x509.NameAttribute(NameOID.ORGANIZATION_NAME, group) for group in identity.groups]
        + [x509.NameAttribute(NameOID.COMMON_NAME, identity.common_name)]
    )
    if is_authority:
        issuer_name, issuer_key = subject, key
    else:
        issuer_name, issuer_key = _certificate(folder, issuer).subject, _key(folder, issuer)
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer_name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + (AUTHORITY_LIFETIME if is_authority else LIFETIME))
        .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
        .add_extension(_key_usage(is_authority), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()),
            critical=False,
        )
    )
    if not is_authority:
        # etcd's server also acts as a client of itself (its gateway), so servers get both.
        usages = [ExtendedKeyUsageOID.CLIENT_AUTH]
        if identity.hosts:
            usages.append(ExtendedKeyUsageOID.SERVER_AUTH)
            names = x509.SubjectAlternativeName([_host(host) for host in identity.hosts])
            builder = builder.add_extension(names, critical=False)
        builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
    certificate = builder.sign(issuer_key, hashes.SHA256())
    _write_key(folder / f"{identity.name}.key", key)
    _write(folder / f"{identity.name}.crt", certificate.public_bytes(serialization.Encoding.PEM))


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _key_usage(is_authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=is_authority,
        crl_sign=is_authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _key(folder: Path, name: str) -> ec.EllipticCurvePrivateKey:
    key = serialization.load_pem_private_key((folder / f"{name}.key").read_bytes(), password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise TypeError(f"{folder / name}.key is not an elliptic curve key; delete it")
    return key


def _write_key(path: Path, key: ec.EllipticCurvePrivateKey) -> None:
    _write(
        path,
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.TraditionalOpenSSL,
            serialization.NoEncryption(),
        ),
    )


def _write(path: Path, data: bytes) -> None:
    """Replace a file at once and for the owner only: a server may be reading the old one."""
    temporary = path.with_name(f".{path.name}.new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
    temporary.replace(path)
