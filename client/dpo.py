"""The evidence pack of a hospital: what a data-protection officer asks for, on one page.

`dpo-stays-here.html` is made of the facts in `dpo.json` and of nothing else. Neither holds a
patient, a pseudonym or the name of an image; they do show how the site is set up.
What crosses the hospital's boundary: nothing; whom to show the page to is the hospital's decision.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from client.dpo_facts import (
    accounting_of,
    cohort_of,
    flow_of,
    leak_audit_of,
    ledgers_of,
    left_of,
    limits_of,
)
from client.dpo_files import files_of, unlisted
from client.dpo_sections import glance_of, sections_of
from client.ledger import read_outbox
from client.progress import Show
from client.site import close_sites, open_site
from client.threats import read_threats, read_trust
from mfm_core.errors import ConfigError
from mfm_core.evidence_page import draw_evidence
from mfm_core.whole_file import write_whole
from strategies.code_hash import code_hash
from strategies.onboarding import KIT_SITE

PAGE, FACTS = "dpo-stays-here.html", "dpo.json"
STEPS = 3
NOTICE = (
    "Made for this hospital. It holds no patient, but shows how the site is set up and protected."
)
STOP = (
    (
        "everything, now",
        "mfm-client stop .",
        "Ends SuperNode and runner within half a minute; nothing leaves any more.",
    ),
    (
        "everything, if that fails",
        "cut the machine's network",
        "Only the SuperNode has a connection; nothing waits to be sent later.",
    ),
    (
        "one run",
        "take its hash out of limits.accepted_runs in site.yaml, then mfm-client stop . and start",
        "Its messages are answered with the word 'limit'.",
    ),
    (
        "one kind of answer",
        "take it out of limits.allowed_kinds, then stop and start",
        "Likewise; the run goes on without this site where its quorum allows.",
    ),
    (
        "nothing without a person",
        "limits.manual: true, then stop and start",
        "Every answer waits for 'mfm-client outbox approve'.",
    ),
    (
        "for good",
        "ask the coordinator for mfm-server site remove; delete keys/node",
        "The key is refused. What has left stays part of the model.",
    ),
)


def find_site_file(place: Path) -> Path:
    """Return site.yaml of a hospital's folder, or the file itself.

    Raises:
        ConfigError: neither is there.
    """
    file = place / KIT_SITE if place.is_dir() else place
    if not file.is_file():
        raise ConfigError(str(place), [f"is no {KIT_SITE} and no folder with one"])
    return file


def gather(place: Path) -> dict[str, Any]:
    """Return all facts of a site, ready for JSON.

    Args:
        place: the hospital's folder, or its site.yaml.

    Raises:
        ConfigError: settings or run cannot be used.
    """
    file = find_site_file(place)
    close_sites()
    site, read = open_site(file), read_outbox(file)
    config = site.config
    return {
        "notice": NOTICE,
        "made_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "site": config.name,
        "run": {"name": site.run.name, "hash": site.config_hash, "rounds": site.run.rounds},
        "code_hash": code_hash(),
        "flow": flow_of(site),
        "left": left_of(read),
        "accounting": accounting_of(site),
        "leak_audit": leak_audit_of(config),
        "cohort": cohort_of(site),
        "limits": limits_of(config.limits),
        "trust": [list(row) for row in read_trust()],
        "files": files_of(config, file.resolve().parent),
        "unlisted": unlisted(config),
        "threats": [list(row) for row in read_threats()],
        "ledgers": ledgers_of(read, site),
        "stop": [{"what": a, "command": b, "effect": c} for a, b, c in STOP],
    }


def page_of(facts: Mapping[str, Any]) -> str:
    """Return the page of facts, whether fresh or read back from JSON."""
    return draw_evidence(facts, glance_of(facts), sections_of(facts))


def write_pack(place: Path, out: Path | None = None, show: Show | None = None) -> Path:
    """Write page and JSON; return the path of the page.

    Args:
        place: the hospital's folder, or its site.yaml.
        out: folder for both; None is "dpo" in the state folder.
        show: told how many steps are done, and of how many.

    Raises:
        ConfigError: settings or run cannot be used.
    """
    tell = show or (lambda done, steps: None)
    tell(0, STEPS)
    facts = gather(place)
    tell(1, STEPS)
    folder = out or open_site(find_site_file(place)).config.state_folder / "dpo"
    text = json.dumps(facts, indent=1, ensure_ascii=False)
    page = page_of(json.loads(text))
    tell(2, STEPS)
    write_whole(folder / FACTS, f"{text}\n".encode())
    path = write_whole(folder / PAGE, page.encode())
    tell(STEPS, STEPS)
    return path
