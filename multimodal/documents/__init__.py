"""Documents with images as streams of text and figures: Markdown, PDF, folders, LLaVA's conversations.

Knows files and formats, and nothing of tokens or models.
"""

from multimodal.documents.llava_json import Sample, Turn, conversation_pieces, parse_sample, read_samples
from multimodal.documents.stream import has_images, iter_pieces

__all__ = ["Sample", "Turn", "conversation_pieces", "has_images", "iter_pieces", "parse_sample", "read_samples"]
