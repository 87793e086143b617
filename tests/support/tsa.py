"""Time-stamping authorities for tests: OpenSSL's, behind a server."""

import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import serialization

CONFIG = """
[tsa]
default_tsa = one
[one]
serial = serial
signer_digest = sha256
default_policy = 1.3.6.1.4.1.99999.1
digests = {digests}
accuracy = secs:1
ess_cert_id_alg = sha256
"""


def openssl(folder: Path, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(["openssl", *arguments], cwd=folder, capture_output=True, timeout=20, check=False)


def made(folder: Path, *arguments: str) -> None:
    done = openssl(folder, *arguments)
    assert done.returncode == 0, done.stderr.decode()


class Authority:
    """A certificate authority and a time-stamping authority (TSA) of OpenSSL, in a folder."""

    def __init__(
        self,
        folder: Path,
        name: str,
        *,
        usage: str = "critical,timeStamping",
        digests: str = "sha256,sha384,sha512",
    ) -> None:
        self.folder, self.name = folder, name
        folder.mkdir()
        key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc")
        root = ("-x509", "-keyout", "ca.key", "-out", "ca.pem", "-days", "3650")
        made(folder, "req", *key, *root, "-subj", f"/CN={name} root")
        made(folder, "req", *key, "-keyout", "tsa.key", "-out", "tsa.csr", "-subj", f"/O={name}/CN=TSA")
        (folder / "usage").write_text(f"keyUsage=critical,digitalSignature\nextendedKeyUsage={usage}\n")
        self.sign("ca.pem", "ca.key", "tsa.pem")
        (folder / "tsa.cnf").write_text(CONFIG.format(digests=digests))
        (folder / "serial").write_text("01\n")
        # Certificates beside that of the signer go with the answer.
        self.sends_chain = False

    def sign(self, ca: str, key: str, out: str) -> None:
        by = ("-CA", ca, "-CAkey", key, "-CAcreateserial", "-days", "3650")
        made(self.folder, "x509", "-req", "-in", "tsa.csr", *by, "-extfile", "usage", "-out", out)

    @property
    def root(self) -> x509.Certificate:
        return x509.load_pem_x509_certificate((self.folder / "ca.pem").read_bytes())

    def der(self, name: str) -> bytes:
        pem = (self.folder / name).read_bytes()
        return x509.load_pem_x509_certificate(pem).public_bytes(serialization.Encoding.DER)

    def reissued(self, folder: Path, usage: str) -> bytes:
        """Return another certificate of the same name, number and key, for another use."""
        number = x509.load_pem_x509_certificate((self.folder / "tsa.pem").read_bytes()).serial_number
        (folder / "usage").write_text(f"keyUsage=critical,digitalSignature\nextendedKeyUsage={usage}\n")
        by = ("-CA", "ca.pem", "-CAkey", "ca.key", "-set_serial", str(number), "-days", "30")
        out = ("-extfile", str(folder / "usage"), "-out", str(folder / "again.pem"))
        made(self.folder, "x509", "-req", "-in", "tsa.csr", *by, *out)
        pem = (folder / "again.pem").read_bytes()
        return x509.load_pem_x509_certificate(pem).public_bytes(serialization.Encoding.DER)

    def answer(self, query: bytes) -> bytes:
        """Return the answer to a query, as `openssl ts` gives it."""
        (self.folder / "query").write_bytes(query)
        chain = ("-chain", "ca.pem") if self.sends_chain else ()
        signer = ("-signer", "tsa.pem", "-inkey", "tsa.key", *chain)
        reply = ("ts", "-reply", "-config", "tsa.cnf", "-queryfile", "query", *signer, "-out", "answer")
        made(self.folder, *reply)
        return (self.folder / "answer").read_bytes()

    def query(self, data: bytes, *options: str) -> bytes:
        """Return a query as OpenSSL makes it, without a nonce."""
        (self.folder / "data").write_bytes(data)
        asked = ("-no_nonce", "-cert", "-out", "query", *options)
        made(self.folder, "ts", "-query", "-config", "tsa.cnf", "-data", "data", *asked)
        return (self.folder / "query").read_bytes()

    def verifies(self, data: bytes, token: bytes) -> bool:
        """Whether OpenSSL holds an answer to be right."""
        (self.folder / "data").write_bytes(data)
        (self.folder / "token").write_bytes(token)
        done = openssl(self.folder, "ts", "-verify", "-data", "data", "-in", "token", "-CAfile", "ca.pem")
        return done.returncode == 0


Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def serving(handler: Handler) -> AsyncIterator[str]:
    """Serve a TSA; gives its address."""
    app = web.Application()
    app.router.add_post("/tsr", handler)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        yield f"http://{host}:{port}/tsr"
    finally:
        await runner.cleanup()


def answering(answer: Callable[[bytes], bytes]) -> Handler:
    async def handle(request: web.Request) -> web.Response:
        assert request.content_type == "application/timestamp-query"
        body = answer(await request.read())
        return web.Response(body=body, content_type="application/timestamp-reply")

    return handle
