"""What pairs of seeds allow one to say, however one came to look at them. Pure functions, no torch.

sequential.py   boundaries of planned looks, calibrated for paired t; adjusted p and interval
signed_rank.py  the exact test over all planned pairs, those with a diverged side too
anytime.py      e-values: evidence that one may look at whenever one likes
words.py        the words, and the rule that leads from pairs and plan to one of them
simulate.py     the same rule over many experiments at once: power, mean pairs, what divergence costs
aggregate.py    several tasks as one figure, with a bootstrap that keeps pairs
"""
