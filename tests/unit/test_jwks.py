"""The keys of an identity provider: what counts of a set, and when it is read again."""

import asyncio
from contextlib import asynccontextmanager

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from hypothesis import given, strategies as st
from jwt.algorithms import ECAlgorithm, HMACAlgorithm
from structlog.testing import capture_logs

from sfu import jwks
from sfu.auth import TokenAuthority
from sfu.errors import NotAuthenticated, Unavailable
from sfu.jwks import public_keys
from sfu.settings import Auth, SettingsError
from tests.support.identity_provider import KEYS, identity_provider, key_set, member, signed

SECRET = "a secret of more than thirty-two bytes"
ALL = frozenset(KEYS)
OTHER = ed25519.Ed25519PrivateKey.generate()


@pytest.fixture
async def provider():
    async with identity_provider() as its:
        yield its


@asynccontextmanager
async def authority(url, *algorithms, **settings):
    """Somebody who checks tokens by the keys at a URL, and no longer after this."""
    its = TokenAuthority(Auth(jwks_url=url, algorithms=algorithms or ("ES256",), **settings))
    await its.start()
    try:
        yield its
    finally:
        await its.close()


@pytest.fixture
def at_once(monkeypatch):
    """A key that nobody knows makes the set be read again each time."""
    monkeypatch.setattr(jwks, "LOOK_AGAIN_S", 0.0)


# What counts


@pytest.mark.parametrize("algorithm", list(KEYS))
@pytest.mark.parametrize("more", [{}, {"use": "sig"}, {"key_ops": ["verify"], "x5t": "abc"}])
async def test_a_key_of_each_kind_checks_tokens(provider, algorithm, more):
    provider.said = key_set(member(algorithm, "one", **more))
    async with authority(provider.url, *ALL) as its:
        assert (await its.check(signed(algorithm, "one"))).user_id == "alice"
        assert its.has_keys
        assert not its.can_mint


@pytest.mark.parametrize(
    "members",
    [
        [],
        [member("ES256", "one", use="enc")],
        [member("RS256", "one")],  # not configured
        [HMACAlgorithm.to_jwk(SECRET.encode(), as_dict=True) | {"kid": "one"}],
        [HMACAlgorithm.to_jwk(SECRET.encode(), as_dict=True) | {"kid": "one", "alg": "ES256"}],
        [member("ES256", "one", alg="ECDH-ES")],
        [member("ES256", 7)],
        [{"kty": "EC", "kid": "one"}],
        [{"kty": "EC", "crv": "P-256", "x": "!", "y": 7, "kid": "one"}],
        [None, 7, "one", [member("ES256", "one")]],
    ],
)
def test_what_is_no_key_of_ours_is_passed_over(members):
    with pytest.raises(ValueError, match="none of its keys is for ES256"):
        public_keys(key_set(*members), frozenset({"ES256"}))
    found = public_keys(key_set(*members, member("ES256", "two")), frozenset({"ES256"}))
    assert list(found) == [("ES256", "two")]


@pytest.mark.parametrize("said", [b"", b"null", b"[]", b"{}", b'{"keys": {}}', b"\xff", b"<html>"])
def test_what_is_no_set_is_said_to_be_none(said):
    with pytest.raises(ValueError):
        public_keys(said, ALL)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
FIELDS = st.sampled_from(
    ["kty", "crv", "x", "y", "n", "e", "d", "p", "q", "alg", "use", "kid", "k", "key_ops"]
)


@given(changes=st.dictionaries(FIELDS, JSON, max_size=4), algorithm=st.sampled_from(sorted(ALL)))
def test_whatever_a_member_holds_the_others_count(changes, algorithm):
    broken = member(algorithm, "broken") | changes
    assert ("ES256", "good") in public_keys(key_set(broken, member("ES256", "good")), ALL)


async def test_of_a_private_key_only_its_public_half_is_kept():
    shown = ECAlgorithm.to_jwk(KEYS["ES256"], as_dict=True) | {"kid": "one"}
    (key,) = public_keys(key_set(shown), ALL).values()
    assert isinstance(key, ec.EllipticCurvePublicKey)


# Whose token holds


async def test_a_token_is_checked_by_the_key_that_it_names(provider):
    provider.said = key_set(member("EdDSA", "one"), member("EdDSA", "two", OTHER))
    async with authority(provider.url, "EdDSA") as its:
        assert (await its.check(signed("EdDSA", "two", OTHER))).user_id == "alice"
        for wrong in (signed("EdDSA", "one", OTHER), signed("EdDSA", "three"), signed("EdDSA", None)):
            with pytest.raises(NotAuthenticated):
                await its.check(wrong)


async def test_without_a_name_the_only_key_of_its_kind_counts(provider):
    provider.said = key_set(member("ES256", "one"), member("EdDSA", "two"))
    async with authority(provider.url, *ALL) as its:
        assert (await its.check(signed("EdDSA", None))).user_id == "alice"
        with pytest.raises(NotAuthenticated):
            await its.check(signed("EdDSA", None, OTHER))


async def test_a_secret_holds_beside_the_provider_and_its_keys_are_no_secrets(provider):
    async with authority(provider.url, "HS256", "ES256", secret=SECRET) as its:
        assert (await its.check(its.mint("bob"))).user_id == "bob"
        assert (await its.check(signed("ES256", "one"))).user_id == "alice"
        shown = member("ES256", "one")
        for secret in (shown["x"], shown["x"] + shown["y"], "one"):
            with pytest.raises(NotAuthenticated):
                await its.check(signed("HS256", "one", secret.ljust(32)))


# When it is read


async def test_a_key_that_is_new_is_asked_for_once_and_an_old_one_holds_no_more(provider, at_once):
    async with authority(provider.url) as its:
        old, new = signed("ES256", "one"), signed("ES256", "two")
        assert (await its.check(old)).user_id == "alice"
        provider.said = key_set(member("ES256", "two"))
        found = await asyncio.gather(*(its.check(new) for _ in range(20)))
        assert {identity.user_id for identity in found} == {"alice"}
        assert provider.asked == 2
        with pytest.raises(NotAuthenticated):
            await its.check(old)


async def test_forged_names_do_not_make_it_ask_without_end(provider):
    async with authority(provider.url) as its:
        forged = [signed("ES256", f"name{number}") for number in range(50)]
        told = await asyncio.gather(*(its.check(each) for each in forged), return_exceptions=True)
        assert {type(error).__mro__[1] for error in told} == {NotAuthenticated}
        assert provider.asked == 1


async def test_it_is_read_again_by_itself(provider, monkeypatch):
    monkeypatch.setattr(jwks, "READ_S", 0.01)
    async with authority(provider.url) as its:
        provider.said = key_set(member("ES256", "two"))
        async with asyncio.timeout(5):
            while provider.asked < 3:
                await asyncio.sleep(0.01)
        assert its.verify(signed("ES256", "two")).user_id == "alice"


@pytest.mark.parametrize(
    ("status", "said"),
    [(500, b""), (404, b"{}"), (200, b"<html>"), (200, b"[" * 100_000), (200, b" " * 300_000), (302, b"")],
)
async def test_while_it_says_nothing_of_use_what_it_said_before_holds(provider, at_once, status, said):
    async with authority(provider.url) as its:
        provider.status, provider.said = status, said
        provider.headers = {"Location": "/other"} if status == 302 else {}
        with capture_logs() as logged, pytest.raises(NotAuthenticated):
            await its.check(signed("ES256", "two"))
        assert [entry["event"] for entry in logged] == ["keys_not_read"]
        assert (await its.check(signed("ES256", "one"))).user_id == "alice"
        assert its.has_keys


async def test_as_long_as_it_was_never_read_a_client_is_told_to_come_again(provider, at_once, monkeypatch):
    provider.answers.clear()
    monkeypatch.setattr(jwks, "TIMEOUT_S", 0.05)
    async with authority(provider.url) as its:
        assert not its.has_keys
        with pytest.raises(Unavailable) as told:
            await its.check(signed("ES256", "one"))
        assert told.value.code == "keys_away"
        provider.answers.set()
        monkeypatch.setattr(jwks, "TIMEOUT_S", 5.0)
        assert (await its.check(signed("ES256", "one"))).user_id == "alice"
        assert its.has_keys


# Settings


@pytest.mark.parametrize(
    "url", ["keys", "ftp://host/keys", "https://", "http://host:0/", "https://[::1", "//h"]
)
def test_what_is_no_address_is_refused(url):
    with pytest.raises(SettingsError, match=r"auth\.jwks_url"):
        TokenAuthority(Auth(jwks_url=url, algorithms=["ES256"]))


def test_it_is_said_what_the_keys_are_for_and_one_place_of_keys_is_enough():
    for more in ({"secret": SECRET}, {"algorithms": ["ES256"], "public_key_file": "key.pem"}):
        with pytest.raises(SettingsError, match=r"auth\.jwks_url"):
            TokenAuthority(Auth(jwks_url="https://host/keys", **more))
