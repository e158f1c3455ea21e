"""What metrics are called, and in which order a report shows them."""

from collections.abc import Iterable


def order(metrics: Iterable[str]) -> tuple[list[str], int]:
    """Metric names, headline ones first, and how many those are: FID (else FD), then DI."""
    names = sorted(set(metrics))
    distances = [n for kind in ("fid", "fd_") for n in sorted(names, key=_most_fakes) if n.startswith(kind)]
    headline = distances[:1] + [n for n in names if n == "di"]
    rest = [n for n in names if n not in headline]
    return headline + sorted(rest, key=lambda n: (not n.startswith("di"), n not in distances, n)), len(headline)


def _most_fakes(name: str) -> tuple[bool, str]:
    return name != "fid50k_full", name
