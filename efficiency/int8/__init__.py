"""Linear layers with 8-bit weights and activations (W8A8)."""

from efficiency.int8.linear import ACTIVATIONS, Int8Linear
from efficiency.int8.marks import Marks
from efficiency.int8.siblings import put_together

__all__ = ["ACTIVATIONS", "Int8Linear", "Marks", "put_together"]
