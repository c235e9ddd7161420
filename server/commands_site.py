"""The commands about the sites of a consortium: site add, list, suspend, admit, remove, kit.

What crosses a hospital's boundary: towards it, the kit that people carry.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from server.folder import open_folder

if TYPE_CHECKING:
    from server.membership import SiteRecord

app = typer.Typer(help="Admit, list, suspend and remove sites.", no_args_is_help=True)

FolderArgument = Annotated[Path, typer.Argument(help="The consortium's folder.")]
NameArgument = Annotated[str, typer.Argument(help="Name of the site.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command("add")
def add_site(
    folder: FolderArgument,
    request: Annotated[Path, typer.Argument(help="request.json of `mfm-client init`.")],
    as_json: JsonOption = False,
) -> None:
    """Admit the site of a request file and write its kit; no other site is touched.

    The same request again renews the kit, and ends a suspension. Compare the printed fingerprint
    with the hospital over the telephone before you hand out the kit.
    """
    from server.membership import admit

    done = admit(open_folder(folder), request)
    if as_json:
        print(json.dumps({**_row(done.site), "known": done.known, "kit": str(done.kit)}, indent=1))
        return
    print(f"{done.site.name} is {'admitted as before' if done.known else 'admitted'}")
    print(f"key {done.site.fingerprint}: compare it with the hospital over the telephone")
    print(f"kit {done.kit}.zip: send it to the hospital, nothing in it is secret")


@app.command("list")
def list_sites(folder: FolderArgument, as_json: JsonOption = False) -> None:
    """List the sites. Exit code 1 when a file is damaged; the good ones are listed."""
    from server.membership import sites_and_problems

    sites, problems = sites_and_problems(open_folder(folder))
    if as_json:
        content = {"sites": [_row(site) for site in sites], "problems": problems}
        print(json.dumps(content, indent=1, ensure_ascii=False))
    else:
        table = Table("site", "status", "admitted", "contact", "key")
        for site in sites:
            day = f"{site.admitted_at:%Y-%m-%d}"
            table.add_row(site.name, site.status, day, escape(site.contact), site.fingerprint)
        console = Console(highlight=False)
        console.print(table if sites else "no sites yet")
        for text in problems:
            console.print(f"damaged: {text}", markup=False)
    if problems:
        raise typer.Exit(1)


@app.command("suspend")
def suspend_site(folder: FolderArgument, name: NameArgument) -> None:
    """Keep a site out until `site admit`; its file, kit and past results stay."""
    from server.membership import suspend

    print(f"{suspend(open_folder(folder), name).name} is suspended")


@app.command("admit")
def admit_site(folder: FolderArgument, name: NameArgument) -> None:
    """End a suspension; the site's key and kit are the ones it has."""
    from server.membership import readmit

    print(f"{readmit(open_folder(folder), name).name} is admitted")


@app.command("remove")
def remove_site(folder: FolderArgument, name: NameArgument) -> None:
    """Forget a site: its file and kit go, the ledgers of past runs stay."""
    from server.membership import remove

    remove(open_folder(folder), name)
    print(f"{name} is removed")


@app.command("kit")
def renew_kit(
    folder: FolderArgument,
    name: Annotated[
        list[str] | None, typer.Argument(help="Names of sites; all admitted when left out.")
    ] = None,
) -> None:
    """Write kits anew, after a change of run.yaml, of the address or of this software."""
    from server.membership import renew_kits

    for kit in renew_kits(open_folder(folder), tuple(name or ())):
        print(f"{kit}.zip")


def _row(site: SiteRecord) -> dict[str, str]:
    return {**site.model_dump(mode="json"), "fingerprint": site.fingerprint}
