import subprocess
import sys

import pytest

from client.__main__ import call


@pytest.mark.parametrize("asked", [["explain"], ["explain", "x", "--what"], ["nonsense"]])
def test_wrong_use_is_code_2(asked, capsys):
    assert call(asked) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_help_is_code_0_and_names_every_command(capsys):
    assert call(["--help"]) == 0
    printed = capsys.readouterr().out
    assert "explain" in printed and "ledger" in printed and "not a medical" in printed


def test_the_module_runs_as_a_program():
    command = [sys.executable, "-m", "client", "ledger", "--config", "/nowhere/site.yaml"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1 and done.stdout == ""
    assert "check the path" in done.stderr and "Traceback" not in done.stderr
