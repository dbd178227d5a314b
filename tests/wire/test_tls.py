"""Certificates and keys on their way to a zygote."""

from hypothesis import given
from hypothesis import strategies as st

from clusterd.wire.tls import Material, pack, unpack

MATERIALS = st.builds(
    Material,
    cert=st.binary(max_size=300),
    key=st.binary(max_size=300),
    client_ca=st.binary(max_size=300),
    names=st.dictionaries(st.sampled_from(["cert", "key", "client_ca"]), st.text(max_size=20)),
)


@given(st.dictionaries(st.text(max_size=10), MATERIALS, max_size=3))
def test_what_is_packed_is_what_comes_out(materials: dict[str, Material]) -> None:
    assert unpack(pack(materials)) == materials


def test_a_key_is_not_shown() -> None:
    assert "secret" not in repr(Material(b"c", b"secret", b"", {"key": "/etc/key.pem"}))
