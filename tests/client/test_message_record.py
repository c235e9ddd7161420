"""What the runner counts: outcomes by closed words, never more than a bounded number of them."""

from __future__ import annotations

from pathlib import Path

from flwr.app import Error, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from client.message_record import FILE, MOST_REASONS, MessageRecord, read_messages
from strategies.rounds import FAILED, REFUSED


def asked() -> Message:
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 5, 1
    return Message(RecordDict(), 5, "query.hello")


def refusal(code: int, reason: str) -> Message:
    return Message(Error(code, reason), reply_to=asked())


def test_answers_refusals_and_errors_are_counted_by_their_word(tmp_path: Path) -> None:
    record = MessageRecord(tmp_path / FILE)
    assert read_messages(tmp_path) == {}
    record.note(Message(RecordDict(), reply_to=asked()), 2.0, {"no network": True})
    for _ in range(2):
        record.note(refusal(REFUSED, "limit-refusal"), 0.5, {"no network": True})
    record.note(refusal(FAILED, "internal"), 0.0, {})
    found = read_messages(tmp_path)
    assert found["outcomes"] == {"answered": 1, "error:internal": 1, "refused:limit-refusal": 2}
    assert found["seconds"] == 3.0 and found["confined"] == {} and found["last_at"] > 1e9


def test_no_free_text_becomes_a_label_and_their_number_is_bounded() -> None:
    record = MessageRecord()
    record.note(refusal(FAILED, "/data/Mustermann Erika.dcm is damaged"), 0.0, {})
    assert dict(record.outcomes) == {"error:other": 1}
    for number in range(3 * MOST_REASONS):
        record.note(refusal(REFUSED, f"word-{number}"), 0.0, {})
    assert len(record.outcomes) <= MOST_REASONS + 1
    assert record.outcomes.total() == 1 + 3 * MOST_REASONS


def test_a_damaged_file_is_none(tmp_path: Path) -> None:
    for text in ("", "[]", "{"):
        (tmp_path / FILE).write_text(text)
        assert read_messages(tmp_path) == {}
