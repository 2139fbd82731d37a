"""The data source name of InfluxDB, where it is read, and no password in what is said of it."""

from __future__ import annotations

import pytest
from daemons import PASSWORD, run_program, wait_until

from webserver_influx import DSN_VARIABLE, Destination, parse_arguments, parse_dsn


@pytest.mark.smoke
@pytest.mark.parametrize(
    ("dsn", "destination"),
    [
        ("influxdb://h", Destination("h")),
        ("influxdb://h/", Destination("h")),
        ("influxdb://h:1/d", Destination("h", 1, database="d")),
        ("influxdb://u:p@h:65535/d", Destination("h", 65535, "u", "p", "d")),
        ("https+influxdb://u:p@h/d", Destination("h", 8086, "u", "p", "d", tls=True)),
        ("influxdb://u:p@[::1]:8087/d", Destination("::1", 8087, "u", "p", "d")),
        ("influxdb://[::1]", Destination("::1")),
        ("influxdb://u@h", Destination("h", 8086, "u", "")),
        ("influxdb://u%40x:p%2F%3A%40%25%3F%23%20@h/d%2Fe", Destination("h", 8086, "u@x", "p/:@%?# ", "d/e")),
        ("influxdb://j%C3%BCrgen:p%C3%A4ss@h", Destination("h", 8086, "jürgen", "päss")),
        ("influxdb://jürgen:päss@h", Destination("h", 8086, "jürgen", "päss")),
        ("influxdb://u:p+q@h", Destination("h", 8086, "u", "p+q")),
        ("influxdb://u:p:q@h", Destination("h", 8086, "u", "p:q")),
        ("influxdb://u:p@db.Example.ORG", Destination("db.example.org", 8086, "u", "p")),
        ("influxdb://h/influxdb/d", Destination("h", database="d", path="/influxdb")),
        ("influxdb://u:p@h:8480/insert/0/influx/", Destination("h", 8480, "u", "p", path="/insert/0/influx")),
        ("https+influxdb://[::1]/a%20b/c%2Fd/e%2Ff", Destination("::1", database="e/f", tls=True, path="/a%20b/c%2Fd")),
        ("influxdb://h/größe/d", Destination("h", database="d", path="/größe")),
    ],
)
def test_a_dsn_is_read(dsn, destination):
    assert parse_dsn(dsn) == destination


MALFORMED = [
    "",
    PASSWORD,
    f"http://u:{PASSWORD}@h/d",
    f"udp+influxdb://u:{PASSWORD}@h/d",
    f"influxdb:u:{PASSWORD}@h",
    f"influxdb://u:{PASSWORD}@/d",
    f"influxdb://u:{PASSWORD}@h:port/d",
    f"influxdb://u:{PASSWORD}@h:0/d",
    f"influxdb://u:{PASSWORD}@h:65536/d",
    f"influxdb://u:{PASSWORD}@h:-1/d",
    f"influxdb://u:{PASSWORD}@h:/d",
    f"influxdb://u:{PASSWORD}/x@h/d",
    f"influxdb://u:{PASSWORD}?x@h/d",
    f"influxdb://u:{PASSWORD}#x@h/d",
    f"influxdb://u:{PASSWORD}@h/d?ssl=true",
    f"influxdb://u:{PASSWORD}@h//d",
    f"influxdb://u:{PASSWORD}@h/a//d",
    f"influxdb://u:{PASSWORD}@h/a/../d",
    f"influxdb://u:{PASSWORD}@h/./d",
    f"influxdb://u:{PASSWORD}@h/a@b/d",
    f"influxdb://u:{PASSWORD}/x/y@h/d",
    f"influxdb://u:/{PASSWORD}@h/d",
    f"influxdb://u:12/{PASSWORD}/34@h/prefix/d",
    f"influxdb://u:{PASSWORD}@[::1/d",
    f"influxdb://u:{PASSWORD}@::1/d",
    f"influxdb://u:{PASSWORD} x@h/d",
    f"influxdb://u:{PASSWORD}@h/d\n",
    f"influxdb://u:[{PASSWORD}@h/d",
    "localhost",
    f"http://u:{PASSWORD}@h:8086/d",
    f"influxdb://u:{PASSWORD}@",
    f"influxdb://u:{PASSWORD}@h:99999/d",
    f"influxdb://u:{PASSWORD}#@h/d",
    f"influxdb://u:a?{PASSWORD}@h/d",
    f"influxdb://u:{PASSWORD} {PASSWORD}@h/d",
    f"influxdb://u:12/{PASSWORD}@h/d",
    f"udp+influxdb://u:{PASSWORD}@h:8089/d",
    f"influxdb://u:{PASSWORD}\udcff@h/d",  # a byte that is not UTF-8
    f"influxdb://u\udcff:{PASSWORD}@h/d",
    f"influxdb://u:{PASSWORD}@h/d\udcff",
    f"influxdb://u:{PASSWORD}@h\x1b[31m/d",
]


@pytest.mark.smoke
@pytest.mark.parametrize("dsn", MALFORMED)
def test_a_malformed_dsn_is_refused_without_a_word_of_the_password(dsn):
    with pytest.raises(ValueError, match=r"\w") as info:
        parse_dsn(dsn)
    assert PASSWORD not in str(info.value)


@pytest.mark.smoke
@pytest.mark.parametrize(
    ("character", "named"),
    [("/", "“/”.* %2F"), ("#", "“#”.* %23"), ("?", r"“\?”.* %3F"), (" ", "a space.* %20"), ("[", r"“\[” is %5B")],
)
def test_a_character_to_be_encoded_in_a_password_is_named(character, named):
    with pytest.raises(ValueError, match=named):
        parse_dsn(f"influxdb://u:p{character}ss@h")


@pytest.mark.parametrize("option", [True, False], ids=["--influx", "WEBSERVER_INFLUX_DSN"])
def test_a_malformed_dsn_is_a_usage_error_without_the_password(option):
    dsn = f"influxdb://u:{PASSWORD}@h:port/d"
    ended = run_program("--influx", dsn) if option else run_program(env={"WEBSERVER_INFLUX_DSN": dsn})
    assert ended.returncode == 2
    assert ("--influx" if option else "WEBSERVER_INFLUX_DSN") in ended.stderr.splitlines()[-1]
    assert PASSWORD not in ended.stdout + ended.stderr


@pytest.mark.smoke
@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("http://localhost:8086", "influxdb://localhost:8086"),
        ("localhost:8086", "influxdb://localhost:8086"),
        ("db.example.org:8086/numbers", "influxdb://db.example.org:8086/numbers"),
        ("[::1]:8086", "influxdb://[::1]:8086"),
        ("https://db.example.org/prefix/numbers", "https+influxdb://db.example.org/prefix/numbers"),
        (f"http://u:{PASSWORD}@h:8086/d", "influxdb://user:password@h:8086/d"),
        (f"udp+influxdb://u:{PASSWORD}@h:8089", "influxdb://user:password@h:8089"),
        (f"u:{PASSWORD}@h", "influxdb://user:password@h"),
        (PASSWORD, "influxdb://host:8086"),
        ("://", "influxdb://host:8086"),
        ("tcp://db.example.org:8086", "influxdb://db.example.org:8086"),
        ("HTTPS://db.example.org", "https+influxdb://db.example.org"),
        ("https+influx://db.example.org:8086/x", "https+influxdb://db.example.org:8086/x"),
    ],
)
def test_the_form_that_the_option_takes_is_written_out(misuse, written, meant):
    reason = f"write {meant}; its form is in --help"
    assert misuse("--influx", written) == f"argument --influx: {reason}"
    assert misuse(dsn=written) == f"{DSN_VARIABLE}: {reason}"


@pytest.mark.smoke
@pytest.mark.parametrize("tls", [True, False])
def test_a_destination_prints_all_but_the_password(tls):
    destination = Destination("::1", 8087, "ü@", PASSWORD, "d/e", tls)
    assert str(destination) == f"{'https+' if tls else ''}influxdb://%C3%BC%40@[::1]:8087/d%2Fe"
    assert parse_dsn(str(destination)) == destination._replace(password="")


@pytest.mark.smoke
def test_a_destination_prints_its_path():
    assert str(parse_dsn("influxdb://u:p@h/insert/0/influx/")) == "influxdb://u@h:8086/insert/0/influx/math_server"


# --- on the command line, and in the environment


@pytest.mark.smoke
@pytest.mark.parametrize("dsn", [dsn for dsn in MALFORMED if dsn and dsn == dsn.strip()])
def test_a_malformed_dsn_is_refused_without_a_word_of_it(dsn, misuse):
    assert misuse("--influx", dsn).startswith("argument --influx: ")
    assert misuse(dsn=dsn).startswith(f"{DSN_VARIABLE}: ")


@pytest.mark.parametrize("text", ["", " ", "\n"])
def test_an_empty_variable_is_an_unset_one(monkeypatch, text):
    """Compose makes it of one that its own environment does not have."""
    monkeypatch.setenv(DSN_VARIABLE, text)
    assert parse_arguments([]).destination == Destination()


@pytest.mark.parametrize("text", ["influxdb://u:p@h/d\n", "influxdb://u:p@h/d\r\n", " \tinfluxdb://u:p@h/d "])
def test_white_space_at_its_ends_is_no_part_of_a_dsn(monkeypatch, text):
    """A file that a secret comes from ends with a line end."""
    destination = Destination("h", 8086, "u", "p", "d")
    assert parse_arguments(["--influx", text]).destination == destination
    monkeypatch.setenv(DSN_VARIABLE, text)
    assert parse_arguments([]).destination == destination


@pytest.mark.parametrize("before", [["--inlux"], ["-influx"], []])
def test_a_dsn_behind_a_misspelt_option_is_not_printed(before, misuse):
    misuse(*before, f"influxdb://user:{PASSWORD}@host/db")
    misuse(*before, f"influxdb://user:a {PASSWORD}@host/db")


def test_a_password_with_a_slash_in_it_is_not_taken_for_a_database(misuse):
    misuse("--influx", f"influxdb://user:12/{PASSWORD}@host")


@pytest.mark.parametrize("verbose", [[], ["--verbose"]])
def test_a_wrong_password_is_reported_but_not_printed(server, influxd, verbose):
    influx = influxd(auth=True)
    web = server(*verbose, env={DSN_VARIABLE: influx.dsn(login=("math_server", PASSWORD))})
    wait_until(lambda: any("401 Unauthorized: authorization failed; give WEBSERVER_INFL" in line for line in web.log()))
    assert web.stop() == 0
    assert PASSWORD not in web.stdout_text() + web.stderr_text()
