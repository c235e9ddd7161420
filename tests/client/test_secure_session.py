"""Keys of the secure sum serve once, whatever is asked again, killed or damaged."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys

import pytest

from client.secure_session import (
    FILE,
    begin_session,
    check_session,
    fix_roster,
    spend_mask,
    spend_shares,
)
from mfm_core.errors import UpdateRejected
from strategies.secure_sum import Told

GROUP = ("a", "b", "c")


def refused(reason, call, *arguments):
    with pytest.raises(UpdateRejected) as caught:
        call(*arguments)
    assert caught.value.reason == reason


def begun(state):
    keys = begin_session(state, "one", "a", 0)
    fix_roster(state, "one", "a", 0, "roster")
    return keys


def test_keys_are_random_kept_and_for_their_owner_only(tmp_path):
    keys = begin_session(tmp_path, "one", "a", 0)
    assert begin_session(tmp_path, "one", "a", 0) == keys, "a lost reply may be asked for again"
    assert (tmp_path / FILE).stat().st_mode & 0o077 == 0
    assert begin_session(tmp_path, "two", "a", 0).master != keys.master
    assert begin_session(tmp_path, "one", "a", 0).master != keys.master, "the old secret is gone"


def test_masks_and_shares_of_an_exchange_are_used_once(tmp_path):
    keys = begun(tmp_path)
    assert spend_mask(tmp_path, "one", "a", 0, GROUP) == keys
    refused("spent", spend_mask, tmp_path, "one", "a", 0, GROUP)
    assert spend_shares(tmp_path, "one", "a", Told(0, GROUP, GROUP)) == keys
    assert spend_shares(tmp_path, "one", "a", Told(0, GROUP, GROUP)) == keys, "told the same again"
    refused("spent", spend_shares, tmp_path, "one", "a", Told(0, GROUP, ("a", "b")))
    assert spend_mask(tmp_path, "one", "a", 1, GROUP) == keys


def test_shares_are_given_for_the_masked_group_only(tmp_path):
    begun(tmp_path)
    refused("participants", spend_shares, tmp_path, "one", "a", Told(0, GROUP, GROUP))
    spend_mask(tmp_path, "one", "a", 0, GROUP)
    other = (*GROUP, "d")
    refused("participants", spend_shares, tmp_path, "one", "a", Told(0, other, GROUP))


def test_a_session_under_way_does_not_begin_again_and_keeps_its_roster(tmp_path):
    begun(tmp_path)
    refused("session", begin_session, tmp_path, "one", "a", 0)
    refused("roster", fix_roster, tmp_path, "one", "a", 0, "another")
    fix_roster(tmp_path, "one", "a", 0, "roster")
    refused("session", spend_mask, tmp_path, "other", "a", 0, GROUP)


def test_a_session_does_not_shift_its_position_in_the_plan(tmp_path):
    """Shifted by one, the same exchange would be masked again under the next position's keys."""
    begun(tmp_path)
    check_session(tmp_path, "one", "a", 0, "roster")
    for first in (-1, 1):
        refused("session", check_session, tmp_path, "one", "a", first, "roster")
        refused("session", fix_roster, tmp_path, "one", "a", first, "roster")
    begin_session(tmp_path, "two", "a", 3)
    refused("session", begin_session, tmp_path, "two", "a", 4)


def test_a_roster_of_an_earlier_session_is_not_taken_for_the_new_ones(tmp_path):
    begun(tmp_path)
    begin_session(tmp_path, "two", "a", 0)
    refused("roster", check_session, tmp_path, "two", "a", 0, "roster")
    refused("roster", check_session, tmp_path, "two", "a", 0, "")


def test_nothing_is_masked_before_the_roster_is_known(tmp_path):
    begin_session(tmp_path, "one", "a", 0)
    refused("spent", spend_mask, tmp_path, "one", "a", 0, GROUP)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"session": "one"}', b"\xff"])
def test_a_damaged_file_is_as_good_as_none(tmp_path, content):
    begun(tmp_path)
    (tmp_path / FILE).write_bytes(content)
    refused("session", spend_mask, tmp_path, "one", "a", 0, GROUP)
    begun(tmp_path)


def test_a_use_is_on_disk_before_the_key_is_handed_out(tmp_path):
    """A process that is killed right after it got the key has spent it."""
    begun(tmp_path)
    script = f"""
import os, signal
from pathlib import Path
from client.secure_session import spend_mask
spend_mask(Path({str(tmp_path)!r}), "one", "a", 0, ("a", "b", "c"))
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", script], check=False)
    assert done.returncode == -signal.SIGKILL
    refused("spent", spend_mask, tmp_path, "one", "a", 0, GROUP)


def test_a_full_disk_hands_out_no_key(tmp_path, monkeypatch):
    begun(tmp_path)

    def full(*arguments, **settings):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("client.secure_session.write_whole", full)
    with pytest.raises(OSError, match="No space"):
        spend_mask(tmp_path, "one", "a", 0, GROUP)


def _spend(state, queue):
    try:
        spend_mask(state, "one", "a", 0, GROUP)
        queue.put("got")
    except UpdateRejected as error:
        queue.put(error.reason)


def test_of_two_processes_one_gets_the_key(tmp_path):
    begun(tmp_path)
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    both = [context.Process(target=_spend, args=(tmp_path, queue)) for _ in range(2)]
    for process in both:
        process.start()
    found = sorted(queue.get(timeout=30) for _ in both)
    for process in both:
        process.join()
    assert found == ["got", "spent"]
    assert os.path.exists(tmp_path / FILE)
