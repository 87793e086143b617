"""Tokens: those that hold, and every forgery that we could think of."""

import base64
import hashlib
import hmac
import json
import warnings

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from sfu import clock
from sfu.auth import MAX_TOKEN_BYTES, Grants, TokenAuthority, mint
from sfu.errors import NotAuthenticated
from sfu.settings import MIN_SECRET_BYTES, Auth, SettingsError

SECRET = "a secret of more than thirty-two bytes"
OTHER_SECRET = "another secret of more than thirty-two bytes"

KEYS = {
    "RS256": rsa.generate_private_key(public_exponent=65537, key_size=2048),
    "ES256": ec.generate_private_key(ec.SECP256R1()),
    "EdDSA": ed25519.Ed25519PrivateKey.generate(),
}


def pem(private):
    return private.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def now():
    return int(clock.unix_seconds())


def claims(**changes):
    """Good claims with changes; None takes one away."""
    all_ = {"sub": "alice", "name": "Alice", "aud": "sfu", "exp": now() + 60, **changes}
    return {key: value for key, value in all_.items() if value is not None}


def part(value):
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def forge(header, body=None, *, secret=SECRET, signature=None):
    """A token put together by hand: any header over any body, with a right HMAC unless another is given."""
    signed = f"{part(header)}.{part(claims() if body is None else body)}"
    if signature is None:
        signature = hmac.new(
            secret if isinstance(secret, bytes) else secret.encode(), signed.encode(), hashlib.sha256
        ).digest()
    return f"{signed}.{part(signature)}"


HS = {"alg": "HS256", "typ": "JWT"}


@pytest.fixture
def authority():
    return TokenAuthority(Auth(secret=SECRET, leeway_s=0))


@pytest.fixture
def key_file(tmp_path):
    def write(algorithm):
        path = tmp_path / f"{algorithm}.pem"
        path.write_bytes(pem(KEYS[algorithm]))
        return str(path)

    return write


def test_a_token_put_together_by_hand_holds_so_that_the_forgeries_fail_for_their_own_reason(authority):
    identity = authority.verify(forge(HS))
    assert (identity.user_id, identity.name, identity.grants) == ("alice", "Alice", Grants())


def with_claims(**changes):
    return lambda: forge(HS, claims(**changes))


FORGERIES = {
    "nothing": lambda: "",
    "one part": lambda: "abc",
    "two parts": lambda: "abc.def",
    "only dots": lambda: "..",
    "four parts": lambda: forge(HS) + ".more",
    "five parts, as a JWE": lambda: ".".join(
        [part({"alg": "dir", "enc": "A256GCM"}), "", "aXY", "Y3Q", "dGFn"]
    ),
    "garbage base64": lambda: "!!!.???.***",
    "a header that is no JSON": lambda: forge(b"alg: HS256"),
    "a header that is a list": lambda: forge([HS]),
    "a header nested too deep": lambda: forge(b"[" * 5000),
    "claims that are no JSON": lambda: forge(HS, b"sub=alice"),
    "claims that are a list": lambda: forge(HS, [claims()]),
    "claims nested too deep": lambda: forge(HS, b"[" * 5000),
    "letters beyond ASCII": lambda: "é" + forge(HS),
    "half a surrogate pair": lambda: "\ud800" + forge(HS),
    "a NUL": lambda: forge(HS) + "\0",
    "a huge token": lambda: forge(HS, claims(padding="x" * MAX_TOKEN_BYTES)),
    "alg none": lambda: forge({"alg": "none"}, signature=b""),
    "alg None": lambda: forge({"alg": "None"}, signature=b""),
    "alg nOnE": lambda: forge({"alg": "nOnE"}, signature=b""),
    "alg none with a right HMAC": lambda: forge({"alg": "none"}),
    "alg empty": lambda: forge({"alg": ""}),
    "alg null": lambda: forge({"alg": None}),
    "alg missing": lambda: forge({"typ": "JWT"}),
    "alg a list": lambda: forge({"alg": ["HS256"]}),
    "alg a number": lambda: forge({"alg": 256}),
    "alg in small letters": lambda: forge({"alg": "hs256"}),
    "alg HS512, which is not configured": lambda: jwt.encode(claims(), SECRET * 2, algorithm="HS512"),
    "alg RS256, which is not configured": lambda: jwt.encode(claims(), KEYS["RS256"], algorithm="RS256"),
    "an empty secret": lambda: forge(HS, secret=""),
    "a weak secret": lambda: forge(HS, secret="secret"),
    "another secret": lambda: forge(HS, secret=OTHER_SECRET),
    "the secret without its last letter": lambda: forge(HS, secret=SECRET[:-1]),
    "no signature": lambda: forge(HS, signature=b""),
    "half a signature": lambda: forge(HS)[:-20],
    "claims changed after signing": lambda: ".".join(
        [forge(HS).split(".")[0], part(claims(sub="admin")), forge(HS).split(".")[2]]
    ),
    "a jwk in the header": lambda: forge(
        {**HS, "jwk": {"kty": "oct", "k": part(OTHER_SECRET.encode())}}, secret=OTHER_SECRET
    ),
    "a jku in the header": lambda: forge({**HS, "jku": "https://evil.example/jwks"}, secret=OTHER_SECRET),
    "an x5u in the header": lambda: forge({**HS, "x5u": "https://evil.example/x5u"}, secret=OTHER_SECRET),
    "a kid that is a path": lambda: forge({**HS, "kid": "/dev/null"}, secret=""),
    "a kid that is SQL": lambda: forge({**HS, "kid": "' UNION SELECT 'k"}, secret="k"),
    "a kid that is no text": lambda: forge({**HS, "kid": 7}),
    "an unknown crit": lambda: forge({**HS, "crit": ["exp-policy"], "exp-policy": 1}),
    "an empty crit": lambda: forge({**HS, "crit": []}),
    "a detached payload": lambda: forge({**HS, "b64": False, "crit": ["b64"]}),
    "expired": with_claims(exp=now() - 1),
    "expired in 1970": with_claims(exp=0),
    "exp in the past, iat in the future": with_claims(exp=now() - 1, iat=now() + 60),
    "not valid yet": with_claims(nbf=now() + 3600),
    "issued in the future": with_claims(iat=now() + 3600),
    "no exp": with_claims(exp=None),
    "no sub": with_claims(sub=None),
    "no aud": with_claims(aud=None),
    "no claims": lambda: forge(HS, {}),
    "exp that is no number": with_claims(exp="soon"),
    "exp that is a list": with_claims(exp=[now() + 60]),
    "exp that is NaN": with_claims(exp=float("nan")),
    "exp that is infinite": with_claims(exp=float("inf")),
    "nbf that is infinite": with_claims(nbf=float("inf")),
    "another aud": with_claims(aud="other"),
    "an aud that only begins right": with_claims(aud="sfu2"),
    "an aud array without ours": with_claims(aud=["other", "more"]),
    "an empty aud array": with_claims(aud=[]),
    "an aud array with a number": with_claims(aud=["sfu", 7]),
    "an aud that is an object": with_claims(aud={"sfu": True}),
    "sub a number": with_claims(sub=7),
    "sub a list": with_claims(sub=["alice"]),
    "sub an object": with_claims(sub={"id": "alice"}),
    "sub true": with_claims(sub=True),
    "sub empty": with_claims(sub=""),
    "sub with a line break": with_claims(sub="alice\nadmin"),
    "sub ending in a line break": with_claims(sub="alice\n"),
    "sub with a NUL": with_claims(sub="alice\0"),
    "sub with DEL": with_claims(sub="alice\x7f"),
    "sub too long": with_claims(sub="a" * 129),
    "grants a list": with_claims(sfu=["admin"]),
    "grants a text": with_claims(sfu="admin"),
    "grants true": with_claims(sfu=True),
    "a grant that is a text": with_claims(sfu={"admin": "true"}),
    "a grant that is a number": with_claims(sfu={"admin": 1}),
    "a grant that is null": with_claims(sfu={"calls": None}),
    "a room that is a list": with_claims(sfu={"room": ["*"]}),
    "a room that is true": with_claims(sfu={"room": True}),
    "a room with a long name": with_claims(sfu={"room": "r" * 129}),
}


@pytest.mark.parametrize("name", FORGERIES)
def test_a_forged_token_is_not_authenticated(authority, name):
    with pytest.raises(NotAuthenticated) as refused:
        authority.verify(FORGERIES[name]())
    expired = "expired" in name or name == "exp in the past, iat in the future"
    assert refused.value.code in (
        {"token_expired", "not_authenticated"} if expired else {"not_authenticated"}
    )


def test_what_is_told_of_a_forgery_does_not_tell_why(authority):
    told = set()
    for name, make in FORGERIES.items():
        with pytest.raises(NotAuthenticated) as refused:
            authority.verify(make())
        told.add(refused.value.message)
        assert "alice" not in refused.value.message, name
    assert told <= {"The token is not valid.", "The token has expired.", "The token is too long."}


def test_an_expired_token_says_so_and_a_forged_expired_one_does_not(authority):
    with pytest.raises(NotAuthenticated) as refused:
        authority.verify(forge(HS, claims(exp=now() - 1)))
    assert refused.value.code == "token_expired"
    with pytest.raises(NotAuthenticated) as refused:
        authority.verify(forge(HS, claims(exp=now() - 1), secret=OTHER_SECRET))
    assert refused.value.code == "not_authenticated"


@pytest.mark.parametrize("aud", ["sfu", ["sfu"], ["other", "sfu"]])
def test_an_audience_that_names_us_holds(authority, aud):
    assert authority.verify(forge(HS, claims(aud=aud))).user_id == "alice"


def test_the_configured_audience_and_issuer_are_wanted():
    authority = TokenAuthority(Auth(secret=SECRET, audience="calls", issuer="https://host.example"))
    good = claims(aud="calls", iss="https://host.example")
    assert authority.verify(forge(HS, good)).user_id == "alice"
    for wrong in (
        {"iss": None},
        {"iss": "https://evil.example"},
        {"iss": ["https://host.example"]},
        {"aud": "sfu"},
    ):
        body = {key: value for key, value in {**good, **wrong}.items() if value is not None}
        with pytest.raises(NotAuthenticated):
            authority.verify(forge(HS, body))


def test_clocks_may_differ_by_the_leeway():
    authority = TokenAuthority(Auth(secret=SECRET, leeway_s=30))
    assert authority.verify(forge(HS, claims(exp=now() - 10))).user_id == "alice"
    assert authority.verify(forge(HS, claims(nbf=now() + 10))).user_id == "alice"
    with pytest.raises(NotAuthenticated):
        authority.verify(forge(HS, claims(exp=now() - 40)))


@pytest.mark.parametrize("name", [None, "", 7, ["Alice"]])
def test_without_a_name_the_id_is_the_name(authority, name):
    assert authority.verify(forge(HS, claims(name=name))).name == "alice"


def test_a_long_name_is_cut(authority):
    assert authority.verify(forge(HS, claims(name="n" * 500))).name == "n" * 128


@pytest.mark.parametrize("sub", ["a", "a" * 128, "Zoë", "user@host.example", "用户", "a b"])
def test_a_user_id_is_any_printable_text(authority, sub):
    assert authority.verify(forge(HS, claims(sub=sub))).user_id == sub


def test_grants_are_read_and_unknown_ones_passed_over(authority):
    identity = authority.verify(forge(HS, claims(sfu={"room": "r", "publish": False, "fly": True})))
    assert identity.grants == Grants(room="r", publish=False)


@pytest.mark.parametrize("sfu", [None, {}])
def test_without_grants_the_defaults_hold(authority, sfu):
    body = {**claims(), "sfu": sfu}
    assert authority.verify(forge(HS, body)).grants == Grants()


def test_the_defaults_are_those_of_the_protocol():
    assert Grants().model_dump() == {
        "calls": True,
        "room": None,
        "publish": True,
        "subscribe": True,
        "data": True,
        "record": False,
        "hidden": False,
        "admin": False,
    }


@pytest.mark.parametrize(
    ("granted", "room", "may"),
    [
        ("r", "r", True),
        ("r", "s", False),
        ("r", "", False),
        ("*", "r", True),
        (None, "r", False),
        ("*r", "r", False),
    ],
)
def test_a_room_may_be_joined_by_name_or_by_star(granted, room, may):
    assert Grants(room=granted).may_join(room) is may


# Public keys


@pytest.mark.parametrize("algorithm", list(KEYS))
def test_a_public_key_checks_tokens_of_its_algorithm(key_file, algorithm):
    authority = TokenAuthority(Auth(algorithms=[algorithm], public_key_file=key_file(algorithm)))
    assert authority.verify(jwt.encode(claims(), KEYS[algorithm], algorithm=algorithm)).user_id == "alice"
    for other in KEYS.keys() - {algorithm}:
        with pytest.raises(NotAuthenticated):
            authority.verify(jwt.encode(claims(), KEYS[other], algorithm=other))
    assert not authority.can_mint
    with pytest.raises(SettingsError):
        authority.mint("alice")


@pytest.mark.parametrize("algorithm", list(KEYS))
@pytest.mark.parametrize("with_secret", [False, True])
def test_a_public_key_is_no_secret(key_file, algorithm, with_secret):
    """RFC 8725, section 2.1: HS256 signed with the text of the public key."""
    algorithms = ["HS256", algorithm] if with_secret else [algorithm]
    authority = TokenAuthority(
        Auth(secret=SECRET, algorithms=algorithms, public_key_file=key_file(algorithm))
    )
    text = pem(KEYS[algorithm])
    for secret in (text, text.strip(), b"".join(text.splitlines()[1:-1])):
        with pytest.raises(NotAuthenticated):
            authority.verify(forge(HS, secret=secret))
        with pytest.raises(NotAuthenticated):
            authority.verify(forge({"alg": algorithm}, secret=secret))


@pytest.mark.parametrize("algorithm", list(KEYS))
def test_another_key_of_the_same_kind_does_not_hold(key_file, algorithm):
    authority = TokenAuthority(Auth(algorithms=[algorithm], public_key_file=key_file(algorithm)))
    other = {
        "RS256": lambda: rsa.generate_private_key(public_exponent=65537, key_size=2048),
        "ES256": lambda: ec.generate_private_key(ec.SECP256R1()),
        "EdDSA": ed25519.Ed25519PrivateKey.generate,
    }[algorithm]()
    with pytest.raises(NotAuthenticated):
        authority.verify(jwt.encode(claims(), other, algorithm=algorithm))
    with pytest.raises(NotAuthenticated):
        authority.verify(forge({"alg": algorithm}, signature=b"\0" * 64))


@pytest.mark.parametrize("key", list(KEYS))
@pytest.mark.parametrize("algorithm", list(KEYS))
def test_a_token_of_an_algorithm_that_the_key_is_not_for_is_refused_and_breaks_nothing(
    key_file, key, algorithm
):
    """One PEM file under all three algorithms: only its own is believed."""
    authority = TokenAuthority(Auth(algorithms=list(KEYS), public_key_file=key_file(key)))
    token = jwt.encode(claims(), KEYS[algorithm], algorithm=algorithm)
    if key == algorithm:
        assert authority.verify(token).user_id == "alice"
    else:
        with pytest.raises(NotAuthenticated):
            authority.verify(token)


def test_a_secret_and_a_key_work_side_by_side(key_file):
    authority = TokenAuthority(
        Auth(secret=SECRET, algorithms=["HS256", "ES256"], public_key_file=key_file("ES256"))
    )
    assert authority.verify(authority.mint("bob")).user_id == "bob"
    assert authority.verify(jwt.encode(claims(), KEYS["ES256"], algorithm="ES256")).user_id == "alice"


def test_a_key_file_is_needed_and_must_hold_a_public_key(tmp_path):
    rubbish = tmp_path / "rubbish.pem"
    rubbish.write_text("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n")
    for path in ("", str(tmp_path / "missing.pem"), str(rubbish)):
        with pytest.raises(SettingsError, match=r"auth\.public_key_file"):
            TokenAuthority(Auth(algorithms=["RS256"], public_key_file=path))


# Minting


@pytest.mark.parametrize("secret", ["", "short", "x" * (MIN_SECRET_BYTES - 1)])
def test_a_short_secret_is_refused_and_not_repeated(secret):
    with pytest.raises(SettingsError, match=r"auth\.secret.*32") as refused:
        TokenAuthority(Auth(secret=secret))
    assert not secret or secret not in str(refused.value)


def test_bytes_count_and_not_letters():
    assert TokenAuthority(Auth(secret="ä" * 16)).can_mint


def test_what_is_minted_holds():
    authority = TokenAuthority(Auth(secret=SECRET, audience="calls", issuer="me"))
    before = now()
    identity = authority.verify(authority.mint("bob", "Bob", grants={"room": "r", "record": True}, ttl_s=90))
    assert (identity.user_id, identity.name) == ("bob", "Bob")
    assert identity.grants == Grants(room="r", record=True)
    assert before + 90 <= identity.expires_at <= now() + 90
    assert authority.verify(authority.mint("bob")).name == "bob"


def test_a_host_application_mints_with_the_secret_alone(authority):
    assert authority.verify(mint("bob", secret=SECRET)).user_id == "bob"
    with pytest.raises(NotAuthenticated):
        authority.verify(mint("bob", secret=OTHER_SECRET))
    with pytest.raises(NotAuthenticated):
        authority.verify(mint("bob", secret=SECRET, ttl_s=-10))
    with pytest.raises(NotAuthenticated):
        authority.verify(mint("bob", secret=SECRET, audience="other"))


def test_what_the_server_mints_is_what_the_library_mints(authority):
    """Header and claims are the same, but for what differs from token to token."""
    ours = authority.mint("ada", "Zoë", grants={"room": "r"})
    theirs = mint("ada", secret=SECRET, name="Zoë", grants={"room": "r"})
    assert jwt.get_unverified_header(ours) == jwt.get_unverified_header(theirs)
    for token in (ours, theirs):
        claims = jwt.decode(token, SECRET, algorithms=["HS256"], audience="sfu")
        assert claims.pop("jti")
        claims.pop("exp")
        claims.pop("iat")
        assert claims == {"sub": "ada", "name": "Zoë", "aud": "sfu", "sfu": {"room": "r"}}


def test_every_minted_token_is_another(authority):
    assert len({authority.mint("bob") for _ in range(20)}) == 20


def test_a_grant_of_a_wrong_type_is_not_minted(authority):
    with pytest.raises(ValueError, match="admin"):
        authority.mint("bob", grants={"admin": "yes"})


def test_minted_tokens_do_not_warn_of_weak_keys(authority):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        authority.mint("bob")


def test_a_token_that_held_is_known_until_it_expires(monkeypatch):
    authority = TokenAuthority(Auth(secret=SECRET))
    token = mint("alice", secret=SECRET, ttl_s=60)
    first = authority.verify(token)

    def refuse(*_args, **_options):
        raise jwt.ExpiredSignatureError

    monkeypatch.setattr(jwt, "decode", refuse)
    assert authority.verify(token) is first
    monkeypatch.setattr("sfu.auth.unix_seconds", lambda: first.expires_at)
    with pytest.raises(NotAuthenticated) as refused:
        authority.verify(token)
    assert refused.value.code == "token_expired"


def test_only_so_many_tokens_are_remembered(monkeypatch):
    monkeypatch.setattr("sfu.auth.MAX_VERIFIED", 3)
    authority = TokenAuthority(Auth(secret=SECRET))
    tokens = [mint(f"user{n}", secret=SECRET) for n in range(5)]
    assert [authority.verify(token).user_id for token in tokens] == [f"user{n}" for n in range(5)]
    assert [authority.verify(token).user_id for token in tokens] == [f"user{n}" for n in range(5)]


def test_a_signed_webhook_is_told_from_every_other():
    from sfu.auth import is_webhook_signed
    from sfu.calls.webhooks import sign

    body, at = b'{"seq": 1}', now()
    good = sign("a secret", at, body)
    assert is_webhook_signed(good, body, "a secret")
    assert is_webhook_signed(sign("a secret", at - 290, body), body, "a secret")
    for header in ("", "t=,v1=", "t=1", good[:-1], good + "0", good.upper(), "v1=0,t=1", f"t={at},v1=\u00e9"):
        assert not is_webhook_signed(header, body, "a secret")
    assert not is_webhook_signed(good, body + b" ", "a secret")
    assert not is_webhook_signed(good, body, "another secret")
    for seconds in (-310, 310):
        assert not is_webhook_signed(sign("a secret", at + seconds, body), body, "a secret")
