"""Cells: one segment in, hidden states and a new memory out."""

from rmt.cells.tokens import CellOutput, TokenMemoryCell

__all__ = ["CellOutput", "TokenMemoryCell"]
