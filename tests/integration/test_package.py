"""What of the Debian package is checked without building it; tools/package has the rest."""

import os
import re
import subprocess
from pathlib import Path

import pytest

from whodrives import __version__

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "tools" / "package"
DEBIAN = PACKAGE / "debian"
SCRIPT = DEBIAN / "whodrives.postrm"
LINK = re.compile(r"\]\((?!\w+:)([^)#]+)")
KEPT = ("etc/whodrives/whodrives.yaml", "etc/credstore/other")
DATA = (
    "var/lib/whodrives/profile-key",
    "var/lib/whodrives/profiles/d-00000000.profile",
    "etc/credstore/whodrives.profile-key",
    "etc/credstore.encrypted/whodrives.profile-key",
    "run/whodrives/trip-car.json",
)


@pytest.mark.parametrize(
    ("shell", "script"),
    [
        ("sh", SCRIPT),
        ("bash", PACKAGE / "build"),
        ("bash", PACKAGE / "try"),
        ("bash", ROOT / "tools" / "aarch64" / "try"),
    ],
    ids=lambda value: getattr(value, "name", value),
)
def test_the_scripts_are_scripts(shell: str, script: Path) -> None:
    """A shell reads them to their end; the maintainer's with the plain one that Debian has."""
    done = subprocess.run([shell, "-n", script], check=False, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.fixture
def car(tmp_path: Path) -> Path:
    """A root with drivers, keys and settings in it."""
    for name in (*KEPT, *DATA):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path


def removed(car: Path, how: str) -> tuple[set[str], str]:
    """What is left of the files, and what is said, after the script ran in that root."""
    script = re.sub(r"(?<![\w.])/(var|etc|run)/", rf"{car}/\1/", SCRIPT.read_text(encoding="utf-8"))
    done = subprocess.run(
        ["sh", "-c", script, "postrm", how], check=True, capture_output=True, text=True
    )
    return {name for name in (*KEPT, *DATA) if (car / name).exists()}, done.stderr


def test_purging_erases_drivers_and_keys_and_says_so(car: Path) -> None:
    """Whoever sells the car sells no voices; other credentials are not ours."""
    left, said = removed(car, "purge")
    assert left == set(KEPT)
    assert "erasing every enrolled driver and the key" in said
    assert said.count("erasing the key in") == 2


@pytest.mark.parametrize("how", ["remove", "upgrade", "failed-upgrade", "abort-install"])
def test_anything_else_keeps_them(car: Path, how: str) -> None:
    """A driver is not lost to an upgrade."""
    assert removed(car, how) == ({*KEPT, *DATA}, "")


def pages() -> set[str]:
    """What the package puts into /usr/share/doc/whodrives, relative to it."""
    patterns = (PACKAGE / "pages").read_text(encoding="utf-8").split()
    listed = subprocess.run(
        ["git", "ls-files", *patterns], cwd=ROOT, check=True, capture_output=True, text=True
    )
    return set(listed.stdout.splitlines())


def test_the_parts_fit_each_other() -> None:
    """The unit starts the program that the package installs, and the version is Debian's too."""
    unit = (ROOT / "systemd" / "whodrives.service").read_text(encoding="utf-8")
    assert "\nExecStart=/opt/whodrives/bin/whodrives --config /etc/whodrives/whodrives.yaml" in unit
    links = (DEBIAN / "whodrives.links").read_text(encoding="utf-8")
    assert links == "opt/whodrives/bin/whodrives usr/bin/whodrives\n"
    assert (PACKAGE / "whodrives").read_text(encoding="utf-8").startswith("#!/opt/whodrives/bin/")
    documented = re.findall(r"file:///usr/share/doc/whodrives/(\S+)", unit)
    assert documented
    assert set(documented) <= pages()
    assert re.fullmatch(r"[0-9][0-9A-Za-z.+~]*", __version__)


def test_no_link_leads_out_of_the_package() -> None:
    """Whoever reads the pages in the car, without internet, finds what they point to."""
    shipped = pages()
    folders = {str(parent) for page in shipped for parent in Path(page).parents}
    broken = [
        f"{page}: {link}"
        for page in shipped
        if page.endswith(".md")
        for link in LINK.findall((ROOT / page).read_text(encoding="utf-8"))
        if os.path.normpath(Path(page).parent / link) not in shipped | folders
    ]
    assert not broken


def test_the_drivers_folder_is_there_before_the_first_start(tmp_path: Path) -> None:
    """Its owner's alone, as the unit wants it; nothing in it is ever cleaned away."""
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "passwd").write_text("whodrives:x:997:997::/:/bin/false\n")
    (tmp_path / "etc" / "group").write_text("whodrives:x:997:\n")
    made = subprocess.run(
        ["systemd-tmpfiles", f"--root={tmp_path}", "--create", ROOT / "systemd/whodrives.tmpfiles"],
        check=False,
        capture_output=True,
        text=True,
    )
    folder = tmp_path / "var" / "lib" / "whodrives"
    assert folder.is_dir(), made.stderr
    assert folder.stat().st_mode & 0o777 == 0o700
