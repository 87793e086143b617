"""Time stamps: OpenSSL is the authority, and reads what is kept; everybody else is the attacker."""

import asyncio
import contextlib
import hashlib
import random
from datetime import UTC, datetime, timedelta

import pytest
from aiohttp import web
from hypothesis import HealthCheck, given, settings, strategies as st

from sfu.errors import Unavailable
from sfu.recorder.timestamp import MAX_BYTES, check, stamp
from tests.support.tsa import Authority, Handler, answering, made, serving

MANIFEST = b'{"format":"sfu-recording/1","recording_id":"rec_1"}'

GARBAGE = settings(
    max_examples=300,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@pytest.fixture(scope="module")
def authority(tmp_path_factory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tsa") / "one", "Good")


@pytest.fixture(scope="module")
def other(tmp_path_factory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tsa") / "two", "Other")


@pytest.fixture(scope="module")
def token(authority) -> bytes:
    return authority.answer(authority.query(MANIFEST, "-sha256"))


def elements(der: bytes) -> list[tuple[int, bytes]]:
    """Read what stands in a SEQUENCE or SET: (tag, content)."""
    found = []
    while der:
        length, at = der[1], 2
        if length > 127:
            at += length - 128
            length = int.from_bytes(der[2:at])
        found.append((der[0], der[at : at + length]))
        der = der[at + length :]
    return found


def element(tag: int, content: bytes) -> bytes:
    length = len(content)
    told = length.to_bytes(max(1, (length.bit_length() + 7) // 8))
    return bytes([tag]) + (told if length < 128 else bytes([128 + len(told)]) + told) + content


def with_certificates(token: bytes, ders: list[bytes]) -> bytes:
    """Return an answer with other certificates, in this order."""

    def put(der: bytes, path: tuple[int, ...]) -> bytes:
        if not path:
            return b"".join(ders)
        inside = elements(der)
        tag, content = inside[path[0]]
        inside[path[0]] = (tag, put(content, path[1:]))
        return b"".join(element(*each) for each in inside)

    # TimeStampResp, its token, the content of that, SignedData, its certificates (RFC 5652 section 5.1).
    return put(token, (0, 1, 1, 0, 3))


async def refused(handler: Handler, timeout_s: float = 5) -> str:
    """Ask a TSA that gives no time stamp; return why there is none."""
    async with serving(handler) as url:
        with pytest.raises(Unavailable) as raised:
            await stamp(MANIFEST, url, timeout_s=timeout_s)
    assert raised.value.code == "timestamp_away"
    assert raised.value.status == 503
    return raised.value.message


# One that holds


@pytest.mark.parametrize("sends_chain", [False, True], ids=["signer", "chain"])
async def test_a_time_stamp_holds(authority, monkeypatch, sends_chain):
    """It tells now and who, by our check and by OpenSSL's; also with certificates in no order."""
    monkeypatch.setattr(authority, "sends_chain", sends_chain)
    before = datetime.now(UTC).replace(microsecond=0)
    async with serving(answering(authority.answer)) as url:
        token = await stamp(MANIFEST, url)
    at, name = check(token, MANIFEST, [authority.root])
    assert before <= at <= datetime.now(UTC)
    assert at.utcoffset() == timedelta(0)
    assert name == "CN=TSA,O=Good"
    assert check(token, MANIFEST) == (at, name)
    assert authority.verifies(MANIFEST, token)


async def test_what_came_is_kept_as_it_came(authority):
    """No byte of the answer is another."""
    answers = []

    def answer(query: bytes) -> bytes:
        answers.append(authority.answer(query))
        return answers[-1]

    async with serving(answering(answer)) as url:
        assert [await stamp(MANIFEST, url)] == answers


async def test_the_hash_goes_out_and_no_more(authority):
    """The TSA learns nothing of the manifest; no two queries are the same."""
    queries = []

    def answer(query: bytes) -> bytes:
        queries.append(query)
        return authority.answer(query)

    async with serving(answering(answer)) as url:
        for _ in range(2):
            await stamp(MANIFEST, url)
    assert queries[0] != queries[1]
    for query in queries:
        assert hashlib.sha256(MANIFEST).digest() in query
        assert b"rec_1" not in query
        assert len(query) < 100


def test_one_of_several_roots_is_enough(authority, other, token):
    assert check(token, MANIFEST, [other.root, authority.root]) == check(token, MANIFEST)


def test_certificates_in_any_order_are_the_same(authority, token):
    """OpenSSL sends them as they are given to it; a strict reader takes one order only."""
    certificates = [authority.der("tsa.pem"), authority.der("ca.pem")]
    for ders in (certificates, certificates[::-1]):
        assert check(with_certificates(token, ders), MANIFEST, [authority.root])[1] == "CN=TSA,O=Good"


@pytest.mark.parametrize("name", ["sha384", "sha512"])
def test_a_stronger_hash_is_taken(authority, name):
    """Whoever has a manifest stamped himself may have another."""
    token = authority.answer(authority.query(MANIFEST, f"-{name}"))
    assert check(token, MANIFEST, [authority.root])[1] == "CN=TSA,O=Good"


def test_a_weak_hash_is_not(tmp_path):
    weak = Authority(tmp_path / "weak", "Weak", digests="sha1")
    token = weak.answer(weak.query(MANIFEST, "-sha1"))
    with pytest.raises(ValueError, match="a hash that is not known"):
        check(token, MANIFEST, [weak.root])


# Those that do not hold


def test_another_manifest_is_noticed(authority, token):
    for roots in (None, [authority.root]):
        with pytest.raises(ValueError, match="of another manifest"):
            check(token, MANIFEST + b" ", roots)
    assert not authority.verifies(MANIFEST + b" ", token)


def test_another_authority_is_noticed(authority, other):
    """Without roots nobody knows whose it is."""
    token = other.answer(other.query(MANIFEST, "-sha256"))
    assert check(token, MANIFEST)[1] == "CN=TSA,O=Other"
    with pytest.raises(ValueError, match="nobody who is trusted"):
        check(token, MANIFEST, [authority.root])


def test_who_signs_himself_is_noticed(authority, tmp_path):
    """Right in all else: his certificate goes with the time stamp, and is trusted by nobody."""
    own = Authority(tmp_path / "own", "Good")
    usage = (
        "-addext",
        "keyUsage=critical,digitalSignature",
        "-addext",
        "extendedKeyUsage=critical,timeStamping",
    )
    made(own.folder, "req", "-x509", "-key", "tsa.key", "-out", "tsa.pem", "-subj", "/O=Good/CN=TSA", *usage)
    token = own.answer(own.query(MANIFEST, "-sha256"))
    assert check(token, MANIFEST)[1] == "CN=TSA,O=Good"
    with pytest.raises(ValueError, match="nobody who is trusted"):
        check(token, MANIFEST, [authority.root])


def test_a_certificate_for_something_else_is_noticed(authority, token, tmp_path):
    """Of the same name and key, from the same root, but not for time stamps (RFC 3161 section 2.3)."""
    der = authority.reissued(tmp_path, "serverAuth")
    assert check(with_certificates(token, [der]), MANIFEST)[1] == "CN=TSA,O=Good"
    with pytest.raises(ValueError, match="nobody who is trusted"):
        check(with_certificates(token, [der]), MANIFEST, [authority.root])


def test_two_certificates_of_one_signer_are_noticed(authority, token, tmp_path):
    """No signature is over them: one could lend its name to the other."""
    both = [authority.der("tsa.pem"), authority.reissued(tmp_path, "critical,timeStamping")]
    for ders in (both, both[::-1]):
        with pytest.raises(ValueError, match="does not hold the one certificate"):
            check(with_certificates(token, ders), MANIFEST, [authority.root])


def test_without_a_root_nobody_is_trusted(token):
    with pytest.raises(ValueError, match="no root"):
        check(token, MANIFEST, [])


def test_without_the_certificate_of_its_signer_it_does_not_hold(authority):
    (authority.folder / "data").write_bytes(MANIFEST)
    asked = ("-no_nonce", "-sha256", "-out", "query")
    made(authority.folder, "ts", "-query", "-config", "tsa.cnf", "-data", "data", *asked)
    token = authority.answer((authority.folder / "query").read_bytes())
    with pytest.raises(ValueError, match="does not hold the one certificate"):
        check(token, MANIFEST, [authority.root])


def test_a_refusal_of_the_authority_is_no_time_stamp(authority):
    """What is no query is answered with a refusal, and its reason."""
    refusal = authority.answer(b"no query at all")
    with pytest.raises(ValueError, match="the TSA refused with status 2"):
        check(refusal, MANIFEST)


@pytest.mark.parametrize(
    "token", [b"", b"\x30", b"\x30\x00", b"\x30\x80", b"<html>", b"\x30\x84\xff\xff\xff\xff"]
)
def test_what_is_no_time_stamp_is_noticed(authority, token):
    with pytest.raises(ValueError, match="cannot be read"):
        check(token, MANIFEST, [authority.root])


def test_one_that_is_cut_is_noticed(authority, token):
    """Wherever it ends."""
    for length in range(len(token)):
        with pytest.raises(ValueError, match="cannot be read"):
            check(token[:length], MANIFEST, [authority.root])


def test_one_with_more_behind_it_is_noticed(authority, token):
    with pytest.raises(ValueError, match="cannot be read"):
        check(token + b"\0", MANIFEST, [authority.root])


def test_one_that_is_too_large_is_not_looked_at(authority, token):
    with pytest.raises(ValueError, match="too large"):
        check(token + bytes(MAX_BYTES), MANIFEST, [authority.root])


def judged(token: bytes, roots) -> tuple[datetime, str] | None:
    """Check; None if it does not hold, which is told by a sentence and nothing else."""
    try:
        return check(token, MANIFEST, roots)
    except ValueError as error:
        assert str(error).startswith(("the ", "there "))
        return None


def test_no_changed_byte_changes_time_or_name(authority, token):
    """With roots it still tells the same, or does not hold; without, it is never more than a sentence."""
    right = check(token, MANIFEST)
    for at in range(len(token)):
        for bit in (0x01, 0x80):
            changed = bytearray(token)
            changed[at] ^= bit
            judged(bytes(changed), None)
            assert judged(bytes(changed), [authority.root]) in (right, None), at


@GARBAGE
@given(seed=st.integers(0, 1 << 32), count=st.integers(1, 8))
def test_no_hostile_time_stamp_is_more_than_a_sentence(authority, token, seed, count):
    """Bytes changed, taken out and put in, anywhere."""
    rng, changed = random.Random(seed), bytearray(token)
    for _ in range(count):
        at, size = rng.randrange(len(changed)), rng.randint(0, 6)
        changed[at : at + rng.choice((0, size))] = rng.randbytes(size)
    judged(bytes(changed), None)
    judged(bytes(changed), [authority.root])


# Authorities that give none


async def test_an_answer_to_another_query_is_refused(authority):
    """An old one of the same manifest: the nonce is not ours, or there is none."""
    old = []
    async with serving(answering(authority.answer)) as url:
        old.append(await stamp(MANIFEST, url))
    old.append(authority.answer(authority.query(MANIFEST, "-sha256")))
    for token in old:
        assert "answers another request" in await refused(answering(lambda _, token=token: token))


async def test_an_answer_for_another_manifest_is_refused(authority):
    token = authority.answer(authority.query(b"something else", "-sha256"))
    assert "of another manifest" in await refused(answering(lambda _: token))


async def test_an_authority_that_refuses_is_told(authority):
    assert "refused with status 2" in await refused(answering(lambda _: authority.answer(b"no query")))


@pytest.mark.parametrize("body", [b"", b"<html>Welcome!</html>", bytes(100)])
async def test_an_answer_that_is_none_is_refused(body):
    assert "cannot be read" in await refused(answering(lambda _: body))


async def test_an_answer_that_is_cut_is_refused(authority):
    assert "cannot be read" in await refused(answering(lambda query: authority.answer(query)[:-1]))


async def test_an_answer_without_end_is_refused():
    """It is not read for as long as it comes."""

    async def handle(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        with contextlib.suppress(ConnectionError):
            while True:
                await response.write(bytes(4096))
        return response

    assert "the answer is too large" in await refused(handle)


@pytest.mark.parametrize("status", [204, 302, 404, 500])
async def test_another_status_is_refused(authority, status):
    """Also one that would lead elsewhere."""

    async def handle(request: web.Request) -> web.Response:
        return web.Response(status=status, headers={"Location": str(request.url)})

    assert f"status {status}" in await refused(handle)


async def test_an_authority_that_is_silent_is_given_up():
    asked, never = asyncio.Event(), asyncio.Event()

    async def handle(request: web.Request) -> web.Response:
        asked.set()
        await never.wait()
        raise AssertionError

    assert "Timeout" in await refused(handle, timeout_s=0.2)
    assert asked.is_set()


async def test_an_authority_that_hangs_up_is_given_up():
    async def handle(request: web.Request) -> web.Response:
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    assert await refused(handle)


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:1/", "http://", "no address", "ftp://127.0.0.1/", "http://[/"]
)
async def test_where_there_is_no_authority_that_is_told(url):
    with pytest.raises(Unavailable) as raised:
        await stamp(MANIFEST, url, timeout_s=5)
    assert raised.value.code == "timestamp_away"
