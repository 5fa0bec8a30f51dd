"""What the Debian package holds: an SBOM (CycloneDX 1.6, JSON), and the SHA-256 of each file.

    python tools/package/bill.py write TREE VERSION      # before dpkg-deb packs TREE
    python tools/package/bill.py verify PACKAGE.deb

TREE is a package's folder as debhelper fills it. Both files go to usr/share/doc/whodrives. `verify`
unpacks the finished package and checks that the list names each file of it with its hash, that the
SBOM satisfies the CycloneDX schema, and that it names what is there: each Python package with its
version, and each model with its hash.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tempfile
from email.parser import HeaderParser
from importlib.metadata import PathDistribution
from pathlib import Path
from uuid import NAMESPACE_URL, uuid5

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import HashAlgorithm, HashType
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.contact import OrganizationalEntity
from cyclonedx.output.json import JsonV1Dot6
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packageurl import PackageURL

DOCS = Path("usr/share/doc/whodrives")
SBOM = DOCS / "sbom.cdx.json"
HASHES = DOCS / "sha256sums"
SITE = Path("opt/whodrives/lib/python3.11/site-packages")
MODELS = Path("opt/whodrives/models")
CONTROL = "DEBIAN"


class BillError(Exception):
    """The package does not hold what its lists say; the text says what differs."""


def sha256(path: Path) -> str:
    """The file's SHA-256 in hexadecimal digits."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def files(tree: Path) -> list[Path]:
    """The package's regular files relative to it, without control files and the list itself."""
    found = (path for path in tree.rglob("*") if path.is_file() and not path.is_symlink())
    names = sorted(path.relative_to(tree) for path in found)
    return [name for name in names if name.parts[0] != CONTROL and name != HASHES]


def distributions(tree: Path) -> dict[str, str]:
    """Name and version of each Python package in the tree."""
    found = (PathDistribution(path) for path in (tree / SITE).glob("*.dist-info"))
    return {each.metadata["Name"]: each.version for each in found}


def sbom(tree: Path, version: str) -> str:
    """The SBOM of this tree; the same tree gives the same text."""
    bom = Bom()
    bom.serial_number = uuid5(NAMESPACE_URL, f"whodrives {version}")
    bom.metadata.timestamp = None  # type: ignore[assignment]  # the same tree gives the same bytes
    licences = LicenseFactory()
    bom.metadata.component = Component(
        name="whodrives",
        version=version,
        type=ComponentType.APPLICATION,
        bom_ref="whodrives",
        supplier=OrganizationalEntity(name="whodrives contributors"),
        licenses=[licences.make_from_string("Apache-2.0")],
    )
    for path in sorted((tree / SITE).glob("*.dist-info")):
        about = HeaderParser().parsestr((path / "METADATA").read_text(encoding="utf-8"))
        name, number = about["Name"], about["Version"]
        if name == "whodrives":
            continue
        said = about["License-Expression"] or about["License"] or ""
        one_line = said if "\n" not in said else ""
        if not one_line:  # some say it by a classifier alone
            classifiers = about.get_all("Classifier", [])
            terms = [each.split(" :: ")[-1] for each in classifiers if each.startswith("License")]
            one_line = terms[0] if terms else ""
        bom.components.add(
            Component(
                name=name,
                version=number,
                type=ComponentType.LIBRARY,
                bom_ref=f"pypi/{name}",
                purl=PackageURL("pypi", name=name.lower(), version=number),
                licenses=[licences.make_from_string(one_line)] if one_line else [],
            )
        )
    for path in sorted((tree / MODELS).glob("*.onnx")):
        manifest = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        digest = sha256(path)
        bom.components.add(
            Component(
                name=path.name,
                version=digest[:12],
                type=ComponentType.MACHINE_LEARNING_MODEL,
                bom_ref=f"model/{path.name}",
                description=manifest["licence"],
                hashes=[HashType(alg=HashAlgorithm.SHA_256, content=digest)],
                licenses=[licences.make_from_string(manifest["licence"].split(",")[0])],
            )
        )
    bom.register_dependency(bom.metadata.component, bom.components)
    return JsonV1Dot6(bom).output_as_string(indent=1) + "\n"


def write(tree: Path, version: str) -> None:
    """Write both files into the tree."""
    (tree / DOCS).mkdir(parents=True, exist_ok=True)
    (tree / SBOM).write_text(sbom(tree, version), encoding="utf-8")
    lines = [f"{sha256(tree / name)}  {name}\n" for name in files(tree)]
    (tree / HASHES).write_text("".join(lines), encoding="utf-8")


def verify(tree: Path) -> tuple[int, int]:
    """Check both files against the tree; returns the number of files and of components.

    Raises:
        BillError: something differs.
    """
    lines = (tree / HASHES).read_text(encoding="utf-8").splitlines()
    listed = {Path(line[66:]): line[:64] for line in lines}
    there = {name: sha256(tree / name) for name in files(tree)}
    if listed != there:
        wrong = sorted(str(name) for name, _ in set(listed.items()) ^ set(there.items()))
        raise BillError(f"{HASHES}: missing or different: {', '.join(dict.fromkeys(wrong))}")
    text = (tree / SBOM).read_text(encoding="utf-8")
    if error := JsonStrictValidator(SchemaVersion.V1_6).validate_str(text):
        raise BillError(f"{SBOM}: {error}")
    components = json.loads(text)["components"]
    named = {each["name"]: each["version"] for each in components if each["type"] == "library"}
    installed = {n: v for n, v in distributions(tree).items() if n != "whodrives"}
    if named != installed:
        raise BillError(f"{SBOM}: {set(named.items()) ^ set(installed.items())}")
    models = {
        each["name"]: each["hashes"][0]["content"]
        for each in components
        if each["type"] == "machine-learning-model"
    }
    if models != {path.name: sha256(path) for path in (tree / MODELS).glob("*.onnx")}:
        raise BillError(f"{SBOM}: a model's hash differs")
    return len(there), len(components)


def main(arguments: list[str]) -> None:
    """Write or verify, and say what was done."""
    match arguments:
        case ["write", tree, version]:
            write(Path(tree), version)
        case ["verify", package]:
            with tempfile.TemporaryDirectory() as folder:
                subprocess.run(["dpkg-deb", "--extract", package, folder], check=True)
                count, components = verify(Path(folder))
            print(f"package: {count} files and {components} components are what the lists say")
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except BillError as error:
        sys.exit(f"package: {error}")
