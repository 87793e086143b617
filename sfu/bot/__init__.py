"""The client side for Python programs: the protocol over stock aiortc."""
