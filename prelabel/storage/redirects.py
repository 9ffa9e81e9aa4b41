"""The redirects that are followed when images, lists and models are read from web servers.

A URL given by the user is used whatever it is. A redirect is the server's choice: it must not lead from https to http,
to another scheme, or to link-local addresses, where cloud machines obtain their credentials.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import socket
from typing import Any
from urllib.parse import urlsplit

#: Link-local addresses, where clouds provide the credentials of a machine, and AWS's IPv6 address for the same.
_REFUSED = tuple(map(ipaddress.ip_network, ("169.254.0.0/16", "fe80::/10", "fd00:ec2::254/128")))


class RedirectError(OSError):
    """A redirect that is not followed. Retrying does not help."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.errno = errno.EINVAL


def require_allowed_redirect(source: str, target: str) -> None:
    """Check a redirect before it is followed. Host names are resolved.

    Args:
        source: The requested URL.
        target: The absolute URL of the redirect.

    Raises:
        RedirectError: The redirect must not be followed.
        ValueError: The target is not a valid URL.
    """
    old, new = urlsplit(source), urlsplit(target)
    if new.scheme not in ("http", "https") or (old.scheme == "https" and new.scheme == "http"):
        raise RedirectError(f"redirects from {old.scheme}:// to {new.scheme}://, which is not followed")
    if new.hostname is None or new.hostname == old.hostname:
        return
    for address in _addresses(new.hostname):
        if any(address in network for network in _REFUSED):
            raise RedirectError(f"redirects to the link-local address {address}, which is not followed")


def _addresses(host: str) -> list[ipaddress.IPv4Address | ipaddress.IPv6Address]:
    """Resolve a host name, or an address in any notation; empty if it cannot be resolved."""
    try:
        texts = {str(info[4][0]).partition("%")[0] for info in socket.getaddrinfo(host, None)}
    except (OSError, UnicodeError):
        return []  # the attempt to connect will report the problem
    addresses = map(ipaddress.ip_address, texts)
    return [getattr(address, "ipv4_mapped", None) or address for address in addresses]


async def web_client(**options: Any) -> Any:
    """Create an aiohttp session that follows only allowed redirects, for fsspec's `get_client`."""
    import aiohttp

    async def check(_: Any, __: Any, params: Any) -> None:
        location = params.response.headers.get("Location") or params.response.headers.get("URI")
        if location:
            try:
                # Parsed in the same way as aiohttp does.
                target = type(params.url)(location)
                target = target if target.scheme else params.url.join(target)
                await asyncio.to_thread(require_allowed_redirect, str(params.url), str(target))
            except ValueError:
                return  # aiohttp reports an invalid URL itself

    trace = aiohttp.TraceConfig()
    trace.on_request_redirect.append(check)
    return aiohttp.ClientSession(**{**options, "trace_configs": [*(options.get("trace_configs") or ()), trace]})
