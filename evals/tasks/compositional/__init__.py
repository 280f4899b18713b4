"""Compositional tasks of "Faith and Fate" (Dziri et al., arXiv 2305.18654), with their computation graphs."""
