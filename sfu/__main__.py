"""The command line: `sfu serve`, `sfu demo`, `sfu token`."""

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from sfu import log
from sfu.auth import TokenAuthority
from sfu.settings import Settings, SettingsError, load

app = typer.Typer(help="Calls for Python web applications.", no_args_is_help=True, add_completion=False)

ConfigOption = Annotated[Path | None, typer.Option("--config", help="A TOML file like config/sfu.toml.")]


def _fail(message: str) -> NoReturn:
    typer.echo(f"sfu: {message}", err=True)
    raise typer.Exit(2)


def _settings(config: Path | None) -> Settings:
    try:
        return load(config)
    except SettingsError as error:
        _fail(str(error))


@app.command()
def serve(
    config: ConfigOption = None,
    dev: Annotated[
        bool, typer.Option("--dev", help="Throw-away keys and tokens for everybody; loopback only.")
    ] = False,
) -> None:
    """Run the server until it is told to stop."""
    from sfu.server import serve as run

    settings = _settings(config)
    log.configure(settings.log.level)
    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(run(settings, dev=dev))
    except SettingsError as error:
        _fail(str(error))


def _loop_factory() -> "Callable[[], asyncio.AbstractEventLoop] | None":
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


@app.command()
def demo(
    seconds: Annotated[int, typer.Option(min=2, max=600, help="How long the two talk.")] = 8,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as one JSON object.")] = False,
) -> None:
    """Let one headless participant call another through a server, and report what they saw."""
    from sfu.demo import run

    raise typer.Exit(run(seconds, as_json=as_json))


@app.command()
def token(
    user: Annotated[str, typer.Option(help="The user's id (`sub`).")],
    name: Annotated[str | None, typer.Option(help="The name that others see.")] = None,
    room: Annotated[str | None, typer.Option(help="A room that may be joined without a call, or *.")] = None,
    grant: Annotated[
        list[str] | None, typer.Option(help="A grant to give (record) or, as no-publish, to take.")
    ] = None,
    ttl: Annotated[int, typer.Option(min=1, max=365 * 86400, help="Seconds that it holds.")] = 3600,
    config: ConfigOption = None,
) -> None:
    """Print a token signed with the configured secret."""
    from sfu.auth import Grants

    grants: dict[str, object] = {"room": room} if room else {}
    for word in grant or []:
        field = word.removeprefix("no-")
        if field not in Grants.model_fields or field == "room":
            _fail(f"--grant {word}: there is no such grant ({', '.join(sorted(Grants.model_fields))})")
        grants[field] = not word.startswith("no-")
    try:
        sys.stdout.write(
            TokenAuthority(_settings(config).auth).mint(user, name, grants=grants, ttl_s=ttl) + "\n"
        )
    except SettingsError as error:
        _fail(str(error))


def main() -> None:
    """Run the command line."""
    app()


if __name__ == "__main__":
    main()
