"""How events travel between the parts of the server."""
