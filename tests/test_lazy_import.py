"""`import diffhep` and `diffhep --help` do not wait for JAX, and every name of the top level resolves."""

import importlib.util
import json
import subprocess
import sys

import pytest

import diffhep

HEAVY = ("jax", "jaxlib", "equinox", "flax", "optax", "hls4ml", "uproot", "awkward", "matplotlib", "pythia8mc", "pyhf")


def loaded_after(code, folder):
    """Which heavy modules are loaded after some code, in an interpreter of its own."""
    script = f"""
import atexit, json, sys
atexit.register(lambda: print("LOADED", json.dumps([m for m in {HEAVY} if m in sys.modules])))
{code}
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=folder, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.split("LOADED")[-1]), done.stdout


def test_importing_diffhep_loads_nothing_heavy(tmp_path):
    assert loaded_after("import diffhep; print(diffhep.__version__)", tmp_path)[0] == []


def test_a_name_loads_its_module(tmp_path):
    assert "jax" in loaded_after("import diffhep; diffhep.Param", tmp_path)[0]


def test_help_loads_no_jax(tmp_path):
    if importlib.util.find_spec("diffhep.cli") is None:
        pytest.skip("NOT TESTED: diffhep.cli does not exist yet")
    code = "import runpy, sys; sys.argv = ['diffhep', '--help']; runpy.run_module('diffhep.cli', run_name='__main__')"
    loaded, text = loaded_after(code, tmp_path)
    assert "usage: diffhep" in text
    assert not {"jax", "jaxlib", "equinox", "flax", "optax", "hls4ml", "uproot", "matplotlib"} & set(loaded)


@pytest.mark.parametrize(("module", "name"), [(m, n) for m, names in diffhep.HOMES.items() for n in names])
def test_every_name_is_that_of_its_home(module, name):
    assert getattr(diffhep, name) is getattr(importlib.import_module(f"diffhep.{module}"), name)
    assert name in dir(diffhep)


def test_type_checkers_see_the_names_that_exist(root):
    text = (root / "diffhep" / "__init__.py").read_text()
    declared = {line.split(" as ")[-1] for line in text.splitlines() if line.startswith("    from diffhep.")}
    assert declared == {name for names in diffhep.HOMES.values() for name in names}


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'diffhep' has no attribute 'Parm'"):
        diffhep.Parm  # noqa: B018


@pytest.mark.parametrize(
    "room", ["detector", "reconstruction", "tagging", "inference", "io", "generate", "trigger", "trigger.menu"]
)
def test_rooms_import(room):
    assert importlib.import_module(f"diffhep.{room}").__name__ == f"diffhep.{room}"
