"""The commands that host a consortium: start, stop, run, resume, status.

What crosses a hospital's boundary: the app bundle and the agreed run, when a run is submitted.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mfm_core.errors import RunFailed

if TYPE_CHECKING:
    from server.hosting import HostingConfig
    from server.superlink import Host

app = typer.Typer()

FolderArgument = Annotated[Path, typer.Argument(help="The consortium's folder.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def find_host(folder: Path) -> tuple[Host, HostingConfig]:
    """Return where the consortium of a folder runs, and its settings.

    Raises:
        ConfigError: it is none, a part is missing or consortium.yaml is wrong.
    """
    from server.folder import open_folder
    from server.hosting import load_hosting
    from server.superlink import Host

    opened = open_folder(folder)
    hosting = load_hosting(opened)
    addresses = hosting.listen, hosting.superlink
    return Host(opened.root, *addresses, hosting.gateway, hosting.metrics), hosting


@app.command()
def start(
    folder: FolderArgument,
    detach: Annotated[
        bool, typer.Option("--detach", help="Come back when it is ready; `stop` ends it.")
    ] = False,
) -> None:
    """Start SuperLink, SuperExec and gateway and keep them running.

    Stays in the foreground, as systemd wants it, until Ctrl-C or SIGTERM. What ends is started
    again; sites that are admitted, suspended or removed meanwhile are taken up within a second
    or two, and so is a renewed certificate.
    """
    from server.supervisor import supervisor_command

    host, _ = find_host(folder)
    if detach:
        _start_detached(host)
        return
    command, environment = supervisor_command(host)
    os.execve(command[0], command, environment)


def _start_detached(host: Host) -> None:
    from server.superlink import read_processes
    from server.supervisor import START_LIMIT_S, supervisor_command

    host.logs.mkdir(parents=True, exist_ok=True)
    path = host.logs / "supervisor.log"
    command, environment = supervisor_command(host)
    with path.open("ab") as log:
        begin = log.tell()
        child = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    stop_at = time.monotonic() + 2 * START_LIMIT_S
    while child.poll() is None and time.monotonic() < stop_at:
        found = read_processes(host)
        if found.get("ready") and found["supervisor"]["pid"] == child.pid:
            print(f"ready at {host.listen}; its log: {path}")
            return
        time.sleep(0.2)
    child.terminate()
    said = path.read_bytes()[begin:].decode(errors="replace").strip()
    raise RunFailed(f"it did not start:\n{said or 'it said nothing'}")


@app.command()
def stop(folder: FolderArgument) -> None:
    """End everything that `start` started for FOLDER, and nothing else.

    A run that is under way keeps its last finished exchange; `start` goes on with it by itself
    after a while, `resume` at once.
    """
    from server.superlink import stop_host

    host, _ = find_host(folder)
    names = stop_host(host)
    print(f"ended: {', '.join(names)}" if names else "nothing was running")


@app.command()
def run(
    folder: FolderArgument,
    name: Annotated[
        str | None, typer.Option(help="Folder below runs/; the run's own name when left out.")
    ] = None,
) -> None:
    """Submit the agreed run to all admitted sites and follow it to its end.

    Ctrl-C stops watching, not the run; `start` keeps it going, `resume` watches again. Exit code
    0: complete, or degraded (there is a model, and the sites that were missing are printed by
    name); 3: failed.
    """
    from server.hosted_run import run_agreed

    host, hosting = find_host(folder)
    run_agreed(host, hosting, name)


@app.command()
def resume(
    folder: FolderArgument,
    name: Annotated[
        str | None, typer.Option(help="Folder below runs/; the newest run when left out.")
    ] = None,
) -> None:
    """Go on with a run from its last finished exchange, or watch it when it is under way."""
    from server.hosted_run import resume_run

    host, hosting = find_host(folder)
    resume_run(host, hosting, name)


@app.command()
def status(
    folder: Annotated[
        Path, typer.Argument(help="The consortium's folder, or that of one run below runs/.")
    ],
    as_json: JsonOption = False,
    healthy: Annotated[
        bool, typer.Option("--healthy", help="Only tell whether all is up: exit code 0 or 1.")
    ] = False,
) -> None:
    """Show what runs, which sites are there, how long the certificates last, how far runs are.

    Given the folder of one run, show every exchange and which sites answered what. With --healthy
    the processes are asked and nothing else is loaded, which suits a container's health check.
    """
    if healthy:
        show_health(folder / "superlink" / "processes.json")
        return
    from server.hosted_status import is_consortium, read_hosted, show_hosted
    from server.run_status import read_status, show_status

    if is_consortium(folder):
        host, hosting = find_host(folder)
        found = read_hosted(host, hosting.name)
        show = show_hosted
    else:
        found, show = read_status(folder), show_status
    if as_json:
        print(json.dumps(found, indent=1))
    else:
        show(found)


def show_health(record: Path) -> None:
    """Print what is not well; exit code 1 if anything is."""
    from strategies.health import read_ills

    ills = read_ills(record)
    print("\n".join(ills) or "healthy")
    if ills:
        raise typer.Exit(1)
