"""The media plane: peer connections, rooms, forwarding. It knows nothing of calls."""
