"""nodemailer's options as values: what they mean for a session, and what is refused with a sentence."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.dialects.nodemailer import CONNECTIONS, MESSAGES, RATES, SERVICES, TIMES, Unusable, read_options, write_options
from relay.upstream.route import Target

SECRET = "hush-hush"
PEM = "-----BEGIN CERTIFICATE-----\nMA==\n-----END CERTIFICATE-----\n"
KEY = "-----BEGIN PRIVATE KEY-----\nMA==\n-----END PRIVATE KEY-----\n"
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=6,
)
WORDS = (
    "host", "port", "secure", "ignoreTLS", "requireTLS", "tls", "auth", "name", "authMethod", "connectionTimeout", "greetingTimeout",
    "socketTimeout", "maxConnections", "maxMessages", "rateLimit", "rateDelta", "url", "service", "rejectUnauthorized", "ca", "cert",
    "key", "servername", "user", "pass", "type",
)  # fmt: skip
OPTIONS = st.dictionaries(st.sampled_from(WORDS), JSON | st.dictionaries(st.sampled_from(WORDS), JSON), max_size=8)


def read(**options: Any) -> Target:
    return read_options({"host": "mail.example", **options})


def refusal(options: object) -> Unusable:
    with pytest.raises(Unusable) as caught:
        read_options(options)
    return caught.value


def test_the_options_of_the_documents_are_a_session_with_tls_from_the_first_octet_and_no_verification() -> None:
    options = {
        "host": "m.webitel.com", "port": 465, "secure": True, "debug": False, "tls": {"rejectUnauthorized": False},
        "auth": {"user": "my@webitel.com", "pass": SECRET},
    }  # fmt: skip
    assert read_options(options) == Target(
        "m.webitel.com", 465, "tls", verify=False, username="my@webitel.com", password=SECRET, max_connections=5, max_messages=100,
        is_guarded=True,
    )  # fmt: skip


def test_nothing_at_all_is_nodemailers_defaults_which_the_guard_refuses() -> None:
    found = read_options({})
    assert (found.host, found.port, found.security, found.verify, found.is_guarded) == ("localhost", 25, "opportunistic", True, True)


@pytest.mark.parametrize(
    ("options", "security", "port"),
    [
        ({}, "opportunistic", 25),
        ({"secure": False, "port": 465}, "opportunistic", 465),
        ({"port": 465}, "tls", 465),
        ({"port": "465"}, "tls", 465),
        ({"secure": True}, "tls", 465),
        ({"secure": True, "ignoreTLS": True, "requireTLS": True}, "tls", 465),
        ({"ignoreTLS": True, "requireTLS": True}, "none", 25),
        ({"requireTLS": True, "port": 587}, "starttls", 587),
        ({"secure": 1, "port": "2465"}, "tls", 2465),
        ({"secure": 0, "ignoreTLS": "", "requireTLS": None, "port": 0}, "opportunistic", 25),
    ],
)
def test_how_tls_begins_and_on_which_port(options: dict[str, Any], security: str, port: int) -> None:
    found = read(**options)
    assert (found.security, found.port) == (security, port)


@pytest.mark.parametrize("value", [True, None, 0, "", "false", 1])
def test_only_false_itself_takes_the_certificate_unseen(value: object) -> None:
    assert read(tls={"rejectUnauthorized": value}).verify
    assert not read(tls={"rejectUnauthorized": False}).verify


def test_authorities_an_identity_and_a_name_of_the_certificate_are_taken_over() -> None:
    found = read(tls={"ca": [PEM, PEM.rstrip()], "cert": PEM, "key": KEY, "servername": "other.example", "minVersion": "TLSv1"})
    assert (found.ca, found.identity, found.server_name) == (PEM + PEM, KEY + PEM, "other.example")
    assert read(tls={"ca": PEM.rstrip()}).ca == PEM


def test_login_name_method_and_time_outs_are_taken_over() -> None:
    found = read(
        auth={"type": "LOGIN", "user": 100, "pass": 5},
        authMethod="login",
        name="[192.0.2.1]",
        connectionTimeout=2000,
        greetingTimeout="3000",
        socketTimeout=4500.0,
    )
    assert (found.username, found.password, found.mechanism, found.name) == ("100", "5", "login", "[192.0.2.1]")
    assert (found.connect_timeout, found.greeting_timeout, found.timeout) == (2.0, 3.0, 4.5)
    assert read(auth={"user": "", "pass": ""}).username == ""
    assert read(authMethod="PLAIN").mechanism == "plain"


def test_caps_and_the_rate_are_taken_over() -> None:
    found = read(maxConnections=2, maxMessages=7, rateLimit=5, rateDelta=2000)
    assert (found.max_connections, found.max_messages, found.max_rate) == (2, 7, 2.5)
    assert read(rateLimit=14).max_rate == 14.0
    assert read().max_rate == 0.0


@pytest.mark.parametrize("extreme", [-1, 1e-9, 1e300, 10**18, -(10**18)])
def test_every_cap_and_time_out_ends_within_bounds(extreme: float) -> None:
    names = ("connectionTimeout", "greetingTimeout", "socketTimeout", "maxConnections", "maxMessages", "rateLimit", "rateDelta")
    assert_bounded(read(**dict.fromkeys(names, extreme)))
    assert_bounded(read(rateLimit=1, rateDelta=extreme))


def assert_bounded(found: Target) -> None:
    for wait in (found.timeout, found.connect_timeout, found.greeting_timeout):
        assert TIMES[0] <= wait <= TIMES[1]
    assert CONNECTIONS[0] <= found.max_connections <= CONNECTIONS[1]
    assert MESSAGES[0] <= found.max_messages <= MESSAGES[1]
    assert found.max_rate == 0 or RATES[0] <= found.max_rate <= RATES[1]


def test_a_url_stands_for_options_which_win_over_it() -> None:
    url = "smtps://my%40webitel.com:p%3Aw@mail.example:2465/?tls.rejectUnauthorized=false&name=here&maxConnections=3"
    for found in (read_options({"url": url}), read_options(url)):
        assert (str(found), found.security, found.verify, found.name, found.max_connections) == (
            "mail.example:2465",
            "tls",
            False,
            "here",
            3,
        )
        assert (found.username, found.password) == ("my@webitel.com", "p:w")
    found = read_options({"url": url, "host": "other.example", "port": 25, "secure": False, "auth": None})
    assert (str(found), found.security, found.username) == ("other.example:25", "opportunistic", "")
    assert str(read_options("smtp://[2001:db8::1]")) == "2001:db8::1:25"


def test_services_that_have_a_name_are_known_by_it_whatever_its_case() -> None:
    assert str(read_options({"service": "Gmail"})) == "smtp.gmail.com:465"
    assert read_options({"service": "Google Mail"}).security == "tls"
    assert read_options({"service": "Outlook365"}).security == "opportunistic"
    assert str(read_options({"service": "SendGrid", "port": 2525})) == "smtp.sendgrid.net:2525"
    assert str(read_options({"service": "unheard of", "host": "mail.example"})) == "mail.example:25"
    assert all(read_options({"service": name}).host != "localhost" for name in SERVICES)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (5, "options is no object"),
        ([], "options is no object"),
        ("http://mail.example", "neither smtp://host:port nor smtps://host:port"),
        ({"url": f"smtp://u:{SECRET}@mail.example:99999"}, "options.url cannot be read"),
        ({"url": 5}, "options.url cannot be read"),
        ({"url": f"smtp://u:{SECRET}@"}, "neither smtp://"),
        ({"url": "smtp://h.example/?tls=1&tls.x=2"}, "options.url has tls for an option"),
        ({"url": "smtp://h.example/?tls=1"}, "options.tls is no object"),
        ({"service": SECRET}, "options.service is not among"),
        ({"host": 5}, "options.host is no text"),
        ({"host": "mail.example\r\nRCPT"}, "options.host is no host name"),
        ({"host": "x" * 254}, "options.host is no host name"),
        ({"port": 65536}, "options.port is no port"),
        ({"port": -1}, "options.port is no port"),
        ({"port": 25.5}, "options.port is no port"),
        ({"port": "smtp"}, "options.port is no number"),
        ({"port": True}, "options.port is no number"),
        ({"secure": "false"}, "options.secure is neither true nor false"),
        ({"ignoreTLS": "false"}, "options.ignoreTLS is neither true nor false"),
        ({"requireTLS": {}}, "options.requireTLS is neither true nor false"),
        ({"tls": "yes"}, "options.tls is no object"),
        ({"tls": {"ca": SECRET}}, "options.tls.ca is no PEM text"),
        ({"tls": {"key": KEY}}, "needs both cert and key"),
        ({"tls": {"cert": PEM}}, "needs both cert and key"),
        ({"tls": {"cert": PEM, "key": KEY, "passphrase": SECRET}}, "without a passphrase"),
        ({"tls": {"pfx": "MII"}}, "without a passphrase"),
        ({"tls": {"servername": ".example"}}, "options.tls.servername is no host name"),
        ({"tls": {"servername": "x" * 64 + ".example"}}, "options.tls.servername is no host name"),
        ({"tls": {"servername": "[::1]"}}, "options.tls.servername is no host name"),
        ({"tls": {"servername": "...."}}, "options.tls.servername is no host name"),
        ({"tls": {"servername": "a." * 126 + "ab"}}, "options.tls.servername is no host name"),
        ({"name": "me\r\nRSET"}, "options.name is no name for EHLO"),
        ({"name": "a:b"}, "options.name is no name for EHLO"),
        ({"auth": [SECRET]}, "options.auth is no object"),
        ({"auth": {"user": "u"}}, "both user and pass"),
        ({"auth": {"pass": SECRET}}, "both user and pass"),
        ({"auth": {"user": ["u"], "pass": SECRET}}, "options.auth.user is no text"),
        ({"auth": {"user": "u\0", "pass": SECRET}}, "NUL"),
        ({"auth": {"type": "OAuth2", "user": "u", "accessToken": SECRET}}, "another login"),
        ({"auth": {"user": "u", "xoauth2": SECRET}}, "another login"),
        ({"authMethod": "CRAM-MD5"}, "neither PLAIN nor LOGIN"),
        ({"maxConnections": "many"}, "options.maxConnections is no number"),
        ({"socketTimeout": []}, "options.socketTimeout is no number"),
    ],
)
def test_what_cannot_be_used_is_refused_with_a_sentence_that_repeats_no_secret(options: object, text: str) -> None:
    fault = refusal(options)
    assert text in str(fault) and "\n" not in str(fault)
    assert SECRET not in str(fault) and fault.__cause__ is None
    assert fault.code in ("ECONNECTION", "EAUTH", "ETLS")


@given(OPTIONS | JSON)
def test_any_options_are_read_within_bounds_or_refused(options: object) -> None:
    try:
        found = read_options(json.loads(json.dumps(options)))
    except Unusable:
        return
    assert_bounded(found)
    assert found.is_guarded and 1 <= found.port <= 65535 and found.host
    assert SECRET not in repr(found)


def targets() -> st.SearchStrategy[Target]:
    texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=9)
    waits = st.integers(1000, 300_000).map(lambda ms: ms / 1000)
    login = st.tuples(texts, texts) | st.just(("", ""))
    whole = st.builds(
        Target,
        host=st.sampled_from(["mail.example", "2001:db8::1", "192.0.2.1"]),
        port=st.integers(1, 65535),
        security=st.sampled_from(["none", "opportunistic", "starttls", "tls"]),
        verify=st.booleans(),
        ca=st.sampled_from(["", PEM, PEM + PEM]),
        identity=st.sampled_from(["", KEY + PEM, KEY + PEM + PEM]),
        server_name=st.sampled_from(["", "other.example", "2001:db8::1", "::ffff:192.0.2.1", "192.0.2.1"]),
        mechanism=st.sampled_from(["", "plain", "login"]),
        name=st.sampled_from(["", "me.example", "[192.0.2.1]"]),
        timeout=waits,
        connect_timeout=waits,
        greeting_timeout=waits,
        max_connections=st.integers(*CONNECTIONS),
        max_messages=st.integers(*MESSAGES),
        max_rate=st.just(0.0) | st.floats(*RATES),
        is_guarded=st.just(True),
    )
    return st.tuples(whole, login).map(lambda pair: _with_login(*pair))


def _with_login(target: Target, login: tuple[str, str]) -> Target:
    options = write_options(target)
    if login[0]:
        options["auth"] = {"user": login[0], "pass": login[1]}
    return read_options(options)


@given(targets())
def test_what_is_written_is_read_back_as_the_same_smarthost(target: Target) -> None:
    assert read_options(json.loads(json.dumps(write_options(target)))) == target


@given(st.floats(*RATES))
def test_a_rate_is_read_back_to_the_last_bit(rate: float) -> None:
    assert read_options(write_options(Target("mail.example", 25, "opportunistic", max_rate=rate))).max_rate == rate
