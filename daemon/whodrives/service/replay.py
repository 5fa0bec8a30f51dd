"""What the daemon would have said of a recording, deterministically."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence

from whodrives.audio.blocks import AudioBlock, SourceHealth, SourceState
from whodrives.core.engine import Recognizer
from whodrives.core.events import Event, Input
from whodrives.trip.types import Begin, LinkState
from whodrives.voice.profile import Household


def replay(
    recognizer: Recognizer, house: Household, blocks: Iterable[AudioBlock], inputs: Sequence[Input]
) -> Iterator[Event]:
    """What the daemon would have said of a recording; the same every time.

    Args:
        recognizer: a fresh one.
        house: the enrolled drivers.
        blocks: the recording; time is its position in it.
        inputs: what the car said meanwhile, by ascending `at_s`.

    Yields:
        Every event, in order. The broker is taken to be there all the time.
    """
    waiting = deque(inputs)
    end_s = 0.0
    for start in (
        Begin(0.0, "replay"),
        house,
        SourceState(0.0, SourceHealth.OPEN),
        LinkState(0.0, connected=True),
    ):
        yield from recognizer.step(start)
    for block in blocks:
        while waiting and waiting[0].at_s <= block.at_s:
            yield from recognizer.step(waiting.popleft())
        yield from recognizer.step(block)
        end_s = block.at_s
    yield from recognizer.step(SourceState(end_s, SourceHealth.ENDED, "the recording has ended"))
