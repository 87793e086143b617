"""What the host application does over REST: conversations, tokens, and a look into the rooms."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from sfu.api import schemas
from sfu.api.routes import Context, Endpoint, Reply, faults
from sfu.auth import Grants, TokenAuthority
from sfu.calls.service import CallService
from sfu.errors import BadRequest, NotAllowed, NotFound

Document = dict[str, Any]


class Rooms(Protocol):
    """The media rooms of this process."""

    def describe(self) -> list[Document]:
        """Return name and participants of every room, each participant with its tracks."""

    def silence(self, peer_id: str, track_id: str, silenced: bool) -> None:
        """Stop forwarding a track, or go on."""

    def remove(self, peer_id: str) -> None:
        """Close a participant's media connection."""


class HostEndpoints:
    """Handlers of `/conversations`, `/tokens` and `/rooms`."""

    def __init__(
        self,
        calls: CallService,
        authority: TokenAuthority,
        rooms: Rooms,
        may_record: Callable[[Mapping[str, Any]], None],
    ) -> None:
        # `may_record` raises ValueError where calls of a conversation cannot be recorded as it says.
        self._calls, self._authority, self._rooms = calls, authority, rooms
        self._may_record = may_record

    def all(self) -> list[Endpoint]:
        """Return the endpoints."""
        conversation, room = "/conversations/{conversation_id}", "/rooms/{room}"
        return [
            Endpoint(
                "PUT",
                conversation,
                "put_conversation",
                "Tell who belongs to a conversation.",
                self._put,
                schemas.Conversation,
                schemas.PutConversation,
                statuses=(200, 201),
                admin=True,
            ),
            Endpoint(
                "GET", conversation, "get_conversation", "A conversation.", self._get, schemas.Conversation
            ),
            Endpoint(
                "DELETE",
                conversation,
                "delete_conversation",
                "Forget a conversation; its calls stay.",
                self._delete,
                None,
                statuses=(204,),
                admin=True,
            ),
            Endpoint(
                "POST",
                "/tokens",
                "mint_token",
                "A token for a user.",
                self._mint,
                schemas.Token,
                schemas.MintToken,
                statuses=(201,),
                admin=True,
            ),
            Endpoint(
                "GET", "/rooms", "list_rooms", "The media rooms.", self._list, schemas.Rooms, admin=True
            ),
            Endpoint("GET", room, "get_room", "One room.", self._room, schemas.Room, admin=True),
            Endpoint(
                "POST",
                room + "/participants/{participant_id}/mute",
                "mute_participant",
                "Stop forwarding what somebody says, or go on.",
                self._mute,
                schemas.Room,
                schemas.MuteParticipant,
                body_optional=True,
                admin=True,
            ),
            Endpoint(
                "POST",
                room + "/participants/{participant_id}/remove",
                "remove_from_room",
                "Close somebody's media connection.",
                self._remove,
                None,
                schemas.Nothing,
                body_optional=True,
                statuses=(204,),
                admin=True,
            ),
        ]

    # Conversations

    async def _put(self, context: Context) -> Reply:
        conversation_id = context.path["conversation_id"]
        if len(conversation_id) > 128 or not conversation_id.isprintable():
            raise BadRequest("conversation_id: 1 to 128 printable characters are wanted.")
        body: schemas.PutConversation = context.body
        participants = list(dict.fromkeys(body.participants))
        document: Document = {"id": conversation_id, "participants": participants, "title": body.title}
        if body.recording is not None:
            document["recording"] = body.recording.model_dump(exclude_none=True)
            try:
                self._may_record(document)
            except ValueError as error:
                raise BadRequest(f"recording: {faults(error)}", code="bad_recording_policy") from error
        is_new = await self._calls.put_conversation(conversation_id, document)
        return Reply(document, 201 if is_new else 200)

    async def _get(self, context: Context) -> Document:
        found = await self._calls.conversation(context.path["conversation_id"])
        if context.identity.user_id not in found["participants"] and not context.identity.grants.admin:
            raise NotFound("There is no such conversation.", code="conversation_not_found")
        return dict(found)

    async def _delete(self, context: Context) -> None:
        await self._calls.delete_conversation(context.path["conversation_id"])

    # Tokens

    async def _mint(self, context: Context) -> Document:
        body: schemas.MintToken = context.body
        if not self._authority.can_mint:
            raise NotAllowed("This server signs no tokens: it has no secret.")
        try:
            grants = Grants.model_validate(body.grants)
        except ValueError as error:
            raise BadRequest("grants: not those of a token.") from error
        unknown = sorted(set(body.grants) - set(Grants.model_fields))
        if unknown:
            raise BadRequest(f"grants: there is no {', '.join(unknown)}.")
        token = self._authority.mint(
            body.user_id, body.name, grants=grants.model_dump(exclude_none=True), ttl_s=body.ttl_s
        )
        return {"token": token, "user_id": body.user_id, "expires_in_s": body.ttl_s}

    # Rooms

    async def _list(self, _: Context) -> Document:
        return {"rooms": self._rooms.describe()}

    async def _room(self, context: Context) -> Document:
        for room in self._rooms.describe():
            if room["name"] == context.path["room"]:
                return room
        raise NotFound("There is no such room.", code="room_not_found")

    async def _participant(self, context: Context) -> Document:
        room = await self._room(context)
        for participant in room["participants"]:
            if participant["participant_id"] == context.path["participant_id"]:
                return dict(participant)
        raise NotFound("There is no such participant in this room.", code="participant_not_found")

    async def _mute(self, context: Context) -> Document:
        participant, body = await self._participant(context), context.body
        tracks = [t["track_id"] for t in participant["tracks"] if t["kind"] == "audio"]
        for track_id in tracks if body.track_id is None else [body.track_id]:
            self._rooms.silence(participant["participant_id"], track_id, body.muted)
        return await self._room(context)

    async def _remove(self, context: Context) -> None:
        participant = await self._participant(context)
        self._rooms.remove(participant["participant_id"])
