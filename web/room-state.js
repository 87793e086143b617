/** Most people that a room is followed for; later ones are heard through slots but not listed. */
const MAX_PARTICIPANTS = 2000;

/** Who is in the room and what fills each slot: pure bookkeeping over the server's media.* messages. */
export class RoomState {
  /** My own participant id, from the reply to the offer. */
  myId = null;
  /** participant_id → {participant_id, user_id, name, tracks: Map(track_id → {track_id, kind, source, muted})}. */
  participants = new Map();
  /** mid → {mid, track_id, participant_id, source, muted, paused, layer}, only for slots in use. */
  slots = new Map();

  /** The whole list replaces what was known; a list that leaves me out does not forget my own tracks. */
  replace(list) {
    const me = this.participants.get(this.myId);
    this.participants = new Map();
    for (const participant of list) this.join(participant);
    if (me && !this.participants.has(this.myId)) this.participants.set(this.myId, me);
  }

  join(participant) {
    if (!participant.participant_id || this.participants.size >= MAX_PARTICIPANTS) return;
    const tracks = new Map((participant.tracks ?? []).map((track) => [track.track_id, { ...track }]));
    this.participants.set(participant.participant_id, { ...participant, tracks });
  }

  leave(participantId) {
    this.participants.delete(participantId);
  }

  publish(participantId, track) {
    this.participants.get(participantId)?.tracks.set(track.track_id, { ...track });
  }

  unpublish(trackId) {
    this.#owner(trackId)?.tracks.delete(trackId);
  }

  mute(trackId, muted) {
    const track = this.#owner(trackId)?.tracks.get(trackId);
    if (track) track.muted = muted;
    for (const slot of this.slots.values()) if (slot.track_id === trackId) slot.muted = muted;
  }

  /** The server's list is always whole: slots that it does not name, or names without a track, are free. */
  bind(list) {
    this.slots = new Map(list.filter((slot) => slot.track_id).map((slot) => [slot.mid, slot]));
  }

  /** My own published track of a source, which carries the id and mute state that the server knows. */
  mine(source) {
    return this.trackOf(this.myId, source);
  }

  trackOf(participantId, source) {
    for (const track of this.participants.get(participantId)?.tracks.values() ?? []) {
      if (track.source === source) return track;
    }
    return null;
  }

  #owner(trackId) {
    for (const participant of this.participants.values()) if (participant.tracks.has(trackId)) return participant;
    return null;
  }
}
