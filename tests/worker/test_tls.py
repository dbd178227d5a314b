"""What the app is told of TLS. Files that cannot be used are shown in ``tests/real/test_tls.py``."""

import ssl

from hypothesis import given
from hypothesis import strategies as st

from clusterd.worker import tls

NAMES = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), min_size=1, max_size=20)


def test_a_distinguished_name_is_written_as_rfc_4514_does() -> None:
    told = {
        "subject": (
            (("countryName", "DE"),),
            (("organizationName", "Müller, Söhne"),),
            (("commonName", "#1 "), ("userId", "a+b")),
            (("emailAddress", 'x"@y'),),
        )
    }
    assert tls._distinguished_name(told) == 'emailAddress=x\\"@y,CN=\\#1\\ +UID=a\\+b,O=Müller\\, Söhne,C=DE'


@given(NAMES)
def test_no_name_can_pass_for_two(name: str) -> None:
    """What is behind an attribute's value is never found in it: every separator in it is escaped."""
    escaped = tls._escaped(name)
    bare = escaped.replace("\\\\", "").replace("\\,", "").replace("\\+", "").replace("\\;", "")
    assert not set(bare) & set(",+;")


@given(st.binary(max_size=200))
def test_the_first_certificate_is_found_or_is_none(noise: bytes) -> None:
    begin, end = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"
    noise = noise.replace(b"-----", b"")
    chain = noise + f"{begin}\none\n{end}\n{begin}\ntwo\n{end}\n".encode() + noise
    assert tls.first_certificate(chain) == f"{begin}\none\n{end}"
    assert tls.first_certificate(noise) is None


def test_the_suites_have_their_numbers() -> None:
    found = tls._suites(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
    assert found["TLS_AES_256_GCM_SHA384"] == 0x1302
