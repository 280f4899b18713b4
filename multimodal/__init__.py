"""Images for models that read with a memory.

Planned for this package: image encoders, a projector into the backbone's embedding space, LLaMA-Adapter
(arXiv 2303.16199), LLaVA (arXiv 2304.08485), splicing of image features into token sequences, and the
processing of pixels and prompts. It holds nothing yet.

It may use `rmt` and `efficiency`. It does not know how models are evaluated (`evals`) nor the command line
(`rmt.cli`).
"""
