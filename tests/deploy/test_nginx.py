"""deploy/nginx/mfm.conf is what the server itself would write for the default addresses."""

from __future__ import annotations

from pathlib import Path

from server.gateway import nginx_text
from server.hosting import HostingConfig
from tests.house.sources import ROOT

FOLDER = Path("/var/lib/mfm/server")


def test_the_file_is_what_the_server_writes() -> None:
    hosting = HostingConfig(name="Any", address="fl.example.org:8443")
    place, work = FOLDER / "authority", FOLDER / "superlink" / "gateway"
    wanted = nginx_text(hosting.listen, hosting.superlink, place, work)
    assert (ROOT / "deploy" / "nginx" / "mfm.conf").read_text("utf-8") == wanted
