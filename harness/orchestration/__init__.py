"""Many trials.

matrix.py   one experiment from start to report
changed.py  trials that other code made: refused, accepted, trained or scored again
"""
