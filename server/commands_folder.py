"""The commands about the coordinator's folder: init, check, pictures, rotate.

What crosses a hospital's boundary: nothing.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from mfm_core.config import parse_yaml, problems_of
from mfm_core.errors import ConfigError
from server.finding import Finding, Level, worst
from server.folder import Folder, create_folder, locked, open_folder

app = typer.Typer()

COLOURS: dict[Level, str] = {"ok": "green", "warn": "yellow", "fail": "red"}

FolderArgument = Annotated[Path, typer.Argument(help="The consortium's folder.")]
Hosts = Annotated[
    list[str] | None,
    typer.Option("--host", help="Further host name or IP for the certificate; repeat."),
]


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(help="New folder; made whole or not at all.")],
    name: Annotated[str, typer.Option(help="Name of the consortium.")],
    address: Annotated[str, typer.Option(help="host:port that the hospitals' nodes will call.")],
    run: Annotated[
        Path | None, typer.Option(help="The agreed run.yaml; a commented one when left out.")
    ] = None,
    host: Hosts = None,
) -> None:
    """Make FOLDER: certificate authority, server certificate, secret, consortium.yaml, run.yaml.

    The authority's key (authority/ca.key) is what every site trusts: keep a copy of FOLDER where
    nobody else can read it.
    """
    from server.templates import RUN, consortium_text
    from strategies.processes import split_address

    settings = consortium_text(name, address)
    _refuse_settings(settings, "init")
    agreed = _read_run(run) if run is not None else RUN
    made = create_folder(folder, settings, agreed, (name, split_address(address)[0], *(host or ())))
    print(f"{made.root} is ready. Next:")
    print(f"  1. read {made.consortium.name} and {made.run.name} there, and change what is needed")
    print(f"  2. mfm-server check {folder}")
    print(f"  3. mfm-server site add {folder} REQUEST, for each hospital's request.json")


def _refuse_settings(text: str, where: str) -> None:
    from pydantic import ValidationError

    from server.hosting import HostingConfig

    try:
        HostingConfig.model_validate(parse_yaml(text))
    except ValidationError as error:
        problems = problems_of(error)  # the port of `listen` is that of the address
        named = [one for one in problems if not one.startswith("listen:")] or problems
        raise ConfigError(where, [f"--{problem}" for problem in named]) from None


def _read_run(path: Path) -> str:
    """Return the text of a run.yaml that loads; its comments are kept."""
    from mfm_core.config import load_yaml
    from strategies.config import RunConfig

    load_yaml(path, RunConfig)
    return path.read_text(encoding="utf-8")


@app.command()
def check(
    folder: FolderArgument,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Look at certificates, run, sites, kits, ports, disk and secrets; change nothing.

    Each line says ok, warn or fail and what to do. Certificates warn 30 days ahead. Exit code 1
    when a line says fail.
    """
    from server.doctor import check_folder

    place = folder.resolve()
    if not Folder(place).consortium.exists() and not Folder(place).authority.exists():
        open_folder(folder)
    findings = check_folder(Folder(place))
    if as_json:
        content = {"level": worst(findings), "findings": [found.to_dict() for found in findings]}
        print(json.dumps(content, indent=1, ensure_ascii=False))
    else:
        show_findings(findings)
    if worst(findings) == "fail":
        raise typer.Exit(1)


def show_findings(findings: tuple[Finding, ...]) -> None:
    """Print one line per finding, and what to do below it."""
    console = Console(highlight=False, soft_wrap=True)
    for found in findings:
        console.print(f"[{COLOURS[found.level]}]{found.level:<4}[/] ", end="")
        console.print(f"{found.part}: {found.text}", markup=False)
        if found.advice:
            console.print(f"     -> {found.advice}", markup=False)


@app.command()
def pictures(
    folder: FolderArgument,
    images: Annotated[Path, typer.Argument(help="Folder of public image files; all below it.")],
) -> None:
    """Make the file of public pictures beside run.yaml, and print the line that names it there.

    They must be nobody's patients of the consortium: directions of a private atlas and the start of
    a private run come of them at no cost in privacy. Films of the same kind serve best.
    """
    from mfm_core.public_pictures import PUBLIC_FILE, read_pictures, write_public
    from server.hosting import load_hosted_run, load_hosting

    opened = open_folder(folder)
    with locked(opened):
        hosting = load_hosting(opened)
        run, place = load_hosted_run(hosting), hosting.run.parent
        files = sorted(path for path in images.rglob("*") if path.is_file())
        if not files:
            raise ConfigError(str(images), ["holds no file; give the folder of public images"])
        found = read_pictures(files, run.image)
        made = write_public(place, found)
    print(f"{len(found)} pictures of {run.image.size_px} px in {place / PUBLIC_FILE}")
    if run.privacy.public_pictures == made:
        print("run.yaml names them already")
        return
    print(f"Write into {hosting.run.name}, then give every site a new kit:")
    print(f"privacy:\n  public_pictures: {made}")


@app.command()
def rotate(folder: FolderArgument, host: Hosts = None) -> None:
    """Issue a new server certificate; the sites trust the authority and need nothing new.

    It names the host of `address` in consortium.yaml, what the old one named, and every --host.
    A consortium that runs takes it up by itself.
    """
    from server.certificates import issue_server_certificate, read_certificate
    from server.hosting import load_hosting

    opened = open_folder(folder)
    with locked(opened):
        names = [load_hosting(opened).host, *(host or ())]
        try:
            names += read_certificate(opened.authority / "server.crt").names
        except ConfigError as error:
            print(f"the old certificate cannot be read, its names are not kept: {error}")
        made = issue_server_certificate(opened.authority, names)
    print(f"new certificate for {', '.join(made.names)}")
    print(f"good until {made.not_after:%Y-%m-%d} ({made.days_left():.0f} days)")
