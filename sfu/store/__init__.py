"""Where calls and events are kept."""
