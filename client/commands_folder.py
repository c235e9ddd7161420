"""The commands `init` and `join`: a hospital's folder and the coordinator's kit.

What crosses the hospital's boundary: nothing; a person sends request.json.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer()

HospitalFolder = Annotated[Path, typer.Argument(help="The hospital's folder.")]


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(help="Folder to make, or an empty one.")],
    name: Annotated[str, typer.Option(help="Name of this site in the consortium.")],
    contact: Annotated[str, typer.Option(help="Whom the coordinator may call.")] = "",
) -> None:
    """Make a hospital's folder: its key pair, and request.json for the coordinator.

    The private key stays in FOLDER/keys. Only request.json is sent.
    """
    from client.keys import create_site, read_request
    from strategies.onboarding import fingerprint

    made = create_site(folder, name, contact)
    print(f"Made {made.root}")
    print(f"  {made.key}  private key, readable by you only; it never leaves this folder")
    print(f"  {made.request}  send this file to the coordinator")
    print(f"Fingerprint, to be compared by telephone: {fingerprint(read_request(made).public_key)}")
    print(f"Then: mfm-client join KIT {made.root}, with the kit that comes back.")


@app.command()
def join(
    kit: Annotated[Path, typer.Argument(help="The coordinator's kit, a zip or a folder.")],
    folder: HospitalFolder = Path(),
    replace: Annotated[
        bool, typer.Option("--replace", help="Accept another certificate authority.")
    ] = False,
) -> None:
    """Take up a kit: authority, address and agreed run; site.yaml is written if there is none."""
    from client.folder import open_folder
    from client.kit import join_kit
    from client.node import started_processes

    opened = open_folder(folder, joined=False)
    done = join_kit(opened, kit, replace=replace)
    print(f"Joined {done.kit.consortium} at {done.kit.address} as {done.kit.site}")
    print(f"  run        {done.kit.run_hash}")
    print(f"  bundle     {done.kit.bundle_hash}")
    print(f"  authority  {done.authority.fingerprint}, {done.authority.days_left():.0f} days left")
    for change in done.changes:
        print(f"  changed: {change}")
    if done.wrote_settings:
        print(f"Now fill in {opened.site_file} and read {opened.kit / 'run.yaml'}.")
    else:
        print(f"{opened.site_file} was left as it is; accept run and bundle there if you agree.")
    if started_processes(opened):
        print("The node still runs with the old kit: mfm-client stop, then start.")
    print(f"Then: mfm-client check {opened.root}; with --dry-run, to see what would leave.")
