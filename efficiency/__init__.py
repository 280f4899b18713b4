"""Cheap training and inference for any `torch.nn.Module`.

Planned for this package: low-rank adaptation (LoRA, arXiv 2106.09685) and its quantised form (QLoRA and
the NF4 data type, arXiv 2305.14314), LOMO (arXiv 2306.09782), SmoothQuant (arXiv 2211.10438) with int8
linear layers, module surgery in one place, and a measure of footprints. It holds nothing yet.

It does not know segments, memories or any other package of this project: it sees modules and tensors.
"""
