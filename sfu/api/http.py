"""HTTP beside the socket: liveness, readiness, metrics, and the page."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path

import structlog
from aiohttp import web
from aiohttp.typedefs import Handler
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel, Field, ValidationError

from sfu.auth import DEV_TOKEN_TTL_S, TokenAuthority
from sfu.errors import BadRequest, SfuError
from sfu.metrics import Metrics

log = structlog.get_logger()

_SECURITY_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'self'; connect-src 'self' ws: wss:; media-src 'self' blob: mediastream:; "
        "img-src 'self' data:; frame-ancestors 'none'; base-uri 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


class DevName(BaseModel):
    """What somebody calls himself on the page."""

    name: str = Field(min_length=1, max_length=64)


@web.middleware
async def problems(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn errors into RFC 9457 documents: ours everywhere, all others under `/api/`."""
    try:
        return await handler(request)
    except SfuError as error:
        headers = {"WWW-Authenticate": "Bearer"} if error.status == 401 else None
        return _problem(error, headers)
    except web.HTTPException as error:
        if not request.path.startswith("/api/") or error.status < 400:
            raise
        found = SfuError(f"{error.reason}.", code=error.reason.lower().replace(" ", "_"))
        found.status = error.status
        allow = error.headers.get("Allow")
        return _problem(found, {"Allow": allow} if allow else None)
    except Exception:
        if not request.path.startswith("/api/"):
            raise
        log.exception("request_failed", method=request.method, path=request.path)
        return _problem(SfuError("The server failed; it was logged.", code="internal_error"))


def _problem(error: SfuError, headers: Mapping[str, str] | None = None) -> web.Response:
    return web.json_response(
        error.as_problem(), status=error.status, content_type="application/problem+json", headers=headers
    )


def add_health(app: web.Application, metrics: Metrics, why_not_ready: Callable[[], str | None]) -> None:
    """Add `/healthz`, `/readyz` and `/metrics`; `why_not_ready` returns None when all is well."""

    async def healthz(_: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    async def readyz(_: web.Request) -> web.Response:
        reason = why_not_ready()
        return web.json_response({"status": reason or "ready"}, status=503 if reason else 200)

    async def show_metrics(_: web.Request) -> web.Response:
        body = generate_latest(metrics.registry)
        return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE_LATEST})

    app.router.add_get("/healthz", healthz)
    app.router.add_get("/readyz", readyz)
    app.router.add_get("/metrics", show_metrics)


def add_dev_tokens(app: web.Application, authority: TokenAuthority) -> None:
    """Add `POST /dev/token`: a token for whatever name one gives. Only for `--dev`."""

    async def dev_token(request: web.Request) -> web.Response:
        try:
            name = DevName.model_validate_json(await request.read()).name.strip()
        except ValidationError as error:
            raise BadRequest("name: 1 to 64 characters are wanted.") from error
        user_id = re.sub(r"[^\w]+", "-", name.lower()).strip("-")
        if not user_id:
            raise BadRequest("name: needs a letter or a digit.")
        token = authority.mint(user_id, name, grants={"room": "*"}, ttl_s=DEV_TOKEN_TTL_S)
        return web.json_response({"token": token, "user_id": user_id, "name": name})

    app.router.add_post("/dev/token", dev_token)


def web_directory() -> Path:
    """Return where the page is: beside the sources, or inside the installed package."""
    package = Path(__file__).resolve().parent.parent
    installed = package / "_web"
    return installed if installed.is_dir() else package.parent / "web"


def add_page(app: web.Application) -> None:
    """Serve the page and its modules from `/`."""
    directory = web_directory()

    async def index(_: web.Request) -> web.FileResponse:
        return web.FileResponse(directory / "index.html", headers=_SECURITY_HEADERS)

    async def api_docs(_: web.Request) -> web.FileResponse:
        return web.FileResponse(directory / "api.html", headers=_SECURITY_HEADERS)

    async def secure(request: web.Request, response: web.StreamResponse) -> None:
        for name, value in _SECURITY_HEADERS.items():
            response.headers.setdefault(name, value)
        if request.path.endswith(".js"):
            # Pages of the host application import the client module from here.
            response.headers["Access-Control-Allow-Origin"] = "*"

    app.on_response_prepare.append(secure)
    app.router.add_get("/", index)
    app.router.add_get("/api/docs", api_docs)
    app.router.add_static("/", directory)
