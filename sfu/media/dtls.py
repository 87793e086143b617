"""DTLS and SCTP of aiortc on a transport that is not aiortc's.

The only file that touches private names of aiortc; `tests/unit/media/test_dtls.py` fails
when one of them moves. They are, in aiortc 1.16:

- `RTCCertificate._create_ssl_context(srtp_profiles)`: overridden to be made once;
- `RTCDtlsTransport._srtp_profiles`, `_set_role`, `_role`: order of the ciphers, who is server;
- `RTCDtlsTransport._rx_srtp`, `_tx_srtp`: the keyed SRTP sessions;
- what it asks of its transport: `role`, `async _recv()`, `async _send(data)`.
"""

import asyncio
import datetime
import os
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

from aiortc import RTCCertificate, RTCSctpTransport
from aiortc.rtcdtlstransport import (
    SRTP_AEAD_AES_128_GCM,
    SRTP_PROFILES,
    RTCDtlsFingerprint,
    RTCDtlsParameters,
    RTCDtlsTransport,
    SRTPProtectionProfile,
)
from aiortc.rtcsctptransport import RTCSctpCapabilities
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from OpenSSL import SSL

from sfu.media.srtp import SrtpContext
from sfu.settings import SettingsError

# DTLS flights waiting for the handshake or for SCTP. A data channel in full flow has a
# few hundred on the way; what comes on top is dropped, and DTLS or SCTP sends it again.
MAX_WAITING_RECORDS = 1024

# AES-GCM with 128 bits costs half of AES-CM with HMAC-SHA1 a packet (docs/performance.md).
_PROFILES = [SRTP_AEAD_AES_128_GCM, *(p for p in SRTP_PROFILES if p is not SRTP_AEAD_AES_128_GCM)]

_CERTIFICATE_DAYS = 3650


class Certificate(RTCCertificate):
    """The certificate of a server: one for all peers, with one TLS context."""

    def __init__(self, key: ec.EllipticCurvePrivateKey, cert: x509.Certificate) -> None:
        super().__init__(key, cert)
        self._context: SSL.Context | None = None

    def _create_ssl_context(self, srtp_profiles: list[SRTPProtectionProfile]) -> SSL.Context:
        # A context per peer would cost 86 KiB and a quarter of a millisecond.
        if self._context is None:
            self._context = super()._create_ssl_context(srtp_profiles)
            # Nor does a peer that says nothing over DTLS keep 15 KiB to say it with, and no session is
            # kept to be resumed: who comes again shakes hands again.
            self._context.set_mode(SSL.MODE_RELEASE_BUFFERS)
            self._context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
            self._context.set_options(SSL.OP_NO_TICKET)
        return self._context

    @cached_property
    def sha256(self) -> str:
        """The SHA-256 fingerprint, as `a=fingerprint` wants it."""
        return next(f.value for f in self.getFingerprints() if f.algorithm == "sha-256")

    @classmethod
    def at(cls, path: Path) -> "Certificate":
        """Return the certificate of a PEM file, which is made if it is not there.

        Raises:
            SettingsError: the file cannot be read, written or understood.

        """
        try:
            if not path.exists():
                certificate = cls.fresh()
                pem = certificate._key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
                descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
                with os.fdopen(descriptor, "wb") as file:
                    file.write(pem + certificate._cert.public_bytes(Encoding.PEM))
                return certificate
            data = path.read_bytes()
            key = load_pem_private_key(data, None)
            if not isinstance(key, ec.EllipticCurvePrivateKey):
                raise ValueError("the key is not an elliptic curve key")
            return cls(key, x509.load_pem_x509_certificate(data))
        except (OSError, TypeError, ValueError) as error:  # TypeError: the key is encrypted
            raise SettingsError(f"media.certificate_file: {path}: {error}") from error

    @classmethod
    def fresh(cls) -> "Certificate":
        """Return a new self-signed certificate; clients trust its fingerprint, not its name."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "sfu")])
        now = datetime.datetime.now(datetime.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=_CERTIFICATE_DAYS))
        )
        return cls(key, builder.sign(key, hashes.SHA256()))


class _Wire:
    """What RTCDtlsTransport takes for its ICE transport."""

    role = "controlled"

    def __init__(self, send: Callable[[bytes], None]) -> None:
        self._transmit = send
        self._waiting: asyncio.Queue[bytes | None] = asyncio.Queue(MAX_WAITING_RECORDS)
        self._closed = False

    def receive(self, data: bytes) -> bool:
        if self._closed or self._waiting.full():
            return False
        self._waiting.put_nowait(data)
        return True

    def close(self) -> None:
        self._closed = True
        if self._waiting.full():
            self._waiting.get_nowait()
        self._waiting.put_nowait(None)

    async def _recv(self) -> bytes:
        data = None if self._closed and self._waiting.empty() else await self._waiting.get()
        if data is None:
            raise ConnectionError("closed")
        return data

    async def _send(self, data: bytes) -> None:
        self._transmit(data)


class DtlsTransport(RTCDtlsTransport):
    """aiortc's DTLS over any way of sending datagrams; SRTP is taken from it, not done by it."""

    def __init__(self, send: Callable[[bytes], None], certificate: Certificate) -> None:
        self._wire = _Wire(send)
        super().__init__(self._wire, [certificate])  # type: ignore[arg-type]
        self._srtp_profiles = _PROFILES

    def receive(self, data: bytes) -> bool:
        """Take a record flight; False when it was dropped because too many wait."""
        return self._wire.receive(data)

    async def handshake(
        self, role: str, fingerprints: list[tuple[str, str]], timeout: float
    ) -> tuple[SrtpContext, SrtpContext]:
        """Shake hands as "server" or "client"; return SRTP with its keys, incoming and outgoing.

        Raises:
            ConnectionError: it failed, timed out, or the certificate is not the promised one.

        """
        self._set_role(role)
        parameters = RTCDtlsParameters(
            fingerprints=[RTCDtlsFingerprint(algorithm, value) for algorithm, value in fingerprints]
        )
        try:
            async with asyncio.timeout(timeout):
                await self.start(parameters)
        except TimeoutError as error:
            raise ConnectionError("DTLS handshake timed out") from error
        if self.state != "connected":
            raise ConnectionError(f"DTLS {self.state}")
        return SrtpContext(self._rx_srtp), SrtpContext(self._tx_srtp)

    async def close(self) -> None:
        """Say close_notify and end; nothing of it runs afterwards."""
        task = self._task
        await self.stop()
        self._wire.close()
        if task is not None:
            await asyncio.wait([task])
            if not task.cancelled():
                task.exception()  # told by aiortc already
        self.remove_all_listeners()


def sctp_transport(dtls: DtlsTransport) -> RTCSctpTransport:
    """Return aiortc's SCTP for data channels on a peer's DTLS."""
    return RTCSctpTransport(dtls)


async def start_sctp(sctp: RTCSctpTransport, max_message_bytes: int, port: int) -> None:
    """Begin the SCTP association with what the client's description says."""
    await sctp.start(RTCSctpCapabilities(maxMessageSize=max_message_bytes), port)
