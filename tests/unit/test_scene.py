"""The mixer of drives: levels, determinism, the truth it gives, and its complaints."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from tools.lab import scene
from whodrives.audio.blocks import SAMPLE_RATE_HZ, Floats
from whodrives.errors import ConfigError

VOICE = "af_heart/1.opus"


def speech_like(seconds: float, level: float = 0.1) -> Floats:
    """Noise in bursts of 0.3 s every 0.6 s: syllables, as far as a level meter can tell."""
    count = round(seconds * SAMPLE_RATE_HZ)
    bursts = np.arange(count) // round(0.3 * SAMPLE_RATE_HZ) % 2 == 0
    white = np.random.default_rng(5).standard_normal(count)
    return (level * white * np.where(bursts, 1, 1e-4)).astype(np.float32)


def level_db(samples: Floats) -> float:
    """RMS level in dBFS."""
    return float(10 * np.log10(np.mean(np.square(samples, dtype=np.float64))))


def script(**changes: Any) -> dict[str, Any]:
    """A small scene: one voice over a car that speeds up."""
    item = {"at": 1.0, "file": VOICE, "who": "anna", "role": "driver", "treatment": "cabin"}
    noise = {"level_db": -40, "speed_kmh": [[0, 0], [3, 50]]}
    return {"seed": 3, "noise": noise, "spoken": [item], **changes}


@pytest.mark.parametrize("snr_db", [0.0, 10.0])
def test_snr_is_over_the_active_speech(snr_db: float) -> None:
    """Pauses do not count: the noise lies `snr_db` below the syllables' own level."""
    speech = speech_like(3)
    noise = np.ones(len(speech) + 7, np.float32)
    added = scene.mix(speech, noise, snr_db) - speech
    assert level_db(added) == pytest.approx(level_db(speech[:4800]) - snr_db, abs=0.3)


def test_level_speech_sets_the_active_level() -> None:
    """However loud the recording was, its syllables come out at the level asked for."""
    for level in (0.001, 0.3):
        leveled = scene.level_speech(speech_like(2, level), -26)
        assert level_db(leveled[:4800]) == pytest.approx(-26, abs=0.3)


def test_road_noise_repeats_with_its_seed() -> None:
    """A drive can be mixed again to the sample; another seed is another drive."""
    one, same, other = (scene.road_noise(1, 80, seed) for seed in (1, 1, 2))
    assert one.dtype == np.float32
    assert one.shape == (SAMPLE_RATE_HZ,)
    assert np.array_equal(one, same)
    assert not np.allclose(one, other)


def test_road_noise_grows_with_speed_and_is_mostly_low() -> None:
    """Faster is louder; most of the power of a moving car lies below 300 Hz."""
    levels = [level_db(scene.road_noise(4, speed, 1)) for speed in (0, 30, 50, 100, 130)]
    assert levels == sorted(levels)
    noise = scene.road_noise(4, 100, 1)
    power = np.abs(np.fft.rfft(noise)) ** 2
    hz = np.fft.rfftfreq(len(noise), 1 / SAMPLE_RATE_HZ)
    assert power[hz < 300].sum() > 0.8 * power.sum()


def test_cabin_dies_out_within_a_tenth_of_a_second() -> None:
    """An impulse in the cabin is 40 dB down after 0.1 s, and nothing comes before it."""
    impulse = np.zeros(SAMPLE_RATE_HZ, np.float32)
    impulse[4000] = 1
    heard = scene.cabin(impulse)
    assert len(heard) == len(impulse)
    assert np.max(np.abs(heard[:4000])) < 1e-6
    assert level_db(heard[5600:7200]) < level_db(heard[4000:5600]) - 40


def test_farther_voices_have_less_direct_sound() -> None:
    """The back seat is more reverberant than the front."""
    impulse = np.zeros(4000, np.float32)
    impulse[0] = 1
    near, far = scene.cabin(impulse, 0.6), scene.cabin(impulse, 1.6)
    assert near[0] > far[0]


def test_radio_has_no_bass_and_no_treble() -> None:
    """A small loudspeaker: 50 Hz is gone against 1 kHz."""
    at_s = np.arange(SAMPLE_RATE_HZ) / SAMPLE_RATE_HZ
    tones = [np.sin(2 * np.pi * hz * at_s).astype(np.float32) * 0.01 for hz in (50, 1000)]
    low, middle = (level_db(scene.radio(tone)) for tone in tones)
    assert low < middle - 10


def test_music_is_not_speech_in_silence() -> None:
    """The synthetic music is audible all the time, and repeats with its seed."""
    one, same = scene.music(3, 1), scene.music(3, 1)
    assert np.array_equal(one, same)
    assert np.min(scene.frame_levels_db(one)) > -60


def test_a_scene_tells_who_spoke_when(voices: Path) -> None:
    """The truth holds the text from the voices' manifest and the times of the mix."""
    samples, (spoken,) = scene.render(script(), voices)
    assert (spoken.who, spoken.role, spoken.file) == ("anna", "driver", VOICE)
    assert spoken.text
    assert spoken.start_s == 1.0
    assert len(samples) == round((spoken.end_s + 2) * SAMPLE_RATE_HZ)
    voice = samples[SAMPLE_RATE_HZ : round(spoken.end_s * SAMPLE_RATE_HZ)]
    assert level_db(voice) > level_db(samples[: SAMPLE_RATE_HZ // 2]) + 20


def test_a_scene_repeats_to_the_sample(voices: Path) -> None:
    """The recorded drive in the repository can be made again."""
    assert np.array_equal(scene.render(script(), voices)[0], scene.render(script(), voices)[0])


@pytest.mark.parametrize("treatment", sorted(scene.TREATMENTS))
def test_every_treatment_keeps_the_level(voices: Path, treatment: str) -> None:
    """gain_db means the same for a driver and for the radio."""
    item = {**script()["spoken"][0], "treatment": treatment, "gain_db": -6}
    samples, (spoken,) = scene.render({"spoken": [item]}, voices)
    voice = samples[SAMPLE_RATE_HZ : round(spoken.end_s * SAMPLE_RATE_HZ)]
    assert scene.active_level_db(voice) == pytest.approx(scene.SPEECH_LEVEL_DB - 6, abs=1)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"spoken": [{"at": 1, "role": "driver"}]}, r"spoken\[0\]: file is missing"),
        ({"spoken": [{"file": VOICE, "role": "driver"}]}, r"spoken\[0\]: at is missing"),
        ({"spoken": [{"at": 1, "file": "no.opus", "role": "x"}]}, r"no\.opus"),
        (
            {"spoken": [{"at": 1, "file": VOICE, "role": "x", "treatment": "loud"}]},
            "treatment 'loud' is not one of",
        ),
        ({"spoken": "nobody"}, "script: spoken is 'nobody'"),
        ({"noise": {"level_db": -40}}, "noise: speed_kmh is missing"),
        ({"noise": {"level_db": -40, "speed_kmh": [[1, 2, 3]]}}, "noise: speed_kmh"),
    ],
)
def test_a_faulty_script_is_named(voices: Path, change: dict[str, Any], complaint: str) -> None:
    """The error says which item and which field."""
    with pytest.raises(ConfigError, match=complaint):
        scene.render(script(**change), voices)


@pytest.mark.parametrize("name", ["drive.opus", "drive.flac", "drive.wav"])
def test_the_program_writes_sound_and_truth(voices: Path, tmp_path: Path, name: str) -> None:
    """One command makes the recorded drive and what is to be heard in it."""
    path, out, truth = tmp_path / "drive.yaml", tmp_path / name, tmp_path / "truth.json"
    path.write_text(json.dumps(script()))  # JSON is YAML
    arguments = [str(path), "--voices", str(voices), "--out", str(out), "--truth", str(truth)]
    assert scene.main(arguments) == 0
    samples, rate = soundfile.read(out)
    assert rate == SAMPLE_RATE_HZ
    assert len(samples) == len(scene.render(script(), voices)[0])
    assert json.loads(truth.read_text())[0]["who"] == "anna"


def test_the_program_refuses_an_unknown_kind_of_sound(
    voices: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The file's ending decides; an unknown one is an error that lists the known ones."""
    path = tmp_path / "drive.yaml"
    path.write_text(json.dumps(script()))
    assert scene.main([str(path), "--voices", str(voices), "--out", "drive.mp3"]) == 1
    assert ".flac" in capsys.readouterr().err
