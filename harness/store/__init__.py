"""A trial's folder.

folder.py      its state, its result, and whose turn it is to write
checkpoint.py  atomic, checksummed weights; the only torch here
journal.py     append-only events
code.py        which files decide its numbers, with copies; known_code.json: digests the package knows
lock.py        one driver for an experiment
claim.py       one experiment file for a folder of results
lease.py       the same for results behind a URL
remote.py      results behind a URL
bucket.py      the files there
"""
