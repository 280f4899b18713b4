"""From any document to token ids on disk: sources of text, tokenising in a stream, token files."""

from rmt.data.installed import installed_text
from rmt.data.sources import iter_text
from rmt.data.stream import StreamTokenizer, tokenize_stream, tokenizer_fingerprint
from rmt.data.tokens import TokenFile

__all__ = [
    "StreamTokenizer",
    "TokenFile",
    "installed_text",
    "iter_text",
    "tokenize_stream",
    "tokenizer_fingerprint",
]
