"""The app, as Django finds it."""

from django.apps import AppConfig


class CallsConfig(AppConfig):
    """Calls between the users of the site."""

    name = "calls"
