"""schemathesis against a running server: no failure of ours, and nothing that is not described."""

import asyncio
import sys

from sfu.auth import mint
from tests.support.process import server_process

SECRET = "a secret of more than thirty-two bytes"


async def test_no_request_makes_the_server_fail(tmp_path):
    """Valid and invalid requests of every operation, and sequences of them; both with the admin grant."""
    settings = {
        "SFU_HTTP__HOST": "127.0.0.1",
        "SFU_MEDIA__LISTEN_IP": "127.0.0.1",
        "SFU_AUTH__SECRET": SECRET,
        "SFU_STORE__URL": f"sqlite+aiosqlite:///{tmp_path}/calls.db",
        "SFU_HTTP__REQUESTS_PER_MINUTE": "1000000",
    }
    token = mint("tester", secret=SECRET, grants={"admin": True})
    async with server_process("-m", "sfu", "serve", **settings) as server:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "schemathesis.cli",
            "run",
            server.url + "/api/openapi.json",
            "--header",
            f"Authorization: Bearer {token}",
            "--max-examples",
            "15",
            "--seed",
            "1",
            "--exclude-checks",
            # An unknown field of a query is passed over, so that newer clients can talk to older servers.
            "positive_data_acceptance,unsupported_method",
            "--no-color",
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            cwd=tmp_path,
        )
        # Beside the other rows it gives way.
        async with asyncio.timeout(500):
            output, _ = await process.communicate()
        assert process.returncode == 0, output.decode()[-6_000:]
        failures = [entry for entry in server.log if entry.get("level") == "error"]
        assert not failures
