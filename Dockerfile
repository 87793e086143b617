# The server and nothing else: two stages, no compiler in the second, not root.
FROM python:3.11-slim-bookworm AS build
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY pyproject.toml hatch_build.py README.md LICENSE ./
COPY sfu sfu
COPY web web
RUN python -m venv /opt/sfu && SFU_COMPILE=1 /opt/sfu/bin/pip install --no-cache-dir .

FROM python:3.11-slim-bookworm
RUN useradd --system --uid 10001 --home-dir /nonexistent --shell /usr/sbin/nologin sfu \
    && install -d -o sfu -g sfu -m 0750 /var/lib/sfu
COPY --from=build /opt/sfu /opt/sfu
COPY config/sfu.toml /etc/sfu/sfu.toml
# A secret must be given: SFU_AUTH__SECRET, 32 bytes at least; and the address clients can reach: SFU_MEDIA__PUBLIC_IP.
ENV PATH=/opt/sfu/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    SFU_HTTP__HOST=0.0.0.0 \
    SFU_STORE__URL=sqlite+aiosqlite:////var/lib/sfu/sfu.db
USER sfu
# The calls: keep it over restarts, or name a PostgreSQL by SFU_STORE__URL.
VOLUME /var/lib/sfu
# One TCP port for pages and sockets (behind TLS), one UDP port for all media, one TCP port for media where UDP is blocked.
EXPOSE 8080/tcp 7882/udp 7881/tcp
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8080/readyz', timeout=2)"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["sfu"]
CMD ["serve", "--config", "/etc/sfu/sfu.toml"]
