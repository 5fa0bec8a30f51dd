"""What is no sound, or not enough of it, is refused in words that name it and the mend."""

import io
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from whodrives.capture import read_file, read_pipe
from whodrives.domain import BLOCK_SAMPLES, Floats, SourceError

NOISE: Floats = np.random.default_rng(1).uniform(-0.5, 0.5, 32_000).astype(np.float32)


def written(path: Path, rate_hz: int = 16_000, **how: str) -> Path:
    """Two seconds (at 16 kHz) of noise in a file."""
    soundfile.write(path, NOISE, rate_hz, **how)
    return path


def shortened(path: Path, share: float = 0.5) -> Path:
    """The file without its end, as after a full disk or an interrupted copy."""
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    return path


def refusal(path: Path) -> str:
    """The error that reading the whole file gives; it must name the file."""
    with pytest.raises(SourceError) as caught:
        list(read_file(path))
    assert str(caught.value).startswith(f"{path}: ")
    return str(caught.value).removeprefix(f"{path}: ")


# --- files ----------------------------------------------------------------------------------------


def test_missing_file_is_named(tmp_path: Path) -> None:
    """A wrong path is a wrong path, not a format."""
    assert refusal(tmp_path / "nobody.wav") == "no such file; check the path"


def test_directory_is_no_file(tmp_path: Path) -> None:
    """A folder of recordings is refused, with the mend."""
    assert refusal(tmp_path) == "is a directory; name one sound file"


def test_named_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    """Opening a named pipe would wait for ever for somebody to write."""
    os.mkfifo(tmp_path / "pipe.wav")
    assert "send raw PCM to standard input" in refusal(tmp_path / "pipe.wav")


def test_file_of_no_bytes(tmp_path: Path) -> None:
    """An empty file is called empty."""
    (tmp_path / "empty.wav").touch()
    assert refusal(tmp_path / "empty.wav") == "is empty (0 bytes); record it again"


@pytest.mark.parametrize("container", ["WAV", "FLAC", "AIFF"])
def test_file_of_no_samples(tmp_path: Path, container: str) -> None:
    """A header alone is no recording."""
    path = tmp_path / "header"
    soundfile.write(path, NOISE[:0], 16_000, format=container, subtype="PCM_16")
    assert refusal(path).endswith("record it again")


@pytest.mark.parametrize("name", ["letter.wav", "letter.flac", "letter.opus", "letter.raw"])
def test_text_is_no_sound_whatever_its_name(tmp_path: Path, name: str) -> None:
    """The contents decide; the text says what to give instead."""
    path = tmp_path / name
    path.write_text("Dear driver, " * 100)
    assert refusal(path).endswith("give a WAV, FLAC or Ogg Opus file")


@pytest.mark.parametrize("rate_hz", [8_000, 11_025, 15_999])
def test_telephone_band_is_refused(tmp_path: Path, rate_hz: int) -> None:
    """Below 16 kHz the voice's upper band is missing, and thresholds do not hold."""
    said = refusal(written(tmp_path / "phone.wav", rate_hz))
    assert said.startswith(f"sampled at {rate_hz} Hz")
    assert said.endswith("record at 16 kHz or more")


CUTTABLE = [
    ("WAV", "PCM_16"),
    ("WAV", "PCM_24"),
    ("WAV", "FLOAT"),
    ("WAVEX", "PCM_16"),
    ("RF64", "PCM_16"),
    ("W64", "PCM_16"),
    ("AIFF", "PCM_16"),
    ("AU", "PCM_16"),
    ("CAF", "PCM_16"),
    ("FLAC", "PCM_16"),
    ("MP3", "MPEG_LAYER_III"),
]


@pytest.mark.parametrize(("container", "encoding"), CUTTABLE)
@pytest.mark.parametrize("share", [0.3, 0.9])
def test_truncated_file_is_refused(
    tmp_path: Path, container: str, encoding: str, share: float
) -> None:
    """A file that promises more sound than it holds is not read as if it were whole."""
    path = shortened(written(tmp_path / "cut", format=container, subtype=encoding), share)
    assert re.match("cut short|damaged or cut short|not sound that can be read", refusal(path))


@pytest.mark.parametrize("size", [0xFFFFFFFF, 0x7FFFFFFF, 0x80000000, 0x7FFFFFDB])
def test_wav_of_unknown_length_is_read(tmp_path: Path, size: int) -> None:
    """Recorders that write into a pipe cannot know the length; their files are whole."""
    path = written(tmp_path / "piped.wav")
    data = bytearray(path.read_bytes())
    data[40:44] = size.to_bytes(4, "little")
    path.write_bytes(data)
    assert sum(len(block.samples) for block in read_file(path)) >= len(NOISE)


def test_flac_of_unknown_length_is_refused(tmp_path: Path) -> None:
    """Libsndfile cannot read on in such a file; that it was damaged would be a wrong diagnosis."""
    path = written(tmp_path / "piped.flac")
    data = bytearray(path.read_bytes())
    data[21] &= 0xF0  # STREAMINFO's total number of samples, 36 bits
    data[22:26] = bytes(4)
    path.write_bytes(data)
    assert refusal(path).startswith("does not say how long it is")


@pytest.mark.parametrize("poison", [np.nan, np.inf])
def test_samples_that_are_no_numbers(tmp_path: Path, poison: float) -> None:
    """One NaN would spread through the encoder into every later decision."""
    path = tmp_path / "poisoned.wav"
    sound = NOISE.copy()
    sound[20_000] = poison
    soundfile.write(path, sound, 16_000, subtype="FLOAT")
    assert refusal(path) == "holds samples that are no numbers; record it again"


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kind=st.sampled_from([("WAV", "PCM_16"), ("FLAC", "PCM_16"), ("OGG", "OPUS")]),
    damage=st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 255)), max_size=8),
    share=st.floats(0.001, 1),
)
def test_no_damage_ends_in_anything_but_sound_or_a_clear_error(
    tmp_path: Path, kind: tuple[str, str], damage: list[tuple[int, int]], share: float
) -> None:
    """Whatever happened to the bytes, there are blocks of finite samples or a `SourceError`."""
    path = tmp_path / "damaged"
    soundfile.write(path, NOISE[:8000], 16_000, format=kind[0], subtype=kind[1])
    data = bytearray(path.read_bytes())
    for position, value in damage:
        data[position % len(data)] = value
    path.write_bytes(data[: max(1, int(len(data) * share))])
    try:
        for block in read_file(path):
            assert block.samples.shape == (BLOCK_SAMPLES,)
            assert np.isfinite(block.samples).all()
    except SourceError as error:
        assert str(error).startswith(f"{path}: ")  # noqa: PT017 sound is as good an end as this


# --- pipes ----------------------------------------------------------------------------------------


def pipe_refusal(read: Callable[[], object]) -> str:
    """The error that reading a pipe gives; it must say that the pipe is meant."""
    with pytest.raises(SourceError, match=r"^the pipe: ") as caught:
        read()
    return str(caught.value)


@pytest.mark.parametrize("data", [b"", b"\x01"])
def test_pipe_that_ends_at_once(data: bytes) -> None:
    """A recorder that did not start is not a quiet car."""
    said = pipe_refusal(lambda: list(read_pipe(io.BytesIO(data))))
    assert said.endswith("check the program that records")


@pytest.mark.parametrize("container", ["WAV", "FLAC", "OGG"])
def test_pipe_that_carries_a_file(tmp_path: Path, container: str) -> None:
    """A header is not sound, and a compressed file is not PCM: the right command is given."""
    path = written(tmp_path / "file", format=container)
    said = pipe_refusal(lambda: list(read_pipe(io.BytesIO(path.read_bytes()))))
    assert "arecord -t raw" in said


def test_pipe_of_telephone_band() -> None:
    """The rate that the pipe is said to have is checked before anything is read."""
    assert "8000 Hz" in pipe_refusal(lambda: read_pipe(io.BytesIO(), 8000))


def test_pipe_of_no_channels() -> None:
    """There is no sound without a channel."""
    assert "0 channels" in pipe_refusal(lambda: read_pipe(io.BytesIO(), channels=0))


# --- no sound system ------------------------------------------------------------------------------

WITHOUT_PORTAUDIO = """
import ctypes.util, pathlib, sys
ctypes.util.find_library = lambda name: None
from whodrives import capture
from whodrives.domain import SourceError
print(sum(1 for _ in capture.read_file(pathlib.Path(sys.argv[1]))))
try:
    capture.Microphone(None, print).open()
except SourceError as error:
    print(error)
"""


def test_without_portaudio_files_are_read_and_a_microphone_says_what_to_install(
    tmp_path: Path,
) -> None:
    """A machine that only replays needs no PortAudio; one that listens is told the package."""
    path = written(tmp_path / "noise.wav")
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_PORTAUDIO, str(path)],
        capture_output=True,
        check=True,
        text=True,
    )
    blocks, said = done.stdout.splitlines()
    assert int(blocks) == 67
    assert said.endswith("apt-get install libportaudio2")
