"""Entry point of the site's working process: confine first, import the rest afterwards.

Started by `client.worker`; not for people. What crosses the hospital's boundary: nothing.
"""

from __future__ import annotations

import os
import sys
from multiprocessing.connection import Connection
from pathlib import Path

from client.sandbox import confine


def main(arguments: list[str]) -> None:
    """Confine this process, say so to the parent, then answer until the parent closes the pair."""
    handle, site_file, data, memory = arguments
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, "1")  # libraries that start threads could not be confined
    confined = confine(Path(data), int(memory) or None)

    from client.worker import answer, pack
    from strategies.wire import Payload

    pipe = Connection(int(handle))
    for part in pack({"confined": confined}, Payload()):
        pipe.send_bytes(part)
    answer(pipe, Path(site_file))


if __name__ == "__main__":
    main(sys.argv[1:])
