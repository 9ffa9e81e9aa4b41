"""Which redirects of a web server are followed when images, lists and models are read.

An address that somebody stated is their choice, whatever it is. Where a server points from there is the server's: it
may not lead from https to http, to another scheme, or to the addresses at which machines of a cloud tell who they are.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import socket
from typing import Any
from urllib.parse import urlsplit

#: Link-local addresses, where clouds answer with credentials of the machine, and the one outside of these.
_REFUSED = tuple(map(ipaddress.ip_network, ("169.254.0.0/16", "fe80::/10", "fd00:ec2::254/128")))


class RedirectError(OSError):
    """A server points to where nobody follows it; trying again is of no use."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.errno = errno.EINVAL


def require_followed(was: str, now: str) -> None:
    """Look at a redirect before it is followed; names of hosts are looked up.

    Args:
        was: The address that was asked.
        now: The absolute address it points to.

    Raises:
        RedirectError: It is not to be followed.
        ValueError: That is no address.
    """
    old, new = urlsplit(was), urlsplit(now)
    if new.scheme not in ("http", "https") or (old.scheme == "https" and new.scheme == "http"):
        raise RedirectError(f"redirects from {old.scheme}:// to {new.scheme}://, which is not followed")
    if new.hostname is None or new.hostname == old.hostname:
        return
    for address in _addresses(new.hostname):
        if any(address in network for network in _REFUSED):
            raise RedirectError(f"redirects to the link-local address {address}, which is not followed")


def _addresses(host: str) -> list[ipaddress.IPv4Address | ipaddress.IPv6Address]:
    """What a host's name, or an address in any of its notations, stands for; nothing where nobody knows it."""
    try:
        found = {str(info[4][0]).partition("%")[0] for info in socket.getaddrinfo(host, None)}
    except (OSError, UnicodeError):
        return []  # whoever tries to connect says what is wrong
    addresses = map(ipaddress.ip_address, found)
    return [getattr(address, "ipv4_mapped", None) or address for address in addresses]


async def web_client(**options: Any) -> Any:
    """An aiohttp session that follows only such redirects, for fsspec's `get_client`."""
    import aiohttp

    async def look(_: Any, __: Any, params: Any) -> None:
        location = params.response.headers.get("Location") or params.response.headers.get("URI")
        if location:
            try:
                # As aiohttp itself understands it.
                there = type(params.url)(location)
                there = there if there.scheme else params.url.join(there)
                await asyncio.to_thread(require_followed, str(params.url), str(there))
            except ValueError:
                return  # aiohttp says so

    trace = aiohttp.TraceConfig()
    trace.on_request_redirect.append(look)
    return aiohttp.ClientSession(**{**options, "trace_configs": [*(options.get("trace_configs") or ()), trace]})
