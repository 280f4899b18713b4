"""In which order, and on what hardware, segments are read. Knows nothing of documents, files or questions."""

from rmt.executors.base import Executor, ReadingModel
from rmt.executors.captured import Captured, StaticStep
from rmt.executors.choice import EXECUTORS, choose
from rmt.executors.compiled import Compiled
from rmt.executors.narrow import writer
from rmt.executors.packed import Packed
from rmt.executors.precision import auto_dtype, for_reading
from rmt.executors.sequential import Sequential
from rmt.executors.speculative import Speculative
from rmt.executors.watch import Look, Norms, Watched, norms
from rmt.executors.wavefront import Wavefront

__all__ = [
    "EXECUTORS",
    "Captured",
    "Compiled",
    "Executor",
    "Look",
    "Norms",
    "Packed",
    "ReadingModel",
    "Sequential",
    "Speculative",
    "StaticStep",
    "Watched",
    "Wavefront",
    "auto_dtype",
    "choose",
    "for_reading",
    "norms",
    "writer",
]
