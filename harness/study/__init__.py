"""Attention and spatial control of an experiment, measured.

report.py   every finished trial probed, as one table
figures.py  its figures
"""
