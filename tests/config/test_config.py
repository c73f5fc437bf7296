"""The settings: where they come from, which source wins, and how a mistake is named in one line."""

from __future__ import annotations

import traceback
from pathlib import Path

import pytest
from pydantic import ValidationError

from relay.config import ConfigError
from relay.config.settings import Listen, Settings
from relay.source import load
from tests.config.reading import Write, refusal

PASSWORD = "correct-horse-battery"


@pytest.fixture
def login(secrets: Path) -> None:
    """What belongs to a password of the smarthost: the name, and a way that is not in clear."""
    (secrets / "upstream__username").write_text("me")
    (secrets / "upstream__security").write_text("tls")


# -- where settings come from ------------------------------------------------------------------------------------------------


def test_without_any_source_the_defaults_hold() -> None:
    settings = load()
    assert settings.smtp.listen == (Listen(address="127.0.0.1", port=2525, tls="none", auth_without_tls=True),)
    assert settings.quota.window_seconds == 3600


def test_the_file_is_read(toml: Write) -> None:
    settings = load(toml('[smtp]\nworkers = 3\n[[smtp.listen]]\nport = 25\n[[smtp.listen]]\nport = 26\n[quota]\nunit = "recipients"\n'))
    assert settings.smtp.workers == 3
    assert [listen.port for listen in settings.smtp.listen] == [25, 26]
    assert settings.quota.unit == "recipients"


@pytest.mark.parametrize("host", ["mail.example", "my_host.", "b\u00fccher.example", "192.0.2.1", "2001:db8::1", "fe80::1%eth0"])
def test_a_smarthost_is_a_name_or_an_address(host: str, toml: Write) -> None:
    text = f'[upstream]\nhost = "{host}"\nmax_messages_per_second = 0.01\n[[upstream.alternates]]\nhost = "{host}"\n'
    upstream = load(toml(text)).upstream
    assert (upstream.host, upstream.alternates[0].host) == (host, host)


def test_a_test_goes_to_a_mailbox_or_to_nobody(toml: Write) -> None:
    for address in ("", "ann@mail.example", "b\u00fccher@b\u00fccher.example"):
        assert load(toml(f'[api]\ntest_recipient = "{address}"\n')).api.test_recipient == address


def test_a_listener_in_the_file_offers_no_auth_without_tls_unless_told(toml: Write) -> None:
    assert load(toml("[[smtp.listen]]\nport = 25\n")).smtp.listen[0].auth_without_tls is False


def test_two_underscores_in_a_variable_nest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RELAY_SMTP__WORKERS", "5")
    monkeypatch.setenv("RELAY_SMTP__LISTEN", '[{"port": 465}]')
    monkeypatch.setenv("RELAY_STORE__URL", "redis://host/0")
    settings = load()
    assert settings.smtp.workers == 5
    assert settings.smtp.listen[0].port == 465
    assert settings.store.url.get_secret_value() == "redis://host/0"


def test_a_variable_changes_one_key_of_a_section_and_leaves_the_others(toml: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RELAY_SMTP__WORKERS", "5")
    settings = load(toml("[smtp]\nworkers = 3\nmax_recipients = 7\n"))
    assert (settings.smtp.workers, settings.smtp.max_recipients) == (5, 7)


@pytest.mark.usefixtures("login")
def test_a_secret_is_read_from_a_file_without_its_newline(secrets: Path) -> None:
    (secrets / "upstream__password").write_text(f"{PASSWORD}\n")
    assert load(secrets=secrets).upstream.password.get_secret_value() == PASSWORD


@pytest.mark.usefixtures("login")
def test_systemd_credentials_are_found(secrets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (secrets / "upstream__password").write_text(PASSWORD)
    (secrets / "store__url").write_text("rediss://relay:x@store/0")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(secrets))
    settings = load()
    assert settings.upstream.password.get_secret_value() == PASSWORD
    assert settings.store.url.get_secret_value() == "rediss://relay:x@store/0"


@pytest.mark.usefixtures("login")
def test_a_credential_that_is_no_setting_is_left_alone(secrets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (secrets / "key").write_bytes(bytes(range(224, 256)))
    (secrets / "upstream__password").write_text(PASSWORD)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(secrets))
    monkeypatch.setenv("RELAY_ACCOUNTS__KEY_FILE", str(secrets / "key"))
    settings = load()
    assert settings.accounts.key_file == secrets / "key"
    assert settings.upstream.password.get_secret_value() == PASSWORD


@pytest.mark.usefixtures("login")
def test_the_environment_wins_over_a_secret_and_a_secret_over_the_file(toml: Write, secrets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = toml('[upstream]\npassword = "of the file"\nhost = "of.the.file"\n[store]\nurl = "redis://file"\n')
    (secrets / "upstream__password").write_text("of the secret")
    (secrets / "store__url").write_text("redis://secret")
    monkeypatch.setenv("RELAY_STORE__URL", "redis://environment")
    settings = load(path, secrets)
    assert settings.store.url.get_secret_value() == "redis://environment"
    assert settings.upstream.password.get_secret_value() == "of the secret"
    assert settings.upstream.host == "of.the.file"
    assert settings.upstream.port == Settings().upstream.port


@pytest.mark.parametrize("url", ["", "redis://h", "rediss://u:p@h:6380/1", "unix:///run/store.sock?db=1", "redis+cluster://[::1]:7000"])
def test_the_url_of_every_kind_of_store_is_taken_as_it_is(url: str, toml: Write) -> None:
    assert load(toml(f'[store]\nurl = "{url}"\n')).store.url.get_secret_value() == url


def test_no_proxy_is_trusted_unless_it_is_named(toml: Write) -> None:
    assert load().api.trusted_proxies == ()
    named = ("127.0.0.1", "10.0.0.0/8", "::1", "fd00::/8")
    assert load(toml(f"[api]\ntrusted_proxies = {list(named)}\n")).api.trusted_proxies == named


def test_a_shell_reads_the_name_to_log_in_with_without_the_password_that_is_a_credential(toml: Write) -> None:
    assert load(toml('[upstream]\nsecurity = "tls"\nusername = "me"\n')).upstream.username == "me"


def test_settings_cannot_be_changed() -> None:
    settings = load()
    with pytest.raises(ValidationError):
        settings.smtp = settings.smtp  # type: ignore[misc]
    with pytest.raises(ValidationError):
        settings.smtp.workers = 1  # type: ignore[misc]


# -- mistakes ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[smtp]\nworkrs = 3\n", "smtp.workrs: unknown key"),
        ("[smpt]\nworkers = 3\n", "smpt: unknown key"),
        ("workers = 3\n", "workers: unknown key"),
        ("[[smtp.listen]]\nport = 25\n[[smtp.listen]]\nprt = 26\n", "smtp.listen.1.prt: unknown key"),
        ('[smtp]\nworkers = "many"\n', "smtp.workers: "),
        ("[smtp]\nworkers = -1\n", "smtp.workers: "),
        ("smtp = 3\n", "smtp: "),
        ('[[smtp.listen]]\ntls = "tls"\n', "smtp.listen.0.tls: "),
        ("[[smtp.listen]]\nport = 65536\n", "smtp.listen.0.port: "),
        ('[smtp]\nhostname = "a b"\n', "smtp.hostname: "),
        ("[smtp]\nlisten = []\n", "at least one [[smtp.listen]]"),
        ('[smtp.tls]\ncertificate = "a.pem"\n', "smtp.tls: certificate and key go together"),
        ('[quota]\nunit = "bytes"\n', "quota.unit: "),
        ('[store]\nmaxmemory = "much"\n', "store.maxmemory: "),
        ('[store]\nurl = "localhost:6379"\n', "store.url: it must begin with one of redis://, rediss://, unix://, redis+cluster://"),
        ('[store]\nurl = "redis://localhost:x"\n', "store.url: not a URL that can be read"),
        ('[store]\nurl = "unix://"\n', "store.url: the path of the socket is missing"),
        ('[api]\ntrusted_proxies = ["proxy.example"]\n', "api.trusted_proxies: 'proxy.example' is neither an address nor a network"),
        ('[api]\ntrusted_proxies = ["*"]\n', "api.trusted_proxies: '*' is neither"),
        ('[upstream]\nusername = "me"\n', "username: refused with security"),
        ('[upstream]\npassword = "x"\n', "upstream: username: missing beside password"),
        ('[upstream]\nsecurity = "tls"\nusername = "me"\npassword = "x\\ry"\n', "upstream: password: a line end or NUL is in it"),
        ('[upstream]\nsecurity = "tls"\nusername = "me\\u0000"\npassword = "x"\n', "upstream: username: a line end or NUL"),
        ("[upstream]\nport = 0\n", "upstream.port: "),
        ("[guard]\nallow_ports = [0]\n", "guard.allow_ports.0: "),
        ("[guard]\nallow_ports = [true]\n", "guard.allow_ports: true or false is no value of it"),
        ('[[smtp.listen]]\naddress = ""\n', "smtp.listen.0.address: '' is neither a name nor an address"),
        ('[api]\naddress = ""\n', "api.address: '' is neither a name nor an address"),
        ('[upstream]\nwhen_unavailable = "drop"\n', "upstream.when_unavailable: "),
        ("[upstream]\nmax_messages_per_second = 1e-308\n", "upstream.max_messages_per_second: 0, or at least 0.01"),
        ("[upstream]\nmax_messages_per_second = nan\n", "upstream.max_messages_per_second: "),
        ('[upstream]\nhost = ""\n', "upstream.host: '' is neither a name nor an address"),
        ('[upstream]\nhost = "a..example"\n', "upstream.host: "),
        ('[[upstream.alternates]]\nhost = "a b\\u0000"\n', "upstream.alternates.0.host: "),
        ('[[upstream.alternates]]\nhost = "::g"\n', "upstream.alternates.0.host: "),
        ('[api]\ntest_recipient = "a@b..example"\n', "api.test_recipient: 'a@b..example' is no mailbox"),
        ('[api]\ntest_recipient = "a@b.example\\u0000"\n', "api.test_recipient: "),
        ('[api]\ntest_recipient = "a"\n', "api.test_recipient: "),
        ("[retry]\nfirst_wait_seconds = 7200\n", "retry: longest_wait_seconds: shorter than first_wait_seconds"),
        ("[retry]\nwarn_after_seconds = 172800\n", "retry: warn_after_seconds: not before expire_seconds"),
    ],
)
def test_a_mistake_in_the_file_is_one_line_with_the_file_and_the_key(text: str, named: str, toml: Write) -> None:
    path = toml(text)
    line = refusal(path)
    assert line.startswith(f"{path}: ")
    assert named in line


@pytest.mark.parametrize("tls", ["starttls", "implicit"])
def test_a_listener_with_tls_needs_a_certificate(tls: str, toml: Write) -> None:
    text = f'[[smtp.listen]]\nport = 465\ntls = "{tls}"\n'
    assert f'tls.certificate: needed by the listener on port 465 (tls = "{tls}")' in refusal(toml(text))
    assert load(toml(text + '[smtp.tls]\ncertificate = "a.pem"\nkey = "a.key"\n')).smtp.tls.key == Path("a.key")


def test_a_lease_must_outlive_the_message_it_is_for(toml: Write) -> None:
    line = refusal(toml("[quota]\nlease_seconds = 323.9\n"))
    assert "quota.lease_seconds: 323.9 is shorter than" in line
    assert line.endswith("= 324")
    assert load(toml("[quota]\nlease_seconds = 324\n")).quota.lease_seconds == 324
    assert "quota.lease_seconds: 420" in refusal(toml("[smtp]\ndata_deadline_seconds = 400\n"))


def test_a_drain_must_not_cut_off_what_is_on_its_way(toml: Write) -> None:
    assert "smtp.drain_seconds: 21.9 would cut off" in refusal(toml("[smtp]\ndrain_seconds = 21.9\n"))
    assert load(toml("[smtp]\ndrain_seconds = 22\n")).smtp.drain_seconds == 22


def test_an_unknown_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RELAY_SMTP__WORKRS", "5")
    assert refusal() == "environment: RELAY_SMTP__WORKRS: smtp.workrs: unknown key"


def test_a_variable_of_an_unknown_section_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RELAY_SMPT__WORKERS", "5")
    assert "RELAY_SMPT__WORKERS: unknown section 'smpt'" in refusal()


def test_a_variable_of_the_wrong_type_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RELAY_SMTP__WORKERS", "many")
    assert refusal().startswith("environment: RELAY_SMTP__WORKERS: smtp.workers: ")


@pytest.mark.parametrize(
    ("name", "example"),
    [("RELAY_SMTP", "{...}"), ("RELAY_SMTP__TLS", "{...}"), ("RELAY_SMTP__LISTEN", "[...]"), ("RELAY_GUARD__ALLOW_PORTS", "[...]")],
)
def test_a_variable_that_is_not_json_where_it_must_be_is_named(name: str, example: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for text in (PASSWORD, "", "[1"):
        monkeypatch.setenv(name, text)
        assert refusal() == f"environment: {name}: JSON is expected, as {example}"


@pytest.mark.parametrize(
    ("variables", "text", "blamed"),
    [
        ({"SMTP__WORKERS": "x"}, "[smtp]\nworkers = 3\n", "environment: RELAY_SMTP__WORKERS"),
        ({"SMTP__WORKERS": "3"}, "[smtp]\nmax_errors = 0\n", "{file}"),
        ({"SMTP": '{"workers": 3}'}, "[smtp]\nmax_errors = 0\n", "{file}"),
        ({"SMTP": '{"max_errors": 0}'}, "[smtp]\nworkers = 3\n", "environment: RELAY_SMTP"),
        ({"SMTP": '{"workers": 1}', "SMTP__WORKERS": "x"}, "", "environment: RELAY_SMTP__WORKERS"),
        ({"SMTP": "3"}, "", "environment: RELAY_SMTP"),
        ({"SMTP__WORKERS__X": "3"}, "", "environment: RELAY_SMTP__WORKERS__X"),
        ({"UPSTREAM__ALTERNATES": "[{}]"}, "", "environment: RELAY_UPSTREAM__ALTERNATES"),
        ({"SMTP__LISTEN": "[3]"}, "", "environment: RELAY_SMTP__LISTEN"),
        ({"SMTP__LISTEN": "null"}, "", "environment: RELAY_SMTP__LISTEN"),
        ({"SMTP__WORKERS": "3"}, '[upstream]\nusername = "me"\n', "{file}"),
        ({"UPSTREAM__SECURITY": "none"}, '[upstream]\nusername = "me"\n', "{file} and environment: RELAY_UPSTREAM__SECURITY"),
        ({"SMTP__DATA_DEADLINE_SECONDS": "900"}, "", "environment: RELAY_SMTP__DATA_DEADLINE_SECONDS"),
        ({"API__PORT": "2525"}, "", "environment: RELAY_API__PORT"),
    ],
)
def test_who_gave_what_is_wrong_is_named(
    variables: dict[str, str], text: str, blamed: str, toml: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = toml(text)
    for name, value in variables.items():
        monkeypatch.setenv(f"RELAY_{name}", value)
    assert refusal(path).startswith(f"{blamed.format(file=path)}: ")


def test_an_unknown_secret_is_named(secrets: Path) -> None:
    (secrets / "upstream__passwrd").write_text(PASSWORD)
    line = refusal(secrets=secrets)
    assert line == f"{secrets / 'upstream__passwrd'}: upstream.passwrd: unknown key"
    assert PASSWORD not in line


def test_a_secret_of_an_unknown_section_is_named(secrets: Path) -> None:
    (secrets / "upstrem__password").write_text(PASSWORD)
    line = refusal(secrets=secrets)
    assert "upstrem" in line
    assert PASSWORD not in line


@pytest.mark.parametrize(
    "names", [("smtp__tls", "smtp__tls__certificate"), ("smtp__tls", "SMTP__TLS__certificate"), ("smtp__tls", "smtp__TLS")]
)
def test_two_secrets_of_which_one_is_in_the_others_place_are_refused(secrets: Path, names: tuple[str, str]) -> None:
    for name in names:
        (secrets / name).write_text(PASSWORD)
    line = refusal(secrets=secrets)
    assert any(line.startswith(f"{secrets / name}: ") for name in names) and PASSWORD not in line


def test_a_secret_that_is_wrong_is_named(secrets: Path, toml: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    (secrets / "SMTP__workers").write_text("many")
    assert refusal(toml("[smtp]\nworkers = 3\n"), secrets).startswith(f"{secrets / 'SMTP__workers'}: smtp.workers: ")
    monkeypatch.setenv("RELAY_SMTP__WORKERS", "x")
    assert refusal(secrets=secrets).startswith("environment: RELAY_SMTP__WORKERS: smtp.workers: ")


def test_a_secret_that_is_not_text_is_named(secrets: Path) -> None:
    (secrets / "upstream__password").write_bytes(b"\xff\xfe")
    assert "upstream__password" in refusal(secrets=secrets)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    assert refusal(tmp_path / "missing.toml") == f"{tmp_path / 'missing.toml'}: No such file or directory"
    assert refusal(tmp_path) == f"{tmp_path}: Is a directory"
    assert refusal(Path()) == "the name of the configuration file is empty, or that of this directory"


def test_a_file_that_is_not_toml_is_named_with_the_line(toml: Write) -> None:
    assert "not TOML: " in (line := refusal(toml("[smtp]\nworkers\n")))
    assert "line 2" in line


def test_a_directory_of_secrets_that_is_none_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert refusal(secrets=tmp_path / "missing") == f"{tmp_path / 'missing'}: not a directory (secrets)"
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path / "missing"))
    assert "not a directory" in refusal()


# -- secrets stay secret -----------------------------------------------------------------------------------------------------


def test_no_secret_is_in_what_the_settings_print(toml: Write) -> None:
    path = toml(f'[upstream]\nsecurity = "tls"\nusername = "me"\npassword = "{PASSWORD}"\n[store]\nurl = "redis://me:{PASSWORD}@host/0"\n')
    settings = load(path)
    assert settings.upstream.password.get_secret_value() == PASSWORD
    for text in (repr(settings), str(settings), settings.model_dump_json(), repr(settings.upstream), str(settings.store)):
        assert PASSWORD not in text


@pytest.mark.parametrize(
    "text",
    [
        f'[upstream]\nusername = "me"\npassword = "{PASSWORD}"\n',
        f'[upstream]\npassword = ["{PASSWORD}"]\n',
        f'[upstream]\npasswrd = "{PASSWORD}"\n',
        f'[store]\nurl = {{ a = "redis://me:{PASSWORD}@host" }}\n',
        f'[store]\nurl = "me:{PASSWORD}@host"\n',
        f'[store]\nurl = "{PASSWORD}://host"\n',
        f'[store]\nurl = "redis://me:{PASSWORD}/x@host"\n',
        f'[store]\nurl = "redis://me:{PASSWORD}@host?db=x"\n',
        f'[store]\nurl = "redis://me:{PASSWORD}@host"\n[quota]\nlease_seconds = 1\n',
        f'upstream = "{PASSWORD}"\n',
        f"[upstream]\npassword = {PASSWORD}\n",
    ],
)
def test_no_secret_is_in_an_error(text: str, toml: Write) -> None:
    assert PASSWORD not in refusal(toml(text))


def test_no_secret_is_in_an_errors_causes(toml: Write) -> None:

    with pytest.raises(ConfigError) as caught:
        load(toml(f'[upstream]\nusername = "me"\npassword = "{PASSWORD}"\n'))
    assert PASSWORD not in "".join(traceback.format_exception(caught.value))
