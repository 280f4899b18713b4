"""Cells: one segment in, hidden states and a new memory out."""

from rmt.cells.associative import AssociativeMemoryCell
from rmt.cells.tokens import CellOutput, TokenMemoryCell
from rmt.config import RMTConfig

__all__ = ["AssociativeMemoryCell", "CellOutput", "TokenMemoryCell", "new_cell"]


def new_cell(config: RMTConfig) -> TokenMemoryCell | AssociativeMemoryCell:
    """The cell that a configuration names, its parameters not set yet."""
    return AssociativeMemoryCell(config) if config.memory == "associative" else TokenMemoryCell(config)
