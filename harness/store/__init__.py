"""A trial's folder."""
