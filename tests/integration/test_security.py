"""The broker that is shipped, real, with certificates of its own making: who gets in, who may what.

The table below is docs/mqtt.md's, by role; everything that is not in it must be denied.
"""

import contextlib
import importlib.util
import json
import queue
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from paho.mqtt.client import Client, MQTTMessage, MQTTv5
from paho.mqtt.enums import CallbackAPIVersion

from tests.conftest import end, free_port, program, wait_until
from whodrives.mqtt import topics

REPOSITORY = Path(__file__).parents[2]
SHIPPED = REPOSITORY / "systemd" / "mosquitto"
ROOT = "whodrives/car/"
SPEED = "vehicle/Vehicle.Speed"
COMMANDS = tuple(
    f"command/{name}" for name in ("listen", "driver", "save", "cancel", "forget", "enrol")
)

WRITES = {
    "whodrives": {
        *("status", "driver", "recognition", "preferences/apply", "preferences/cancel"),
        *("command/result", "enrolment", "guest", "metrics", "echo"),
    },
    "ecu": {"preferences/result", "preferences/position"},
    "gateway": {"vehicle", SPEED},
    "headunit": set(COMMANDS),
    "monitor": set(),
}
TOPICS = sorted({topic for topics in WRITES.values() for topic in topics})
READS = {
    "whodrives": {
        *("vehicle", SPEED, "preferences/result", "preferences/position", "echo"),
        *COMMANDS,
    },
    "ecu": {"preferences/apply", "preferences/cancel", "status", "vehicle", SPEED},
    "gateway": set(),
    "headunit": {
        "command/result",
        "enrolment",
        "guest",
        "status",
        "driver",
        "recognition",
        "preferences/position",
    },
    "monitor": set(TOPICS),
}
ELSEWHERE = ("whodrives/car", "whodrives/car/other", "seat/apply", "homeassistant/x/config")
CONNECT = b"\x10\x0d\x00\x04MQTT\x05\x02\x00\x3c\x00\x00\x00"
"""An MQTT 5 client without a name asks to be let in."""


def _load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, REPOSITORY / "tools" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


certificates: Any = _load("certificates")


class SecureBroker:
    """A mosquitto with the shipped configuration and ACL, but for the port and the folders."""

    host = "127.0.0.1"

    def __init__(self, folder: Path, beside: str = "", network: str = "") -> None:
        """Make the certificates and the configuration.

        Args:
            folder: where they are.
            beside: a configuration file that conf.d holds as well, read after the shipped one.
            network: the address of the second listener, which is shipped as a comment.
        """
        self.folder = folder
        self._network = network
        folder.mkdir(exist_ok=True)
        certificates.main([str(folder)])
        self.port = free_port()
        text = (SHIPPED / "whodrives.conf").read_text()
        (folder / "whodrives.passwords").touch()
        if network:
            head, mark, tail = text.partition("#listener 8883 192.0.2.1")
            text = head + (mark + tail).replace("#", "").replace("192.0.2.1", network)
        for shipped, here in (
            ("listener 8883", f"listener {self.port}"),
            ("/etc/mosquitto/certs/", f"{folder}/"),
            ("/etc/mosquitto/whodrives.passwords", f"{folder}/whodrives.passwords"),
            ("/etc/mosquitto/whodrives.acl", str(SHIPPED / "whodrives.acl")),
        ):
            assert shipped in text
            text = text.replace(shipped, here)
        # Started by root, mosquitto would become a user that cannot read our folder.
        conf_d = folder / "conf.d"
        conf_d.mkdir()
        (conf_d / "whodrives.conf").write_text(text)
        (conf_d / "z.conf").write_text(beside)
        main = f"user root\ninclude_dir {conf_d}\n"
        (folder / "mosquitto.conf").write_text(main)
        self._log = (folder / "mosquitto.log").open("wb")
        self._process = subprocess.Popen(
            [program("mosquitto", "mosquitto"), "-c", str(folder / "mosquitto.conf")],
            stdout=self._log,
            stderr=self._log,
        )
        wait_until(
            lambda: self.ended or self._listens(), f"mosquitto listens; see {folder}/mosquitto.log"
        )

    def tls(self, role: str = "whodrives") -> dict[str, str]:
        """The files of `mqtt.tls` for a role at this broker."""
        files = {"ca": "ca", "certificate": role, "key": f"{role}-key"}
        return {key: str(self.folder / f"{name}.pem") for key, name in files.items()}

    def stop(self) -> None:
        """End it."""
        end(self._process)
        self._log.close()

    @property
    def ended(self) -> bool:
        """Whether it has ended by itself, as for a configuration that it does not accept."""
        return self._process.poll() is not None

    def _listens(self) -> bool:
        with contextlib.suppress(OSError):
            for host in filter(None, (self.host, self._network)):
                socket.create_connection((host, self.port), timeout=1).close()
            return True
        return False

    def context(self, name: str | None) -> ssl.SSLContext:
        """TLS that trusts the broker, with this certificate, if any."""
        made = ssl.create_default_context(cafile=str(self.folder / "ca.pem"))
        if name:
            made.load_cert_chain(self.folder / f"{name}.pem", self.folder / f"{name}-key.pem")
        return made


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecureBroker]:
    """The shipped broker, started once."""
    made = SecureBroker(tmp_path_factory.mktemp("secure"))
    yield made
    made.stop()


class Party:
    """One client of a role, which hears all that it may."""

    def __init__(self, broker: SecureBroker, role: str, identity: str = "") -> None:
        self.role = role
        self.heard: list[MQTTMessage] = []
        self._codes: queue.SimpleQueue[tuple[int, Any]] = queue.SimpleQueue()
        self.ready = False
        self.client = Client(
            CallbackAPIVersion.VERSION2, identity, protocol=MQTTv5, reconnect_on_failure=False
        )
        self.client.tls_set_context(broker.context(role))
        self.client.on_message = lambda _c, _d, message: self.heard.append(message)
        self.client.on_publish = lambda _c, _d, mid, code, _p: self._codes.put((mid, code))
        self.client.on_subscribe = self._on_subscribe
        self.client.connect(broker.host, broker.port)
        self.client.subscribe("#", qos=1)
        self.client.loop_start()
        wait_until(lambda: self.ready, f"{role} has subscribed")

    def _on_subscribe(self, *_: Any) -> None:
        self.ready = True

    def say(self, topic: str, *, retain: bool = False) -> bool:
        """Say our role on a topic; returns whether the broker let us."""
        sent = self.client.publish(topic, self.role, 1, retain)
        while True:
            mid, code = self._codes.get(timeout=10)
            if mid == sent.mid:
                return not code.is_failure

    def close(self) -> None:
        """Leave."""
        self.client.disconnect()
        self.client.loop_stop()


@pytest.fixture(scope="module")
def parties(secure: SecureBroker) -> Iterator[dict[str, Party]]:
    """One client for each role."""
    made = {role: Party(secure, role) for role in WRITES}
    yield made
    for party in made.values():
        party.close()


def test_each_role_says_and_hears_what_it_must_and_nothing_else(parties: dict[str, Party]) -> None:
    """Every role tries every topic; the broker's answers and what arrives are the table above."""
    said = {
        (role, topic)
        for role, party in parties.items()
        for topic in [*(ROOT + topic for topic in TOPICS), *ELSEWHERE]
        if party.say(topic)
    }
    assert said == {(role, ROOT + topic) for role in WRITES for topic in WRITES[role]}
    heard_by_monitor = parties["monitor"].heard
    wait_until(lambda: len(heard_by_monitor) >= len(said), "the monitor has heard everything")
    assert {(m.payload.decode(), m.topic) for m in heard_by_monitor} == said
    for role, party in parties.items():
        wanted = {ROOT + topic for topic in READS[role]}
        wait_until(lambda p=party, w=wanted: {m.topic for m in p.heard} >= w, f"{role} heard")  # type: ignore[misc]
        assert {message.topic for message in party.heard} == wanted


def test_the_rights_are_the_contracts() -> None:
    """Who may write and read a topic is what the table of topics says; the monitor hears all."""
    roles = {"ECU": "ecu", "car": "gateway", "head unit": "headunit"}
    writes: dict[str, set[str]] = {role: set() for role in WRITES}
    reads: dict[str, set[str]] = {role: set() for role in READS}
    # The daemon's own, which is nobody's contract.
    for rights, role in ((writes, "whodrives"), (reads, "whodrives"), (reads, "monitor")):
        rights[role].add("echo")
    for topic in topics.TOPICS.values():
        name = topic.name.replace("<VSS path>", "Vehicle.Speed")
        writes[roles.get(topic.writer, topic.writer)].add(name)
        for reader in (*topic.readers, "monitor"):
            reads[roles.get(reader, reader)].add(name)
    assert writes == WRITES
    assert reads == READS


def test_the_roles_are_those_that_certificates_are_made_for() -> None:
    """The ACL and the program that makes certificates name the same roles."""
    lines = (SHIPPED / "whodrives.acl").read_text().splitlines()
    users = [line.split()[1] for line in lines if line.startswith("user ")]
    assert users == list(certificates.ROLES) == list(WRITES)


@pytest.mark.parametrize("role", ["ecu", "gateway", "headunit", "monitor"])
def test_nobody_else_can_leave_a_request_behind(
    secure: SecureBroker, parties: dict[str, Party], role: str
) -> None:
    """A forged request that the broker would keep for the next ECU is neither kept nor told."""
    assert not parties[role].say(ROOT + "preferences/apply", retain=True)
    parties["whodrives"].say(ROOT + "status", retain=True)
    parties["ecu"].close()
    late = parties["ecu"] = Party(secure, "ecu")
    wait_until(lambda: bool(late.heard), "the late ECU hears what is kept")
    assert "preferences/apply" not in {m.topic.removeprefix(ROOT) for m in late.heard}


def test_a_name_that_no_role_has_may_nothing(secure: SecureBroker) -> None:
    """A certificate of the right authority is not enough: without a line in the ACL, silence."""
    ca = certificates.read(secure.folder, "ca")
    certificates.client(ca, "radio", datetime.now(UTC)).write(secure.folder, "radio")
    radio = Party(secure, "radio")
    assert not any(radio.say(ROOT + topic) for topic in TOPICS)
    radio.close()
    assert radio.heard == []


def _greeting(broker: SecureBroker, context: ssl.SSLContext) -> bytes:
    """The first byte that the broker says to this client: 0x20 lets it in; none is a refusal."""
    with (
        contextlib.suppress(ssl.SSLError, ConnectionError),
        socket.create_connection((broker.host, broker.port), timeout=10) as plain,
        context.wrap_socket(plain, server_hostname=broker.host) as tls,
    ):
        tls.sendall(CONNECT)
        return tls.recv(1)
    return b""


def _expired(broker: SecureBroker) -> str:
    ca = certificates.read(broker.folder, "ca")
    past = datetime.now(UTC) - timedelta(days=900)
    certificates.client(ca, "whodrives", past).write(broker.folder, "expired")
    return "expired"


def _foreign(broker: SecureBroker) -> str:
    ca = certificates.authority(datetime.now(UTC))
    certificates.client(ca, "whodrives", datetime.now(UTC)).write(broker.folder, "foreign")
    return "foreign"


@pytest.mark.parametrize(
    "name",
    [lambda _: None, _foreign, _expired, lambda _: "broker"],
    ids=["none", "foreign authority", "expired", "the broker's own"],
)
def test_a_wrong_certificate_is_not_let_in(
    secure: SecureBroker, name: Callable[[SecureBroker], str | None]
) -> None:
    """No certificate, another authority's, an old one, and one that is for servers."""
    assert _greeting(secure, secure.context("whodrives")) == b"\x20"
    assert _greeting(secure, secure.context(name(secure))) == b""


@pytest.mark.parametrize(
    ("version", "greeting"),
    [
        (ssl.TLSVersion.TLSv1_1, b""),
        (ssl.TLSVersion.TLSv1_2, b"\x20"),
        (ssl.TLSVersion.TLSv1_3, b"\x20"),
    ],
)
def test_old_tls_is_not_spoken(
    secure: SecureBroker, version: ssl.TLSVersion, greeting: bytes
) -> None:
    """TLS 1.2 and 1.3 only, however willing the client is."""
    context = secure.context("whodrives")
    context.set_ciphers("ALL:@SECLEVEL=0")
    with (
        pytest.warns(DeprecationWarning, match="TLSv1_1")
        if version < ssl.TLSVersion.TLSv1_2
        else (contextlib.nullcontext())
    ):
        context.minimum_version = version
        context.maximum_version = version
    assert _greeting(secure, context) == greeting


def test_plain_mqtt_is_not_spoken(secure: SecureBroker) -> None:
    """Without TLS there is no answer."""
    with socket.create_connection((secure.host, secure.port), timeout=10) as plain:
        plain.sendall(CONNECT)
        with contextlib.suppress(ConnectionError):
            assert not plain.recv(1).startswith(b"\x20")


def test_daemon_and_ecu_work_over_it(secure: SecureBroker, tmp_path: Path) -> None:
    """The real daemon says that it is online, and the simulated ECU where its seat is."""
    config = tmp_path / "whodrives.yaml"
    settings = {
        "vehicle": {"id": "real"},
        "sound": {"source": "-"},
        "mqtt": {
            "host": secure.host,
            "port": secure.port,
            "tls": secure.tls(),
        },
        "profiles": {"directory": "profiles", "key_file": "profile-key"},
        "models": {"directory": str(REPOSITORY / "models")},
    }
    config.write_text(json.dumps(settings))
    ecu = [sys.executable, str(REPOSITORY / "tools" / "ecu.py"), "--vehicle", "real"]
    at = ["--host", secure.host, "--port", str(secure.port), "--ca", f"{secure.folder}/ca.pem"]
    own = ["--certificate", f"{secure.folder}/ecu.pem", "--key", f"{secure.folder}/ecu-key.pem"]
    monitor = Party(secure, "monitor")  # in place of the earlier one, if that is still there
    started = time.monotonic()
    with contextlib.ExitStack() as stage:
        stage.callback(monitor.close)
        run = [sys.executable, "-m", "whodrives", "--config", str(config), "run"]
        for command in (run, [*ecu, *at, *own]):
            child = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
            )
            stage.enter_context(child)
            stage.callback(end, child)
        wait_until(
            lambda: (
                {"status", "preferences/position"}
                <= {m.topic.removeprefix("whodrives/real/") for m in monitor.heard}
            ),
            f"both are heard (for {time.monotonic() - started:.0f} s now)",
        )


def test_certificates_are_kept_and_keys_are_private(tmp_path: Path) -> None:
    """A second run makes what is missing and nothing else; only the owner reads a key."""
    certificates.main([str(tmp_path)])
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    (tmp_path / "ecu.pem").unlink()
    certificates.main([str(tmp_path)])
    after = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert {name for name in after if after[name] != before[name]} == {"ecu.pem", "ecu-key.pem"}
    assert {path.stat().st_mode & 0o777 for path in tmp_path.glob("*-key.pem")} == {0o600}
