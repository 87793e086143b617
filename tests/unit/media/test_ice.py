"""The answering half of ICE: only who knows the password is heard."""

import pytest
from aioice import stun
from hypothesis import given, settings, strategies as st

from sfu.media.ice import MAX_VALIDATED_PATHS, SELECTED_SILENT_S, Check, Credentials, IceLite, parse_check


def request(
    credentials: Credentials, remote: str = "them", *, nominates: bool = False, password: str | None = None
) -> bytes:
    """A connectivity check as aioice and browsers send it."""
    message = stun.Message(stun.Method.BINDING, stun.Class.REQUEST)
    message.attributes["USERNAME"] = f"{credentials.ufrag}:{remote}"
    message.attributes["PRIORITY"] = 1
    message.attributes["ICE-CONTROLLING"] = 7
    if nominates:
        message.attributes["USE-CANDIDATE"] = None
    message.add_message_integrity((password or credentials.password).encode())
    return bytes(message)


def check(ice: IceLite[str], *, nominates: bool = False, remote: str = "") -> Check:
    found = parse_check(request(ice.credentials, remote or ice.remote_ufrag, nominates=nominates))
    assert found is not None
    return found


def begun(remote: str = "them") -> IceLite[str]:
    ice: IceLite[str] = IceLite()
    assert ice.begin(remote)
    return ice


def test_a_check_is_read():
    """Both ufrags, and whether it nominates."""
    ours = Credentials()
    found = parse_check(request(ours, "them", nominates=True))
    assert (found.local_ufrag, found.remote_ufrag, found.nominates) == (ours.ufrag, "them", True)
    assert not parse_check(request(ours)).nominates


def test_the_response_tells_the_client_its_address():
    """Signed with our password, for the same transaction."""
    ours = Credentials()
    found = parse_check(request(ours))
    for address in (("192.0.2.7", 4711), ("2001:db8::7", 4711)):
        answer = stun.parse_message(found.response(address, ours.password))
        assert answer.message_class == stun.Class.RESPONSE
        assert answer.transaction_id == found.message.transaction_id
        assert answer.attributes["XOR-MAPPED-ADDRESS"] == address
        assert answer.check_message_integrity(ours.password.encode())


@given(
    st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)).filter(
        lambda ip: getattr(ip, "ipv4_mapped", None) is None and getattr(ip, "scope_id", None) is None
    ),
    st.integers(0, 65535),
    st.binary(min_size=12, max_size=12),
)
def test_the_response_is_what_aioice_writes(ip, port, transaction):
    """To the last byte, whatever the address: the mask of IPv6 is of the transaction."""
    password = "secret of one generation"
    message = stun.Message(stun.Method.BINDING, stun.Class.REQUEST, transaction)
    expected = stun.Message(stun.Method.BINDING, stun.Class.RESPONSE, transaction)
    expected.attributes["XOR-MAPPED-ADDRESS"] = (str(ip), port)
    expected.add_message_integrity(password.encode())
    assert Check("us", "them", False, message).response((str(ip), port), password) == bytes(expected)


def variant(**changes: object) -> bytes:
    """A check that is wrong in one way."""
    message = stun.Message(
        changes.get("method", stun.Method.BINDING), changes.get("cls", stun.Class.REQUEST), bytes(12)
    )
    if changes.get("username", "a:b") is not None:
        message.attributes["USERNAME"] = changes.get("username", "a:b")
    if changes.get("integrity", True):
        message.add_message_integrity(b"password")
    return bytes(message)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x00",
        b"\x00\x01" + bytes(17),
        bytes(65507),
        b"\x00\x01" + bytes(65505),
        variant(username=None),
        variant(username="no separator"),
        variant(integrity=False),
        variant(cls=stun.Class.INDICATION),
        variant(cls=stun.Class.RESPONSE),
        variant(method=stun.Method.ALLOCATE),
        variant()[:-1],
        variant()[:-4] + b"\0\0\0\0",
        variant(username="a:" + "x" * 600),
    ],
)
def test_what_is_no_check_is_none(data):
    """Short, long, of another kind, unsigned, or cut."""
    assert parse_check(data) is None


@settings(max_examples=300)
@given(
    st.one_of(
        st.binary(max_size=600),
        st.binary(max_size=500).map(
            lambda b: b"\x00\x01" + len(b).to_bytes(2, "big") + b"\x21\x12\xa4\x42" + bytes(12) + b
        ),
        st.lists(
            st.tuples(
                st.sampled_from((0x01, 0x06, 0x08, 0x09, 0x0C, 0x20, 0x24, 0x25, 0x8028, 0x802A, 0x7777)),
                st.binary(max_size=24),
            ),
            max_size=6,
        ).map(
            lambda attributes: (
                lambda body: (
                    b"\x00\x01" + len(body).to_bytes(2, "big") + b"\x21\x12\xa4\x42" + bytes(12) + body
                )
            )(
                b"".join(
                    kind.to_bytes(2, "big") + len(value).to_bytes(2, "big") + value + bytes(-len(value) % 4)
                    for kind, value in attributes
                )
            )
        ),
    )
)
def test_any_bytes_are_a_check_or_none(data):
    """Nothing is raised, and nothing of it is authentic."""
    found = parse_check(data)
    if found is not None:
        assert begun().password_for(found) is None
        assert not found.verify("password")


def test_what_stands_behind_the_integrity_does_not_count():
    """A nomination that nobody signed is none (RFC 8489 section 14.5)."""
    ours = Credentials()
    message = stun.Message(stun.Method.BINDING, stun.Class.REQUEST)
    message.attributes["USERNAME"] = f"{ours.ufrag}:them"
    message.add_message_integrity(ours.password.encode())
    del message.attributes["FINGERPRINT"]
    message.attributes["USE-CANDIDATE"] = None
    found = parse_check(bytes(message))
    assert found.verify(ours.password)
    assert not found.nominates


def test_only_the_password_makes_a_check_authentic():
    """With the right ufrags of both sides."""
    ice = begun()
    ours = ice.credentials
    assert ice.password_for(check(ice)) == ours.password
    for data in (
        request(ours, password="guessed"),
        request(ours, "somebody"),
        request(Credentials(password=ours.password)),
    ):
        assert ice.password_for(parse_check(data)) is None


def test_credentials_are_long_enough_and_never_shown():
    """RFC 8445 section 5.3 asks for 24 bits and 128; a log never has the password."""
    ours, other = Credentials(), Credentials()
    assert len(ours.ufrag) >= 4
    assert len(ours.password) >= 22
    assert (ours.ufrag, ours.password) != (other.ufrag, other.password)
    assert ours.password not in repr(ours)


def test_the_first_path_is_selected():
    """Before anything is nominated; a second one is only validated."""
    ice = begun()
    assert ice.selected is None
    assert ice.checked(check(ice), "wifi", 1.0) == []
    assert (ice.selected, ice.heard_at) == ("wifi", 1.0)
    ice.checked(check(ice), "mobile", 2.0)
    assert ice.selected == "wifi"
    assert set(ice.validated) == {"wifi", "mobile"}


def test_a_nomination_moves_the_peer():
    """At once."""
    ice = begun()
    ice.checked(check(ice), "wifi", 1.0)
    ice.checked(check(ice, nominates=True), "mobile", 1.1)
    assert ice.selected == "mobile"


def test_a_silent_path_gives_way_to_one_that_speaks():
    """A NAT that rebinds tells nobody; media on the selected path keeps it."""
    ice = begun()
    ice.checked(check(ice), "wifi", 1.0)
    ice.heard_at = 2.0
    ice.checked(check(ice), "mobile", 2.0 + SELECTED_SILENT_S)
    assert ice.selected == "wifi"
    ice.checked(check(ice), "mobile", 2.1 + SELECTED_SILENT_S)
    assert ice.selected == "mobile"


def test_the_path_heard_longest_ago_gives_way():
    """When there are too many; the selected one never does."""
    ice = begun()
    ice.checked(check(ice), "0", 0.0)
    for number in range(1, MAX_VALIDATED_PATHS):
        ice.heard_at = float(number)
        assert ice.checked(check(ice), str(number), float(number)) == []
    ice.heard_at = 100.0
    assert ice.checked(check(ice), "new", 100.0) == ["1"]
    assert ice.selected == "0"
    assert len(ice.validated) == MAX_VALIDATED_PATHS


def test_a_restart_keeps_the_old_credentials_until_the_new_are_used():
    """So that media does not stop in between (RFC 8445 section 9)."""
    ice = begun("first")
    assert not ice.begin("first")
    old_check, old = check(ice), ice.credentials
    assert ice.begin("second")
    assert ice.remote_ufrag == "second"
    assert ice.ufrags == [old.ufrag, ice.credentials.ufrag]
    assert ice.password_for(old_check) == old.password
    ice.checked(old_check, "wifi", 1.0)
    assert len(ice.ufrags) == 2
    ice.checked(check(ice), "wifi", 2.0)
    assert ice.ufrags == [ice.credentials.ufrag]
    assert ice.password_for(old_check) is None


def test_two_restarts_leave_the_last_two_generations():
    """An offer that was never used does not pile up."""
    ice = begun("first")
    for name in ("second", "third", "fourth"):
        ice.begin(name)
    assert len(ice.ufrags) == 2


def test_before_the_first_generation_nobody_is_known():
    """There is no remote ufrag and no password for any check."""
    ice: IceLite[str] = IceLite()
    assert (ice.remote_ufrag, ice.ufrags) == ("", [])
    assert ice.password_for(parse_check(request(Credentials()))) is None


def test_a_forgotten_path_is_replaced_by_the_newest():
    """Or by none."""
    ice = begun()
    for at, path in enumerate(("tcp", "wifi", "mobile")):
        ice.heard_at = float(at)
        ice.checked(check(ice), path, float(at))
    ice.forget("wifi")
    assert ice.selected == "tcp"
    ice.forget("tcp")
    assert ice.selected == "mobile"
    ice.forget("mobile")
    ice.forget("unknown")
    assert ice.selected is None
