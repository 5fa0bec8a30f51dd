"""The last questions before a voice is kept, and the head unit's enrolment, without a bus."""

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tools.lab.corpus import read_sound
from whodrives.audio.blocks import (
    BLOCK_S,
    BLOCK_SAMPLES,
    AudioBlock,
    Floats,
    SourceHealth,
    SourceState,
)
from whodrives.enrolment.checks import examined
from whodrives.enrolment.prompts import CONSENT, CONSENT_VERSION, SENTENCES
from whodrives.enrolment.recording import Enrolled, Enrolment
from whodrives.enrolment.session import LONGEST_S, EnrolmentSession, Outcome
from whodrives.enrolment.similarity import matrix
from whodrives.enrolment.types import Enrol, EnrolmentStage, EnrolmentState, Problem, StoreVoice
from whodrives.models.calibration import load_calibration
from whodrives.models.encoder import load_encoder
from whodrives.models.vad import load_vad
from whodrives.trip.types import Cancel, CommandResult, Tick
from whodrives.voice.decision import Policy
from whodrives.voice.profile import Household, Profile
from whodrives.voice.types import Encoder

MODELS = Path(__file__).parent.parent.parent / "models"


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    """The encoder of this checkout."""
    return load_encoder(MODELS)


@pytest.fixture(scope="module")
def policy() -> Policy:
    """The usual promise."""
    return Policy(load_calibration(MODELS), "1/100")


def blocks(voices: Path, voice: str, numbers: Iterable[int]) -> Iterator[AudioBlock]:
    """Sentences of a voice, with pauses, in blocks."""
    quiet = np.random.default_rng(1).normal(0, 1e-4, 12_000).astype(np.float32)
    parts: list[Floats] = [quiet]
    for number in numbers:
        path = voices / voice / f"{number}.opus"
        parts += [read_sound(path), quiet]
    sound = np.concatenate(parts)
    whole = sound[: len(sound) // BLOCK_SAMPLES * BLOCK_SAMPLES].reshape(-1, BLOCK_SAMPLES)
    for number, samples in enumerate(whole, 1):
        yield AudioBlock(number * BLOCK_S, samples)


@pytest.fixture(scope="module")
def people(voices: Path, encoder: Encoder) -> dict[str, Enrolled]:
    """Two voices from other sentences than the tests', and one of them twice."""
    found = {}
    for name, voice, numbers in (
        ("george", "bm_george", (1, 2, 3)),
        ("bella", "af_bella", (1, 2, 3)),
        ("george again", "bm_george", (4, 5)),
    ):
        enrolment = Enrolment(load_vad(MODELS), encoder)
        for block in blocks(voices, voice, numbers):
            enrolment.step(block)
        found[name] = enrolment.finish(block.at_s)
    return found


def profile(driver: str, enrolled: Enrolled, encoder: Encoder) -> Profile:
    """A voice as the household has it."""
    return Profile(driver, enrolled.embeddings, encoder.fingerprint, enrolled.speech_s)


# --- the last questions ---------------------------------------------------------------------------


@pytest.mark.much_speech
def test_held_out_seconds_of_a_good_enrolment_are_known(
    people: dict[str, Enrolled], encoder: Encoder, policy: Policy
) -> None:
    """Each window is judged by the others; next to another driver it is still this one's."""
    house = [profile("d-0000000b", people["bella"], encoder)]
    found = examined(people["george"], None, house, policy)
    assert found.problems == ()
    assert found.check.of_s == pytest.approx(people["george"].speech_s)
    assert found.check.known_s > 0.8 * found.check.of_s
    assert found.check.taken_s == 0.0


@pytest.mark.much_speech
def test_the_same_person_under_two_names_is_noticed(
    people: dict[str, Enrolled], encoder: Encoder, policy: Policy
) -> None:
    """Other words, another day: the voice is there already, and whose it is."""
    house = [
        profile("d-0000000a", people["george"], encoder),
        profile("d-0000000b", people["bella"], encoder),
    ]
    found = examined(people["george again"], None, house, policy)
    assert [problem.code for problem in found.problems] == ["same_person"]
    assert "d-0000000a" in found.problems[0].text
    assert found.similar[0].driver == "d-0000000a"
    again = examined(people["george again"], "d-0000000a", house, policy)
    assert again.problems == ()


@pytest.mark.much_speech
def test_another_voice_does_not_replace_a_driver(
    people: dict[str, Enrolled], encoder: Encoder, policy: Policy
) -> None:
    """Enrolling anew is for the same person."""
    house = [profile("d-0000000a", people["george"], encoder)]
    found = examined(people["bella"], "d-0000000a", house, policy)
    assert [problem.code for problem in found.problems] == ["not_the_driver"]


@pytest.mark.much_speech
def test_only_the_drivers_own_voice_is_added(
    people: dict[str, Enrolled], encoder: Encoder, policy: Policy
) -> None:
    """What is checked is the voice as it will be, and that the new part of it is the driver's."""
    house = [profile("d-0000000a", people["george"], encoder)]
    george = examined(people["george again"], "d-0000000a", house, policy, again=True)
    assert george.problems == ()
    both_s = people["george"].speech_s + people["george again"].speech_s
    assert george.check.of_s == pytest.approx(both_s)
    bella = examined(people["bella"], "d-0000000a", house, policy, again=True)
    assert "not_this_driver" in [problem.code for problem in bella.problems]


@pytest.mark.much_speech
def test_two_voices_that_are_too_alike_are_refused_with_what_it_costs(
    people: dict[str, Enrolled], encoder: Encoder, policy: Policy
) -> None:
    """A voice between two: part of what is said would pass for the other's."""
    george, bella = people["george"].embeddings, people["bella"].embeddings
    count = min(len(george), len(bella))
    mixed = 0.62 * george[:count] + 0.5 * bella[:count]
    mixed /= np.linalg.norm(mixed, axis=1, keepdims=True)
    house = [profile("d-0000000a", people["george"], encoder)]
    mixture = Enrolled(mixed.astype(np.float32), people["george"].speech_s)
    found = examined(mixture, None, house, policy)
    assert found.problems[0].code in {"alike", "same_person"}
    assert found.similar[0].passes_share > 0.1


@pytest.mark.much_speech
def test_a_voice_that_is_no_voice_is_not_recognised(
    people: dict[str, Enrolled], policy: Policy
) -> None:
    """Windows that have nothing to do with each other make no profile."""
    shape = people["george"].embeddings.shape
    noise = np.random.default_rng(3).normal(size=shape)
    rows = (noise / np.linalg.norm(noise, axis=1, keepdims=True)).astype(np.float32)
    found = examined(Enrolled(rows, people["george"].speech_s), None, [], policy)
    assert [problem.code for problem in found.problems] == ["not_recognised"]


@pytest.mark.much_speech
def test_the_matrix_is_symmetric_and_one_on_its_diagonal(
    people: dict[str, Enrolled], encoder: Encoder, policy: Policy
) -> None:
    """How alike each two are does not depend on who comes first."""
    house = [profile(f"d-0000000{n}", each, encoder) for n, each in enumerate(people.values())]
    found = matrix(house, policy.calibration)
    assert np.allclose(found, found.T)
    assert np.allclose(np.diag(found), 1.0, atol=1e-5)
    assert found[0, 2] > found[0, 1]
    assert matrix([], policy.calibration).shape == (0, 0)


# --- the head unit --------------------------------------------------------------------------------

ASKED = Enrol(0.0, "c1", None, "account-3", CONSENT_VERSION)


def enrolling(encoder: Encoder, policy: Policy) -> EnrolmentSession:
    """A fresh one."""
    return EnrolmentSession(lambda: load_vad(MODELS), encoder, policy)


def george_enrols(session: EnrolmentSession, voices: Path, house: Profile) -> list[Outcome]:
    """What is said while george is enrolled from the head unit into a household of one."""
    session.step(Household(0.0, (house,)))
    said = list(session.step(ASKED))
    for block in blocks(voices, "bm_george", (1, 2, 3, 4, 5, 1, 2, 3, 4, 5)):
        said += session.step(block)
    return said


@pytest.mark.much_speech
def test_an_enrolment_from_the_head_unit_ends_with_a_voice_to_keep(
    voices: Path, encoder: Encoder, policy: Policy, people: dict[str, Enrolled]
) -> None:
    """Told once a second how far it is; then enough, and the voice with its consent."""
    bella = profile("d-0000000b", people["bella"], encoder)
    said = george_enrols(enrolling(encoder, policy), voices, bella)
    states = [each for each in said if isinstance(each, EnrolmentState)]
    stages = [state.stage for state in states]
    assert stages == [EnrolmentStage.LISTENING] * (len(stages) - 1) + [EnrolmentStage.ENOUGH]
    assert all(b.at_s - a.at_s <= 1.1 for a, b in itertools.pairwise(states))
    adopt = said[-1]
    assert isinstance(adopt, StoreVoice)
    assert (adopt.command, adopt.driver, adopt.by, adopt.text) == ("c1", None, *ASKED_BY)
    assert adopt.speech_s >= 20.0


ASKED_BY = (ASKED.by, ASKED.text)
GUEST = replace(ASKED, guest="g-3f2a9c1e")


@pytest.mark.much_speech
def test_a_voice_that_is_there_already_is_refused_to_the_head_unit(
    voices: Path, encoder: Encoder, policy: Policy, people: dict[str, Enrolled]
) -> None:
    """The same questions as on the terminal, and their codes."""
    george = profile("d-0000000a", people["george"], encoder)
    said = george_enrols(enrolling(encoder, policy), voices, george)
    state, result = said[-2:]
    assert isinstance(state, EnrolmentState)
    assert state.stage is EnrolmentStage.REFUSED
    assert isinstance(result, CommandResult)
    assert result.reason == "same_person"


@pytest.mark.parametrize("driver", [None, "d-0000000f"])
def test_nothing_is_added_to_nobody(driver: str | None, encoder: Encoder, policy: Policy) -> None:
    """A voice is added to that of an enrolled driver, who is named."""
    command = replace(ASKED, driver=driver, again=True)
    refused = CommandResult(0.0, "c1", "unknown_driver")
    assert enrolling(encoder, policy).step(command) == [refused]


def test_one_enrolment_at_a_time(encoder: Encoder, policy: Policy) -> None:
    """A second command is refused and does not disturb the first."""
    session = enrolling(encoder, policy)
    session.step(ASKED)
    assert session.step(Enrol(1.0, "c2", None, *ASKED_BY)) == [CommandResult(1.0, "c2", "busy")]
    (state, result) = session.step(Cancel(2.0, "c3"))
    assert isinstance(state, EnrolmentState)
    assert state.problems[0].code == "cancelled"
    assert result == CommandResult(2.0, "c1", "cancelled")
    assert session.step(Cancel(3.0, "c4")) == []


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        (Enrol(0.0, "c1", "d-12345678", *ASKED_BY), "unknown_driver"),
        (Enrol(0.0, "c1", None, "account-3", "1999-01"), "unknown_consent_text"),
    ],
)
def test_a_command_that_cannot_be_meant_is_refused(
    command: Enrol, reason: str, encoder: Encoder, policy: Policy
) -> None:
    """Nobody to replace, or a consent to a text that there never was."""
    session = enrolling(encoder, policy)
    assert session.step(command) == [CommandResult(0.0, "c1", reason)]
    assert session.step(AudioBlock(0.1, np.zeros(BLOCK_SAMPLES, np.float32))) == []


def test_nobody_is_asked_to_speak_to_a_microphone_that_is_away(
    encoder: Encoder, policy: Policy
) -> None:
    """The head unit is told at once, not after three minutes; and it may try again."""
    session = enrolling(encoder, policy)
    session.step(SourceState(0.0, SourceHealth.LOST, "unplugged"))
    assert session.step(ASKED) == [CommandResult(0.0, "c1", "no_sound")]
    session.step(SourceState(1.0, SourceHealth.OPEN))
    (state,) = session.step(replace(ASKED, at_s=2.0))
    assert isinstance(state, EnrolmentState)
    assert state.stage is EnrolmentStage.LISTENING


def test_an_enrolment_without_any_sound_ends_too(encoder: Encoder, policy: Policy) -> None:
    """Time passes without blocks when a source stops giving them."""
    session = enrolling(encoder, policy)
    session.step(ASKED)
    assert session.step(Tick(LONGEST_S)) == []
    said = session.step(Tick(LONGEST_S + 6.0))
    assert said[-1] == CommandResult(LONGEST_S + 6.0, "c1", "too_long")
    assert session.step(Tick(LONGEST_S + 7.0)) == []


@pytest.mark.much_speech
def test_a_guest_who_agreed_is_enrolled_at_once(
    encoder: Encoder, policy: Policy, people: dict[str, Enrolled]
) -> None:
    """What was heard in earlier trips is enough, and answers the same last questions."""
    session = enrolling(encoder, policy)
    session.step(Household(0.0, (profile("d-0000000b", people["bella"], encoder),)))
    state, adopt = session.enrol_guest(GUEST, people["george"])
    assert isinstance(state, EnrolmentState)
    assert state.stage is EnrolmentStage.ENOUGH
    assert isinstance(adopt, StoreVoice)
    assert (adopt.command, adopt.driver, adopt.by, adopt.text) == ("c1", None, *ASKED_BY)
    assert np.array_equal(adopt.embeddings, people["george"].embeddings)


@pytest.mark.much_speech
def test_a_guest_who_is_a_driver_already_is_refused(
    encoder: Encoder, policy: Policy, people: dict[str, Enrolled]
) -> None:
    """Nobody becomes two drivers by way of the guest book."""
    session = enrolling(encoder, policy)
    session.step(Household(0.0, (profile("d-0000000a", people["george"], encoder),)))
    _, state, result = session.enrol_guest(GUEST, people["george again"])
    assert isinstance(state, EnrolmentState)
    assert state.stage is EnrolmentStage.REFUSED
    assert result == CommandResult(0.0, "c1", "same_person")


@pytest.mark.much_speech
def test_a_guest_who_is_gone_or_did_not_agree_is_refused(
    encoder: Encoder, policy: Policy, people: dict[str, Enrolled]
) -> None:
    """As any command that cannot be meant; and not while somebody else is being enrolled."""
    session = enrolling(encoder, policy)
    unread = replace(GUEST, text="1999-01")
    assert session.enrol_guest(GUEST, None) == [CommandResult(0.0, "c1", "unknown_guest")]
    assert session.enrol_guest(unread, people["george"]) == [
        CommandResult(0.0, "c1", "unknown_consent_text")
    ]
    session.step(ASKED)
    assert session.enrol_guest(GUEST, people["george"]) == [CommandResult(0.0, "c1", "busy")]


def test_advice_alone_is_no_reason_to_give_up_an_enrolment_as_done(
    encoder: Encoder, policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After three minutes a reason is given, whatever else was said meanwhile."""
    advice = Problem("one_way_of_speaking", "speak up", blocking=False)
    monkeypatch.setattr(Enrolment, "problems", lambda _self: (advice,))
    session = enrolling(encoder, policy)
    session.step(ASKED)
    late = AudioBlock(LONGEST_S + 1.0, np.zeros(BLOCK_SAMPLES, np.float32))
    assert session.step(late)[-1] == CommandResult(late.at_s, "c1", "too_long")


def test_silence_is_given_up_with_the_reason(encoder: Encoder, policy: Policy) -> None:
    """The head unit is never left waiting."""
    session = enrolling(encoder, policy)
    session.step(ASKED)
    late = AudioBlock(LONGEST_S + 1.0, np.zeros(BLOCK_SAMPLES, np.float32))
    state, result = session.step(late)
    assert isinstance(state, EnrolmentState)
    assert [problem.code for problem in state.problems] == ["too_short"]
    assert result == CommandResult(late.at_s, "c1", "too_short")


@pytest.mark.parametrize("level", [0.0, -0.48], ids=["zeros", "constant"])
def test_a_muted_microphone_is_reported_at_once(
    level: float, encoder: Encoder, policy: Policy
) -> None:
    """A person must not speak for minutes into a microphone that is muted."""
    session = enrolling(encoder, policy)
    session.step(ASKED)
    said = []
    for number in range(1, 50):
        block = AudioBlock(number * BLOCK_S, np.full(BLOCK_SAMPLES, level, np.float32))
        said += session.step(block)
    states = [state for state in said if isinstance(state, EnrolmentState)]
    first = next(state for state in states if state.problems)
    assert [problem.code for problem in first.problems] == ["no_sound"]
    assert first.at_s <= 1.1


def test_a_lost_microphone_ends_an_enrolment(encoder: Encoder, policy: Policy) -> None:
    """Nothing is kept of half a recording."""
    session = enrolling(encoder, policy)
    session.step(ASKED)
    said = session.step(SourceState(1.0, SourceHealth.LOST, "unplugged"))
    assert said[-1] == CommandResult(1.0, "c1", "no_sound")
    assert session.step(SourceState(2.0, SourceHealth.LOST, "again")) == []


def test_the_sentences_are_offered_in_english_and_hindi() -> None:
    """Enough of them for 20 s, and the consent that is asked for exists."""
    assert set(SENTENCES) == {"en", "hi"}
    assert all(len(sentences) >= 6 for sentences in SENTENCES.values())
    assert CONSENT_VERSION in CONSENT
