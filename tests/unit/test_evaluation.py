"""The evaluation's arithmetic: error rates against closed forms, conditions, corpora, trials."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from tools.evaluate import shortcuts, trials
from tools.lab import conditions, corpus, front_end, metrics, scene
from whodrives.audio.blocks import SAMPLE_RATE_HZ, Floats
from whodrives.voice.decision import Policy, judge
from whodrives.voice.scoring import compare, mean_subtracted
from whodrives.voice.types import Calibration, CalibrationPoint, Evidence, OperatingPoint

SCORES = arrays.arrays(
    np.float64,
    st.integers(1, 40),
    # Few distinct values, so that ties are common.
    elements=st.integers(-8, 8).map(lambda n: n / 8),
)


def normal(deviate: float) -> float:
    """Share of the normal distribution below `deviate`."""
    return 0.5 * (1 + math.erf(deviate / math.sqrt(2)))


# --- metrics -------------------------------------------------------------------------------------


def test_equal_errors_of_two_normal_distributions_are_the_textbook_s() -> None:
    """Two unit normals d' apart have an EER of Phi(-d'/2)."""
    rng = np.random.default_rng(1)
    found = metrics.Trials(rng.normal(2, 1, 100_000), rng.normal(0, 1, 100_000)).det()
    assert metrics.eer(found) == pytest.approx(normal(-1.0), abs=0.003)


def test_minimum_cost_of_two_normal_distributions_is_the_textbook_s() -> None:
    """The best threshold of two unit normals lies at d'/2 + ln(99)/d' for a prior of 0.01."""
    rng = np.random.default_rng(2)
    found = metrics.Trials(rng.normal(3, 1, 200_000), rng.normal(0, 1, 200_000)).det()
    best = 1.5 + math.log(99) / 3
    cost = (0.01 * normal(best - 3) + 0.99 * normal(-best)) / 0.01
    assert metrics.min_dcf(found) == pytest.approx(cost, abs=0.02)


@pytest.mark.parametrize(
    ("target", "other", "rate"),
    [([1.0, 2.0], [-1.0, 0.0], 0.0), ([0.0], [1.0], 1.0), ([0.5, 0.5], [0.5, 0.5], 0.5)],
    ids=["apart", "reversed", "equal"],
)
def test_equal_errors_of_the_extremes(target: list[float], other: list[float], rate: float) -> None:
    """Perfect scores have no errors, reversed ones nothing else, equal ones half."""
    assert metrics.eer(metrics.Trials(np.array(target), np.array(other)).det()) == rate


@given(SCORES, SCORES)
def test_the_trade_off_only_ever_trades(target: np.ndarray, other: np.ndarray) -> None:
    """Misses rise from 0 to 1 and false accepts fall from 1 to 0; EER and minDCF stay in [0, 1]."""
    found = metrics.Trials(target, other).det()
    assert found.miss[0] == 0
    assert found.miss[-1] == pytest.approx(1)
    assert found.false_accept[0] == 1
    assert found.false_accept[-1] == pytest.approx(0)
    assert (np.diff(found.miss) >= 0).all()
    assert (np.diff(found.false_accept) <= 0).all()
    assert 0 <= metrics.eer(found) <= 1
    assert 0 <= metrics.min_dcf(found) <= 1


@given(SCORES, SCORES, st.integers(2, 4))
def test_a_weight_is_a_repetition(target: np.ndarray, other: np.ndarray, times: int) -> None:
    """Counting trials several times is the same as having them several times."""
    weights = np.ones(len(target)), np.ones(len(other))
    weights[0][0] = weights[1][-1] = times
    weighted = metrics.Trials(target, other).det(*weights)
    repeated = metrics.Trials(
        np.append(target, [target[0]] * (times - 1)), np.append(other, [other[-1]] * (times - 1))
    ).det()
    assert metrics.eer(weighted) == pytest.approx(metrics.eer(repeated))
    assert metrics.min_dcf(weighted) == pytest.approx(metrics.min_dcf(repeated))


@given(SCORES, st.floats(0, 1))
def test_no_more_strangers_pass_than_were_asked_for(stranger: np.ndarray, fpir: float) -> None:
    """The threshold lets at most the asked share pass, and the next lower score would let more."""
    threshold = metrics.threshold_at(stranger, fpir)
    assert np.mean(stranger > threshold) <= fpir + 1e-9
    lower = stranger[stranger < threshold]
    if len(lower):
        assert np.mean(stranger > lower.max()) > fpir


def test_missed_drivers_are_counted_at_the_strangers_threshold() -> None:
    """With 100 strangers from 0.00 to 0.99 and one in a hundred let in, 0.98 is not enough."""
    stranger = np.arange(100) / 100
    genuine = np.array([0.5, 0.98, 0.985, 1.0, -np.inf])
    assert metrics.fnir_at(genuine, stranger, 0.01) == pytest.approx(3 / 5)


def test_a_resample_draws_as_many_people_as_there_are() -> None:
    """Each resample is people drawn with replacement, and the same seed draws the same."""
    drawn = metrics.resampled(12, seed=3, resamples=50)
    assert drawn.shape == (50, 12)
    assert (drawn.sum(axis=1) == 12).all()
    assert (drawn == metrics.resampled(12, seed=3, resamples=50)).all()


def test_a_trial_counts_as_often_as_its_people_together() -> None:
    """A person drawn twice against one drawn three times makes six trials; nobody makes none."""
    drawn = np.array([2.0, 3.0, 0.0])
    speaker, voice = np.array([0, 0, 1]), np.array([[1], [2], [1]])
    assert metrics.counts(drawn, speaker, voice).tolist() == [6, 0, 9]


def test_the_interval_over_people_covers_the_spread_between_people() -> None:
    """Trials of one person say the same, so the interval is that of 25 people, not 2500 trials."""
    rng = np.random.default_rng(4)
    people = np.repeat(np.arange(25), 100)
    hit = (rng.random(25) < 0.4)[people]
    drawn = metrics.resampled(25, seed=5, resamples=1000)
    low, high = metrics.interval(lambda row: metrics.share(hit, row[people]), drawn)
    spread = 2 * 1.96 * math.sqrt(hit.mean() * (1 - hit.mean()) / 25)
    assert high - low == pytest.approx(spread, rel=0.2)


def test_a_quantile_may_be_never() -> None:
    """Where one in ten is never decided, the median is a number and the 95 % quantile is not."""
    until_s = np.array([1.0] * 9 + [np.inf])
    assert metrics.quantile(until_s, 0.5) == 1.0
    assert metrics.quantile(until_s, 0.95) == np.inf


# --- conditions ----------------------------------------------------------------------------------


def voice_like(seconds: float = 2.0) -> Floats:
    """A harmonic sound with syllables, at about -26 dBFS."""
    at_s = np.arange(int(seconds * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    tones = sum(np.sin(2 * np.pi * 150 * k * at_s) / k for k in range(1, 45))
    return (0.05 * tones * (0.6 + 0.4 * np.sin(2 * np.pi * 3 * at_s))).astype(np.float32)


@pytest.mark.parametrize("name", conditions.TESTS)
def test_a_condition_is_the_same_every_time_and_keeps_the_length(name: str) -> None:
    """The names alone choose the random numbers; nothing leaves [-1, 1] or is not a number."""
    sound = voice_like()
    heard = conditions.tested(sound, name, "somebody", 0)
    assert (heard == conditions.tested(sound, name, "somebody", 0)).all()
    assert len(heard) == len(conditions.tested(sound, "clean", "somebody", 0))
    assert heard.dtype == np.float32
    assert np.isfinite(heard).all()
    assert np.abs(heard).max() <= 1


def share_above(sound: Floats, hertz: float) -> float:
    """Share of the power above a frequency."""
    power = np.abs(np.fft.rfft(sound)) ** 2
    place = int(hertz * len(sound) / SAMPLE_RATE_HZ)
    return float(power[place:].sum() / power.sum())


@pytest.mark.parametrize("name", ["telephone band", "GSM 13 kbit/s"])
def test_a_telephone_carries_nothing_above_its_band(name: str) -> None:
    """Of what was above 4.3 kHz not a hundredth is left."""
    sound = voice_like()
    before = share_above(conditions.tested(sound, "clean", "a"), 4300)
    assert share_above(conditions.tested(sound, name, "a"), 4300) < before / 100


def test_noise_is_as_loud_as_the_condition_says() -> None:
    """What broadband noise at 5 dB adds is 5 dB below the speech."""
    sound = voice_like()
    clean = conditions.tested(sound, "clean", "a")
    noisy = conditions.tested(sound, "broadband 5 dB", "a")
    noise_db = 10 * np.log10(np.mean((noisy - clean) ** 2))
    assert scene.active_level_db(sound) - noise_db == pytest.approx(5, abs=1)


# --- corpora -------------------------------------------------------------------------------------


def recordings(folder: Path, count: int, seconds: float = 3.0) -> list[Path]:
    """Write that many different sounds."""
    folder.mkdir(parents=True)
    paths = [folder / f"{number}.wav" for number in range(count)]
    for number, path in enumerate(paths):
        soundfile.write(path, voice_like(seconds) * (0.5 + 0.01 * number), SAMPLE_RATE_HZ)
    return paths


def test_a_folder_per_speaker_is_a_corpus(tmp_path: Path) -> None:
    """Each folder is a person; other files beside the folders are nobody."""
    recordings(tmp_path / "corpus" / "anna", 2)
    recordings(tmp_path / "corpus" / "bert", 3)
    (tmp_path / "corpus" / "README").write_text("no speech")
    people = corpus.read_people(tmp_path / "corpus", "eval")
    assert [(p.corpus, p.name, len(p.files)) for p in people] == [
        ("corpus", "anna", 2),
        ("corpus", "bert", 3),
    ]


def test_a_catalogue_is_read_by_person_and_role(tmp_path: Path) -> None:
    """Files of another role are left alone, and two speakers of one group are one person."""
    (tmp_path / "manifest.tsv").write_text(
        "role\tcorpus\tspeaker\tgroup\tage\tpath\n"
        "eval\tc\t1\tc:1\t9\ta.wav\n"
        "eval\tc\t2\tc:1\t9\tb.wav\n"
        "train\tc\t3\tc:3\t30\tc.wav\n"
    )
    (person,) = corpus.read_people(tmp_path, "eval")
    assert (person.name, person.age) == ("c:1", 9)
    assert person.files == (tmp_path / "a.wav", tmp_path / "b.wav")


def test_nobody_to_evaluate_is_an_error_that_says_what_is_wanted(tmp_path: Path) -> None:
    """An empty folder is named, with the formats that would do."""
    with pytest.raises(corpus.CorpusError, match=r"manifest\.tsv.*folder per speaker"):
        corpus.read_people(tmp_path, "eval")


@pytest.mark.parametrize("line", ["1 a.wav", "2 a.wav b.wav", "1 a.wav b.wav c.wav"])
def test_a_trial_list_that_is_none_is_refused_with_the_line(tmp_path: Path, line: str) -> None:
    """The text names the line's number and the format."""
    (tmp_path / "list.txt").write_text(f"0 a.wav b.wav\n{line}\n")
    with pytest.raises(corpus.CorpusError, match=r"list\.txt:2: want `1 a\.wav b\.wav`"):
        corpus.read_trials(tmp_path / "list.txt")


def test_a_trial_list_s_paths_begin_at_the_root(tmp_path: Path) -> None:
    """Without a root they begin at the list's folder."""
    (tmp_path / "list.txt").write_text("1 a/1.wav a/2.wav\n0 a/1.wav b/1.wav\n")
    beside = corpus.read_trials(tmp_path / "list.txt")
    elsewhere = corpus.read_trials(tmp_path / "list.txt", Path("root"))
    assert [t.same for t in beside] == [True, False]
    assert beside[0].enrolment == tmp_path / "a/1.wav"
    assert elsewhere[1].test == Path("root/b/1.wav")


def test_nobody_is_tested_on_what_enrolled_him(tmp_path: Path) -> None:
    """Enrolment has 10 s of speech or more, and shares no recording with a test sound."""
    files = tuple(recordings(tmp_path / "anna", 9))
    said = corpus.material(corpus.Person("c", "anna", None, files), tests=10)
    assert corpus.speech_s(said.enrolment) >= corpus.ENROL_S
    used = len(said.enrolment) + sum(len(sound) for sound in said.tests)
    assert used <= sum(len(corpus.read_sound(path)) for path in files)
    assert len(said.tests) == 2


# --- trials --------------------------------------------------------------------------------------

PEOPLE, VOICE_SIZE = 7, 16


def calibration() -> Calibration:
    """A calibration in which about every second decision could go either way."""
    points = [
        CalibrationPoint(
            s, 10.0 + s, -4.0 - s, 0.05, -1.0, {"1/100": (0.8, 1.0 + s / 4), "1/1000": (2.0, 2.2)}
        )
        for s in (1.0, 3.0, 6.0)
    ]
    mean = np.full(VOICE_SIZE, 0.05, np.float32)
    return Calibration("e", mean, points, 0.8, households=(2, 3), cohort_max_cosine=0.5)


def visits(scored: trials.Scores, size: int) -> trials.Visits:
    """Households of this size; there are people enough."""
    drawn = trials.visits(scored, size)
    assert drawn is not None
    return drawn


def unit(vector: np.ndarray) -> Floats:
    """A unit vector."""
    return np.asarray(vector / np.linalg.norm(vector), np.float32)


def subjects(seed: int = 1, spread: float = 0.8) -> list[front_end.Subject]:
    """People with voices of their own, each heard three times in utterances of several looks."""
    rng = np.random.default_rng(seed)
    found = []
    for number in range(PEOPLE):
        own = unit(rng.normal(size=VOICE_SIZE))
        subject = front_end.Subject(corpus.Person("c", f"p{number}", None, ()))
        subject.centres["clean"] = own
        subject.sounds["clean"] = [_heard(own, rng, spread) for _ in range(3)]
        found.append(subject)
    return found


def _heard(own: Floats, rng: np.random.Generator, spread: float) -> front_end.Heard:
    voices = [unit(own + spread * unit(rng.normal(size=VOICE_SIZE))) for _ in range(4)]
    return front_end.Heard(
        speech_s=np.array([1.02, 2.04, 0.6, 1.2]),
        utterance=np.array([0, 0, 1, 1]),
        part=np.array([0, 0, 1, 1]),
        telephone=np.zeros(4, bool),
        voices=np.stack(voices),
        seconds=np.stack(voices[:3]),
        seconds_telephone=np.zeros(3, bool),
    )


@pytest.mark.parametrize("promise", ["1/100", "1/1000"])
def test_the_arrays_decide_as_the_daemon_s_rule_does(promise: OperatingPoint) -> None:
    """Every utterance in every household ends as `decision.judge` would have it, look by look."""
    view, known = trials.View("c", tuple(subjects(spread=1.6))), calibration()
    scored = trials.scores(view, "clean", "clean", known)
    members = visits(scored, 3).genuine
    found = trials.decide(scored, members, known, promise)
    bank = [mean_subtracted(s.centres["clean"], known) for s in view.subjects]
    heard = [h for s in view.subjects for h in s.sounds["clean"]]
    for row, sound in enumerate(found.sound):
        looks = heard[sound].utterance == row % 2
        voices, speech_s = heard[sound].voices[looks], heard[sound].speech_s[looks]
        for draw, house in enumerate(scored.voice[members[sound]]):
            profiles = [(str(i), bank[person]) for i, person in enumerate(house)]
            expected = first_known(voices, speech_s, profiles, Policy(known, promise))
            assert found.member[row, draw] == expected
    assert {-1, 0} <= set(found.member.ravel().tolist())


def first_known(
    voices: Floats, speech_s: np.ndarray, profiles: list[tuple[str, Floats]], policy: Policy
) -> int:
    """Member of the household that the daemon's rule calls known first, or -1."""
    for voice, so_far_s in zip(voices, speech_s.tolist(), strict=True):
        known = policy.calibration
        matches = compare(mean_subtracted(voice, known), so_far_s, profiles, known)
        evidence = Evidence(matches, so_far_s, None, 0)
        verdict = judge(evidence, len(profiles), policy, final=False)
        if verdict and verdict.driver is not None:
            return int(verdict.driver)
    return -1


def test_a_telephone_s_sound_is_never_accepted() -> None:
    """The arrays refuse what the daemon refuses, and count it as refused."""
    people, known = subjects(spread=0.01), calibration()
    for subject in people:
        subject.sounds["clean"] = [
            replace(h, telephone=np.ones(4, bool), seconds_telephone=np.ones(3, bool))
            for h in subject.sounds["clean"]
        ]
    scored = trials.scores(trials.View("c", tuple(people)), "clean", "clean", known)
    played = visits(scored, 3)
    assert (trials.decide(scored, played.genuine, known, "1/100").member == -1).all()
    assert trials.promised(scored, played, known, "1/100", None)["telephone"] == 1
    assert trials.identification(scored, played, 1, None) is None
    assert scored.refused[0] == len(scored.speaker)


def test_after_a_known_voice_no_later_voice_in_the_utterance_counts() -> None:
    """The daemon hears an utterance out once somebody is known; a change of voice before counts."""
    people, known = subjects(spread=0.01), calibration()
    for subject in people:
        subject.sounds["clean"] = [
            replace(h, utterance=np.zeros(4, int)) for h in subject.sounds["clean"]
        ]
    scored = trials.scores(trials.View("c", tuple(people)), "clean", "clean", known)
    found = trials.decide(scored, visits(scored, 3).genuine, known, "1/100")
    assert (found.member[0::2] == 0).all()
    assert (found.member[1::2] == -1).all()


def test_a_household_has_the_speaker_first_or_not_at_all() -> None:
    """Genuine ones begin with the speaker, a stranger's never hold him; nobody is in one twice."""
    view = trials.View("c", tuple(subjects()))
    scored = trials.scores(view, "clean", "clean", None)
    for size in (2, 3, 5):
        played = visits(scored, size)
        people = scored.voice[played.genuine]
        assert (people[:, :, 0] == scored.speaker[:, None]).all()
        strangers = scored.voice[played.strangers]
        assert (strangers != scored.speaker[:, None, None]).all()
        assert all(len(set(house)) == size for house in strangers.reshape(-1, size).tolist())


def test_somebody_whose_enrolment_was_refused_is_only_a_stranger() -> None:
    """He is heard as a stranger and never missed as a driver."""
    people = subjects()
    people[0].centres.clear()
    scored = trials.scores(trials.View("c", tuple(people)), "clean", "clean", None)
    played = visits(scored, 2)
    assert played.genuine_sounds.tolist() == [False] * 3 + [True] * 18
    found = trials.identification(scored, played, 1, None)
    assert found is not None
    assert (found["strangers"], found["genuine"]) == (21, 18)


def test_a_sound_in_which_nothing_was_heard_is_a_missed_driver() -> None:
    """Silence decides nothing, and is not left out of the drivers' account."""
    people = subjects()
    silent = front_end.Heard.of_seconds(np.zeros((0, 0), np.float32))
    for subject in people:
        subject.sounds["clean"] = [silent]
    people[0].sounds["clean"] = subjects()[0].sounds["clean"][:1]
    known = calibration()
    scored = trials.scores(trials.View("c", tuple(people)), "clean", "clean", known)
    found = trials.promised(scored, visits(scored, 3), known, "1/100", None)
    assert found["sounds"] == PEOPLE
    assert found["fnir"] >= (PEOPLE - 1) / PEOPLE
    assert found["speech_until_decision_s"]["95_percent"] is None


def test_far_voices_are_told_apart_and_equal_ones_are_not() -> None:
    """The whole chain from embeddings to rates gives nought and chance where they belong."""
    known = calibration()
    far = trials.View("c", tuple(subjects(spread=0.01)))
    apart = trials.judged(far, "clean", "clean", known)
    assert apart["verification"]["1 s"]["eer"] == 0
    assert apart["identification"]["3"]["1 s"]["fnir_at_0.01"] == 0
    alike = trials.View("c", tuple(subjects(spread=50.0)))
    mixed = trials.judged(alike, "clean", "clean", known)
    assert 0.2 < mixed["verification"]["1 s"]["eer"] < 0.8


# --- shortcuts ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("strength", "factors"), [(0.0, (0.5, 1.5)), (3.0, (2.0, 100.0))])
def test_whoever_goes_by_the_microphone_is_found_out(
    strength: float, factors: tuple[float, float]
) -> None:
    """If embeddings hold the microphone, strangers on the driver's own one cause more errors."""
    rng = np.random.default_rng(6)
    microphone = strength * unit(rng.normal(size=VOICE_SIZE))
    people = subjects(spread=0.9)
    for subject in people:
        own = subject.centres["clean"]
        subject.centres["clean"] = unit(own + microphone)
        subject.sounds = {
            "same": [_heard(own + microphone, rng, 0.9) for _ in range(3)],
            "other": [_heard(own, rng, 0.9) for _ in range(3)],
        }
    view = trials.View("c", tuple(people))
    same, other = (trials.scores(view, name, "clean", None) for name in ("same", "other"))
    found = shortcuts.compared((same, same), (other, same), (other, other))
    assert factors[0] <= found["factor"] <= factors[1]


def test_the_sentence_is_compared_only_with_people_who_say_it() -> None:
    """Trials of a stranger whose sentences the driver did not enrol with are left out."""
    scored = trials.scores(trials.View("c", tuple(subjects())), "clean", "clean", None)
    texts = [{"a", "b"} if person < 3 else {"c"} for person in range(PEOPLE)]
    among = shortcuts._among(scored, texts)
    alike = (scored.speaker[:, None] < 3) == (scored.voice[None] < 3)
    assert (np.isnan(among.seconds[:, 0]) == ~alike).all()
