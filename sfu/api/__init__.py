"""HTTP beside the sockets: health, metrics, the page."""
