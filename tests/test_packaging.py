"""Three links in git, and a wheel built from the sdist that works in an empty folder."""

import json
import shutil
import subprocess
import sys
import tarfile
import zipfile

import pytest

LINKS = ("design", "surrogates", "trigger")


def git(root, *arguments):
    if shutil.which("git") is None or not (root / ".git").exists():
        pytest.skip("NOT TESTED: this tree is no git checkout")
    # continuous integration may run as another user than the one who owns the checkout
    command = ["git", "-c", f"safe.directory={root}", *arguments]
    return subprocess.run(command, cwd=root, capture_output=True, text=True, check=True, timeout=60).stdout


def modules(root, folder):
    """The Python files of one of the three top-level folders, as `folder/...`."""
    return {p.relative_to(root).as_posix() for p in (root / folder).rglob("*.py")}


@pytest.mark.parametrize("name", LINKS)
def test_the_links_are_relative_and_lead_to_the_top_level_folders(root, name):
    link = root / "diffhep" / name
    assert link.is_symlink()
    assert str(link.readlink()) == f"../{name}"
    assert link.resolve() == root / name


@pytest.mark.parametrize("name", LINKS)
def test_git_keeps_the_links_as_links(root, name):
    mode, blob, *_ = git(root, "ls-files", "-s", f"diffhep/{name}").split()
    assert mode == "120000"
    assert git(root, "cat-file", "blob", blob) == f"../{name}"


@pytest.mark.parametrize("name", LINKS)
def test_a_clone_has_the_folders_the_links_lead_to(root, name):
    # git keeps no empty folder: the link would lead nowhere, and neither a wheel nor the layer check could be made
    assert git(root, "ls-files", "--cached", "--others", "--exclude-standard", f"{name}/*.py")


def test_nothing_that_is_built_is_in_git(root):
    built = ("__pycache__/", ".venv/", "dist/", ".jax_cache/", ".hypothesis/", "runs/")
    assert [f for f in git(root, "ls-files").splitlines() if any(part in f"{f}/" for part in built)] == []


def test_tests_are_no_package(root):
    assert list((root / "tests").rglob("__init__.py")) == []


@pytest.fixture(scope="module")
def distributions(tmp_path_factory, root):
    """The sdist of the working tree, and the wheel built from that sdist alone."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(root)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (sdist,), (wheel,) = folder.glob("*.tar.gz"), folder.glob("*.whl")
    return sdist, wheel


@pytest.mark.slow
def test_the_wheel_holds_every_module_and_sample(root, distributions):
    names = set(zipfile.ZipFile(distributions[1]).namelist())
    for folder in LINKS:
        assert {f"diffhep/{name}" for name in modules(root, folder)} <= names
    assert {f"diffhep/trigger/{name}.py" for name in ("__init__", "menu", "rate", "export")} <= names
    folders = ("samples", "generate/geant4_data")
    found = [p for name in folders for p in (root / "diffhep" / name).rglob("*") if p.is_file()]
    data = {p.relative_to(root).as_posix() for p in found}
    # an empty file without which Geant4 aborts
    assert "diffhep/generate/geant4_data/G4ENSDFSTATE3.0/ENSDFSTATE.dat" in data
    assert data <= names
    assert {"diffhep/py.typed", "diffhep/cli/__main__.py"} <= names
    assert not [n for n in names if n.split("/")[0] not in ("diffhep",) and ".dist-info/" not in n]


@pytest.mark.slow
def test_the_sdist_holds_each_file_once_and_no_links(distributions):
    with tarfile.open(distributions[0]) as tar:
        members = tar.getmembers()
    assert not [m.name for m in members if m.issym() or m.islnk()]
    files = [m.name for m in members if m.isfile()]
    assert len(files) == len(set(files))
    inside = {name.split("/", 1)[1] for name in files}
    assert "diffhep/trigger/menu.py" in inside
    assert "trigger/menu.py" not in inside
    assert {"Makefile", "requirements.lock", "pyproject.toml", "LICENSE", "README.md", "tests/conftest.py"} <= inside
    assert not [name for name in inside if "__pycache__" in name or name.startswith((".venv", "runs"))]


@pytest.mark.slow
def test_the_wheel_works_in_an_empty_folder(tmp_path, distributions):
    unpacked, empty = tmp_path / "site", tmp_path / "empty"
    empty.mkdir()
    zipfile.ZipFile(distributions[1]).extractall(unpacked)
    # -I ignores PYTHONPATH and the working folder: the path is set by hand, before the checkout's
    code = f"""
import json, sys
sys.path.insert(0, {str(unpacked)!r})
import diffhep, diffhep.trigger, diffhep.trigger.menu, diffhep.detector, diffhep.design.config
from diffhep.io import read_sample, shipped
files = [m.__file__ for m in (diffhep, diffhep.trigger.menu, diffhep.design.config)]
print(json.dumps([*files, read_sample(shipped("higgs-diphoton")).events.size]))
"""
    done = subprocess.run(
        [sys.executable, "-I", "-c", code], cwd=empty, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    *files, events = json.loads(done.stdout.splitlines()[-1])
    assert all(file.startswith(str(unpacked)) for file in files)
    assert events > 0
