"""The command line: `sfu serve`, `sfu demo`, `sfu bench`, `sfu token`, `sfu recordings`."""

import asyncio
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from sfu import event_loop, log
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
    settings = _settings(config)
    # It takes a second to load: what is wrong in the settings is told before.
    from sfu.server import serve as run

    log.configure(settings.log.level)
    try:
        with asyncio.Runner(loop_factory=event_loop.factory()) as runner:
            is_clean = runner.run(run(settings, dev=dev))
    except SettingsError as error:
        _fail(str(error))
    if not is_clean:
        raise typer.Exit(1)


recordings_app = typer.Typer(help="Recordings on this machine's disk.", no_args_is_help=True)
app.add_typer(recordings_app, name="recordings")


@recordings_app.command("verify")
def verify_recordings(
    paths: Annotated[list[Path], typer.Argument(help="Folders of recordings, or one that holds some.")],
    key: Annotated[
        Path | None,
        typer.Option(help="The public key that is trusted (signing.pub); else the one beside the signature."),
    ] = None,
    tsa_roots: Annotated[
        Path | None,
        typer.Option(help="PEM file of the authorities whose time stamps are trusted; then each needs one."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object a recording.")] = False,
) -> None:
    """Check recordings; needs no server. Says what is wrong and where; exits with 1 if anything is."""
    from sfu.recorder.report import run

    try:
        code = run(paths, key, tsa_roots, as_json=as_json, write=typer.echo)
    except (OSError, ValueError) as error:
        _fail(str(error))
    raise typer.Exit(code)


@recordings_app.command("compose")
def compose_recording(
    folder: Annotated[Path, typer.Argument(help="The folder of a sealed recording.")],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Else beside the folder.")] = None,
    layout: Annotated[str, typer.Option(help="grid or speaker.")] = "grid",
    format_: Annotated[str, typer.Option("--format", help="webm or mp4.")] = "webm",
    size: Annotated[str, typer.Option(help="WIDTHxHEIGHT.")] = "1280x720",
    fps: Annotated[int, typer.Option(min=1, max=60)] = 25,
) -> None:
    """Make one file of a recording: everybody on one picture, all voices, in step."""
    from sfu.recorder.report import compose_with_progress

    try:
        compose_with_progress(folder, output, layout=layout, format_=format_, size=size, fps=fps)
    except (OSError, ValueError) as error:
        _fail(str(error))


@recordings_app.command("export")
def export_recording(
    folder: Annotated[Path, typer.Argument(help="The folder of a sealed recording.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The ZIP; else beside the folder.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Write over what is there.")] = False,
    key: Annotated[
        Path | None, typer.Option(help="The public key that is trusted, for the report's verdict.")
    ] = None,
) -> None:
    """Pack a recording for an archive or an auditor; exits with 1 if it is not right."""
    from sfu.recorder.export import export_with_progress

    try:
        code = export_with_progress(folder, output, force=force, key=key)
    except (OSError, ValueError) as error:
        _fail(str(error))
    raise typer.Exit(code)


@recordings_app.command("fetch")
def fetch_recording(
    recording_id: Annotated[str, typer.Argument(help="The id of a recording.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Where its folder is made.")] = Path(),
    config: ConfigOption = None,
) -> None:
    """Fetch an encrypted recording from the stores; it is noted in its audit trail."""
    from sfu.recorder.fetching import fetch

    log.configure("warning")
    try:
        asyncio.run(fetch(_settings(config), recording_id, output))
    except (OSError, ValueError) as error:
        _fail(str(error))


@app.command()
def demo(
    seconds: Annotated[int, typer.Option(min=2, max=600, help="How long the two talk.")] = 8,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as one JSON object.")] = False,
    recordings: Annotated[
        Path | None, typer.Option(help="Where the recording of the call is left; else a temporary folder.")
    ] = None,
) -> None:
    """Let one headless participant call another through a server, record it, and report what they saw."""
    from sfu.demo import run

    raise typer.Exit(run(seconds, as_json=as_json, recordings=recordings))


@app.command()
def bench(  # noqa: PLR0913 - one argument an option
    url: Annotated[str, typer.Argument(help="The server, as http://host:port.")] = "http://127.0.0.1:8080",
    publishers: Annotated[int, typer.Option(min=1, max=100, help="How many send.")] = 1,
    receivers: Annotated[int, typer.Option(min=1, max=1_000, help="How many receive all of them.")] = 10,
    conference: Annotated[
        int, typer.Option(min=0, max=100, help="Instead: so many that all send and receive.")
    ] = 0,
    seconds: Annotated[int, typer.Option(min=1, max=3600, help="How long it is measured.")] = 10,
    video_kbps: Annotated[int, typer.Option(min=50, max=8_000, help="Of each picture, in kbit/s.")] = 800,
    audio: Annotated[bool, typer.Option(help="Send a tone as well.")] = True,
    room: Annotated[str | None, typer.Option(help="A room of your choice; else one of its own.")] = None,
    joins_per_s: Annotated[float, typer.Option(min=0.1, max=100, help="How fast they join.")] = 10,
    max_loss: Annotated[float, typer.Option(min=0, max=1, help="More lost than this share fails.")] = 0.01,
    config: Annotated[
        Path | None, typer.Option("--config", help="The server's settings, to sign tokens with its secret.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as one JSON object.")] = False,
) -> None:
    """Load a running server with headless participants, and report what they saw.

    Each has a token of its own, signed with the secret of --config or SFU_AUTH__SECRET; without one,
    those are taken that a server with --dev gives to everybody.
    """
    from sfu.bench import Plan, room_name, run

    count = (conference, conference) if conference else (publishers, receivers)
    plan = Plan(
        url, *count, bool(conference), seconds, video_kbps, audio, room or room_name(), joins_per_s, max_loss
    )
    if not url.startswith(("http://", "https://", "ws://", "wss://")):
        _fail(f"{url} is no address of a server; it begins with http:// or https://")
    if conference == 1:
        _fail("--conference 1: nobody would hear it")
    settings = _settings(config)
    authority = TokenAuthority(settings.auth) if settings.auth.secret else None

    def mint(name: str) -> str:
        assert authority is not None
        return authority.mint(name, grants={"room": plan.room})

    raise typer.Exit(run(plan, mint if authority is not None else None, as_json=as_json))


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
