"""Figures come over HTTP as Prometheus reads them, and one bad part takes no other with it."""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families

from strategies.exposition import Parts, counter, gauge, is_loopback, serve, summary


def good() -> Iterator[Metric]:
    yield gauge("x_disk_free_bytes", "Room.", 7.0)
    yield counter("x_answers_total", "Answers.", {("a", "ok"): 3.0}, ("site", "outcome"))
    yield summary("x_message_seconds", "Time.", 2, 5.5)


def bad() -> Iterator[Metric]:
    yield gauge("x_half", "Half of a part.", 1.0)
    raise ValueError("damaged")


def read(address: str) -> dict[str, float]:
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    return {
        f"{sample.name}{dict(sorted(sample.labels.items())) or ''}": sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_a_scrape_gives_every_good_part_and_names_the_bad_one() -> None:
    server = serve("127.0.0.1:0", Parts("x", {"good": good, "bad": bad}))
    address = f"127.0.0.1:{server.server_port}"
    try:
        assert read(address) == {
            "x_disk_free_bytes": 7.0,
            "x_answers_total{'outcome': 'ok', 'site': 'a'}": 3.0,
            "x_message_seconds_count": 2.0,
            "x_message_seconds_sum": 5.5,
            "x_unreadable{'part': 'good'}": 0.0,
            "x_unreadable{'part': 'bad'}": 1.0,
        }
    finally:
        server.shutdown()
        server.server_close()
    with pytest.raises(urllib.error.URLError):
        read(address)


def test_only_an_address_of_this_machine_is_loopback() -> None:
    for address in ("127.0.0.1:9464", "127.3.2.1:1", "[::1]:9464"):
        assert is_loopback(address)
    for address in ("0.0.0.0:9464", "[::]:1", "10.0.0.1:9464", "localhost:9464", ""):
        assert not is_loopback(address)
