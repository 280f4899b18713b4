"""What tasks with images share: documents by number, and settings that are their fields. Knows no single task."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any

from evals.tasks.base import Source
from evals.tasks.images.documents import ImageDocument, ImageSource, with_images


class ImageTask(ABC):
    """A frozen dataclass whose documents follow from its fields, a source, a length and their number."""

    name: str

    def settings(self) -> Mapping[str, Any]:
        """The fields."""
        return {field: getattr(self, field) for field in self.__dataclass_fields__}  # type: ignore[attr-defined]

    def documents(self, source: Source, length: int, count: int, first: int = 0) -> Iterator[ImageDocument]:
        """``count`` documents from number ``first`` on; what a task has in turn (depths, pictures) goes by the number.

        Raises ValueError for a source without images, a background that is shorter, or a length without room.
        """
        seeing = with_images(source, self.name)
        return (self._document(seeing, length, index) for index in range(first, first + count))

    @abstractmethod
    def _document(self, source: ImageSource, length: int, index: int) -> ImageDocument:
        """The document of this number."""
