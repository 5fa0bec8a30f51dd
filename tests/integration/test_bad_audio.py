"""What is no sound, or not enough of it, is refused in words that name it and the fix."""

import io
import os
import re
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.conftest import Prompts
from tools.lab.corpus import read_sound
from whodrives.audio import headers
from whodrives.audio.blocks import BLOCK_SAMPLES, SAMPLE_RATE_HZ, Floats
from whodrives.audio.files import channels_of, read_file
from whodrives.audio.pipe import read_pipe
from whodrives.audio.rawformat import FormatCheck
from whodrives.errors import SourceError

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
    """A folder of recordings is refused, with the fix."""
    assert refusal(tmp_path) == "is a directory; name one sound file"


@pytest.mark.parametrize("packed", ["<f4", ">f4"])
def test_floats_between_pauses_of_zeros_are_told_from_integers(packed: str) -> None:
    """Floats made of 16-bit samples, most of them zero, look smooth as 32-bit integers too."""
    tone = 0.3 * np.sin(np.arange(3200) * 2 * np.pi * 180 / SAMPLE_RATE_HZ)
    mostly_zero = np.tile(np.concatenate([np.zeros(4800), tone]), 5)
    sound = np.concatenate([mostly_zero, np.tile(tone, 8)])
    data = (np.round(sound * 32767) / 32768).astype(packed).tobytes()
    check = FormatCheck(SAMPLE_RATE_HZ, 1)
    found = (check.hear(data[at : at + 3840]) for at in range(0, len(data), 3840))
    known = next(each for each in found if each is not None)
    assert known.ffmpeg == {"<f4": "f32le", ">f4": "f32be"}[packed]


def test_a_file_name_that_is_no_utf_8_is_read(tmp_path: Path) -> None:
    """The sound library gets the bytes of the name, whatever they are."""
    path = Path(os.fsdecode(bytes(tmp_path) + b"/l\xff.wav"))
    with path.open("wb") as file:
        soundfile.write(file, np.full(SAMPLE_RATE_HZ, 0.1), SAMPLE_RATE_HZ, format="WAV")
    assert len(list(read_file(path))) == pytest.approx(SAMPLE_RATE_HZ / BLOCK_SAMPLES, abs=1)


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


# --- headers that say something else than the file holds ------------------------------------------


def length(path: Path) -> int:
    """Samples that are read."""
    return sum(len(block.samples) for block in read_file(path))


def test_header_that_counts_itself_as_sound_is_read(tmp_path: Path) -> None:
    """Some recorders write the size of the file as the size of the sound: 44 bytes too many."""
    path = written(tmp_path / "long.wav")
    data = bytearray(path.read_bytes())
    data[40:44] = len(data).to_bytes(4, "little")
    path.write_bytes(data)
    assert length(path) == 67 * BLOCK_SAMPLES


UNFINISHED = {
    "WAV": [(b"data", 4, 4, 0), (b"RIFF", 4, 4, 0)],
    "WAVEX": [(b"data", 4, 4, 0), (b"fact", 8, 4, 0)],
    "RF64": [(b"ds64", 8, 8, 0), (b"ds64", 16, 8, 0)],
    "W64": [(b"data", 16, 8, 24)],
    "AIFF": [(b"SSND", 4, 4, 0), (b"COMM", 10, 4, 0)],
    "AU": [(b".snd", 8, 4, 0)],
    "CAF": [(b"data", 4, 8, 0)],
}
"""Where a format keeps its lengths: the chunk, bytes from its start, bytes, what nobody filled."""


@pytest.mark.parametrize("container", UNFINISHED)
@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "FLOAT"])
def test_header_that_was_never_finished_is_read(
    tmp_path: Path, container: str, subtype: str
) -> None:
    """A recorder that was ended before it wrote the length has all the sound in its file."""
    path = written(tmp_path / "ended", format=container, subtype=subtype)
    whole = read_sound(path)
    data = bytearray(path.read_bytes())
    for chunk, offset, size, empty in UNFINISHED[container]:
        at = data.index(chunk) + offset
        data[at : at + size] = bytes(size)
        data[at] = empty
    path.write_bytes(data)
    read = read_sound(path)
    assert np.array_equal(read[: len(NOISE)], whole[: len(NOISE)])


def test_empty_file_with_a_note_after_the_sound_is_empty(tmp_path: Path) -> None:
    """What follows an empty chunk of sound may be chunks: they are not read as sound."""
    path = tmp_path / "noted.wav"
    soundfile.write(path, NOISE[:0], 16_000)
    with path.open("ab") as file:
        file.write(b"LIST" + (4000).to_bytes(4, "little") + bytes(4000))
    assert refusal(path) == "holds no samples; record it again"


def test_mp3_of_variable_bit_rate_without_a_count_is_read_to_its_end(tmp_path: Path) -> None:
    """Without a Xing header the length is guessed from the first frame: most would be dropped."""
    quiet = np.concatenate([NOISE, np.zeros(8 * 44_100, np.float32), NOISE])
    path = tmp_path / "vbr.mp3"
    soundfile.write(path, quiet, 44_100, format="MP3", bitrate_mode="VARIABLE")
    _strip_xing(path)
    with soundfile.SoundFile(path) as guessed:
        assert guessed.frames < 0.9 * len(quiet)  # else the file proves nothing
    seconds = length(path) / 16_000
    assert seconds == pytest.approx(len(quiet) / 44_100, abs=0.1)


def _strip_xing(path: Path) -> None:
    """Remove the frame with the Xing header: the first of a file of MPEG-1 layer III, 44.1 kHz."""
    data = path.read_bytes()
    assert data[:2] == b"\xff\xfb"
    kbits = (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)[data[2] >> 4]
    size = 144 * 1000 * kbits // 44_100 + (data[2] >> 1 & 1)
    assert b"Xing" in data[:size]
    assert data[size : size + 2] == b"\xff\xfb"
    path.write_bytes(data[size:])
    assert not any(tag in path.read_bytes() for tag in (b"Xing", b"Info", b"VBRI"))


JOINABLE = [
    *((container, encoding, b"") for container, encoding in CUTTABLE),
    ("OGG", "VORBIS", b""),
    ("OGG", "OPUS", b""),
    ("MP3", "MPEG_LAYER_III", b"ID3\x04\0\0\0\0\0\x0a" + bytes(10)),
]


@pytest.mark.parametrize(("container", "encoding", "tag"), JOINABLE)
def test_files_that_were_joined_are_refused(
    tmp_path: Path, container: str, encoding: str, tag: bytes
) -> None:
    """The sound library reads the first one and says nothing of the others."""
    path = written(tmp_path / "joined", format=container, subtype=encoding)
    whole = path.read_bytes()
    path.write_bytes(whole + tag + whole)
    assert refusal(path).endswith("would not be read; give the files one by one")


SHORT_LENGTHS = {
    "WAV": (b"data", 4, "<I", 8000),
    "AIFF": (b"SSND", 4, ">I", 8008),
    "CAF": (b"data", 4, ">Q", 8004),
    "AU": (b".snd", 8, ">I", 8000),
}


@pytest.mark.parametrize("container", SHORT_LENGTHS)
def test_a_header_that_tells_of_the_first_part_only_is_no_reason_to_read_only_that(
    tmp_path: Path, container: str
) -> None:
    """A recorder that lost power has written the length of its first seconds."""
    path = written(tmp_path / "short", format=container, subtype="PCM_16")
    data = bytearray(path.read_bytes())
    chunk, offset, packed, length = SHORT_LENGTHS[container]
    struct.pack_into(packed, data, data.index(chunk) + offset, length)
    path.write_bytes(data)
    assert "and the rest would not be read; record it again" in refusal(path)


@pytest.mark.parametrize(
    "end",
    [
        b"LIST" + (5000).to_bytes(4, "little") + b"n" * 5000,
        b"TAG" + b"Anna".ljust(5000, b" "),
        b"APETAGEX" + b"x" * 5000,
        bytes(100_000),
        b"\xff" * 3000,
    ],
    ids=["chunk", "ID3v1", "APE", "zeros", "less than 0.1 s"],
)
@pytest.mark.parametrize("count", [32_000, 31_999])
def test_what_may_follow_the_sound_is_no_reason_to_refuse_it(
    tmp_path: Path, end: bytes, count: int
) -> None:
    """Notes, titles, reserved room; with 8 bits and an odd length some omit the padding."""
    path = tmp_path / "noted.wav"
    soundfile.write(path, NOISE[:count], 16_000, subtype="PCM_U8")
    data = path.read_bytes()[: 44 + count]
    path.write_bytes(data + end)
    assert length(path) == pytest.approx(count, abs=480)


def test_an_mp3_file_is_decoded_in_one_go(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Read piece by piece, it is what it is as a whole, and the decoder has nothing to say."""
    path = written(tmp_path / "plain.mp3", format="MP3")
    with soundfile.SoundFile(path) as file:
        whole = file.read(dtype="float32")
    pieces = np.concatenate([block.samples for block in read_file(path)])[: len(whole)]
    assert np.corrcoef(pieces, whole)[0, 1] > 0.9999
    assert capfd.readouterr().err == ""


@given(
    st.sampled_from([b"RIFF", b"FORM", b"caff", b".snd", b"riff", b"OggS", b"fLaC", b"ID3"]),
    st.binary(max_size=300),
)
def test_no_header_makes_the_search_for_a_rest_fail(kind: bytes, data: bytes) -> None:
    """Whatever follows a file's first bytes, the search ends inside the file or finds nothing."""
    for body in (kind + data, kind + b"\0\0\0\0WAVE" + data, kind + b"\0\0\0\0AIFF" + data):
        found = headers.rest(body)
        assert found is None or 0 < found.at <= len(body)


# --- samples that are not what they seem ----------------------------------------------------------


@pytest.mark.parametrize("container", ["WAV", "AIFF", "CAF", "W64", "AU"])
@pytest.mark.parametrize("peak", [1.2, 4.0, 32768.0])
def test_float_file_beyond_full_scale_is_scaled_and_not_clipped(
    tmp_path: Path, container: str, peak: float
) -> None:
    """Floats have room above full scale: that we would cut it off is not the recorder's fault."""
    path = tmp_path / "loud"
    soundfile.write(path, NOISE * 2 * peak, 16_000, format=container, subtype="FLOAT")
    read = read_sound(path)[: len(NOISE)]
    assert np.abs(read).max() == pytest.approx(1.0)
    assert np.corrcoef(read, NOISE)[0, 1] > 0.9999


@pytest.mark.parametrize("rate_hz", [16_000, 44_100, 48_000, 192_000])
@pytest.mark.parametrize("count", [1, 2, 100])
def test_a_few_samples_are_no_recording(tmp_path: Path, count: int, rate_hz: int) -> None:
    """A resampler may give nothing for so few: there is an error, and no traceback."""
    path = tmp_path / "short.wav"
    soundfile.write(path, NOISE[:count], rate_hz)
    assert "and no word is so short; record it again" in refusal(path)


@pytest.mark.parametrize(
    ("rate_hz", "channels", "said"),
    [
        (2_000_000_000, 1, "sampled at 2000000000 Hz; record at 192000 Hz or less"),
        (16_000, 1000, "has 1000 channels; record 32 or fewer"),
    ],
)
def test_absurd_headers_are_refused_before_anything_is_read(
    tmp_path: Path, rate_hz: int, channels: int, said: str
) -> None:
    """A file of a few bytes on the disk must not take gigabytes of memory."""
    path = tmp_path / "absurd.wav"
    path.write_bytes(_wav_header(rate_hz, channels, 1_000_000_000))
    os.truncate(path, 1_000_000_044)
    assert refusal(path) == said


def test_a_file_that_is_days_long_is_refused(tmp_path: Path) -> None:
    """A small file can hold days of silence."""
    path = tmp_path / "days.wav"
    path.write_bytes(_wav_header(16_000, 1, 2_000_000_000))
    os.truncate(path, 2_000_000_044)
    assert "is 1042 minutes long, and 240 are the most" in refusal(path)


def _wav_header(rate_hz: int, channels: int, size: int) -> bytes:
    """The 44 bytes before `size` bytes of 16-bit samples."""
    frame = 2 * channels
    second = min(rate_hz * frame, 0xFFFFFFFF)
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, channels, rate_hz, second, frame, 16)
    return (
        struct.pack("<4sI4s", b"RIFF", size + 36, b"WAVE")
        + form
        + struct.pack("<4sI", b"data", size)
    )


# --- constant offsets -----------------------------------------------------------------------------


@pytest.mark.parametrize("offset", [0.001, 0.02, -0.3])
def test_constant_offset_of_a_file_is_removed(tmp_path: Path, offset: float) -> None:
    """An input without a capacitor has one; it is no noise, and nothing of the file is lost."""
    path = tmp_path / "offset.wav"
    soundfile.write(path, NOISE / 2 + offset, 16_000)
    read = read_sound(path)[: len(NOISE)]
    assert np.abs(read - NOISE / 2).max() < 0.01


def test_sound_without_an_offset_is_given_bit_for_bit(tmp_path: Path) -> None:
    """A filter would change every recording: only an offset that is there is removed."""
    path = tmp_path / "plain.wav"
    soundfile.write(path, NOISE, 16_000, subtype="FLOAT")
    read = read_sound(path)
    assert np.array_equal(read[: len(NOISE)], NOISE)


def test_channel_that_is_dead_at_an_offset_is_not_the_loudest(tmp_path: Path) -> None:
    """An open input may rest at half of full scale: that is louder than any voice, and silent."""
    path = tmp_path / "dead.wav"
    soundfile.write(path, np.stack([NOISE / 5, np.full_like(NOISE, -0.48)], axis=1), 16_000)
    assert channels_of(path) == (0, 1)
    assert np.std(read_sound(path)) > 0.05


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


@pytest.mark.parametrize(
    "container", ["WAV", "WAVEX", "RF64", "W64", "AIFF", "AU", "CAF", "FLAC", "OGG", "MP3"]
)
def test_pipe_that_carries_a_file(tmp_path: Path, container: str) -> None:
    """A header is not sound, and a compressed file is not PCM: the right command is given."""
    rate_hz = 44_100 if container == "MP3" else 16_000
    path = written(tmp_path / "file", rate_hz, format=container)
    said = pipe_refusal(lambda: list(read_pipe(io.BytesIO(path.read_bytes()))))
    assert "arecord -t raw" in said
    assert "`ffmpeg -i - -f s16le -ar 16000 -ac 1 -`" in said


def test_pipe_that_carries_mp4() -> None:
    """What a phone records: its kind is in the fifth byte."""
    mp4 = b"\0\0\0\x1cftypM4A " + bytes(4000)
    assert "(MP4 or M4A)" in pipe_refusal(lambda: list(read_pipe(io.BytesIO(mp4))))


FORMATS: dict[str, Callable[[Floats], bytes]] = {
    "f32le": lambda x: x.astype("<f4").tobytes(),
    "f32be": lambda x: x.astype(">f4").tobytes(),
    "f64le": lambda x: x.astype("<f8").tobytes(),
    "s16be": lambda x: (x * 32767).astype(">i2").tobytes(),
    "s24le": lambda x: (x * 2.0**23).astype("<i4").view(np.uint8).reshape(-1, 4)[:, :3].tobytes(),
    "s24be": lambda x: (x * 2.0**23).astype(">i4").view(np.uint8).reshape(-1, 4)[:, 1:].tobytes(),
    "s32le": lambda x: (x * 2.0**31).astype("<i4").tobytes(),
    "s32be": lambda x: (x * 2.0**31).astype(">i4").tobytes(),
    "u8": lambda x: (x * 127 + 128).astype(np.uint8).tobytes(),
    "s8": lambda x: (x * 127).astype(np.int8).tobytes(),
    "u16le": lambda x: (x * 32767 + 32768).astype("<u2").tobytes(),
    "alaw": lambda x: _companded(x, "ALAW"),
    "mulaw": lambda x: _companded(x, "ULAW"),
}


def _companded(samples: Floats, subtype: str) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, SAMPLE_RATE_HZ, format="RAW", subtype=subtype)
    return file.getvalue()


@pytest.mark.parametrize(
    ("name", "gain"),
    # Quiet 8-bit sound is not loud noise when it is read as 16-bit.
    [(name, gain) for name in FORMATS for gain in (0.1, 1.0) if (name, gain) != ("s8", 0.1)],
)
def test_pipe_of_another_sample_format_is_refused(
    human_prompts: Prompts, name: str, gain: float
) -> None:
    """Read as 16-bit it would be loud noise, and the daemon online and deaf."""
    speech = np.concatenate(human_prompts("en", 4)) * np.float32(gain)
    said = pipe_refusal(lambda: list(read_pipe(io.BytesIO(FORMATS[name](speech)))))
    assert "not signed 16-bit little-endian" in said
    assert f"`ffmpeg -f {name} -ar 16000 -ac 1 -i - -f s16le -ar 16000 -ac 1 -`" in said


@pytest.mark.parametrize("gain", [0.0, 0.001, 0.1, 1.0, 30.0])
@pytest.mark.parametrize("noise", [0.0, 0.5])
def test_pipe_of_the_right_format_is_never_refused(
    human_prompts: Prompts, gain: float, noise: float
) -> None:
    """Silence, quiet, clipped and noisy speech, and white noise alone, are all 16-bit PCM."""
    speech = np.concatenate(human_prompts("en", 4)) * np.float32(gain)
    rough = np.random.default_rng(3).normal(0, noise, speech.size)
    data = (np.clip(speech + rough, -1, 1) * 32767).astype("<i2").tobytes()
    assert list(read_pipe(io.BytesIO(data)))


def test_a_whistle_near_half_the_sampling_rate_is_16_bit_pcm() -> None:
    """Its neighbouring samples are unlike, and every second one is like the next: no 32 bits."""
    whistle = 0.9 * np.sin(np.arange(64_000) * np.pi * 0.97)
    assert list(read_pipe(io.BytesIO((whistle * 32767).astype("<i2").tobytes())))


@pytest.mark.parametrize("level", [0.05, 0.3, 1.0])
def test_bursts_of_noise_between_digital_silence_are_16_bit_pcm(level: float) -> None:
    """Zeros are far from the middle of an unsigned range; that makes noise no smooth sound."""
    rng = np.random.default_rng(2)
    bursts = np.where(np.arange(160_000) // 400 % 4 == 3, 0.0, rng.choice((-level, level), 160_000))
    for sound in (bursts, bursts * rng.uniform(0, 1, 160_000)):
        assert list(read_pipe(io.BytesIO((sound * 32767).astype("<i2").tobytes())))


@pytest.mark.parametrize("level", range(1500, 32_000, 1500))
def test_a_square_wave_is_16_bit_pcm(level: int) -> None:
    """Its two values consist of bytes that correlate by chance."""
    wave = np.where(np.arange(64_000) // 16 % 2, level, -level).astype("<i2")
    assert list(read_pipe(io.BytesIO(wave.tobytes())))


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
from whodrives.audio.files import read_file
from whodrives.audio.microphone import Microphone
from whodrives.errors import SourceError
print(sum(1 for _ in read_file(pathlib.Path(sys.argv[1]))))
try:
    Microphone(None, print).open()
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
