"""A folder of plugins from outside, as a user would have it: one file on each shelf and nothing else (see
harness/outside.py). An experiment takes them by `plugins: [.../tests/outside]`."""
