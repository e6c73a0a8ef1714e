"""Addresses that a configuration names: what is wrong with one, told before anything is asked there.

What would be sent otherwise than it is written, or not at all, is refused.
"""

import ipaddress
import re
from urllib.parse import urlsplit

_HOST_NAME = re.compile(r"(?=.{1,253}\Z)[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*\.?")


def wrong_base(url: str | None) -> str | None:
    """What is wrong with the address that a provider's paths are put behind; None when it is right."""
    if wrong := wrong_url(url):
        return wrong
    assert url is not None
    if "?" in url or "#" in url:
        return "paths are put behind it, so it cannot have a ? or a #"
    return None


def wrong_url(url: str | None) -> str | None:
    """What is wrong with an http(s) address; None when it is right. The address itself may be secret."""
    needed = "an http(s) address is needed"
    if url is None:
        return needed
    try:
        parts = urlsplit(url)
        is_one = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # a port above 65,535, a bracket too few
        return needed
    if not is_one:
        return needed
    if not url.isascii() or not url.isprintable() or " " in url:
        return f"{needed}: it has a space or a non-ASCII character"
    if "@" in parts.netloc:
        return "the user and the password in it would not be sent; leave them out"
    return None


def wrong_host(host: str) -> str | None:
    """What is wrong with what a server is to listen at; None when it is an address or a name."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        if _HOST_NAME.fullmatch(host) and not host.replace(".", "").isdigit():
            return None
        return "an IP address or a host name is needed, without port or brackets"
    return None
