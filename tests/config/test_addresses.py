"""Addresses as people write them: which are read, which are refused, and that a refusal names the fix."""

import contextlib
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentbus.config.addresses import Address, bracketed, read_address, read_port, unbracketed
from agentbus.errors import ConfigError

BRACKETS = r"an IPv6 address must stand in brackets, as in \[::1\]:4222"
NUMBER = "the port must be a number from 1 to 65535"
NAME = "letters, digits, '.', '-' and '_' in it, and no spaces"
AFTER = r"ends with '\]', and only a port follows it"


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("127.0.0.1:4222", "127.0.0.1", 4222),
        ("0.0.0.0:1", "0.0.0.0", 1),
        ("[::1]:4222", "::1", 4222),
        ("[2001:DB8::1]:65535", "2001:db8::1", 65535),
        ("[::ffff:10.0.0.1]:80", "::ffff:10.0.0.1", 80),
        ("[FE80::1%Eth0]:4222", "fe80::1%Eth0", 4222),
        ("Bus.Example.com:0443", "bus.example.com", 443),
        ("agentbus_nats-1:4222", "agentbus_nats-1", 4222),
        ("bücher.example:4222", "bücher.example", 4222),
    ],
)
def test_an_address_is_read_and_its_host_has_no_brackets(text: str, host: str, port: int):
    address = read_address(text)
    assert address == Address(host, port)
    assert read_address(str(address)) == address


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        pytest.param("::1", BRACKETS, id="bare IPv6"),
        pytest.param("fd00::5:4222", BRACKETS, id="bare IPv6 with a port"),
        pytest.param("fe80::1%eth0", BRACKETS, id="bare IPv6 with a zone"),
        pytest.param("host:1:2", BRACKETS, id="two ports"),
        pytest.param("::", BRACKETS, id="colons"),
        pytest.param("[::1", AFTER, id="an open bracket"),
        pytest.param("[::1]4222", AFTER, id="no colon after the bracket"),
        pytest.param("[::1] :4222", AFTER, id="a space after the bracket"),
        pytest.param("[::1]]:4222", AFTER, id="two brackets"),
        pytest.param("[127.0.0.1]:4222", "only an IPv6 address stands in brackets", id="IPv4 in brackets"),
        pytest.param("[host]:4222", "only an IPv6 address stands in brackets", id="a name in brackets"),
        pytest.param("[]:4222", "only an IPv6 address stands in brackets", id="nothing in brackets"),
        pytest.param("[ ::1]:4222", "only an IPv6 address stands in brackets", id="a space in brackets"),
        pytest.param("[v1.x]:4222", "only an IPv6 address stands in brackets", id="an address of the future"),
        pytest.param("[fe80::1%]:4222", "the zone id after '%'", id="an empty zone"),
        pytest.param("[fe80::1%a b]:4222", "the zone id after '%'", id="a space in a zone"),
        pytest.param("[fe80::1%a%b]:4222", "the zone id after '%'", id="two zones"),
        pytest.param("host", "the port is missing; write it as host:port", id="no port"),
        pytest.param("[::1]", "the port is missing; write it as host:port", id="no port after IPv6"),
        pytest.param("4222", "the port is missing; write it as host:port", id="a port alone"),
        pytest.param("host:", NUMBER, id="an empty port"),
        pytest.param("host:0", NUMBER, id="port zero"),
        pytest.param("host:65536", NUMBER, id="port over the last"),
        pytest.param("host:" + "9" * 5000, NUMBER, id="a port of many digits"),
        pytest.param("host:-1", NUMBER, id="a negative port"),
        pytest.param("host:+80", NUMBER, id="a port with a sign"),
        pytest.param("host:8_0", NUMBER, id="a port with an underscore"),
        pytest.param("host:0x50", NUMBER, id="a port in another base"),
        pytest.param("host:http", NUMBER, id="a port by name"),
        pytest.param("host: 80", NUMBER, id="a space before the port"),
        pytest.param("host:80\n", NUMBER, id="a line feed after the port"),
        pytest.param("host:\N{ARABIC-INDIC DIGIT FOUR}2", NUMBER, id="digits of another language"),
        pytest.param("host:8\N{SUPERSCRIPT TWO}", NUMBER, id="a digit that is no decimal"),
        pytest.param("", "the host is missing; write it as host:port", id="empty"),
        pytest.param(":4222", "the host is missing; write it as host:port", id="no host"),
        pytest.param(" ", NAME, id="a space"),
        pytest.param(" host:4222", NAME, id="a space before the host"),
        pytest.param("ho\tst:4222", NAME, id="a tab in the host"),
        pytest.param("host\N{NO-BREAK SPACE}:4222", NAME, id="a space of another kind"),
        pytest.param("host\0:4222", NAME, id="a zero byte"),
        pytest.param("*:4222", NAME, id="a pattern"),
        pytest.param("u@host:4222", NAME, id="a user"),
        pytest.param("host/x:4222", NAME, id="a path"),
    ],
)
def test_what_is_no_address_is_refused_with_the_fix_and_is_not_quoted(text: str, reason: str):
    with pytest.raises(ConfigError, match=reason) as caught:
        read_address(text)
    assert len(text) < 5 or text not in str(caught.value)


def test_a_port_may_be_left_out_only_where_there_is_a_default():
    assert read_address("host", default_port=4222) == Address("host", 4222)
    assert read_address("[::1]", default_port=4222) == Address("::1", 4222)
    assert read_address("host:1", default_port=4222) == Address("host", 1)
    with pytest.raises(ConfigError, match=NUMBER):
        read_address("host:", default_port=4222)


def test_port_zero_is_read_only_where_it_means_a_free_one():
    assert read_address("127.0.0.1:0", lowest_port=0) == Address("127.0.0.1", 0)
    assert read_port("0", lowest=0) == 0
    with pytest.raises(ConfigError, match="from 0 to 65535"):
        read_port("-1", lowest=0)


@pytest.mark.parametrize(
    ("host", "shown"), [("::1", "[::1]"), ("fe80::1%eth0", "[fe80::1%eth0]"), ("h", "h"), ("", "")]
)
def test_brackets_are_put_around_ipv6_alone_and_taken_off_again(host: str, shown: str):
    assert bracketed(host) == shown
    assert unbracketed(shown) == unbracketed(host) == host


@given(
    st.text(alphabet=string.printable + "٤é[]:%", max_size=30)
    | st.from_regex(r"\A(\[[0-9a-f:.%]{0,12}\]|[a-z.]{0,9})(:[0-9]{0,6}){0,2}\Z")
)
def test_every_text_is_an_address_that_is_read_again_or_is_refused(text: str):
    with contextlib.suppress(ConfigError):
        address = read_address(text, default_port=4222, lowest_port=0)
        assert read_address(str(address), lowest_port=0) == address
        assert address.host == unbracketed(bracketed(address.host))
        assert not any(char.isspace() for char in str(address))
