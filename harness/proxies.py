"""Proxies of a site, set in the environment: what is said to this machine itself goes through none of them."""

import os
import socket

import psutil

SELF = ("localhost", "127.0.0.1", "127.0.0.0/8", "::1", "[::1]", "0.0.0.0")
"""As our clients compare: by the end of the name, some by network; an IPv6 address with brackets or without."""


def spare_this_machine() -> None:
    """Except this machine from every proxy, for this process and what it starts: MLflow's server and client, Ray.
    (torch.distributed knows no proxies.) Where no proxy is set nothing changes; what is excepted already stays so."""
    if not any(value for name, value in os.environ.items() if name.lower().endswith("_proxy")):
        return
    for name in ("no_proxy", "NO_PROXY"):  # some read the one, some the other, most the small one first
        known = os.environ.get(name) or os.environ.get(name.swapcase()) or ""
        there = [part.strip() for part in known.split(",") if part.strip()]
        if there != ["*"]:
            os.environ[name] = ",".join(dict.fromkeys([*there, *SELF, *_own_names()]))


def _own_names() -> list[str]:
    """The host's name, and its addresses, at which Ray's own parts meet."""
    families = (socket.AF_INET, socket.AF_INET6)
    found = [a.address.split("%")[0] for each in psutil.net_if_addrs().values() for a in each if a.family in families]
    return [socket.gethostname(), *found]
