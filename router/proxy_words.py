"""How the environment sends a request to an address: in words, for people whose network stands between."""

import os
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass


def route_words(url: str) -> str:
    """Return by which way `url` is asked: `through the proxy http://p:3128 (https_proxy)`, or that none is set."""
    parts = urlsplit(url)
    proxies = getproxies()
    scheme = parts.scheme if parts.scheme in proxies else "all"
    variable = _variable(f"{scheme}_proxy")
    if scheme not in proxies:
        return f"without a proxy ({parts.scheme}_proxy is not set)"
    if parts.hostname and proxy_bypass(parts.hostname):
        return f"without a proxy (no_proxy excepts {parts.hostname})"
    return f"through the proxy {_without_password(proxies[scheme])} ({variable})"


def _variable(name: str) -> str:
    """Return the name of a variable as the environment spells it."""
    return next((found for found in os.environ if found.lower() == name), name)


def _without_password(proxy: str) -> str:
    parts = urlsplit(proxy)
    return proxy.replace(f"{parts.username or ''}:{parts.password}@", "***@") if parts.password else proxy
