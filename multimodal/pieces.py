"""A document with images as a stream: pieces of text and figures, in reading order.

Knows neither where pieces come from (`multimodal.documents`) nor what becomes of them.
"""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image

from multimodal.images import Picture, open_image


@dataclass(frozen=True, eq=False)
class Figure:
    """An image in a document, with the text that must never be cut from it.

    Attributes:
        image: a PIL image, a uint8 array (height, width, 3), or an :class:`~multimodal.images.ImageFile`, which is
            decoded when it is needed.
        label: text directly in front of the image, such as its alt text or its name.
        after: text directly behind it, such as its title.
    """

    image: Picture
    label: str = ""
    after: str = ""

    def load(self) -> Image.Image:
        """The image as PIL image of mode RGB; errors as of :func:`multimodal.images.open_image`."""
        return open_image(self.image)


Piece = str | Figure
"""What a document with images is a stream of."""
