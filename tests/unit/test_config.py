import dataclasses
from contextlib import suppress
from types import MappingProxyType

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from whodrives.config import codec, schema
from whodrives.config.schema import Config, Mqtt, Tls, Vehicle
from whodrives.errors import ConfigError, ProfileError
from whodrives.vehicle import vss

POSITION = "Vehicle.Cabin.Seat.Row1.DriverSide.Position"
TILT = "Vehicle.Cabin.Seat.Row1.DriverSide.Tilt"
VSS_RANGE = "0 to 1000 mm; give min and max inside it"
FORGED = "can be read and forged on the way; give tls, or host 127.0.0.1"
NAME = "/etc/whodrives/whodrives.yaml"


def mistakes(text: str) -> list[str]:
    """The lines of the report on a text, without its head."""
    with pytest.raises(ConfigError) as caught:
        codec.parse(text, NAME)
    return [line.strip().removeprefix(NAME) for line in str(caught.value).splitlines()[1:]]


def numbers_in(limits: vss.Range, datatype: str) -> st.SearchStrategy[float]:
    """Values that an ECU of this range accepts."""
    if datatype == "float":
        return st.floats(limits.minimum, limits.maximum)
    return st.integers(int(limits.minimum), int(limits.maximum)).map(float)


def test_an_empty_file_is_the_defaults() -> None:
    """Every key may be left out, the whole file too."""
    assert codec.parse("", NAME) == Config()
    assert codec.parse("mqtt:\nsound:\n", NAME) == Config()


@pytest.mark.parametrize("path", vss.SIGNALS)
@pytest.mark.parametrize(
    ("low", "high"), [("0.0", "65535.0"), ("-1.0e+300", "1.0e+300"), ("0.0", "1001.0")]
)
def test_limits_that_no_car_has_are_refused(path: str, low: str, high: str) -> None:
    """A limit beyond VSS, or beyond what any seat can do, is a typing error and said to be one."""
    text = f"vehicle:\n  signals:\n    {path}: {{min: {low}, max: {high}}}\n"
    allowed = f"{vss.SIGNALS[path].range} {vss.SIGNALS[path].unit}"
    said = f"{float(low)} to {float(high)} is not a range inside {allowed}"
    assert mistakes(text) == [f":3: vehicle.signals.{path}: {said}; give min and max inside it"]


def test_the_reference_says_exactly_the_defaults() -> None:
    """Reference file and defaults come from one definition and cannot differ."""
    assert codec.parse(codec.reference(), NAME) == Config()


def test_the_reference_names_every_knob_once() -> None:
    """Nothing can be set that the reference does not show."""
    shown = yaml.safe_load(codec.reference())
    for section in dataclasses.fields(Config):
        knobs = {knob.name for knob in dataclasses.fields(section.default_factory())}  # type: ignore[operator]
        assert set(shown[section.name]) == knobs
    assert set(shown["vehicle"]["signals"]) == set(vss.SIGNALS)


def test_every_mistake_is_in_one_report_with_line_and_mend() -> None:
    """A person mends a file once, not once for each mistake in it."""
    text = f"""\
mqtt:
  host: car.local
  prot: 1883
  port: 99999
sound: loud
vehicle:
  id: no
  id: My Car
  signals:
    {POSITION[:-1]}: {{min: 0, max: 4}}
    {POSITION}: {{min: -1, max: 4}}
    {TILT}: {{min: .nan, mxa: 1}}
recogniton: {{}}
"""
    assert mistakes(text) == [
        ":13: recogniton: is not a key (did you mean recognition?)",
        ":3: mqtt.prot: is not a key (did you mean port?)",
        ":4: mqtt.port: 99999 is invalid; give 1 to 65535, or null for 1883, with tls 8883",
        ":5: sound: 'loud' is not a mapping; write `key: value` lines",
        ":8: vehicle.id: is given twice; keep one of them",
        ":8: vehicle.id: 'My Car' is invalid; give 1 to 64 of a-z, 0-9 and -",
        f":10: vehicle.signals: {vss.check_path(POSITION[:-1])}",
        f":11: vehicle.signals.{POSITION}: -1 to 4 is not a range inside {VSS_RANGE}",
        f":12: vehicle.signals.{TILT}.mxa: is not a key (did you mean max?)",
        f":12: vehicle.signals.{TILT}.max: is missing; give a finite number",
        f":12: vehicle.signals.{TILT}.min: nan is invalid; give a finite number",
        f": mqtt.tls: plain MQTT to car.local {FORGED}",
    ]


@pytest.mark.parametrize(
    "text",
    [
        "vehicle: {id: no}",
        "vehicle: {id: 7}",
        "vehicle: {id: null}",
        "vehicle: {id: [car]}",
        "vehicle: {id: a/b}",
        "vehicle: {id: '+'}",
        "sound: {source: ''}",
        'sound: {source: "a\\0b"}',
        "sound: {device: -1}",
        "sound: {device: true}",
        "sound: {rate_hz: 16000.0}",
        "sound: {channels: yes}",
        "recognition: {strangers: 1/10}",
        "recognition: {strangers: 0.01}",
        "mqtt: {host: 'mqtt://127.0.0.1'}",
        "mqtt: {port: 0}",
        "mqtt: {tls: [a, b, c]}",
        "mqtt: {tls: {ca: a, certificate: b}}",
        "models: {directory: 2001-01-01 00:00:00}\nmodels: {}",
        "- vehicle",
        "just text",
        "a: [",
        "vehicle: {id: !!python/name:os.system car}",
        "--- 1\n--- 2",
    ],
)
def test_what_cannot_be_meant_is_refused(text: str) -> None:
    """Wrong types are not converted: YAML's no, 1.0 and lists are not what they stand beside."""
    assert mistakes(text)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.8.8.8", "::1"])
def test_plain_mqtt_is_for_this_machine(host: str) -> None:
    """The contract allows plain MQTT on loopback only."""
    assert codec.parse(f"mqtt: {{host: '{host}'}}", NAME).mqtt.address == (host, 1883)


@pytest.mark.parametrize("host", ["10.0.0.2", "broker", "localhost.example.org"])
def test_plain_mqtt_to_another_machine_is_a_mistake(host: str) -> None:
    """Who can write on the way could move a seat."""
    assert mistakes(f"mqtt: {{host: {host}}}")


def test_tls_opens_the_way_out_and_moves_the_port() -> None:
    """With TLS any host will do, on MQTT's TLS port unless another is said."""
    files = "{ca: ca.pem, certificate: /c.pem, key: private/key.pem}"
    mqtt = codec.parse(f"mqtt: {{host: broker, tls: {files}}}", NAME).mqtt
    assert mqtt.address == ("broker", 8883)
    assert mqtt.tls == Tls("/etc/whodrives/ca.pem", "/c.pem", "/etc/whodrives/private/key.pem")
    assert Mqtt("broker", 1884, mqtt.tls).address == ("broker", 1884)


def test_relative_paths_start_at_the_files_folder() -> None:
    """A configuration works from wherever the program is started."""
    text = "profiles: {directory: ../people}\nmodels: {directory: /m}\nsound: {source: a.wav}"
    found = codec.parse(text, "etc/w.yaml")
    assert found.profiles.directory == "etc/../people"
    assert found.models.directory == "/m"
    assert found.sound.source == "etc/a.wav"


@pytest.mark.parametrize("source", [schema.MICROPHONE, schema.PIPE])
def test_microphone_and_pipe_are_no_paths(source: str) -> None:
    """The two words keep their meaning in every folder."""
    assert codec.parse(f"sound: {{source: {source}}}", NAME).sound.source == source


def test_listed_signals_replace_the_usual_ones() -> None:
    """A car that lists one signal takes that one only."""
    text = f"vehicle: {{signals: {{{POSITION}: {{min: 10, max: 200}}}}}}"
    assert codec.parse(text, NAME).vehicle.signals == {POSITION: vss.Range(10, 200)}


def test_absurd_numbers_and_depths_are_mistakes_not_crashes() -> None:
    """What int(), chr() and the stack refuse is told like any other mistake."""
    assert mistakes(f"mqtt: {{port: {'9' * 5000}}}")
    assert mistakes('a: "\\UFFFFFFFF"')
    assert mistakes("[" * 100_000)
    assert mistakes(f"vehicle: {{signals: {{{TILT}: {{min: 0, max: {'9' * 400}}}}}}}")


words = st.sampled_from(
    ["vehicle", "mqtt", "tls", "signals", "id", "host", "min", POSITION, "null", "-", "1/100"]
)
yamlish = st.lists(words | st.sampled_from([": ", "\n", "\n  ", "{", "}", "[", ", ", "&a", "*a"]))


@given(st.text() | yamlish.map("".join))
@example("a: &a [*a]")
@example("<<: {mqtt: 1}")
@example("? [1, 2]\n: 3")
@example("=: 1")
def test_any_text_gives_a_config_or_a_report(text: str) -> None:
    """Parsing raises nothing but ConfigError, whatever the file holds."""
    with suppress(ConfigError):
        assert isinstance(codec.parse(text, NAME), Config)


paths = st.text(st.characters(codec="utf-8"), min_size=1).filter(str.isprintable).map("/{}".format)


@given(
    st.builds(
        Config,
        vehicle=st.builds(Vehicle, st.from_regex(r"[a-z0-9-]{1,64}", fullmatch=True)),
        sound=st.builds(
            schema.Sound,
            paths | st.sampled_from([schema.MICROPHONE, schema.PIPE]),
            st.none() | st.integers(0, 99) | paths,
            st.integers(8000, 192_000),
            st.integers(1, 32),
        ),
        mqtt=st.builds(
            Mqtt,
            st.sampled_from(["broker", "10.0.0.1"]),
            st.none() | st.integers(1, 65_535),
            st.builds(Tls, paths, paths, paths) | st.builds(Tls, paths),
            paths,
            st.none() | paths,
        ),
        models=st.builds(schema.ModelFiles, paths),
    )
)
def test_a_shown_configuration_reads_back_the_same(given_config: Config) -> None:
    """Rendering is the inverse of parsing, so what is printed is what holds."""
    assert codec.parse(codec.render(given_config), "w.yaml") == given_config


PREFERENCES = st.fixed_dictionaries(
    {},
    optional={
        path: numbers_in(limits, vss.SIGNALS[path].datatype)
        for path, limits in Vehicle().signals.items()
    },
)


@given(PREFERENCES)
def test_shown_preferences_read_back_the_same(preferences: dict[str, float]) -> None:
    """Preferences survive being written out, edited elsewhere and read in, to the last digit."""
    text = codec.render_preferences(preferences)
    assert codec.parse_preferences(text, "p.yaml", Vehicle().signals) == preferences


@given(st.text() | yamlish.map("".join))
def test_any_preference_text_gives_preferences_or_a_report(text: str) -> None:
    """Parsing preferences raises nothing but ProfileError."""
    with suppress(ProfileError):
        codec.parse_preferences(text, NAME, Vehicle().signals)


def test_every_wrong_preference_is_in_one_report() -> None:
    """Unknown, doubled, out of range and not a number: all are told, with their lines."""
    limits = MappingProxyType({POSITION: vss.Range(0, 250), TILT: vss.Range(-5, 15)})
    text = f"{POSITION}: 300\n{TILT}: [1]\n{TILT}: 1\nVehicle.Speed: 3\n{TILT}x: 1\n"
    with pytest.raises(ProfileError) as caught:
        codec.parse_preferences(text, "p.yaml", limits)
    report = str(caught.value)
    assert report.startswith("p.yaml has 4 mistakes:")
    assert f"p.yaml:1: {POSITION}: 300 is out of range; give a number from 0 to 250 mm" in report
    assert f"p.yaml:3: {TILT}: is given twice" in report
    assert "p.yaml:4: Vehicle.Speed is no seat" in report


@pytest.mark.parametrize("written", ["5.1", "'5.1'", '"5.1"'])
def test_a_version_may_be_written_with_or_without_quotes(written: str) -> None:
    """YAML takes a bare 5.1 for a number; a person who writes it means the version."""
    assert codec.parse(f"vehicle: {{vss: {written}}}", NAME).vehicle.vss == "5.1"


@pytest.mark.parametrize("written", ["7.0", "6", "[6.0]", "null", "{a: 1}"])
def test_a_version_that_is_not_known_is_refused(written: str) -> None:
    """The report names those that are."""
    with pytest.raises(ConfigError, match=r"vehicle\.vss: .* is invalid; give 4\.0 or .* or 6\.0"):
        codec.parse(f"vehicle: {{vss: {written}}}", NAME)


def test_velocitas_without_a_seat_position_is_a_mistake() -> None:
    """The seat adjuster knows nothing else, so it would never be asked."""
    text = "vehicle: {signals: {}}\nmqtt: {velocitas: true}"
    with pytest.raises(ConfigError, match=r"mqtt.velocitas.*add Vehicle.Cabin.Seat"):
        codec.parse(text, NAME)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("mqtt: {tls: {ca: a}}", "mqtt.tls: the broker cannot know who we are; give certificate"),
        ("mqtt: {tls: {ca: a, key: b}}", "mqtt.tls.certificate: is missing; give certificate and"),
        ("mqtt: {tls: {ca: a, certificate: b}, username: u}", "mqtt.tls.key: is missing; give"),
        ("mqtt: {password_file: a}", "mqtt.username: is missing; give the user whose password"),
        ("mqtt: {host: broker, username: u, password_file: p}", f"mqtt.tls: .*{FORGED}"),
        ("mqtt: {username: u, password: secret}", "mqtt.password: is not a key .*password_file"),
    ],
)
def test_a_login_that_cannot_work_is_a_mistake(text: str, said: str) -> None:
    """Each names the field that is missing; a password in the open is none of the fields."""
    with pytest.raises(ConfigError, match=said) as refused:
        codec.parse(text, NAME)
    assert "secret" not in str(refused.value)


def test_user_and_password_need_no_certificate() -> None:
    """On this machine without TLS, elsewhere with the broker's authority alone."""
    here = codec.parse("mqtt: {username: u, password_file: p}", NAME).mqtt
    assert (here.username, here.password_file) == ("u", "/etc/whodrives/p")
    away = codec.parse("mqtt: {host: broker, username: u, tls: {ca: a}}", NAME).mqtt
    assert away.tls == Tls("/etc/whodrives/a")
    assert away.address == ("broker", 8883)
