from __future__ import annotations

from simulation.transfer import METHODS
from simulation.transfer_table import table_of


def test_the_table_shows_the_gain_with_its_interval_over_seeds() -> None:
    rows = [
        {"seed": seed, "left_out": "spots", "shots": 5, "method": method, "n": 9, "value": value}
        | {"labelled": 10 - (seed == 1)}
        for seed in (0, 1, 2)
        for method, value in zip(METHODS, (0.8 + 0.01 * seed, 0.6, 0.9, 0.7, 0.5), strict=True)
    ]
    text = table_of(rows)
    assert "| spots | 5 | 9-10 | 9 | 3 | 0.810 | 0.600 | 0.900 | 0.700 | 0.500 |" in text
    assert "+0.200 ± 0.000 | +0.210 ± 0.025 |" in text
    assert "± half of the 95 % t interval over seeds" in text
    one = table_of([row for row in rows if row["seed"] == 0])
    assert one.splitlines()[2].endswith("| +0.200 | +0.200 |") and "nan" not in one
