import io

import client.progress
from client.progress import progress


def lines_of(monkeypatch, every: float, steps: int, total: int) -> list[str]:
    monkeypatch.setattr(client.progress, "PLAIN_EVERY_S", every)
    stream = io.StringIO()
    with progress("explained", stream) as show:
        for done in range(steps + 1):
            show(done, total)
    return stream.getvalue().splitlines()


def test_a_log_gets_plain_lines_with_the_time_left(monkeypatch):
    lines = lines_of(monkeypatch, 0.0, 3, 3)
    assert [line.partition(",")[0].partition(" in")[0] for line in lines] == [
        f"explained: {done} of 3" for done in (1, 2, 3)
    ]
    assert "s left" in lines[0] and lines[-1].endswith(" s")


def test_a_log_is_not_flooded(monkeypatch):
    assert len(lines_of(monkeypatch, 60.0, 500, 500)) == 1


def test_one_image_needs_no_progress(monkeypatch):
    assert lines_of(monkeypatch, 0.0, 1, 1) == []


def test_a_terminal_gets_a_bar():
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    stream = Terminal()
    with progress("explained", stream) as show:
        show(1, 4)
        show(4, 4)
    assert "explained" in stream.getvalue() and "4/4" in stream.getvalue()
