"""A real broker that asks for user and password, as Home Assistant's does."""

import logging
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Broker, end, program, wait_until
from tests.integration.installation import Installation
from tests.integration.running import Running
from tests.integration.test_bus import Bench
from tests.integration.test_security import certificates
from whodrives.config.schema import Mqtt, Tls, Vehicle
from whodrives.errors import BusError
from whodrives.mqtt.bus import Bus
from whodrives.mqtt.probe import probe
from whodrives.trip.types import LinkState

pytestmark = pytest.mark.realtime

RIGHT = "correct horse ü"


class LoginBroker(Broker):
    """A mosquitto with one user, on loopback; with TLS if `tls` is set."""

    def __init__(self, folder: Path, *, tls: bool = False) -> None:
        super().__init__(folder)
        self.folder = folder
        users = folder / "users"
        made = [program("mosquitto_passwd", "mosquitto"), "-b", "-c", str(users), "driver"]
        subprocess.run([*made, RIGHT], check=True, capture_output=True)
        lines = [
            f"listener {self.port} {self.host}",
            "allow_anonymous false",
            f"password_file {users}",
            "user root",
        ]
        if tls:
            certificates.main([str(folder)])
            lines += [f"certfile {folder}/broker.pem", f"keyfile {folder}/broker-key.pem"]
        self._config.write_text("\n".join(lines) + "\n")

    def password(self, text: str = RIGHT + "\n", mode: int = 0o600) -> Path:
        """A file with a password."""
        path = self.folder / "password"
        path.write_text(text)
        path.chmod(mode)
        return path

    def settings(self, password: Path | None, **more: Any) -> Mqtt:
        """The settings of somebody who logs in as the broker's user."""
        file = None if password is None else str(password)
        return Mqtt(self.host, self.port, username="driver", password_file=file, **more)


@pytest.fixture(params=[False, True], ids=["plain", "TLS"])
def login(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[LoginBroker]:
    """That broker, started, both ways."""
    made = LoginBroker(tmp_path, tls=request.param)
    made.start()
    yield made
    made.stop()


def _tls(broker: LoginBroker) -> dict[str, Any]:
    ca = broker.folder / "ca.pem"
    return {"tls": Tls(str(ca))} if ca.exists() else {}


def test_the_daemon_logs_in_with_user_and_password(login: LoginBroker) -> None:
    """Without TLS on loopback; with TLS that proves the broker alone, without a certificate."""
    password = login.password()
    bench = Bench(login, username="driver", password_file=str(password), **_tls(login))
    bench.connect()
    assert probe(login.settings(password, **_tls(login)), 10.0) is None
    bench.close()


def test_a_password_can_be_a_systemd_credential(
    login: LoginBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The credential takes precedence over the file, and needs none."""
    (login.folder / "mqtt-password").write_text(RIGHT)
    (login.folder / "mqtt-password").chmod(0o400)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(login.folder))
    assert probe(login.settings(None, **_tls(login)), 10.0) is None
    assert probe(login.settings(Path("/nowhere"), **_tls(login)), 10.0) is None


def test_a_wrong_password_is_told_with_field_and_file(login: LoginBroker) -> None:
    """A wrong one, and none at all; the password itself is told nowhere."""
    wrong = login.password("not it")
    said = str(probe(login.settings(wrong, **_tls(login)), 10.0))
    assert re.search(rf"refuses us.*check mqtt.username \(driver\).*password in {wrong}", said)
    assert "not it" not in said
    if not _tls(login):
        without = str(probe(Mqtt(login.host, login.port), 10.0))
        assert "give mqtt.username and mqtt.password_file" in without


def _as_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path, 0o600)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda path: path.chmod(0o604), "others may read or write it; run: chmod g-w,o= "),
        (lambda path: path.chmod(0o660), "others may read or write it; run: chmod g-w,o= "),
        (lambda path: path.write_text(""), "does not contain one line with a password"),
        (lambda path: path.write_text("one\ntwo\n"), "does not contain one line with a password"),
        (lambda path: path.write_text("x" * 70_000), "does not contain one line with a password"),
        (lambda path: path.write_bytes(b"\xff"), "is not UTF-8 text"),
        (lambda path: path.unlink(), "No such file"),
        (lambda path: (path.unlink(), path.mkdir()), "Is a directory"),
        (_as_pipe, "is not a regular file"),
    ],
    ids=["open", "group", "empty", "lines", "long", "bytes", "missing", "folder", "pipe"],
)
def test_a_password_file_that_cannot_be_used_is_refused(
    tmp_path: Path, make: Callable[[Path], object], said: str
) -> None:
    """At the start, with field and file; a named pipe does not hang; the named fix works."""
    path = tmp_path / "password"
    path.write_text("secret")
    path.chmod(0o600)
    make(path)
    settings = Mqtt(username="driver", password_file=str(path))
    with pytest.raises(BusError, match=rf"mqtt.password_file: {path}: .*{re.escape(said)}") as no:
        Bus(settings, Vehicle(), lambda _: None)
    assert "secret" not in str(no.value)
    if fix := re.search("run: (.*)", str(no.value)):
        subprocess.run(fix[1].split(), check=True)
        Bus(settings, Vehicle(), lambda _: None)


def test_a_user_without_a_password_is_refused() -> None:
    """The error names both places where the password can be."""
    with pytest.raises(BusError, match=r"mqtt.password_file.*credential named mqtt-password"):
        Bus(Mqtt(username="driver"), Vehicle(), lambda _: None)


def test_a_password_that_is_put_right_is_taken_without_a_restart(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The daemon reads the file at each try; the log names the field, and never the password."""
    broker = LoginBroker(tmp_path)
    broker.start()
    path = broker.password("wrong-one")
    with caplog.at_level(logging.DEBUG):
        bench = Bench(broker, username="driver", password_file=str(path))
        bench.bus.start()
        bench.until(lambda: bench.of(LinkState), "the broker refuses")
        assert "check mqtt.username (driver)" in bench.of(LinkState)[0].reason
        path.unlink()
        bench.until(lambda: "No such file" in caplog.text, "the missing file is told")
        broker.password()
        bench.until(bench.linked, "the right password is taken")
    bench.close()
    broker.stop()
    assert "wrong-one" not in caplog.text
    assert RIGHT not in caplog.text


def test_doctor_logs_in_over_tls_without_a_certificate(tmp_path: Path) -> None:
    """The configuration file names the broker's authority and nothing of ours."""
    broker = LoginBroker(tmp_path, tls=True)
    broker.start()
    installation = Installation(tmp_path)
    broker.password()
    login = {"username": "driver", "password_file": "password", "tls": {"ca": "ca.pem"}}
    installation.configure(mqtt={"port": broker.port, **login})
    said = installation.run("doctor").stdout
    broker.stop()
    assert f"{broker.port} accepts us" in said


def test_no_process_and_no_log_shows_the_password(tmp_path: Path) -> None:
    """The daemon and `doctor` as real programs: arguments, environment, log and output."""
    broker = LoginBroker(tmp_path)
    broker.start()
    installation = Installation(tmp_path)
    broker.password()
    mqtt = {"port": broker.port, "username": "driver", "password_file": "password"}
    installation.configure(mqtt=mqtt, sound={"source": "-"})
    running = Running(installation)
    wait_until(lambda: "event=broker_connected" in running.log, "the daemon is connected")
    shown = [
        Path(f"/proc/{running.process.pid}/{name}").read_bytes() for name in ("cmdline", "environ")
    ]
    end(running.process)
    running.close()
    doctor = installation.run("doctor")
    broker.stop()
    assert "accepts us" in doctor.stdout
    assert b"driver" not in shown[0]
    for text in (*shown, running.log.encode(), (doctor.stdout + doctor.stderr).encode()):
        assert RIGHT.encode() not in text
