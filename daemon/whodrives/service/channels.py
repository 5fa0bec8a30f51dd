"""Which channel of a sound file is heard: the one that carries speech."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from whodrives.audio.blocks import Floats
from whodrives.audio.files import LONGEST_S, channels_of, read_file
from whodrives.config.schema import Config
from whodrives.enrolment.recording import channel_of_person, first_voice
from whodrives.errors import EnrolmentError
from whodrives.models.encoder import load_encoder
from whodrives.models.vad import load_vad


@dataclass(frozen=True, slots=True)
class TakenChannel:
    """The channel that is heard, from 0, and how many the file has."""

    channel: int
    of: int

    def __str__(self) -> str:
        """For people, who count from 1."""
        return f"channel {self.channel + 1} of {self.of} is taken"


def taken_channel(path: Path, config: Config) -> TakenChannel:
    """The channel of a recording of a trip to recognise speech in; the same every time.

    Of the channels in which somebody speaks within the first minute it is the loudest; one that
    only plays back what the device itself says, beside a microphone array, is left out. If nobody
    speaks within that time, it is the loudest of all.

    Raises:
        SourceError: the file cannot be read.
        ModelError: it has several channels, and a model cannot be loaded.
    """
    channels = channels_of(path)
    voices = first_voices(path, channels, config) if len(channels) > 1 else {}
    if not voices:
        return TakenChannel(channels[0], len(channels))
    try:
        return TakenChannel(channel_of_person(voices), len(channels))
    except EnrolmentError:  # two people, each in a channel
        return TakenChannel(next(iter(voices)), len(channels))


def first_voices(
    path: Path, channels: Sequence[int], config: Config, *, longest_s: float = LONGEST_S
) -> Mapping[int, Floats]:
    """The voice that speaks first in each of these channels, (D,), unit length, in their order.

    A channel in which nobody speaks is not among them.

    Raises:
        SourceError: the file cannot be read.
        ModelError: a model cannot be loaded.
    """
    models = Path(config.models.directory)
    encoder = load_encoder(models, 1)
    found = {}
    for channel in channels:
        blocks = read_file(path, channel=channel, longest_s=longest_s)
        voice = first_voice(blocks, load_vad(models), encoder)
        if voice is not None:
            found[channel] = voice
    return found
