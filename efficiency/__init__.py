"""Cheap training and inference for any `torch.nn.Module`.

Each part is a module to import by itself: `efficiency.lora` (PEFT's LoRA layers as one operation, arXiv 2106.09685),
`efficiency.qlora` and `efficiency.qlora_merge` (4-bit weights under adapters, arXiv 2305.14314; needs bitsandbytes),
`efficiency.lomo` (LOMO, arXiv 2306.09782, and AdaLomo, arXiv 2310.10195), `efficiency.footprint` (what training takes
of memory). Planned: SmoothQuant (arXiv 2211.10438) with int8 linear layers.

It does not know segments, memories or any other package of this project: it sees modules and tensors.
"""
