import errno
import json
import multiprocessing
import os
import signal
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from whodrives import profiles, vss
from whodrives.config import Vehicle
from whodrives.domain import Floats, ProfileError
from whodrives.profiles import Loaded, ProfileStore, StoredProfile

ENCODER = "ab" * 32
OTHER_ENCODER = "cd" * 32
POSITION = "Vehicle.Cabin.Seat.Row1.DriverSide.Position"
LIMITS = Vehicle().signals


def voice(seed: int = 0, windows: int = 3) -> Floats:
    """Embeddings of unit length."""
    rows = np.random.default_rng(seed).normal(size=(windows, 192)).astype(np.float32)
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), dtype=np.float32)


def store_in(folder: Path, encoder: str = ENCODER, limits: vss.Limits = LIMITS) -> ProfileStore:
    """The store of one folder, its key beside the profiles' folder."""
    return ProfileStore(folder / "profiles", folder / "key", encoder, limits)


def files_of(folder: Path) -> list[Path]:
    """All that lies in the profiles' folder, hidden files too."""
    return sorted((folder / "profiles").iterdir())


def names_in(folder: Path) -> list[str]:
    """The names that load, sorted; none of them with a problem."""
    loaded = store_in(folder).load()
    assert loaded.problems == ()
    return sorted(stored.name for stored in loaded.profiles)


@pytest.fixture
def store(tmp_path: Path) -> ProfileStore:
    """An empty store."""
    return store_in(tmp_path)


@pytest.fixture
def anna(store: ProfileStore) -> StoredProfile:
    """A driver in it, who sits at 120 mm."""
    return store.save("Anna", voice(), 12.5, {POSITION: 120})


# --- what is stored -----------------------------------------------------------------------------


def test_an_empty_house_has_nobody_and_no_problem(store: ProfileStore, tmp_path: Path) -> None:
    """Before the first enrolment there is no folder and no key, and that is well."""
    assert store.load() == Loaded((), ())
    assert list(tmp_path.iterdir()) == []


def test_what_was_saved_comes_back_whole(store: ProfileStore, anna: StoredProfile) -> None:
    """Name, voice, seconds, preferences and date survive the disk; the voice bit for bit."""
    (found,) = store.load().profiles
    assert (found.name, found.profile.id) == ("Anna", anna.profile.id)
    assert np.array_equal(found.profile.embeddings, voice())
    assert not found.profile.embeddings.flags.writeable
    assert found.profile.speech_s == 12.5
    assert found.profile.preferences == {POSITION: 120.0}
    assert (found.profile.encoder, found.enrolled_at) == (ENCODER, anna.enrolled_at)


def test_enrolling_anew_keeps_id_and_preferences(store: ProfileStore, anna: StoredProfile) -> None:
    """A driver who enrols again with a better recording does not lose the seat."""
    again = store.save("ANNA", voice(1), 20, replace=True)
    assert again.profile.id == anna.profile.id
    assert again.profile.preferences == {POSITION: 120.0}
    assert np.array_equal(again.profile.embeddings, voice(1))


@pytest.mark.usefixtures("anna")
def test_nobody_is_overwritten_by_a_namesake(store: ProfileStore) -> None:
    """Enrolling a name that exists in another case is refused unless replacement is asked for."""
    with pytest.raises(ProfileError, match="enrolled already"):
        store.save("anna", voice(1), 20)


def test_a_renamed_driver_stays_the_same_driver(store: ProfileStore, anna: StoredProfile) -> None:
    """The id that ECUs know does not change with the name, nor does the voice."""
    assert store.rename("anna", "Anne").profile.id == anna.profile.id
    assert store.rename(anna.profile.id, "ANNE").name == "ANNE"
    store.save("Bob", voice(1), 9)
    with pytest.raises(ProfileError, match="another driver's name"):
        store.rename("Bob", "anne")


@pytest.mark.usefixtures("anna")
def test_preferences_are_replaced_as_a_whole(store: ProfileStore) -> None:
    """What is not among the new preferences is gone."""
    tilt = "Vehicle.Chassis.SteeringWheel.Tilt"
    assert store.set_preferences("Anna", {tilt: 50}).profile.preferences == {tilt: 50.0}


@pytest.mark.usefixtures("anna")
def test_preferences_that_no_ecu_takes_are_not_stored(store: ProfileStore) -> None:
    """All mistakes are told at once and the old preferences stay."""
    with pytest.raises(ProfileError, match=r"(?s)251 is out of range.*Vehicle\.Speed"):
        store.set_preferences("Anna", {POSITION: 251, "Vehicle.Speed": 1})
    assert store.load().profiles[0].profile.preferences == {POSITION: 120.0}


def test_preferences_out_of_this_cars_range_never_leave_the_store(
    store: ProfileStore, anna: StoredProfile, tmp_path: Path
) -> None:
    """When the car's ranges have shrunk, what lies outside is left out and told."""
    loaded = store_in(tmp_path, limits={POSITION: vss.Range(0, 100)}).load()
    assert loaded.profiles[0].profile.preferences == {}
    assert loaded.problems[0].startswith(f"profile {anna.profile.id}: left out: {POSITION}: 120")
    assert store.load().profiles[0].profile.preferences == {POSITION: 120.0}


def test_a_forgotten_driver_is_gone(
    store: ProfileStore, anna: StoredProfile, tmp_path: Path
) -> None:
    """Forgetting leaves no file; forgetting twice says that there is nobody."""
    store.forget(anna.name.upper())
    assert files_of(tmp_path) == []
    with pytest.raises(ProfileError, match="no driver is called Anna"):
        store.forget("Anna")


@pytest.mark.parametrize("name", ["", "  ", "a" * 65, "a\nb", "\x1b[31m", "\u200d", "d-0123abcd"])
def test_names_that_mislead_are_refused(store: ProfileStore, name: str) -> None:
    """Empty, endless, invisible, id-like names and terminal codes are no names."""
    with pytest.raises(ProfileError, match="name"):
        store.save(name, voice(), 9)


@given(st.text(max_size=80))
@settings(
    max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_accepted_name_finds_its_driver(tmp_path: Path, name: str) -> None:
    """Every script's names can be stored, found and forgotten, or are refused."""
    store = store_in(tmp_path)
    try:
        saved = store.save(name, voice(), 9)
    except ProfileError:
        return
    assert store.rename(f" {saved.name} ", "Someone").name == "Someone"
    store.forget("someone")


@pytest.mark.parametrize(
    "rows", [np.ones((2, 4)), np.zeros((0, 192)), np.ones(1), np.full((1, 1), np.nan)]
)
def test_only_unit_embeddings_are_voices(store: ProfileStore, rows: Any) -> None:
    """What cannot be compared by cosine is not stored."""
    with pytest.raises(ProfileError, match="embedding"):
        store.save("Anna", rows.astype(np.float32), 9)


# --- secrecy ------------------------------------------------------------------------------------


@pytest.mark.usefixtures("anna")
def test_nothing_personal_lies_in_the_clear(tmp_path: Path) -> None:
    """Neither name, voice nor preference is on disk in the clear, nor in a file's name."""
    (path,) = files_of(tmp_path)
    data = path.read_bytes() + path.name.encode()
    assert b"nna" not in data
    assert b"Position" not in data
    assert all(voice().tobytes()[i : i + 8] not in data for i in range(0, 3 * 192 * 4, 4))


@pytest.mark.usefixtures("anna")
def test_only_the_owner_may_read(tmp_path: Path) -> None:
    """Folder, profile and key are closed to others, whatever the umask."""
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.rglob("*")}
    assert sorted(modes.values()) == [0o600, 0o600, 0o700]
    assert modes[tmp_path / "profiles"] == 0o700


@pytest.mark.usefixtures("anna")
def test_the_same_profile_never_looks_the_same_twice(store: ProfileStore, tmp_path: Path) -> None:
    """Every write has a nonce of its own: two seals with one nonce would undo AES-GCM."""
    (path,) = files_of(tmp_path)
    before = path.read_bytes()
    store.rename("Anna", "Anna")
    after = path.read_bytes()
    assert before[:58] == after[:58]
    assert before[58:70] != after[58:70]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602])
@pytest.mark.usefixtures("anna")
def test_a_key_that_others_may_use_is_refused(
    store: ProfileStore, tmp_path: Path, mode: int
) -> None:
    """A readable key seals nothing; the mend is in the sentence."""
    (tmp_path / "key").chmod(mode)
    with pytest.raises(ProfileError, match="chmod 600"):
        store.load()


def test_a_key_among_the_profiles_is_refused(tmp_path: Path) -> None:
    """Whoever copies the folder must not get the key with it."""
    store = ProfileStore(tmp_path, tmp_path / "sub" / ".." / "key", ENCODER, LIMITS)
    with pytest.raises(ProfileError, match="lies among the profiles"):
        store.save("Anna", voice(), 9)


@pytest.mark.parametrize("length", [0, 16, 31, 33])
def test_a_key_of_the_wrong_length_is_refused(
    store: ProfileStore, tmp_path: Path, length: int
) -> None:
    """A cut key is told as such and not replaced."""
    key = tmp_path / "key"
    key.write_bytes(b"k" * length)
    key.chmod(0o600)
    with pytest.raises(ProfileError, match="not 32 bytes long"):
        store.save("Anna", voice(), 9)
    assert key.read_bytes() == b"k" * length


@pytest.mark.usefixtures("anna")
def test_a_lost_key_is_not_replaced_while_profiles_need_it(
    store: ProfileStore, tmp_path: Path
) -> None:
    """A new key would hide that the old one could still be brought back."""
    (tmp_path / "key").unlink()
    with pytest.raises(ProfileError, match="bring it back"):
        store.save("Bob", voice(1), 9)
    assert not (tmp_path / "key").exists()


def test_forgetting_by_id_needs_no_key(
    store: ProfileStore, anna: StoredProfile, tmp_path: Path
) -> None:
    """A driver can be erased even when nothing can be opened any more."""
    (tmp_path / "key").unlink()
    store.forget(anna.profile.id)
    assert files_of(tmp_path) == []


def test_the_service_managers_credential_goes_before_the_file(
    store: ProfileStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The key that systemd's LoadCredential gives is taken; then no key file is made."""
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    (credentials / "profile-key").write_bytes(b"k" * 32)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(credentials))
    store.save("Anna", voice(), 9)
    assert not (tmp_path / "key").exists()
    monkeypatch.delenv("CREDENTIALS_DIRECTORY")
    with pytest.raises(ProfileError, match="cannot read the key"):
        store.load()


# --- damage -------------------------------------------------------------------------------------


@given(st.data())
@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_a_change_anywhere_is_noticed(tmp_path: Path, data: st.DataObject) -> None:
    """No byte of a profile can be changed, cut off or added without being told; others load."""
    store = store_in(tmp_path)
    if not (tmp_path / "profiles").exists():
        store.save("Anna", voice(windows=1), 9)
        store.save("Bob", voice(1, windows=1), 9)
    path = next(path for path in files_of(tmp_path) if path.suffix == ".profile")
    whole = path.read_bytes()
    place = data.draw(st.integers(0, len(whole) - 1))
    flipped = bytes([whole[place] ^ data.draw(st.integers(1, 255))])
    path.write_bytes(
        data.draw(
            st.sampled_from(
                [whole[:place] + flipped + whole[place + 1 :], whole[:place], whole + flipped]
            )
        )
    )
    loaded = store.load()
    path.write_bytes(whole)
    assert len(loaded.profiles) == len(loaded.problems) == 1
    assert loaded.problems[0].startswith(f"profile {path.stem}: ")


def test_a_profile_does_not_open_under_another_id(
    store: ProfileStore, anna: StoredProfile, tmp_path: Path
) -> None:
    """Renaming a file cannot give one driver's seat to another's id."""
    (path,) = files_of(tmp_path)
    path.rename(path.with_name("d-00000000.profile"))
    assert anna.profile.id != "d-00000000"
    assert "profile d-00000000: was changed" in store.load().problems[0]


def test_another_cars_profile_is_told_as_such(
    store: ProfileStore, anna: StoredProfile, tmp_path: Path
) -> None:
    """A file sealed with another key is not taken for a damaged one."""
    other = tmp_path / "other"
    foreign = store_in(other).save("Bob", voice(1), 9)
    (stranger,) = files_of(other)
    stranger.rename(tmp_path / "profiles" / stranger.name)
    loaded = store.load()
    assert [stored.name for stored in loaded.profiles] == [anna.name]
    (problem,) = loaded.problems
    assert problem.startswith(f"profile {foreign.profile.id}: was sealed with another key; bring")


def test_another_encoders_voice_is_not_compared(anna: StoredProfile, tmp_path: Path) -> None:
    """After a change of encoder the driver is named by id and asked to enrol again."""
    newer = store_in(tmp_path, OTHER_ENCODER)
    loaded = newer.load()
    assert loaded.profiles == ()
    assert anna.profile.id in loaded.problems[0]
    assert "enrol this driver again" in loaded.problems[0]
    again = newer.save("anna", voice(2), 9, replace=True)
    assert again.profile.preferences == {POSITION: 120.0}
    assert newer.load().problems == ()


def test_a_newer_format_is_left_alone(
    store: ProfileStore, anna: StoredProfile, tmp_path: Path
) -> None:
    """A downgraded whodrives says what it met and deletes nothing."""
    (path,) = files_of(tmp_path)
    data = bytearray(path.read_bytes())
    data[len(b"whodrives profile")] = 2
    path.write_bytes(data)
    assert store.load().problems[0].startswith(f"profile {anna.profile.id}: has format 2")
    assert path.read_bytes() == data


def test_a_name_in_a_file_name_is_not_repeated(
    store: ProfileStore, anna: StoredProfile, tmp_path: Path
) -> None:
    """Problems go to the log, where no name may be."""
    (path,) = files_of(tmp_path)
    (tmp_path / "profiles" / "Bobby.profile").write_bytes(path.read_bytes())
    loaded = store.load()
    assert [stored.name for stored in loaded.profiles] == [anna.name]
    assert "Bobby" not in loaded.problems[0]


# --- power cuts, full disks, two writers --------------------------------------------------------

STEPS = ("open", "fdopen", "fsync", "replace")


def fail_at(
    monkeypatch: pytest.MonkeyPatch, step: str, count: int, fault: Callable[[], None]
) -> None:
    """Let the `count`-th call of os.`step` meet the fault instead."""
    real, calls = getattr(os, step), iter(range(count, -1, -1))

    def failing(*arguments: Any, **options: Any) -> Any:
        if next(calls, 0) == 1:
            fault()
        return real(*arguments, **options)

    monkeypatch.setattr(os, step, failing)


def disk_full() -> None:
    """What write(2), fsync(2) and rename(2) say when nothing is left."""
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def power_cut() -> None:
    """End this process as if it had never been."""
    os.kill(os.getpid(), signal.SIGKILL)


def rename_and_die(folder: Path, step: str, count: int) -> None:
    """In a process of its own: rename the driver, and be killed on the way."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        fail_at(monkeypatch, step, count, power_cut)
        store_in(folder).rename("Anna", "Anne")
    os._exit(0)


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("step", STEPS)
@pytest.mark.usefixtures("anna")
def test_a_full_disk_keeps_the_old_or_has_the_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, count: int
) -> None:
    """Whichever step fails, the driver is there once, whole, and no rubbish is left."""
    with monkeypatch.context() as fault:
        fail_at(fault, step, count, disk_full)
        try:
            store_in(tmp_path).rename("Anna", "Anne")
        except ProfileError as error:
            assert "No space left on device; free space" in str(error)  # noqa: PT017 - some steps are never reached
    assert names_in(tmp_path) in (["Anna"], ["Anne"])
    assert len(files_of(tmp_path)) == 1


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("step", STEPS)
@pytest.mark.usefixtures("anna")
def test_a_power_cut_keeps_the_old_or_has_the_new(tmp_path: Path, step: str, count: int) -> None:
    """Killed at any step, the driver is there once and whole; the next write sweeps up."""
    process = multiprocessing.get_context("fork").Process(
        target=rename_and_die, args=(tmp_path, step, count)
    )
    process.start()
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL)
    (name,) = names_in(tmp_path)
    assert name in ("Anna", "Anne")
    store_in(tmp_path).rename(name, "Anneli")
    assert names_in(tmp_path) == ["Anneli"]
    assert len(files_of(tmp_path)) == 1


@pytest.mark.parametrize("step", ["fdopen", "fsync", "link"])
def test_a_failed_first_enrolment_leaves_no_half_key(
    store: ProfileStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """A key is made whole or not at all, so that the next try succeeds."""
    with monkeypatch.context() as fault:
        fail_at(fault, step, 1, disk_full)
        with pytest.raises(ProfileError, match="free space"):
            store.save("Anna", voice(), 9)
    assert not (tmp_path / "key").exists()
    store.save("Bob", voice(), 9)
    assert names_in(tmp_path) == ["Bob"]


def enrol_many(folder: Path, person: str) -> None:
    """In a process of its own: enrol five drivers."""
    for number in range(5):
        store_in(folder).save(f"{person} {number}", voice(number), 9)
    os._exit(0)


def test_two_writers_lose_nothing(tmp_path: Path) -> None:
    """Two processes that enrol at once, from the first key on, both get all their drivers in."""
    context = multiprocessing.get_context("fork")
    people = ("Anna", "Bob", "Carla")
    writers = [context.Process(target=enrol_many, args=(tmp_path, person)) for person in people]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0, 0, 0]
    assert names_in(tmp_path) == [f"{person} {number}" for person in people for number in range(5)]


# --- what was learned -----------------------------------------------------------------------------


@pytest.mark.parametrize("learned", [{"steps": []}, {"steps": 1, "held": []}, [], "all"])
def test_a_sealed_file_that_holds_no_valid_adaptation_is_a_problem(
    store: ProfileStore, anna: StoredProfile, tmp_path: Path, learned: object
) -> None:
    """Whoever wrote it had the key; the driver is named, and the others go on."""
    path = tmp_path / "profiles" / f"{anna.profile.id}.profile"
    text, _, rows = profiles._payload(anna).partition(b"\n")
    facts = json.loads(text) | {"adaptation": learned or {"held": []}}
    key = (tmp_path / "key").read_bytes()
    payload = json.dumps(facts).encode() + b"\n" + rows
    path.write_bytes(profiles._sealed(key, ENCODER, anna.profile.id, payload))
    loaded = store.load()
    assert loaded.profiles == ()
    assert "holds no valid profile" in loaded.problems[0]
