"""Shows figures to Prometheus: read at the time of asking, one part at a time.

A part that cannot be read is reported as such and does not take the others with it. The address
must be loopback: who may read it is whoever is on this machine.
What crosses the hospital's boundary: nothing; whoever collects the figures answers for that.
"""

from __future__ import annotations

import ipaddress
import logging
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    Metric,
    SummaryMetricFamily,
)
from prometheus_client.registry import Collector

from mfm_core.errors import MfmError

Part = Callable[[], Iterable[Metric]]
Rows = float | Mapping[str, float] | Mapping[tuple[str, str], float]
"""One value, or a value per label value, or per pair of them."""

log = logging.getLogger("mfm.metrics")


def gauge(name: str, text: str, rows: Rows, labels: tuple[str, ...] = ()) -> Metric:
    """Return a figure that may go up and down."""
    return _filled(GaugeMetricFamily(name, text, labels=labels), rows)


def counter(name: str, text: str, rows: Rows, labels: tuple[str, ...] = ()) -> Metric:
    """Return a figure that only grows; its name ends with "_total"."""
    return _filled(CounterMetricFamily(name, text, labels=labels), rows)


def summary(name: str, text: str, count: int, total: float) -> Metric:
    """Return how often something was measured and the sum of it: "_count" and "_sum"."""
    return SummaryMetricFamily(name, text, count_value=count, sum_value=total)


def _filled(family: GaugeMetricFamily | CounterMetricFamily, rows: Rows) -> Metric:
    if not isinstance(rows, Mapping):
        family.add_metric((), rows)
        return family
    for key, value in rows.items():
        family.add_metric((key,) if isinstance(key, str) else key, value)
    return family


class Parts(Collector):
    """Collects parts one by one.

    Args:
        prefix: of every name, e.g. "mfm_server".
        parts: name of the part to what reads it.
    """

    def __init__(self, prefix: str, parts: Mapping[str, Part]) -> None:
        self._prefix, self._parts = prefix, dict(parts)

    def collect(self) -> Iterator[Metric]:
        """Yield every figure, and which parts could not be read."""
        unread: dict[str, float] = {}
        for name, part in self._parts.items():
            try:
                found = tuple(part())
            except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
                found = _unread(name, error)
            except (MfmError, sqlite3.Error) as error:
                found = _unread(name, error)
            unread[name] = float(not found)
            yield from found
        text = "1 where a part could not be read; its figures are then missing."
        yield gauge(f"{self._prefix}_unreadable", text, unread, ("part",))


def _unread(name: str, error: Exception) -> tuple[Metric, ...]:
    log.warning("figures of %s cannot be read: %s", name, error)
    return ()


def is_loopback(address: str) -> bool:
    """Tell whether host:port is on this machine only; the host must be an IP address."""
    host = address.rpartition(":")[0].removeprefix("[").removesuffix("]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def serve(address: str, collector: Collector) -> WSGIServer:
    """Serve figures over HTTP in a thread of its own; `shutdown` and `server_close` end it.

    Args:
        address: IP:port on loopback; port 0 takes a free one.
        collector: of `Parts`.

    Raises:
        OSError: the port is taken.
    """
    registry = CollectorRegistry(auto_describe=False)
    registry.register(collector)
    host, _, port = address.rpartition(":")
    server, _ = start_http_server(int(port), host.strip("[]"), registry)
    return server
