"""The package's lists: an SBOM, and the hash of each file; that a difference is noticed."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tools.package.bill import HASHES, MODELS, SBOM, SITE, BillError, sha256, verify, write


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A package with a library, a model and a setting."""
    made = {
        SITE / "numpy-2.4.6.dist-info" / "METADATA": "Name: numpy\nVersion: 2.4.6\n"
        "Classifier: License :: OSI Approved :: BSD License\n",
        SITE / "numpy" / "__init__.py": "",
        SITE / "whodrives-0.1.0.dist-info" / "METADATA": "Name: whodrives\nVersion: 0.1.0\n",
        MODELS / "gate.onnx": "network",
        MODELS / "gate.json": '{"licence": "MIT, Copyright (c) Somebody"}',
        Path("etc/whodrives/whodrives.yaml"): "{}",
    }
    for name, text in made.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    write(tmp_path, "0.1.0")
    return tmp_path


def test_the_lists_are_complete(tree: Path) -> None:
    """Each file but the list itself, each library, each model; and the same bytes twice."""
    assert verify(tree) == (7, 2)
    sbom, hashes = (tree / SBOM).read_bytes(), (tree / HASHES).read_bytes()
    write(tree, "0.1.0")
    assert (tree / SBOM).read_bytes() == sbom
    assert (tree / HASHES).read_bytes() == hashes
    bill = json.loads(sbom)
    assert bill["bomFormat"] == "CycloneDX"
    assert bill["metadata"]["component"]["name"] == "whodrives"
    assert "BSD License" in str(bill["components"])
    assert [each.get("purl") for each in bill["components"]].count("pkg:pypi/numpy@2.4.6") == 1


def _sbom(tree: Path, change: Callable[[str], str]) -> None:
    """Change the SBOM, and list it with its new hash."""
    (tree / SBOM).write_text(change((tree / SBOM).read_text()))
    lines = [line for line in (tree / HASHES).read_text().splitlines() if str(SBOM) not in line]
    lines.append(f"{sha256(tree / SBOM)}  {SBOM}")
    (tree / HASHES).write_text("\n".join(lines) + "\n")


def _other_hash(tree: Path) -> None:
    model = sha256(tree / MODELS / "gate.onnx")
    _sbom(tree, lambda text: text.replace(model, "0" * 64))


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (lambda t: (t / SITE / "numpy/__init__.py").write_text("x"), "numpy/__init__.py"),
        (lambda t: (t / SITE / "numpy/__init__.py").unlink(), "numpy/__init__.py"),
        (lambda t: (t / "etc/more").write_text(""), "etc/more"),
        (lambda t: (t / MODELS / "gate.onnx").write_text("other"), "gate.onnx"),
        (lambda t: _sbom(t, lambda text: text.replace("2.4.6", "2.4.7")), "numpy"),
        (lambda t: _sbom(t, lambda text: text.replace('"bomFormat"', '"format"')), "sbom"),
        (_other_hash, "a model's hash differs"),
    ],
    ids=["changed", "gone", "added", "model", "version", "schema", "hash"],
)
def test_any_difference_is_noticed(tree: Path, harm: Callable[[Path], object], words: str) -> None:
    """A file that is changed, gone or added; an SBOM that is no SBOM, or names something else."""
    harm(tree)
    with pytest.raises(BillError, match=words):
        verify(tree)
