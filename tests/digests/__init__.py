"""What a few steps of eight tiny arms leave behind, to the bit: no change that is not meant to moves a number.

`arms` trains them, `records` digests and compares, `python -m tests.digests.record --why "..." --arms ...`
records anew. Hashes hold on one ground (torch, numpy, oneDNN, processor); elsewhere values within 1e-4 do.
"""
