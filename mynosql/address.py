"""Where a node listens: host and port, and the ways a person writes them.

"http://host:8800", "tcp://host:8800", "host:8800" and "host" all mean the same; IPv6 in brackets. Pure: no name is
resolved here, not even to tell whether it is this machine.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address, IPv6Address

from mynosql.errors import AddressInvalid

PORT_DEFAULT = 8800
"""Where a mirror listens when nothing else is asked of it (its publisher one above)."""
HOST_CHARACTERS_MAX = 253
"""The longest name that DNS can hold."""
ANY_HOST = "*"
"""Every interface, IPv4 and IPv6: to listen on, never to dial (ZeroMQ's own word for it)."""

_SPLIT = re.compile(
    r"(?:(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://)?(?P<host>\[[^\]]*\]|[^:/?#\[\]@]*)(?::(?P<port>[^/]*))?/?"
)
_NAME = re.compile(r"[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?)*\.?")
_SCOPE = re.compile(r"[A-Za-z0-9._-]{1,32}")
_NUMERIC_LABEL = re.compile(r"[0-9]+|0x[0-9a-f]*")


@dataclass(frozen=True, slots=True)
class Address:
    """A host (name or literal, lower case, IPv6 without brackets) and a TCP port (0: any free one, to listen on)."""

    host: str
    port: int

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise AddressInvalid(f"port {self.port} of {self.host!r} does not exist; 1 to 65535 expected")
        if self.host != ANY_HOST and _normal_host(self.host, self.host) != self.host:
            raise AddressInvalid(f"{self.host!r} is no host in its normal form; make addresses with parse_address")

    @property
    def is_loopback(self) -> bool:
        """This machine for certain: a loopback literal or "localhost"; no other name, wherever DNS points it."""
        if self.host == "localhost":
            return True
        literal = _literal(self.host)
        if isinstance(literal, IPv6Address) and literal.ipv4_mapped is not None:
            literal = literal.ipv4_mapped
        return literal is not None and literal.is_loopback

    @property
    def tcp_url(self) -> str:
        """As ZeroMQ takes it: "tcp://host:port"."""
        return f"tcp://{self}"

    @property
    def url(self) -> str:
        """As people write it: "http://host:port"."""
        return f"http://{self}"

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: str, *, is_listen: bool = False) -> Address:
    """The address that a text means; without a port it is PORT_DEFAULT.

    is_listen: port 0 (any free one) and the hosts "*" and "" (every interface) are possible too.
    Raises AddressInvalid; its text says which form is expected.
    """
    if type(text) is not str:
        raise AddressInvalid(f"an address is a str such as 'http://host:{PORT_DEFAULT}', not {text!r}")
    found = _SPLIT.fullmatch(text.strip())
    if found is None:
        raise _malformed(text, "it has parts beyond scheme, host and port")
    scheme, host, port = found["scheme"], found["host"], found["port"]
    if scheme is not None and scheme.lower() not in ("http", "tcp"):
        raise _malformed(text, f"the scheme {scheme!r} is not one of http and tcp")
    port_number = _port_of(port, text, 0 if is_listen else 1)
    if is_listen and host in ("", ANY_HOST):
        return Address(ANY_HOST, port_number)
    return Address(_normal_host(host, text), port_number)


def _port_of(port: str | None, text: str, low: int) -> int:
    if port is None:
        return PORT_DEFAULT
    if not re.fullmatch("[0-9]{1,5}", port) or not low <= int(port) <= 65535:
        raise _malformed(text, f"the port {port!r} is not a number from {low} to 65535")
    return int(port)


def _normal_host(host: str, text: str) -> str:
    if not host:
        raise _malformed(text, "the host is missing")
    if host.startswith("[") or ":" in host:
        return _normal_ipv6(host.removeprefix("[").removesuffix("]"), text)
    if not host.isascii():
        raise _malformed(text, "the host has letters beyond ASCII; write it in its xn-- form")
    host = host.lower()
    if len(host) > HOST_CHARACTERS_MAX or not _NAME.fullmatch(host):
        raise _malformed(text, f"{host[:80]!r} is no host name")
    # "127.1" or "0x7f000001" mean an IPv4 address to the resolver: what looks like a number must be a whole one.
    if _NUMERIC_LABEL.fullmatch(host.rstrip(".").rpartition(".")[2]) and _literal(host) is None:
        raise _malformed(text, f"{host!r} is no IPv4 address")
    return host


def _normal_ipv6(host: str, text: str) -> str:
    number, has_scope, scope = host.partition("%")
    try:
        literal = str(IPv6Address(number))
    except AddressValueError as error:
        raise _malformed(text, f"{host[:80]!r} is no IPv6 address") from error
    if has_scope and not _SCOPE.fullmatch(scope):
        raise _malformed(text, f"{scope[:80]!r} is no network interface")
    return literal + has_scope + scope


def _literal(host: str) -> IPv4Address | IPv6Address | None:
    for kind in (IPv4Address, IPv6Address):
        try:
            return kind(host)
        except AddressValueError:
            continue
    return None


def _malformed(text: str, reason: str) -> AddressInvalid:
    return AddressInvalid(
        f"address {text[:300]!r}: {reason}; expected 'http://host:{PORT_DEFAULT}', 'host:{PORT_DEFAULT}' "
        f"or '[::1]:{PORT_DEFAULT}'"
    )
