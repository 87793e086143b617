"""From a list of endpoints to aiohttp routes and to the OpenAPI document: one description, used twice."""

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aiohttp import web
from pydantic import BaseModel, ValidationError
from pydantic.json_schema import models_json_schema

from sfu import clock, jsontext
from sfu.api.schemas import Problem
from sfu.auth import Identity, TokenAuthority
from sfu.errors import BadRequest, NotAllowed, NotAuthenticated, RateLimited, TooLarge
from sfu.token_bucket import TokenBucket

PREFIX = "/api/v1"

# Users whose speed is remembered.
MAX_BUCKETS = 10_000

# A body: as a frame of the socket.
MAX_BODY_BYTES = 64 * 1024

_SCHEMAS = "#/components/schemas/{model}"


@dataclass(frozen=True, slots=True)
class Context:
    """One request, understood: who asks, and what was said."""

    identity: Identity
    path: Mapping[str, str]
    query: Any
    body: Any
    # URL of the WebSocket, as this client reaches it.
    socket_url: str
    # Which bytes of a file are wanted, as RFC 9110 section 14.2 has it; empty: all.
    range: str = ""


@dataclass(frozen=True, slots=True)
class Reply:
    """What an endpoint returns when its status depends on what it did."""

    body: dict[str, Any]
    status: int


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One operation: what it takes, what it returns, who may call it."""

    method: str
    path: str
    name: str
    summary: str
    handler: Callable[[Context], Awaitable[dict[str, Any] | Reply | web.StreamResponse | None]]
    returns: type[BaseModel] | None
    body: type[BaseModel] | None = None
    # Whether the body may be left out: then it is empty.
    body_optional: bool = False
    query: type[BaseModel] | None = None
    statuses: tuple[int, ...] = (200,)
    admin: bool = False
    # Tells who has a ticket for this path; it stands in the query, and does for a token.
    by_ticket: Callable[[str, Mapping[str, str]], Identity] | None = None

    @property
    def parameters(self) -> list[str]:
        """Names of the parameters in the path."""
        return re.findall(r"{(\w+)}", self.path)


class Api:
    """The endpoints of this server."""

    def __init__(
        self,
        authority: TokenAuthority,
        endpoints: Sequence[Endpoint],
        socket_url: Callable[[web.Request], str],
        requests_per_minute: int,
        *,
        prefix: str = PREFIX,
    ) -> None:
        self._prefix = prefix
        self._authority, self._endpoints, self._socket_url = authority, endpoints, socket_url
        self._per_minute = requests_per_minute
        # By user id; the one that asked longest ago gives way.
        self._buckets: dict[str, TokenBucket] = {}

    def add_to(self, app: web.Application) -> None:
        """Add every endpoint."""
        for endpoint in self._endpoints:
            app.router.add_route(endpoint.method, self._prefix + endpoint.path, self._serve(endpoint))

    def add_described_to(self, app: web.Application) -> None:
        """Add every endpoint and the document that describes them; all else under `/api/` is not found."""
        document = b""
        making = asyncio.Lock()

        async def describe(_: web.Request) -> web.Response:
            nonlocal document
            # Made for the first who asks: it takes as long as half of what else a start takes.
            async with making:
                document = document or await asyncio.to_thread(self._describe)
            return web.Response(body=document, content_type="application/json")

        app.router.add_get("/api/openapi.json", describe)
        self.add_to(app)
        app.router.add_route("*", "/api/{rest:.*}", self._nothing)

    def _describe(self) -> bytes:
        return json.dumps(openapi(self._endpoints)).encode()

    async def _nothing(self, request: web.Request) -> web.Response:
        """Answer what no endpoint does: 405 where another method would do, else 404."""
        there = [e for e in self._endpoints if re.fullmatch(_pattern(e.path), request.path)]
        exact = [e for e in there if PREFIX + e.path == request.path]
        methods = [e.method for e in exact or there]
        if methods:
            raise web.HTTPMethodNotAllowed(request.method, methods)
        raise web.HTTPNotFound

    def _serve(self, endpoint: Endpoint) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        async def serve(request: web.Request) -> web.StreamResponse:
            identity = await self._identify(request, endpoint)
            context = Context(
                identity,
                request.match_info,
                _parse(endpoint.query, dict(request.query)) if endpoint.query else None,
                await _body(request, endpoint),
                self._socket_url(request),
                request.headers.get("Range", ""),
            )
            found = await endpoint.handler(context)
            if found is None:
                return web.Response(status=204)
            if isinstance(found, web.StreamResponse):
                return found
            if isinstance(found, Reply):
                return web.json_response(found.body, status=found.status, dumps=jsontext.write)
            return web.json_response(found, status=endpoint.statuses[0], dumps=jsontext.write)

        return serve

    async def _identify(self, request: web.Request, endpoint: Endpoint) -> Identity:
        if endpoint.by_ticket is not None and "ticket" in request.query:
            return endpoint.by_ticket(request.query["ticket"], request.match_info)
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            raise NotAuthenticated("A token is needed, as Authorization: Bearer.")
        identity = await self._authority.check(token.strip())
        if not self._may_ask(identity.user_id):
            raise RateLimited("Too many requests; wait a little.")
        if endpoint.admin and not identity.grants.admin:
            raise NotAllowed("This needs the admin grant.")
        return identity

    def _may_ask(self, user_id: str) -> bool:
        now = clock.now()
        bucket = self._buckets.pop(user_id, None)
        if bucket is None:
            bucket = TokenBucket(self._per_minute / 60, self._per_minute, now)
        self._buckets[user_id] = bucket
        if len(self._buckets) > MAX_BUCKETS:
            del self._buckets[next(iter(self._buckets))]
        return bucket.take(now)


async def _body(request: web.Request, endpoint: Endpoint) -> Any:
    if endpoint.body is None:
        return None
    if (request.content_length or 0) > MAX_BODY_BYTES:
        raise TooLarge(f"A body has at most {MAX_BODY_BYTES} bytes.")
    data = await request.content.read(MAX_BODY_BYTES + 1)
    while len(data) <= MAX_BODY_BYTES and (more := await request.content.read(MAX_BODY_BYTES)):
        data += more
    if len(data) > MAX_BODY_BYTES:
        raise TooLarge(f"A body has at most {MAX_BODY_BYTES} bytes.")
    if not data and endpoint.body_optional:
        return endpoint.body()
    try:
        return endpoint.body.model_validate_json(data)
    except ValidationError as error:
        raise BadRequest(faults(error)) from error


def _parse(model: type[BaseModel], values: dict[str, str]) -> BaseModel:
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise BadRequest(faults(error)) from error


def faults(error: ValueError) -> str:
    """Return fields and faults, never what the client sent."""
    if not isinstance(error, ValidationError):
        return str(error)
    found = error.errors(include_input=False, include_url=False)[:5]
    return "; ".join(f"{'.'.join(map(str, f['loc'])) or 'body'}: {f['msg']}" for f in found) + "."


def _pattern(path: str) -> str:
    return PREFIX + re.sub(r"{\w+}", "[^/]+", path)


# The document


def openapi(endpoints: Sequence[Endpoint]) -> dict[str, Any]:
    """Return the OpenAPI 3.1 document of endpoints."""
    models = {m for e in endpoints for m in (e.body, e.returns) if m is not None} | {Problem}
    ordered = sorted(models, key=lambda model: model.__name__)
    _, schemas = models_json_schema([(m, "validation") for m in ordered], ref_template=_SCHEMAS)
    paths: dict[str, dict[str, Any]] = {}
    for endpoint in endpoints:
        operation = _operation(endpoint)
        if endpoint.name == "initiate_call":
            operation["responses"]["201"]["links"] = _links(endpoints)
        paths.setdefault(PREFIX + endpoint.path, {})[endpoint.method.lower()] = operation
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "sfu",
            "version": "1",
            "description": "Calls: the same acts, checks and errors as over the WebSocket `/ws`.",
        },
        "security": [{"token": []}],
        "paths": paths,
        "components": {
            "schemas": schemas.get("$defs", {}),
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}},
        },
    }


def _operation(endpoint: Endpoint) -> dict[str, Any]:
    parameters: list[dict[str, Any]] = [
        {
            "name": name,
            "in": "path",
            "required": True,
            "schema": {"type": "string", "minLength": 1, "maxLength": 128},
        }
        for name in endpoint.parameters
    ]
    if endpoint.query is not None:
        properties = endpoint.query.model_json_schema()["properties"]
        for name, schema in properties.items():
            described = schema.pop("description", "")
            one = {"name": name, "in": "query", "required": False, "description": described}
            parameters.append({**one, "schema": _without_null(schema)})
    operation: dict[str, Any] = {
        "operationId": endpoint.name,
        "summary": endpoint.summary + (" (admin grant)" if endpoint.admin else ""),
        "responses": {
            **{str(status): _response(endpoint, status) for status in endpoint.statuses},
            "default": {
                "description": "What went wrong.",
                "content": {"application/problem+json": {"schema": _ref(Problem)}},
            },
        },
    }
    if parameters:
        operation["parameters"] = parameters
    if endpoint.body is not None:
        operation["requestBody"] = {
            "required": not endpoint.body_optional,
            "content": {"application/json": {"schema": _ref(endpoint.body)}},
        }
    return operation


def _links(endpoints: Sequence[Endpoint]) -> dict[str, Any]:
    """Return what can be done with a call that was just placed."""
    return {
        e.name: {"operationId": e.name, "parameters": {"call_id": "$response.body#/id"}}
        for e in endpoints
        if e.parameters == ["call_id"]
    }


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    """A parameter is left out rather than null."""
    choices = [one for one in schema.get("anyOf", []) if one.get("type") != "null"]
    return choices[0] if choices else {k: v for k, v in schema.items() if k not in ("title", "default")}


def _response(endpoint: Endpoint, status: int) -> dict[str, Any]:
    if endpoint.returns is None:
        return {"description": "Done."}
    content = {"application/json": {"schema": _ref(endpoint.returns)}}
    first = (endpoint.returns.__doc__ or "").strip().splitlines()[0]
    return {"description": "New." if status == 201 else first, "content": content}


def _ref(model: type[BaseModel]) -> dict[str, str]:
    return {"$ref": _SCHEMAS.format(model=model.__name__)}
