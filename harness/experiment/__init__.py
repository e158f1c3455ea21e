"""What an experiment is.

spec.py    an experiment, its tables and trials
schema.py  strict, typed parsing
files.py   experiment files: presets, settings, arms, includes
matrix.py  experiment to unique trials
"""
