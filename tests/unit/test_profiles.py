import dataclasses
import errno
import json
import multiprocessing
import os
import pwd
import resource
import signal
import stat
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from whodrives import names, profiles, vss
from whodrives.config import Vehicle
from whodrives.domain import Floats, ProfileError
from whodrives.profiles import Consent, Loaded, ProfileStore, StoredProfile, unused

ENCODER = "ab" * 32
OTHER_ENCODER = "cd" * 32
POSITION = "Vehicle.Cabin.Seat.Row1.DriverSide.Position"
LIMITS = Vehicle().signals


def voice(seed: int = 0, windows: int = 3) -> Floats:
    """Embeddings of unit length."""
    rows = np.random.default_rng(seed).normal(size=(windows, 192)).astype(np.float32)
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), dtype=np.float32)


def store_in(
    folder: Path, encoder: str = ENCODER, limits: vss.Limits = LIMITS, vehicle: str = "car"
) -> ProfileStore:
    """The store of one folder, its key beside the profiles' folder."""
    return ProfileStore(folder / "profiles", folder / "key", encoder, limits, vehicle)


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


def test_a_rehearsal_leaves_nothing_but_folders(store: ProfileStore, tmp_path: Path) -> None:
    """Whether a profile can be saved is found out without saving one."""
    store.rehearse()
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    store.save("Anna", voice(), 9)
    before = files_of(tmp_path)
    store.rehearse()
    assert files_of(tmp_path) == before


def test_a_rehearsal_that_fails_leaves_nothing(
    store: ProfileStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk is told with its place, and the trial is gone."""

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(ProfileError, match=r"cannot write .*No space left on device"):
        store.rehearse()
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.skipif(os.getuid() != 0, reason="only root can write into everybody's folders")
def test_root_is_told_to_enrol_as_the_user_of_the_service(
    store: ProfileStore, anna: StoredProfile, tmp_path: Path
) -> None:
    """What root writes there, the daemon of that user cannot read."""
    os.chown(tmp_path / "profiles", pwd.getpwnam("nobody").pw_uid, -1)
    with pytest.raises(ProfileError, match="run it as that user: `sudo -u nobody whodrives enrol`"):
        store.rehearse()
    assert [each.profile.id for each in store.load().profiles] == [anna.profile.id]


def test_an_older_name_stays_a_name(store: ProfileStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """What an older rule took, or consent that was no text, is read and can be shown."""
    monkeypatch.setattr(names, "checked", str)
    consent = Consent("J\udcfcrgen", "2026-01-01T00:00:00+00:00", "2026-11")
    saved = store.save("-An\u202ena", voice(), 9, consent=consent)
    monkeypatch.undo()
    (found,) = store.load().profiles
    assert (found.profile.id, found.name) == (saved.profile.id, "-An?na")
    assert found.consent is not None
    assert found.consent.by == "J?rgen"


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


def test_the_preferences_before_can_be_brought_back(
    store: ProfileStore, anna: StoredProfile
) -> None:
    """The last change can be undone, and that undone too; what changes nothing counts as none."""
    with pytest.raises(ProfileError, match="never changed"):
        store.bring_back_preferences("Anna")
    changed = store.adjust_preferences(anna.profile.id, {POSITION: 99})
    assert (changed.profile.preferences, changed.previous) == ({POSITION: 99.0}, {POSITION: 120.0})
    assert store.adjust_preferences("Anna", {POSITION: 99}).previous == {POSITION: 120.0}
    back = store.bring_back_preferences("Anna")
    assert (back.profile.preferences, back.previous) == ({POSITION: 120.0}, {POSITION: 99.0})
    assert store.bring_back_preferences("anna").profile.preferences == {POSITION: 99.0}
    assert store.save("Anna", voice(1), 20, replace=True).previous == {POSITION: 120.0}


@pytest.mark.usefixtures("anna")
def test_an_adjustment_keeps_what_it_does_not_name(store: ProfileStore) -> None:
    """An ECU that reports one motor does not erase what is preferred of the others."""
    tilt = "Vehicle.Chassis.SteeringWheel.Tilt"
    adjusted = store.adjust_preferences("Anna", {tilt: 50}).profile.preferences
    assert adjusted == {POSITION: 120.0, tilt: 50.0}
    with pytest.raises(ProfileError, match="out of range"):
        store.adjust_preferences("Anna", {tilt: 5000})
    assert store.load().profiles[0].profile.preferences == adjusted


def test_what_is_brought_back_fits_the_car(anna: StoredProfile, tmp_path: Path) -> None:
    """The car's ranges have shrunk since: the old preferences stay away."""
    narrow = store_in(tmp_path, limits={POSITION: vss.Range(0, 100)})
    narrow.set_preferences(anna.profile.id, {POSITION: 90})
    with pytest.raises(ProfileError, match=r"120\.0 is out of range"):
        narrow.bring_back_preferences(anna.profile.id)


def test_a_key_is_one_drivers(store: ProfileStore, anna: StoredProfile) -> None:
    """It survives renaming and enrolling anew, and no second driver gets it."""
    assert anna.profile.key is None
    assert store.set_key("Anna", " 4f1a ").profile.key == "4f1a"
    store.rename("Anna", "Anne")
    assert store.save("Anne", voice(1), 20, replace=True).profile.key == "4f1a"
    assert store.set_key("Anne", "4f1a").profile.key == "4f1a"
    store.save("Bob", voice(2), 9)
    with pytest.raises(ProfileError, match=anna.profile.id):
        store.set_key("Bob", "4f1a")
    assert store.set_key("Anne", None).profile.key is None
    assert store.set_key("Bob", "4f1a").profile.key == "4f1a"


@pytest.mark.usefixtures("anna")
@pytest.mark.parametrize("fob", ["", "  ", "a\nb", "x" * 129])
def test_a_key_that_no_car_names_is_refused(store: ProfileStore, fob: str) -> None:
    """Nothing, control characters, and whole novels."""
    with pytest.raises(ProfileError, match="printable"):
        store.set_key("Anna", fob)


def test_a_profile_of_before_there_were_keys_is_read(
    store: ProfileStore, anna: StoredProfile, tmp_path: Path
) -> None:
    """A file that holds neither a key nor earlier preferences has none."""
    (path,) = files_of(tmp_path)
    key = (tmp_path / "key").read_bytes()
    data = path.read_bytes()
    start = profiles._HEADER_BYTES
    header, nonce, sealed = data[:start], data[start : start + 12], data[start + 12 :]
    bound = header + anna.profile.id.encode()
    plain = AESGCM(key).decrypt(nonce, sealed, bound)
    text, _, raw = plain.partition(b"\n")
    facts = json.loads(text)
    del facts["key"], facts["previous"]
    old = json.dumps(facts).encode() + b"\n" + raw
    path.write_bytes(header + nonce + AESGCM(key).encrypt(nonce, old, bound))
    (found,) = store.load().profiles
    assert (found.name, found.profile.key, found.previous) == ("Anna", None, None)
    assert found.profile.preferences == {POSITION: 120.0}


def test_only_an_id_is_held(store: ProfileStore, anna: StoredProfile) -> None:
    """A name, or a path, is nobody's id."""
    assert store.holds(anna.profile.id)
    for other in ("Anna", "d-00000000", "../key", ""):
        assert not store.holds(other)


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
    assert b"anna" not in data.lower()
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
    store = ProfileStore(tmp_path, tmp_path / "sub" / ".." / "key", ENCODER, LIMITS, "car")
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
        store.save("Anna", voice(), 9)
        store.save("Bob", voice(1), 9)
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
    data[len(b"whodrives profile")] = 3
    path.write_bytes(data)
    assert store.load().problems[0].startswith(f"profile {anna.profile.id}: has format 3")
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


# --- killed at every call, and a disk that is really full ----------------------------------------

CALLS = (
    "open",
    "fdopen",
    "fsync",
    "replace",
    "link",
    "close",
    "unlink",
    "mkdir",
    "rename",
    "fstat",
)


def counted_calls(monkeypatch: pytest.MonkeyPatch, fault: Callable[[], None], place: int) -> None:
    """Let the `place`-th of all calls that change files meet the fault, whichever it is."""
    left = iter(range(place, -1, -1))

    def failing(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            if next(left, 0) == 1:
                fault()
            return real(*arguments, **options)

        return call

    for name in CALLS:
        monkeypatch.setattr(os, name, failing(getattr(os, name)))
    monkeypatch.setattr(Path, "unlink", failing(Path.unlink))
    monkeypatch.setattr(Path, "rename", failing(Path.rename))
    monkeypatch.setattr(Path, "open", failing(Path.open))


def replace_and_die(folder: Path, place: int) -> None:
    """In a process of its own: enrol Anna anew, and be killed on the way."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        counted_calls(monkeypatch, power_cut, place)
        store_in(folder).save("Anna", voice(7), 21, replace=True)
    os._exit(0)


@pytest.mark.usefixtures("anna")
def test_killed_at_every_step_of_a_write_there_is_the_old_voice_or_the_new(tmp_path: Path) -> None:
    """Whatever call is the last one, the store opens and holds one whole voice; until it ends."""
    context = multiprocessing.get_context("fork")
    voices = {12.5: voice(), 21.0: voice(7)}
    survived = died = 0
    for place in range(1, 60):
        process = context.Process(target=replace_and_die, args=(tmp_path, place))
        process.start()
        process.join()
        (found,) = store_in(tmp_path).load().profiles
        assert np.array_equal(found.profile.embeddings, voices[found.profile.speech_s])
        if process.exitcode == 0:
            survived += 1
            break
        died += 1
    assert (survived, died > 10) == (1, True)
    assert len(files_of(tmp_path)) == 1


def full(folder: Path, most_bytes: int) -> None:
    """In a process of its own: no file may grow beyond so many bytes, as on a full disk."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))
    try:
        store_in(folder).save("Anna", voice(7, windows=21), 21, replace=True)
    except ProfileError as error:
        os._exit(1 if "free space" in str(error) else 3)
    os._exit(0)


@pytest.mark.parametrize("most_bytes", [0, 1, 100, 4096, 15_000])
@pytest.mark.usefixtures("anna")
def test_a_file_that_cannot_grow_leaves_the_old_one(tmp_path: Path, most_bytes: int) -> None:
    """The kernel itself refuses the bytes, early or late; the old voice stays and is said so."""
    process = multiprocessing.get_context("fork").Process(target=full, args=(tmp_path, most_bytes))
    process.start()
    process.join()
    assert process.exitcode == 1
    assert np.array_equal(store_in(tmp_path).load().profiles[0].profile.embeddings, voice())
    store_in(tmp_path).rename("Anna", "Anne")
    assert len(files_of(tmp_path)) == 1


# --- set aside ------------------------------------------------------------------------------------


def spoilt(path: Path, how: str) -> None:
    """Make a file no profile of this car any more."""
    data = bytearray(path.read_bytes())
    if how == "tampered":
        data[-1] ^= 1
    elif how == "truncated":
        del data[100:]
    elif how == "no profile":
        data[:] = b"hello"
    elif how == "downgraded":
        data[len(b"whodrives profile")] = 1
    path.write_bytes(data)


@pytest.mark.parametrize("how", ["tampered", "truncated", "no profile", "downgraded"])
def test_what_is_no_profile_is_set_aside_and_the_others_go_on(
    store: ProfileStore, anna: StoredProfile, tmp_path: Path, how: str
) -> None:
    """It is named each time, never deleted, never opened as a profile again; forget removes it."""
    store.save("Bob", voice(1), 9)
    path = tmp_path / "profiles" / f"{anna.profile.id}.profile"
    spoilt(path, how)
    kept = path.read_bytes()
    store.set_aside()
    store.set_aside()
    aside = path.with_name(path.name + ".rejected")
    assert aside.read_bytes() == kept
    assert not path.exists()
    for _ in range(2):
        loaded = store.load()
        assert [stored.name for stored in loaded.profiles] == ["Bob"]
        (problem,) = loaded.problems
        assert problem.startswith(f"profile {anna.profile.id}: ")
        assert f"set aside as {aside.name}" in problem
    store.forget(anna.profile.id)
    assert store.load().problems == ()


def test_two_rejected_files_of_one_driver_are_both_kept(
    store: ProfileStore, anna: StoredProfile, tmp_path: Path
) -> None:
    """The second does not overwrite the first."""
    store.save("Bob", voice(1), 9)
    path = tmp_path / "profiles" / f"{anna.profile.id}.profile"
    good = path.read_bytes()
    for _ in range(2):
        path.write_bytes(good[:-1])
        store.set_aside()
    assert len([file for file in files_of(tmp_path) if ".rejected" in file.name]) == 2


def test_a_wrong_key_sets_nobody_aside(
    store: ProfileStore, anna: StoredProfile, tmp_path: Path
) -> None:
    """When no file fits the key it is the key that is wrong."""
    right = (tmp_path / "key").read_bytes()
    (tmp_path / "key").write_bytes(bytes(32))
    store.set_aside()
    assert "was sealed with another key" in store.load().problems[0]
    (tmp_path / "key").write_bytes(right)
    assert store.load().profiles[0].profile.id == anna.profile.id


def test_a_newer_whodrives_file_is_not_set_aside(
    store: ProfileStore, anna: StoredProfile, tmp_path: Path
) -> None:
    """It is well, only not for this whodrives; the right one finds it where it was."""
    path = tmp_path / "profiles" / f"{anna.profile.id}.profile"
    data = bytearray(path.read_bytes())
    data[len(b"whodrives profile")] = 9
    path.write_bytes(data)
    store.set_aside()
    assert path.read_bytes() == data


def test_a_profile_of_another_car_is_refused(
    store: ProfileStore, anna: StoredProfile, tmp_path: Path
) -> None:
    """Even with the same key: a file that was copied over says so, and how to move a household."""
    loaded = store_in(tmp_path, vehicle="other").load()
    assert loaded.profiles == ()
    assert loaded.problems[0].startswith(f"profile {anna.profile.id}: belongs to another vehicle")
    assert "drivers export" in loaded.problems[0]
    assert [stored.name for stored in store.load().profiles] == ["Anna"]


# --- the voice before, and the last recognition ---------------------------------------------------


def test_the_voice_before_is_kept_until_the_new_one_settles_a_trip(
    store: ProfileStore, anna: StoredProfile
) -> None:
    """A bad second enrolment can be gone back on; a recognised one cannot."""
    again = store.save("Anna", voice(1, windows=6), 20, replace=True)
    assert again.before is not None
    back = store.restore("Anna")
    assert np.array_equal(back.profile.embeddings, voice())
    assert (back.profile.speech_s, back.enrolled_at) == (12.5, anna.enrolled_at)
    store.save("Anna", voice(1), 20, replace=True)
    store.recognised(anna.profile.id)
    (found,) = store.load().profiles
    assert found.before is None
    assert np.array_equal(found.profile.embeddings, voice(1))
    with pytest.raises(ProfileError, match="no voice before"):
        store.restore("Anna")


def test_a_second_try_does_not_push_the_proven_voice_out(
    store: ProfileStore, anna: StoredProfile
) -> None:
    """What is gone back to is the voice that proved itself, not the last attempt."""
    store.save("Anna", voice(1), 20, replace=True)
    store.save("Anna", voice(2), 20, replace=True)
    assert np.array_equal(store.restore("Anna").profile.embeddings, anna.profile.embeddings)


def test_a_recognition_is_written_once_a_day(
    store: ProfileStore, anna: StoredProfile, tmp_path: Path
) -> None:
    """The day alone is kept, and flash memory is spared."""
    store.recognised(anna.profile.id)
    first = files_of(tmp_path)[0].read_bytes()
    store.recognised(anna.profile.id)
    assert files_of(tmp_path)[0].read_bytes() == first
    (found,) = store.load().profiles
    assert found.recognised_on == datetime.now(UTC).date().isoformat()


def test_who_was_not_recognised_for_long_is_offered_to_be_forgotten(anna: StoredProfile) -> None:
    """Counted from the last recognition, else from the enrolment; never when it is switched off."""
    old = dataclasses.replace(anna, enrolled_at="2020-01-01")
    seen = dataclasses.replace(old, recognised_on=datetime.now(UTC).date().isoformat())
    assert [stored for stored, _ in unused([anna, old, seen], 365)] == [old]
    assert unused([old], 0) == ()


def test_consent_is_kept_in_the_sealed_file_alone(store: ProfileStore, tmp_path: Path) -> None:
    """Who agreed, when, to what; nothing of it in the clear."""
    consent = Consent("Zebediah Quux", "2026-11-25T08:00:00+00:00", "2026-11")
    store.save("Zeb", voice(), 20, consent=consent)
    (found,) = store.load().profiles
    assert found.consent == consent
    assert b"Quux" not in files_of(tmp_path)[0].read_bytes()


def test_forgetting_gives_a_receipt_without_what_was_forgotten(
    store: ProfileStore, anna: StoredProfile, tmp_path: Path
) -> None:
    """Everything there was of the driver is named by kind, and is gone."""
    consent = Consent("Anna Quux", "2026-11-25T08:00:00+00:00", "2026-11")
    store.save("Anna", voice(1), 20, consent=consent, replace=True)
    receipt = store.forget("anna")
    text = "\n".join(receipt.erased)
    assert receipt.driver == anna.profile.id
    for word in ("3 embeddings", "voice before", "1 preferences", "consent", "sealed file"):
        assert word in text
    assert "Anna" not in text
    assert files_of(tmp_path) == []


# --- from car to car ------------------------------------------------------------------------------

PASSPHRASE = "four words nobody guesses"  # noqa: S105 (a test is no secret)


def test_a_household_moves_to_another_car(
    store: ProfileStore, anna: StoredProfile, tmp_path: Path
) -> None:
    """Names, voices, preferences, ids and consents arrive; another key and another car."""
    store.save("Bob", voice(1), 9, consent=Consent("Bob", "2026-11-25T08:00:00+00:00", "2026-11"))
    file = tmp_path / "household"
    assert store.export(file, PASSPHRASE) == 2
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    sealed = file.read_bytes()
    assert b"Anna" not in sealed
    assert voice().tobytes()[:16] not in sealed
    other = store_in(tmp_path / "other", vehicle="other")
    (tmp_path / "other").mkdir()
    assert {stored.name for stored in other.import_household(file, PASSPHRASE)} == {"Anna", "Bob"}
    by_name = {stored.name: stored for stored in other.load().profiles}
    assert by_name["Anna"].profile.id == anna.profile.id
    assert by_name["Anna"].profile.preferences == {POSITION: 120.0}
    assert np.array_equal(by_name["Bob"].profile.embeddings, voice(1))
    assert by_name["Bob"].consent is not None


@pytest.mark.parametrize("fault", ["passphrase", "changed", "cut", "not one"])
@pytest.mark.usefixtures("anna")
def test_a_household_that_cannot_be_read_is_refused(
    store: ProfileStore, tmp_path: Path, fault: str
) -> None:
    """A wrong passphrase or a changed byte: the file is named, and nobody is taken in."""
    file = tmp_path / "household"
    store.export(file, PASSPHRASE)
    data = bytearray(file.read_bytes())
    if fault == "changed":
        data[-1] ^= 1
    elif fault == "cut":
        del data[30:]
    elif fault == "not one":
        data[:] = b"something else"
    file.write_bytes(data)
    (tmp_path / "other").mkdir()
    other = store_in(tmp_path / "other")
    with pytest.raises(ProfileError, match="household"):
        other.import_household(file, PASSPHRASE + "!" * (fault == "passphrase"))
    assert other.load().profiles == ()


@pytest.mark.usefixtures("anna")
def test_an_arrival_never_replaces_who_is_there(store: ProfileStore, tmp_path: Path) -> None:
    """One namesake, and nobody of the file is taken in; nor is an exported file overwritten."""
    store.save("Bob", voice(1), 9)
    file = tmp_path / "household"
    store.export(file, PASSPHRASE)
    with pytest.raises(ProfileError, match="cannot write"):
        store.export(file, PASSPHRASE)
    (tmp_path / "other").mkdir()
    other = store_in(tmp_path / "other")
    other.save("bob", voice(5), 9)
    with pytest.raises(ProfileError, match="enrolled here already"):
        other.import_household(file, PASSPHRASE)
    assert [stored.name for stored in other.load().profiles] == ["bob"]


@pytest.mark.usefixtures("anna")
def test_a_short_passphrase_is_refused(store: ProfileStore, tmp_path: Path) -> None:
    """What seals a household must not be guessed in an afternoon."""
    with pytest.raises(ProfileError, match="at least 12 characters"):
        store.export(tmp_path / "household", "12345678901")
    assert not (tmp_path / "household").exists()


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
    path.write_bytes(profiles._sealed(key, "car", ENCODER, anna.profile.id, payload))
    loaded = store.load()
    assert loaded.profiles == ()
    assert "holds no valid profile" in loaded.problems[0]
