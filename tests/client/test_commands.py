import signal
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


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_with_code_3_and_plain_words(number: signal.Signals) -> None:
    code = (
        "import sys, time; from client import __main__ as m, ledger; "
        "ledger.read_outbox = lambda *_: (print('started', flush=True), time.sleep(60)); "
        "sys.argv = ['mfm-client', 'ledger', '--config', 'x.yaml']; m.main()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == "started\n"
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 3
    assert said.strip() == "Interrupted."


def test_a_defect_ends_with_code_3_and_asks_for_a_report(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("client.ledger.read_outbox", lambda *_: 1 / 0)
    assert call(["ledger", "--config", "x.yaml"]) == 3
    assert "defect of mfm-client" in capsys.readouterr().err
