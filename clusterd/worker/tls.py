"""TLS as a worker speaks it: from a listener's files to a context, and from a connection to what the app is told of it.

The context is made in the zygote, before workers are forked: they share its memory and its session ticket keys, so that
a client resumes its session with whichever worker it meets next.
"""

import ssl
from collections.abc import Mapping
from typing import Any, Final

from ..errors import HostError
from ..unix import memfile
from ..wire.tls import Material

ALPN: Final = ("http/1.1",)

#: Short names of the attributes of a distinguished name (RFC 4514 section 3); others are written by their long name.
_SHORT: Final = {
    "commonName": "CN",
    "localityName": "L",
    "stateOrProvinceName": "ST",
    "organizationName": "O",
    "organizationalUnitName": "OU",
    "countryName": "C",
    "streetAddress": "STREET",
    "domainComponent": "DC",
    "userId": "UID",
}

_VERSIONS: Final = {"TLSv1.2": 0x0303, "TLSv1.3": 0x0304}


def context(listener: str, material: Material) -> ssl.SSLContext:
    """The server's side: TLS 1.2 or later, HTTP/1.1, and clients' certificates required if there are authorities.

    Raises:
        HostError: one of the files is not what it should be: which, why, and what to do.
    """

    def wrong(key: str, why: str) -> HostError:
        return HostError(f"listener {listener}: tls.{key} {material.names.get(key, '')}: {why}")

    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    made.set_alpn_protocols(list(ALPN))
    if b"-----BEGIN" not in material.cert:
        raise wrong("cert", "this is no PEM file; a certificate in DER is made one by `openssl x509 -inform der`")
    if b"-----BEGIN" not in material.key:
        raise wrong("key", "this is no PEM file; a key in DER is made one by `openssl pkey -inform der`")

    def no_passphrase() -> str:
        raise wrong("key", "the key is encrypted, and nobody is there to ask; decrypt it, `openssl pkey`")

    try:
        with memfile.path_to("cert", material.cert) as cert, memfile.path_to("key", material.key) as key:
            made.load_cert_chain(cert, key, password=no_passphrase)
    except ssl.SSLError as error:
        raise _explained(error, wrong) from None
    if material.client_ca:
        try:
            with memfile.path_to("client_ca", material.client_ca) as authorities:
                made.load_verify_locations(authorities)
        except ssl.SSLError as error:
            raise wrong("client_ca", f"it holds no certificate that can be read ({_reason(error)})") from None
        made.verify_mode = ssl.CERT_REQUIRED
    return made


def _explained(error: ssl.SSLError, wrong: Any) -> HostError:
    """OpenSSL tells what is wrong with the pair, and not with which file: try to say it."""
    reason = _reason(error)
    if "KEY_VALUES_MISMATCH" in reason:
        why: HostError = wrong(
            "key", "it is not the key of the certificate in tls.cert; give those that belong together"
        )
    elif "NO_START_LINE" in reason or "PEM" in reason:
        why = wrong("cert", f"it and tls.key must hold a certificate and a private key in PEM ({reason})")
    else:
        why = wrong("cert", f"it cannot be used with tls.key ({reason})")
    return why


def _reason(error: ssl.SSLError) -> str:
    return error.reason or str(error)


def first_certificate(chain: bytes) -> str | None:
    """The server's own certificate: the first of the chain."""
    begin = chain.find(b"-----BEGIN CERTIFICATE-----")
    end = chain.find(b"-----END CERTIFICATE-----", begin)
    return None if begin < 0 or end < 0 else chain[begin : end + len(b"-----END CERTIFICATE-----")].decode("latin-1")


def extension(connection: ssl.SSLObject, certificate: str | None) -> dict[str, Any]:
    """What the app finds as ``scope["extensions"]["tls"]``.

    Source: the TLS extension of the ASGI specification, version 0.2.

    Args:
        connection: past its handshake.
        certificate: the server's own, PEM.
    """
    cipher = connection.cipher()
    name = "" if cipher is None else cipher[0]
    der = connection.getpeercert(binary_form=True)
    told = connection.getpeercert() if der else None
    return {
        "server_cert": certificate,
        "client_cert_chain": [ssl.DER_cert_to_PEM_cert(der)] if der else [],
        "client_cert_name": _distinguished_name(told) if told else None,
        "client_cert_error": None,
        "tls_version": _VERSIONS.get(connection.version() or ""),
        "cipher_suite": _suites(connection.context).get(name),
    }


def _suites(made: ssl.SSLContext) -> dict[str, int]:
    """The number that RFC 8446 appendix B.4 and its forerunners give each suite."""
    return {str(one["name"]): int(one["id"]) & 0xFFFF for one in made.get_ciphers()}


def _distinguished_name(told: Mapping[str, Any]) -> str:
    """The subject as RFC 4514 writes it: the most specific part first."""
    parts = []
    for group in reversed(told.get("subject", ())):
        parts.append("+".join(f"{_SHORT.get(key, key)}={_escaped(value)}" for key, value in group))
    return ",".join(parts)


def _escaped(value: str) -> str:
    """Section 2.4."""
    text = "".join(f"\\{char}" if char in '"+,;<>\\' else "\\00" if char == "\0" else char for char in value)
    if text[:1] in ("#", " "):
        text = f"\\{text}"
    if text.endswith(" ") and len(value) > 1:
        text = f"{text[:-1]}\\ "
    return text
