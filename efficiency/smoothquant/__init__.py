"""SmoothQuant (arXiv 2211.10438): scales that make activations easy to round to 8 bits, calibrated on rollouts.

``graph`` knows which norm or layer may carry scales, ``smooth`` computes and folds them, ``multiply`` is what is left
where nothing carries them.
"""
