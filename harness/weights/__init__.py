"""Published networks.

importer.py   a published pickle as a checkpoint
published.py  what is in it, read without executing anything
"""
