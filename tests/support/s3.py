"""An S3 for tests: Moto's, on a free port."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from moto.s3.models import s3_backends
from moto.server import ThreadedMotoServer

from tests.support.backends import free_port

# Its line for each request is of no use.
logging.getLogger("werkzeug").setLevel(logging.ERROR)


class S3:
    """An S3 that can be switched off and on; it forgets nothing meanwhile, and is Moto's."""

    BUCKET = "recordings"

    def __init__(self) -> None:
        self.port = free_port()
        # As clients are told of it.
        self.environment = {
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
            "AWS_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.port}",
        }
        self._server: ThreadedMotoServer | None = None

    def switch_on(self) -> None:
        self._server = ThreadedMotoServer("127.0.0.1", self.port, verbose=False)
        self._server.start()

    def switch_off(self) -> None:
        if self._server is not None:
            self._server.stop()
            self._server = None

    def names(self) -> list[str]:
        """Return the names of all objects."""
        return sorted(s3_backends["123456789012"]["aws"].buckets[self.BUCKET].keys)

    def written_at(self, key: str) -> object:
        """Return when an object was written."""
        return s3_backends["123456789012"]["aws"].buckets[self.BUCKET].keys[key].last_modified


@contextmanager
def running_s3() -> Iterator[S3]:
    """Run an S3 with one bucket."""
    server = S3()
    server.switch_on()
    try:
        s3_backends["123456789012"]["aws"].create_bucket(S3.BUCKET, "us-east-1")
        yield server
    finally:
        server.switch_off()
        s3_backends["123456789012"]["aws"].reset()
