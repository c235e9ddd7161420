"""The Grid in memory that tests put faults into: `simulation.one_process` has it."""

from __future__ import annotations

from simulation.one_process import MemoryGrid, Node, travel

__all__ = ["MemoryGrid", "Node", "travel"]
