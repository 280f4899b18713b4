"""Few-shot tasks of which abilities are said to emerge with scale, and what several metrics say of one answer.

Wei et al., "Emergent Abilities of Large Language Models" (arXiv 2206.07682); Schaeffer et al., "Are Emergent Abilities
of Large Language Models a Mirage?" (arXiv 2304.15004). All are generated: arithmetic, modified arithmetic (BIG-bench),
word unscrambling, modular sums, copying.
"""
