"""When a manifest existed, by the word of a third party: time stamps of RFC 3161.

A time-stamping authority (TSA) signs the hash of the manifest and the time of its own clock. Its answer, a
DER TimeStampResp, is kept as it came, as `manifest.tsr` beside `manifest.sig`; `openssl ts -verify` reads it
as well.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import aiohttp
from cryptography import x509
from rfc3161_client import (
    HashAlgorithm,
    PKIStatus,
    TimestampRequestBuilder,
    TimeStampResponse,
    VerificationError,
    VerifierBuilder,
    decode_timestamp_response,
)

from sfu.errors import Unavailable

# An answer holds a few certificates; nobody reads a larger one.
MAX_BYTES = 64 * 1024

_QUERY, _REPLY = "application/timestamp-query", "application/timestamp-reply"

# By object identifier: the hashes that a time stamp may be of. We ask for the first.
_HASHES: dict[str, Callable[[bytes], Any]] = {
    "2.16.840.1.101.3.4.2.1": hashlib.sha256,
    "2.16.840.1.101.3.4.2.2": hashlib.sha384,
    "2.16.840.1.101.3.4.2.3": hashlib.sha512,
}

# Tags of DER (X.690): a SEQUENCE, and what is marked [0].
_SEQUENCE, _MARKED_0 = 0x30, 0xA0


class _DoesNotHold(ValueError):
    """A time stamp that does not hold; the message is a sentence."""


async def stamp(manifest: bytes, url: str, *, timeout_s: float = 10) -> bytes:
    """Return the answer of a TSA for a manifest: a DER TimeStampResp of its hash and of our nonce.

    Whether the TSA is trusted is not asked here, but by `check`.

    Raises:
        Unavailable: the TSA gave none; the code is `timestamp_away`.

    """
    try:
        builder = TimestampRequestBuilder().data(manifest).hash_algorithm(HashAlgorithm.SHA256)
        request = builder.nonce(nonce=True).cert_request(cert_request=True).build()
        answer = await _post(url, request.as_bytes(), timeout_s)
        check(answer, manifest)
        if _read(answer).tst_info.nonce != request.nonce:
            raise _DoesNotHold("the time stamp answers another request")
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
        why = str(error) or type(error).__name__
        raise Unavailable(f"No time stamp was given: {why}.", code="timestamp_away") from error
    return answer


async def _post(url: str, query: bytes, timeout_s: float) -> bytes:
    """Ask by HTTP (RFC 3161 section 3.4); return the body of the answer."""
    timeout, headers = aiohttp.ClientTimeout(total=timeout_s), {"Content-Type": _QUERY, "Accept": _REPLY}
    async with (
        aiohttp.ClientSession(timeout=timeout) as http,
        http.post(url, data=query, headers=headers, allow_redirects=False) as response,
    ):
        if response.status != 200:
            raise _DoesNotHold(f"the TSA answered with status {response.status}")
        body = bytearray()
        async for piece in response.content.iter_any():
            body += piece
            if len(body) > MAX_BYTES:
                raise _DoesNotHold("the answer is too large")
        return bytes(body)


def check(
    token: bytes, manifest: bytes, roots: Sequence[x509.Certificate] | None = None
) -> tuple[datetime, str]:
    """Return when a TSA saw a manifest (UTC), and the TSA's name: the subject of its certificate.

    Without roots it is checked that the time stamp is of this manifest, and no signature: anybody could have
    written it. With roots the signature is checked, and that it leads to one of them (RFC 3161 section 2.2).

    Raises:
        ValueError: the time stamp does not hold; the message says why.

    """
    try:
        return _checked(token, manifest, roots)
    except _DoesNotHold:
        raise
    except Exception as error:  # whatever is made of a hostile one
        raise ValueError("the time stamp cannot be read") from error


def _checked(token: bytes, manifest: bytes, roots: Sequence[x509.Certificate] | None) -> tuple[datetime, str]:
    response = _read(token)
    info = response.tst_info
    make = _HASHES.get(info.message_imprint.hash_algorithm.dotted_string)
    if make is None:
        raise _DoesNotHold("the time stamp is of a hash that is not known")
    if info.message_imprint.message != make(manifest).digest():
        raise _DoesNotHold("the time stamp is of another manifest")
    signer = _signer(response)
    if roots is not None:
        if not roots:
            raise _DoesNotHold("there is no root that is trusted")
        # The signer's certificate is not handed over: the verifier would trust it.
        try:
            VerifierBuilder(roots=list(roots)).build().verify_message(response, manifest)
        except VerificationError as error:
            raise _DoesNotHold("the time stamp is signed by nobody who is trusted") from error
    return info.gen_time.astimezone(UTC), signer.subject.rfc4514_string()


def _read(token: bytes) -> TimeStampResponse:
    """Return a response in which there is a time stamp."""
    if len(token) > MAX_BYTES:
        raise _DoesNotHold("the time stamp is too large")
    response = decode_timestamp_response(_ordered(token))
    if response.status != PKIStatus.GRANTED:
        told = "; ".join(response.status_string)[:200]
        raise _DoesNotHold(f"the TSA refused with status {response.status}" + (f": {told}" if told else ""))
    return response


def _signer(response: TimeStampResponse) -> x509.Certificate:
    """Return the certificate that the one signature names."""
    signers = list(response.signed_data.signer_infos)
    if len(signers) != 1:
        raise _DoesNotHold(f"the time stamp has {len(signers)} signatures, not one")
    named = (signers[0].issuer, signers[0].serial_number)
    certificates = [x509.load_der_x509_certificate(der) for der in response.signed_data.certificates]
    found = [c for c in certificates if (c.issuer, c.serial_number) == named]
    if len(found) != 1:
        raise _DoesNotHold("the time stamp does not hold the one certificate of who signed it")
    return found[0]


# Reading leniently


def _ordered(token: bytes) -> bytes:
    """Return a response with its certificates in the order of DER (X.690 section 11.6).

    Some TSAs leave them as they come, OpenSSL's among them, and a strict reader refuses that. No signature is
    over them, and their lengths stay.
    """
    start, end = 0, len(token)
    # TimeStampResp, its timeStampToken (ContentInfo), the content of that, SignedData, its certificates.
    for tag, place in ((_SEQUENCE, 0), (_SEQUENCE, 1), (_MARKED_0, 1), (_SEQUENCE, 0), (_MARKED_0, 3)):
        found = list(_elements(token, start, end))
        if len(found) <= place or found[place][0] != tag:
            return token
        _, _, start, end = found[place]
    certificates = sorted(token[begin:stop] for _, begin, _, stop in _elements(token, start, end))
    ordered = b"".join(certificates)
    return token[:start] + ordered + token[end:] if len(ordered) == end - start else token


def _elements(data: bytes, at: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """Give (tag, beginning, beginning of the content, end) of each element of DER; stop where it is none."""
    while at + 2 <= end:
        length, content = data[at + 1], at + 2
        if length & 0x80:
            count = length & 0x7F
            content += count
            if not 1 <= count <= 4 or content > end:
                return
            length = int.from_bytes(data[at + 2 : content])
        if content + length > end:
            return
        yield data[at], at, content, content + length
        at = content + length
