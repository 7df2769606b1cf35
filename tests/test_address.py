"""Addresses: every way of writing one means the same host and port; what is none is refused with the form expected."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mynosql.address import ANY_HOST, PORT_DEFAULT, Address, parse_address
from mynosql.errors import AddressInvalid


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("http://host:8800", "host", 8800),
        ("tcp://host:8800", "host", 8800),
        ("host:8800", "host", 8800),
        ("http://host:8800/", "host", 8800),
        ("  http://host:8800 ", "host", 8800),
        ("HTTP://Host.Example:1", "host.example", 1),
        ("http://host", "host", PORT_DEFAULT),
        ("host", "host", PORT_DEFAULT),
        ("my_host-1.lan.:65535", "my_host-1.lan.", 65535),
        ("127.0.0.1:8800", "127.0.0.1", 8800),
        ("[::1]:8800", "::1", 8800),
        ("tcp://[2001:DB8:0::1]:9", "2001:db8::1", 9),
        ("[fe80::1%eth0]", "fe80::1%eth0", PORT_DEFAULT),
        ("xn--bcher-kva.example:8800", "xn--bcher-kva.example", 8800),
    ],
)
def test_every_way_of_writing_means_a_host_and_a_port(text: str, host: str, port: int) -> None:
    assert parse_address(text) == Address(host, port)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "the host is missing"),
        ("http://", "the host is missing"),
        (":8800", "the host is missing"),
        ("https://host:8800", "'https' is not one of http and tcp"),
        ("ipc://folder", "'ipc' is not one of http and tcp"),
        ("host:", "the port ''"),
        ("host:0", "a number from 1 to 65535"),
        ("host:65536", "a number from 1 to 65535"),
        ("host:-1", "a number from 1 to 65535"),
        ("host:٣", "a number from 1 to 65535"),
        ("::1:8800", "the port"),
        ("host:8800/path", "beyond scheme, host and port"),
        ("host:8800?x=1", "the port"),
        ("http://user@host:8800", "beyond scheme, host and port"),
        ("http://user:secret@host:8800", "the port"),
        ("[::1", "beyond scheme, host and port"),
        ("[::g]:8800", "no IPv6 address"),
        ("[]:8800", "no IPv6 address"),
        ("[fe80::1%a b]:8800", "no network interface"),
        ("a b:8800", "no host name"),
        ("-host:8800", "no host name"),
        ("a..b:8800", "no host name"),
        ("*:8800", "no host name"),
        ("x" * 254, "no host name"),
        ("bücher.example:8800", "xn-- form"),
        ("127.1:8800", "no IPv4 address"),
        ("2130706433:8800", "no IPv4 address"),
        ("0x7f000001:8800", "no IPv4 address"),
        ("127.0.0.0x1:8800", "no IPv4 address"),
        ("256.0.0.1:8800", "no IPv4 address"),
        ("host\x00:8800", "no host name"),
    ],
)
def test_what_is_no_address_is_refused_with_the_form_that_is_expected(text: str, reason: str) -> None:
    with pytest.raises(AddressInvalid) as refused:
        parse_address(text)
    assert reason in str(refused.value)
    assert str(refused.value).endswith("expected 'http://host:8800', 'host:8800' or '[::1]:8800'")


@pytest.mark.parametrize("text", [None, b"host:8800", ("host", 8800)])
def test_an_address_is_a_text(text: Any) -> None:
    with pytest.raises(AddressInvalid, match="an address is a str"):
        parse_address(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("localhost:8800", True),
        ("LOCALHOST", True),
        ("127.0.0.1:8800", True),
        ("127.255.0.9:8800", True),
        ("[::1]:8800", True),
        ("[::ffff:127.0.0.1]:8800", True),
        ("0.0.0.0:8800", False),
        ("[::]:8800", False),
        ("192.168.0.1:8800", False),
        ("[::ffff:192.168.0.1]:8800", False),
        ("localhost.example:8800", False),
        ("my-localhost", False),
        ("localhost.:8800", False),
    ],
)
def test_loopback_is_told_from_the_text_alone(text: str, expected: bool) -> None:
    """DESIGN: anything but a loopback literal or "localhost" counts as foreign, without asking DNS."""
    assert parse_address(text).is_loopback is expected


@pytest.mark.parametrize(
    ("text", "expected"), [("*:0", (ANY_HOST, 0)), (":8800", (ANY_HOST, 8800)), ("127.0.0.1:0", ("127.0.0.1", 0)),
                           ("*", (ANY_HOST, PORT_DEFAULT)), ("0.0.0.0:1", ("0.0.0.0", 1))],
)  # fmt: skip
def test_to_listen_any_port_and_every_interface_are_possible(text: str, expected: tuple[str, int]) -> None:
    assert parse_address(text, is_listen=True) == Address(*expected)
    assert not parse_address("*:0", is_listen=True).is_loopback


def test_urls_name_host_and_port_as_each_reader_wants_them() -> None:
    assert parse_address("[::1]:8800").tcp_url == "tcp://[::1]:8800"
    assert parse_address("tcp://host").url == "http://host:8800"
    assert str(parse_address("host:1")) == "host:1"


@pytest.mark.parametrize(
    ("host", "port"), [("host", -1), ("host", 65536), ("", 1), ("HOST", 1), ("a b", 1), ("[::1]", 1), ("::0:1", 1)]
)  # fmt: skip
def test_an_address_is_made_in_its_normal_form_only(host: str, port: int) -> None:
    with pytest.raises(AddressInvalid):
        Address(host, port)


@given(st.text(max_size=30) | st.from_regex(r"(http://|tcp://)?[a-z0-9.:\[\]*-]{0,12}(:[0-9]{1,6})?/?", fullmatch=True))
def test_any_text_is_an_address_that_reads_back_or_is_refused(text: str) -> None:
    for is_listen in (False, True):
        try:
            address = parse_address(text, is_listen=is_listen)
        except AddressInvalid:
            continue
        assert parse_address(address.url, is_listen=is_listen) == address
        assert parse_address(address.tcp_url, is_listen=is_listen) == address
