"""Settings of the site. Secrets come from the environment.

EXAMPLE_DEVELOPMENT=1 allows secrets that everybody can read here, plain http, and Django's error pages:
for this machine only. Without it, what is missing in the environment keeps the site from starting.
"""

import os
from pathlib import Path
from urllib.parse import urlsplit

from django.core.exceptions import ImproperlyConfigured

BASE_DIR = Path(__file__).resolve().parent.parent
DEVELOPMENT = os.environ.get("EXAMPLE_DEVELOPMENT") == "1"


def _secret(name: str) -> str:
    value = os.environ.get(name, "")
    if not value and DEVELOPMENT:
        return f"for-development-only-{name.lower()}-everybody-knows-this"
    if len(value.encode()) < 32:
        raise ImproperlyConfigured(
            f"{name}: at least 32 bytes are needed in the environment (EXAMPLE_DEVELOPMENT=1: none)"
        )
    return value


# Where browsers find this site, and where they find the calls server.
SITE_URL = os.environ.get("EXAMPLE_SITE_URL", "http://127.0.0.1:8000").rstrip("/")
SFU_URL = os.environ.get("EXAMPLE_SFU_URL", "http://127.0.0.1:8080").rstrip("/")

SECRET_KEY = _secret("DJANGO_SECRET_KEY")
# Signs the tokens of users: the calls server has the same, under the same name.
SFU_SECRET = _secret("SFU_AUTH__SECRET")
# Signs what the calls server tells this site.
WEBHOOK_SECRET = _secret("EXAMPLE_WEBHOOK_SECRET")

DEBUG = DEVELOPMENT
ALLOWED_HOSTS = [urlsplit(SITE_URL).hostname or "", *(["127.0.0.1", "localhost"] if DEVELOPMENT else [])]
CSRF_TRUSTED_ORIGINS = [SITE_URL]
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = not DEVELOPMENT

ROOT_URLCONF = "example.urls"
WSGI_APPLICATION = "example.wsgi.application"
INSTALLED_APPS = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.staticfiles",
    "calls",
]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "example.middleware.content_policy",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "calls.context.calls_server",
            ]
        },
    }
]
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": os.environ.get("EXAMPLE_DATABASE", str(BASE_DIR / "example.db")),
        # Who reads in order to write takes the lock first: two deliveries of one call wait for each other.
        "OPTIONS": {"transaction_mode": "IMMEDIATE", "timeout": 20},
    }
}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator"},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
]
LOGIN_URL = "login"
LOGIN_REDIRECT_URL = "people"
LOGOUT_REDIRECT_URL = "login"

USE_TZ = True
TIME_ZONE = "UTC"
STATIC_URL = "static/"
