"""The report of a run, on a synthetic result: no number here was measured."""

import base64
import copy
import dataclasses
import json
import re
from decimal import Decimal
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure
from matplotlib.patches import StepPatch

from diffhep import figures
from diffhep.audit import AuditRow
from diffhep.checked import Value
from diffhep.io import RunFolder
from diffhep.logic_figures import logic_front
from diffhep.report import (
    agreement,
    best_cell,
    final_point,
    over_budget,
    parameter_rows,
    verdict,
    warnings,
    write_report,
)
from diffhep.result import Compared, Front, Grid, Proof, RateCurve, Result, Spectrum
from diffhep.trigger import verify
from diffhep.typeset import number, pm, seconds

SECTIONS = """found significance ascent starts spectrum parameters constraints detector resolution front scan audit cost
    trigger turn-on rate fpga formats provenance timing versions""".split()  # noqa: SIM905
TIMES, MINUS, DASH = "\N{MULTIPLICATION SIGN}", "\N{MINUS SIGN}", "\N{EN DASH}"
FIGURES = ("ascent", "spectrum", "resolution", "front", "scan", "audit", "turn_on", "rate")


def synthetic() -> dict[str, Any]:
    """A plausible `result.json`, made up with a fixed seed."""
    rng = np.random.default_rng(20)
    initial, final = {"value": 2.153, "stderr": 0.047}, {"value": 2.583, "stderr": 0.052}
    budgets = {
        "cost": (60.0, 60.0, "cost unit", 0.0217),
        "depth": (231.4, 250.0, "mm", 0.0),
        "rate": (203.1, 200.0, "Hz", 0.0011),
    }
    audit = [compared(name, role, unit, rng) for name, (_, _, unit, role, _, _) in PARAMETERS.items()]
    audit += [compared(f"tagger.layers[{i}].weight[{i},{3 * i % 7}]", "weight", "", rng) for i in range(12)]
    return {
        "study": "higgs-diphoton",
        "objective": "expected discovery significance Z",
        "initial": {"relaxed": {"value": 2.231, "stderr": 0.044}, "hard": initial},
        "final": {"relaxed": {"value": 2.641, "stderr": 0.049}, "hard": final},
        "improvement": {"value": 0.430, "stderr": 0.031, "significance": 0.430 / 0.031},
        "parameters": {
            name: {
                "initial": before,
                "final": after,
                "unit": unit,
                "role": role,
                "bounds": bounds,
                "gradient": gradient,
                "worth": gradient / 2.641,
            }
            for name, (before, after, unit, role, bounds, gradient) in PARAMETERS.items()
        },
        "constraints": {
            name: {
                "value": use,
                "stderr": 4.2 if name == "rate" else 0.0,
                "initial": {"cost": 58.2, "depth": 240.0, "rate": 197.5}[name],
                "relaxed": use - 1.5 if name == "rate" else use,
                "limit": limit,
                "unit": unit,
                "multiplier": multiplier,
                "active": multiplier > 0,
            }
            for name, (use, limit, unit, multiplier) in budgets.items()
        },
        "kkt": {"residual": 3.1e-5, "excess": -1.0e-7},
        "audit": audit,
        "data": {
            name: {
                "file": f"{name}.root",
                "process": process,
                "seed": seed,
                "cross_section_pb": cross_section,
                "generated": 200000,
                "events": 16000,
            }
            for name, process, seed, cross_section in (
                ("signal", "higgs-diphoton", 11, 0.1101),
                ("background", "diphoton", 12, 118.4),
                ("jets", "jets", 13, 6.3e7),
            )
        },
        "starts": synthetic_starts(rng),
        "front": {
            "constraint": "cost",
            "points": [
                {
                    "limit": limit,
                    "used": [0.999 * limit, 3.9 * limit, 199.0],
                    "objective": 3.05 * (1 - np.exp(-limit / 31)),
                }
                for limit in 60 * np.geomspace(0.4, 1.6, 8)
            ],
        },
        "grid": synthetic_grid(),
        "gradient_cost_ratio": 2.41,
        "compilations": {"ascent": 1, "sensitivities": 1},
        "seed": 1,
        "pictures": synthetic_pictures(rng),
        "timing": {"initial": 48.2, "first_chunk": 21.0, "ascent": 312.9, "integers": 61.4, "judge": 9.7, "cost": 0.42},
        "versions": {"diffhep": "0.1.0", "jax": "0.10.1", "numpy": "2.4.0"},
    }


# initial, final, unit, role, bounds, gradient
PARAMETERS = {
    "calorimeter.absorber": (5.6, 2.71, "mm", "geometry", [0.3, 20.0], 0.0614),
    "calorimeter.active": (4.0, 3.18, "mm", "geometry", [0.3, 20.0], 0.0331),
    "calorimeter.layers": (25.0, 41.0, "", "geometry", [4.0, 160.0], 0.0262),
    "menu.leading": (33.7, 31.2, "GeV", "threshold", [18.0, 100.0], -0.0213),
    "menu.subleading": (24.1, 21.9, "GeV", "threshold", [14.0, 80.0], -0.0342),
    "photon_cut": (-0.41, 0.37, "logit", "threshold", None, -1.2e-4),
    "nuisances.energy_scale": (0.0, 0.0, "sigma", "nuisance", None, 0.0021),
}


def compared(name: str, role: str, unit: str, rng: np.random.Generator) -> dict[str, Any]:
    relative = float(10 ** rng.uniform(-11.5, -7.5))
    value = float(rng.normal())
    content = {"name": name, "role": role, "unit": unit, "automatic": value, "difference": value * (1 + relative)}
    return content | {"error": abs(value) * 1e-9, "relative": relative, "passed": True}


def synthetic_starts(rng: np.random.Generator) -> dict[str, Any]:
    steps, lanes = np.arange(150)[:, None], 4
    begin, end, speed = (
        np.array([2.2, 1.4, 2.9, 0.9]),
        np.array([2.661, 2.655, 2.652, 2.43]),
        np.array([18, 30, 22, 41]),
    )
    history = end + (begin - end) * np.exp(-steps / speed) + 0.01 * rng.normal(size=(150, lanes)) * np.exp(-steps / 60)
    return {
        "count": lanes,
        "agree": 3,
        "tolerance": 0.005,
        "objectives": history[-1].tolist(),
        "within_budget": [True, True, True, False],
        "history": history.tolist(),
    }


def synthetic_grid(points: int = 7) -> dict[str, Any]:
    axes = [centre * np.geomspace(0.75, 1.35, points) for centre in (2.71, 3.18)]
    rows = [
        [
            {
                "objective": 2.583 - 1.1 * np.log(a / 2.6) ** 2 - 0.9 * np.log(b / 3.6) ** 2,
                "stderr": 0.052,
                "cost": 41 * (1 + 0.02 * a + 0.05 * b) + 10.2,
                "depth": 41 * (a + b),
                "rate": 199.0 + 4 * np.log(b / 3.18),
            }
            for b in axes[1]
        ]
        for a in axes[0]
    ]
    return {"names": ["absorber", "active"], "unit": "mm", "axes": [a.tolist() for a in axes], "rows": rows}


def synthetic_pictures(rng: np.random.Generator) -> dict[str, Any]:
    edges = np.linspace(105, 160, 56)
    centres = (edges[1:] + edges[:-1]) / 2

    def spectrum(width: float, signal: float, fakes: float) -> dict[str, Any]:
        shape = np.exp(-0.5 * ((centres - 125) / width) ** 2) / (width * np.sqrt(2 * np.pi))
        background = 9000 * np.exp(-(centres - 105) / 27)
        share = fakes * background * (1 + 0.05 * rng.normal(size=centres.size))
        content = {"signal": signal * shape, "background": background, "continuum": background - share, "fakes": share}
        return {name: values.tolist() for name, values in content.items()}

    thickness = np.linspace(0.5, 12, 60)
    terms = {
        "sampling": 0.03 * thickness**0.5 / 60**0.5 * 1.9,
        "photo-statistics": 0.004 + 0.0002 * thickness,
        "leakage": 0.05 * np.exp(-thickness / 1.3),
        "noise": np.full(60, 5e-4),
    }
    terms["total"] = np.sqrt(sum(term**2 for term in terms.values()) + 0.003**2)

    def turn_on(threshold: float) -> dict[str, Any]:
        centres = np.linspace(16.25, 78.75, 26)
        efficiency = 0.93 / (1 + np.exp(-(centres - threshold) / 1.4))
        number = 400 * np.exp(-(((centres - 50) / 18) ** 2)) + 8
        error = np.sqrt(efficiency * (1 - efficiency) / number + 1e-6)
        filled = [True] * 25 + [False]
        return {
            "efficiency": efficiency.tolist(),
            "error": error.tolist(),
            "filled": filled,
            "energy_resolution": 0.021,
        }

    def rate(scale: float) -> dict[str, Any]:
        shift = np.linspace(-8, 12, 41)
        content = {"shift": shift, "rate": scale * np.exp(-shift / 4.3), "error": 9 * np.exp(-shift / 8)}
        content["rate"][-2:] = 0.0  # no event of the sample is left
        return {name: values.tolist() for name, values in content.items()}

    return {
        "spectrum": {"edges": edges.tolist(), "initial": spectrum(2.3, 1450, 0.2), "final": spectrum(1.7, 1520, 0.14)},
        "resolution": {
            "absorber": thickness.tolist(),
            "terms": {name: values.tolist() for name, values in terms.items()},
            "constant": 0.003,
            "energy": 60.0,
            "final": 2.71,
        },
        "turn_on": {"edges": np.linspace(15, 80, 27).tolist(), "initial": turn_on(25.1), "final": turn_on(22.6)},
        "rate": {"initial": rate(197.5), "final": rate(203.1)},
    }


PROOF = {
    "inputs": 100_000,
    "outputs": 100_000,
    "mismatches": 0,
    "max_difference": 0.0,
    "files": 63,
    "seconds": {"generate": 1.9, "compile": 14.2, "simulate": 0.8, "integers": 1.1},
    "tools": {"hls4ml": "1.3.0", "jax": "0.10.1", "numpy": "2.4.0", "g++": "12.2.0"},
}
CARD = {
    "input_format": "ap_ufixed<10,2,AP_RND_CONV,AP_SAT>",
    "part": "xcvu13p-flga2577-2-e",
    "clock_period_ns": 5.0,
    "layers": [
        {"weight": "ap_fixed<8,1>", "bias": "ap_fixed<8,1>", "sum": "ap_fixed<20,6>", "output": "ap_ufixed<10,3>"},
        {"weight": "ap_fixed<8,2>", "bias": "ap_fixed<8,3>", "sum": "ap_fixed<21,8>", "output": "ap_fixed<10,5>"},
    ],
}


def make_run(path: Path, result: Any, *, proof: Any = None, card: Any = None) -> RunFolder:
    """A run folder that holds these files."""
    run = RunFolder.create(path, {"study": "higgs-diphoton"})
    run.write_json("result.json", result)
    for name, content in (("fpga.json", proof), ("firmware/model_card.json", card)):
        if content is not None:
            run.write_json(name, content)
    return run


def bare() -> dict[str, Any]:
    """What every run has, and an improvement that is none."""
    wanted = ("study", "objective", "initial", "final", "improvement", "parameters", "constraints", "starts")
    content = {name: value for name, value in synthetic().items() if name in wanted}
    content["final"]["hard"]["value"] = content["initial"]["hard"]["value"] + 0.03
    return content | {"improvement": {"value": 0.03, "stderr": 0.031, "significance": 0.03 / 0.031}}


class Page(HTMLParser):
    """Every attribute, every id, and the text of a page."""

    def __init__(self, file: Path):
        super().__init__()
        self.attributes: list[tuple[str, str, str]] = []
        self.words: list[str] = []
        self.content = file.read_text(encoding="utf-8")
        self.feed(self.content)
        self.text = " ".join(" ".join(self.words).split())
        self.ids = [value for _, name, value in self.attributes if name == "id"]
        self.tags = {tag for tag, _, _ in self.attributes}
        self.images = [value for tag, name, value in self.attributes if (tag, name) == ("img", "src")]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs] or [(tag, "", "")]

    def handle_data(self, data: str) -> None:
        self.words.append(data)


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run with everything, and its report."""
    run = make_run(tmp_path_factory.mktemp("runs") / "full", synthetic(), proof=PROOF, card=CARD)
    before = dict(mpl.rcParams), mpl.get_backend()
    assert write_report(run) == run.path / "report.html"
    assert (dict(mpl.rcParams), mpl.get_backend()) == before
    return run


@pytest.fixture(scope="module")
def full_page(full: RunFolder) -> Page:
    return Page(full.path / "report.html")


def test_every_section_and_figure_is_there(full, full_page):
    assert set(SECTIONS) <= set(full_page.ids)
    assert len(full_page.ids) == len(set(full_page.ids))
    assert sorted(file.name for file in (full.path / "figures").iterdir()) == sorted(f"{name}.png" for name in FIGURES)
    assert "not in this run" not in full_page.text


def test_figures_are_embedded_and_also_saved(full, full_page):
    embedded = {base64.b64decode(source.removeprefix("data:image/png;base64,")) for source in full_page.images}
    saved = {(full.path / "figures" / f"{name}.png").read_bytes() for name in FIGURES}
    assert embedded == saved
    assert len(saved) == len(FIGURES)
    assert all(content.startswith(b"\x89PNG\r\n\x1a\n") for content in saved)


def test_the_page_needs_no_other_file(full_page):
    assert all(source.startswith("data:image/png;base64,") for source in full_page.images)
    assert not {"link", "script", "iframe", "object", "embed", "base"} & full_page.tags
    loading = ("src", "href", "srcset", "data", "action", "background", "poster")
    assert {(tag, name) for tag, name, _ in full_page.attributes if name in loading} == {("img", "src")}
    without_images = re.sub(r"data:image/png;base64,[A-Za-z0-9+/=]+", "", full_page.content)
    assert not re.search(r"https?:|url\(|@import", without_images)


def test_the_page_says_what_was_found(full_page):
    text = full_page.text
    assert "reaches Z = 2.583 ± 0.052 , the initial design 2.153 ± 0.047" in text
    assert "The improvement is 0.430 ± 0.031 (+20 %): 13.9 standard errors" in text
    assert "one more cost unit is worth 0.022 in Z" in text
    assert "does not bind: more is worth nothing" in text
    assert "203.1 ± 4.2" in text
    assert "0.7 standard errors above" in text
    assert f"3.1 {TIMES} 10⁻⁵" in text  # Karush-Kuhn-Tucker residual
    assert "3 of 4 starts end within the budgets and within 0.5 % of the best" in text
    assert "19 of 19 derivatives agree" in text
    assert "Bit-exact: 0 of 100 000 outputs differ" in text
    assert "ap_ufixed<10,2,AP_RND_CONV,AP_SAT>" in text
    assert "Seed of the run: 1." in text
    assert f"6.3 {TIMES} 10⁷" in text  # cross-section of the jets [pb]
    assert "7 min 13 s" in text  # the first chunk is part of the ascent and does not count twice
    assert "NOT" not in text
    assert "EXCEEDED" not in text


def test_missing_parts_are_named_with_their_command_and_old_figures_go(full, tmp_path):
    run = make_run(tmp_path / "bare", bare())
    old = run.path / "figures" / "front.png"
    old.parent.mkdir()
    old.write_bytes(b"of an earlier report")
    other = run.path / "figures" / "mine.png"
    other.write_bytes(b"not of a report")
    page = Page(write_report(run))
    again = "diffhep optimise higgs-diphoton -o RUN --resume"
    for what in ("Mass spectrum", "Resolution terms", "Gradient audit", "Trigger turn-on", "Trigger rate", "Timing"):
        assert f"{what}: not in this run; {again} adds it." in page.text
    assert f"Karush-Kuhn-Tucker residual: not in this run; {again} adds it." in page.text
    assert f"Comparison of the FPGA firmware: not in this run; {again} adds it, where g++ is installed." in page.text
    assert (
        "Pareto front: not in this run; diffhep optimise higgs-diphoton -o NEW --search.pareto 8 adds it." in page.text
    )
    assert (
        "Thickness scan: not in this run; diffhep optimise higgs-diphoton -o NEW --search.grid 7 adds it." in page.text
    )
    assert page.text.count("not in this run") == 13
    assert len(page.images) == 1
    assert not old.exists()
    assert other.exists()
    first = run.path.joinpath("report.html").read_bytes()
    assert write_report(run).read_bytes() == first  # no date in it
    assert [file.name for file in run.path.rglob("*.part")] == []


@pytest.mark.parametrize(
    ("gain", "error", "words"),
    [
        (0.062, 0.031, "The improvement is 0.062 ± 0.031 (+2.9 %): 2.0 standard errors, on the same held-out events."),
        (0.0619, 0.031, "The improvement of 0.062 ± 0.031 (+2.9 %) is NOT significant: it is 2.0 standard errors"),
        (0.0, 0.0, "The improvement of 0 (0 %) is NOT significant: it is 0.0 standard errors"),
        (-0.01, 0.031, f"The improvement of {MINUS}0.010 ± 0.031 ({MINUS}0.46 %) is NOT significant"),
        (-0.31, 0.031, f"This is NOT a significant improvement but a loss: {MINUS}0.310 ± 0.031 ({MINUS}14 %)"),
    ],
)
def test_an_improvement_within_two_standard_errors_is_called_not_significant(gain, error, words):
    content = synthetic() | {"improvement": {"value": gain, "stderr": error, "significance": gain / (error or 1e-300)}}
    assert words in verdict(Result.model_validate(content))


def test_the_page_says_that_it_is_not_significant(tmp_path):
    page = Page(write_report(make_run(tmp_path / "bare", bare())))
    assert "is NOT significant: it is 1.0 standard errors, and less than 2 may well be chance." in page.text


def test_what_speaks_against_the_result_is_said():
    content = synthetic()
    content["constraints"]["rate"]["value"] = 215.0
    content["constraints"]["cost"]["value"] = 61.5
    content["audit"][2]["passed"] = False
    content["starts"]["within_budget"] = [False] * 4
    said = warnings(Result.model_validate(content), Proof.model_validate(PROOF | {"mismatches": 7}))
    assert said == [
        "The final design does not meet the budget of cost: EXCEEDED by 1.5 cost unit.",
        "The final design does not meet the budget of rate: EXCEEDED by 3.6 standard errors.",
        "1 of 19 gradients disagree with finite differences.",
        "No start of the ascent ended within the budgets.",
        "The FPGA firmware is not bit-exact: 7 outputs differ.",
    ]
    assert warnings(Result.model_validate(synthetic()), Proof.model_validate(PROOF)) == []


@pytest.mark.parametrize(
    ("agree", "within", "words"),
    [
        (3, [True, True, True, False], "no sign of a better optimum elsewhere"),
        (2, [True, True, True, False], "the optimum may be a local one"),
        (1, [True, False, False, False], "the optimum may be a local one"),
        (0, [False] * 4, "None of 4 starts ended within the budgets"),
    ],
)
def test_starts_that_disagree_are_said_to(agree, within, words):
    starts = synthetic()["starts"] | {"agree": agree, "within_budget": within}
    assert words in agreement(Result.model_validate(synthetic() | {"starts": starts}).starts)


def test_one_start_says_nothing_about_others():
    starts = {"count": 1, "agree": 1, "tolerance": 0.005, "objectives": [2.0], "within_budget": [True]}
    content = synthetic() | {"starts": starts | {"history": [[1.0], [2.0]]}}
    assert "nothing is known about other optima" in agreement(Result.model_validate(content).starts)


def test_weights_are_not_in_the_table_and_a_parameter_at_its_bound_is_marked():
    content = synthetic()
    content["parameters"]["tagger.bias"] = content["parameters"]["photon_cut"] | {"role": "weight"}
    content["parameters"]["menu.leading"]["final"] = 18.001
    rows = {name: remark for name, _, remark in parameter_rows(Result.model_validate(content).parameters)}
    assert set(rows) == set(PARAMETERS)
    assert rows["menu.leading"] == "at its lower bound, 18"
    assert all(remark == "" for name, remark in rows.items() if name != "menu.leading")


# --- bad input -------------------------------------------------------------------------------------------------------


def without(*keys: str | int) -> Any:
    return lambda content: nested(content, keys[:-1]).pop(keys[-1])


def put(value: Any, *keys: str | int) -> Any:
    return lambda content: nested(content, keys[:-1]).__setitem__(keys[-1], value)


def nested(content: Any, keys: tuple) -> Any:
    for key in keys:
        content = content[key]
    return content


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (without("final"), "final: Field required"),
        (without("starts", "history"), "starts.history: Field required"),
        (put("much", "initial", "hard", "value"), "initial.hard.value: .*number.*got 'much'"),
        (put(-0.1, "improvement", "stderr"), "improvement.stderr: .*greater than or equal to 0, got -0.1"),
        (put(None, "parameters", "photon_cut", "final"), "parameters.photon_cut.final: .*got None"),
        (put([1.0, "x"], "starts", "objectives"), "starts.objectives: a regular list of numbers is wanted"),
        (put([[1.0, 2.0]], "starts", "history"), "starts: lengths differ: count 4, .*history 2"),
        (put([[1.0, 2.0], [3.0]], "starts", "history"), "starts.history: a regular list of numbers"),
        (put([], "starts", "objectives"), r"starts.objectives: a list of numbers is wanted, got the shape \(0,\)"),
        (put([1.0], "pictures", "spectrum", "final", "signal"), "pictures.spectrum: lengths differ: bins 55, signal 1"),
        (put([3.0, 2.0, 2.5], "pictures", "rate", "final", "shift"), "pictures.rate.final.shift: rising numbers"),
        (put([0.1], "pictures", "turn_on", "initial", "error"), "pictures.turn_on: lengths differ: bins 26"),
        (put([0.1], "pictures", "resolution", "terms", "noise"), "pictures.resolution: lengths differ"),
        (put({}, "pictures", "resolution", "terms"), "pictures.resolution.terms: .*at least 1 item"),
        (put("price", "front", "constraint"), "front.constraint: no constraint is called 'price'"),
        (put([1.0], "front", "points", 3, "used"), "lengths differ: constraints 3, used 1"),
        (put([], "front", "points"), "front.points: .*at least 1 item"),
        (put([[{}]], "grid", "rows"), "grid: lengths differ: axis 7, rows 1"),
        (without("grid", "rows", 4, 2, "objective"), "grid: a cell has no objective"),
        (put([[{"objective": None}] * 7] * 7, "grid", "rows"), "grid: the objective of every cell is null"),
        (put("perhaps", "audit", 5, "passed"), "audit.5.passed: .*boolean.*got 'perhaps'"),
        (put(-1.0, "timing", "ascent"), "timing.ascent: .*greater than or equal to 0"),
        (put([1], "data"), "data: .*dictionary"),
    ],
)
def test_a_broken_result_is_named_in_one_line_and_nothing_is_written(tmp_path, spoil, words):
    content = copy.deepcopy(synthetic())
    spoil(content)
    run = make_run(tmp_path / "run", content)
    assert_refused(run, "result.json", words)


def assert_refused(run: RunFolder, file: str, words: str) -> None:
    before = sorted(run.path.rglob("*"))
    with pytest.raises(ValueError, match=words) as caught:
        write_report(run)
    message = str(caught.value)
    assert type(caught.value) is ValueError
    assert message.startswith(f"{run.path / file}: ")
    assert "\n" not in message
    assert len(message) < 300 + len(str(run.path))
    assert sorted(run.path.rglob("*")) == before


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("result.json", b"", "not valid JSON"),
        ("result.json", b'{"study": ', "not valid JSON"),
        ("result.json", b"\xff\xfe", "not valid JSON .*utf-8"),
        ("result.json", b"[1, 2]", "dictionary or .*got .1, 2."),
        ("result.json", None, "missing; the run has not come that far"),
        ("fpga.json", b"null", "dictionary or .*got None"),
        ("fpga.json", b'{"inputs": 1, "outputs": 1, "max_difference": 0}', "mismatches: Field required"),
        ("fpga.json", b'{"inputs": -1, "outputs": 1, "mismatches": 0, "max_difference": 0}', "inputs: .*got -1"),
        ("classifier.json", b"{", "not valid JSON"),
    ],
)
def test_a_broken_file_is_named_in_one_line_and_nothing_is_written(tmp_path, file, content, words):
    run = make_run(tmp_path / "run", bare())
    if content is None:
        (run.path / file).unlink()
    else:
        (run.path / file).write_bytes(content)
    assert_refused(run, file, words)


def test_nan_is_refused_by_key(tmp_path):
    run = make_run(tmp_path / "run", bare())
    text = json.dumps(bare() | {"kkt": {"residual": float("nan"), "excess": 0.0}})
    run.path.joinpath("result.json").write_text(text)
    assert_refused(run, "result.json", "kkt.residual: .*finite number, got nan")


def test_text_of_a_result_is_no_markup_and_no_formula(tmp_path):
    content = bare() | {"study": "<script>alert(1)</script>", "front": synthetic()["front"]}
    name = "price_$ & \\frac"
    content["constraints"] = {name if key == "cost" else key: value for key, value in content["constraints"].items()}
    content["front"]["constraint"] = name
    page = Page(write_report(make_run(tmp_path / "run", content)))
    assert "script" not in page.tags
    assert "<script>alert(1)</script>" in page.text
    assert name in page.text
    assert len(page.images) == 2


def test_unknown_keys_and_formats_are_let_pass(tmp_path):
    content = bare() | {"later": {"a": 1}, "pictures": {"hologram": [1, 2]}}
    run = make_run(tmp_path / "run", content, proof=PROOF | {"later": 1}, card={"layers": [{}, 3, {"weight": 1}]})
    page = Page(write_report(run))
    assert "Bit-exact" in page.text
    assert "formats" in page.ids


def test_formats_come_from_the_classifier_where_there_is_no_project(tmp_path):
    run = make_run(tmp_path / "run", bare())
    layer = {"weight_format": "ap_fixed<8,1>", "bias_format": "ap_fixed<9,2>", "output_format": "ap_fixed<10,3>"}
    run.write_json("classifier.json", {"input_format": "ap_ufixed<10,2>", "exponents": [0], "layers": [layer]})
    page = Page(write_report(run))
    for text in ("ap_fixed<8,1>", "ap_fixed<9,2>", "ap_fixed<10,3>", "ap_ufixed<10,2>"):
        assert text in page.text


# --- the other side: what writes these files --------------------------------------------------------------------------


def test_the_audit_rows_are_those_of_the_audit():
    assert {field.name for field in dataclasses.fields(AuditRow)} == set(Compared.model_fields)


def test_the_proof_is_that_of_the_verification():
    # the keys of verify's docstring, which its own tests hold it to
    assert all(f"`{name}`" in (verify.__doc__ or "") for name in Proof.model_fields)


# --- numbers ---------------------------------------------------------------------------------------------------------


@given(st.floats(-1e9, 1e9), st.floats(1e-9, 1e9))
def test_a_value_and_its_error_are_rounded_to_two_digits_of_the_error(value, error):
    text = pm(Value(value=value, stderr=error)).replace(MINUS, "-")
    factor = Decimal(1)
    if text.startswith("("):
        text, power = text[1:].split(f") {TIMES} 10")
        factor = Decimal(10) ** int(power.translate(str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")))
    shown, uncertainty = (Decimal(part) for part in text.split(" ± "))
    digits = uncertainty.as_tuple()
    # two significant digits; an integer's further digits are zeros
    assert len("".join(map(str, digits.digits)).rstrip("0")) <= 2
    last = Decimal(10) ** (uncertainty.adjusted() - 1) * factor
    rounding = last / 2 + Decimal(abs(value)) * Decimal("1e-15")
    assert abs(uncertainty * factor - Decimal(error)) <= last / 2 * Decimal("1.000001")
    assert abs(shown * factor - Decimal(value)) <= rounding * Decimal("1.000001")
    assert shown.as_tuple().exponent == digits.exponent


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (2.31416, 0.01234, "2.314 ± 0.012"),
        (2.31416, 0.0996, "2.31 ± 0.10"),
        (203.14, 4.21, "203.1 ± 4.2"),
        (12346.0, 678.0, "12350 ± 680"),
        (-0.0001, 0.5, "0.00 ± 0.50"),
        (-1.26, 0.5, f"{MINUS}1.26 ± 0.50"),
        (60.0, 0.0, "60"),
        (3.21e9, 4.5e7, f"(3.210 ± 0.045) {TIMES} 10⁹"),
        (1.5e-8, 2.25e-9, f"(1.50 ± 0.22) {TIMES} 10⁻⁸"),
    ],
)
def test_values_with_errors_read_as_physicists_write_them(value, error, text):
    assert pm(Value(value=value, stderr=error)) == text


def test_numbers_and_times_read_well():
    assert [number(x) for x in (None, 0.0, -0.0, 60.0, -1.23456, 1.5e-8)] == [
        DASH,
        "0",
        "0",
        "60",
        f"{MINUS}1.235",
        f"1.5 {TIMES} 10⁻⁸",
    ]
    assert [seconds(t) for t in (0.0123, 0.9, 14.24, 59.97, 125.2, 3599.6, 7265.0)] == [
        "12 ms",
        "900 ms",
        "14.2 s",
        "1 min 00 s",
        "2 min 05 s",
        "1 h 00 min",
        "2 h 01 min",
    ]


# --- the scan and the figures ----------------------------------------------------------------------------------------


def test_cells_over_a_budget_are_those_beyond_two_standard_errors():
    def cell(objective: float | None, cost: float, rate: float) -> dict[str, float | None]:
        return {"objective": objective, "stderr": 0.1, "cost": cost, "rate": rate}

    grid = Grid.model_validate(
        {
            "names": ["absorber", "active"],
            "unit": "mm",
            "axes": [[1.0, 2.0], [1.0, 2.0, 3.0]],
            "rows": [
                [cell(1.0, 60.0, 200.0), cell(1.2, 60.0, 208.3), cell(1.9, 60.0, 208.5)],
                [cell(2.0, 60.001, 200.0), cell(None, 1.0, 1.0), cell(1.1, 1.0, 1.0)],
            ],
        }
    )
    budgets = Result.model_validate(synthetic()).constraints
    over = over_budget(grid, budgets)
    assert over.tolist() == [[False, False, True], [True, True, False]]
    assert best_cell(grid, over) == (0, 1)
    assert best_cell(grid, np.ones_like(over)) is None


def test_the_final_design_is_found_in_the_plane_of_the_scan():
    result = Result.model_validate(synthetic())
    assert result.grid is not None
    assert final_point(result.grid, result.parameters) == (2.71, 3.18)
    elsewhere = result.grid.model_copy(update={"names": ("absorber", "radius")})
    assert final_point(elsewhere, result.parameters) is None


def drawings() -> dict[str, Any]:
    """Every function that draws into given axes, ready for a call with axes; and what its axis labels must hold."""
    r = Result.model_validate(synthetic())
    p = r.pictures
    assert r.front is not None
    assert r.grid is not None
    assert p.spectrum is not None
    assert p.resolution is not None
    assert p.turn_on is not None
    assert p.rate is not None
    spectrum, resolution, turn_on, rate, front, grid = p.spectrum, p.resolution, p.turn_on, p.rate, r.front, r.grid
    hard = r.initial.hard, r.final.hard
    designs = (("initial", 58.2, r.initial.relaxed, hard[0]), ("final", 60.0, r.final.relaxed, hard[1]))
    over = over_budget(grid, r.constraints)
    return {
        "ascent": (lambda ax: figures.ascent(ax, r.starts, *hard, symbol="Z"), "Step", "Z"),
        "mass_spectrum": (lambda ax: figures.mass_spectrum(ax, spectrum.edges, spectrum.final), "", "Events / 1 GeV"),
        "subtracted": (lambda ax: figures.background_subtracted(ax, spectrum.edges, spectrum.final), "[GeV]", ""),
        "resolution": (lambda ax: figures.resolution_terms(ax, resolution), "[mm]", "[%]"),
        "front": (
            lambda ax: figures.pareto_front(ax, front, 0, designs, objective="reach Z", unit="cost unit"),
            "Cost [cost unit]",
            "Reach Z",
        ),
        "scan": (
            lambda ax: figures.thickness_scan(ax, grid, over, best_cell(grid, over), (2.71, 3.18), symbol="Z"),
            "Absorber [mm]",
            "Active [mm]",
        ),
        "audit": (lambda ax: figures.gradient_audit(ax, r.audit, 1e-6), "difference", ""),
        "turn_on": (lambda ax: figures.turn_on(ax, turn_on), "[GeV]", "efficiency"),
        "rate": (lambda ax: figures.rate_curve(ax, rate.initial, rate.final, budget=200.0), "[GeV]", "[Hz]"),
    }


@pytest.mark.parametrize("name", list(drawings()))
def test_a_figure_draws_into_its_axes_labels_them_and_leaves_the_legend_to_the_caller(name):
    draw, across, up = drawings()[name]
    ax = Figure().add_subplot()
    assert draw(ax) is ax
    assert across in ax.get_xlabel()
    assert up in ax.get_ylabel()
    assert ax.get_legend() is None
    assert ax.get_legend_handles_labels()[1]


def test_the_audit_shows_every_row_and_the_tolerance():
    ax = Figure().add_subplot()
    rows = Result.model_validate(synthetic()).audit
    failed = rows[3].model_copy(update={"relative": 2e-3, "passed": False})
    exact = rows[4].model_copy(update={"relative": 0.0})
    figures.gradient_audit(ax, [*rows[:3], failed, exact], 1e-6)
    labels = [label.get_text() for label in ax.get_yticklabels()]
    assert labels[0] == failed.name
    assert labels[-1] == exact.name
    lines = {str(line.get_label()): np.asarray(line.get_xdata()) for line in ax.get_lines()}
    assert lines["FAILED"].tolist() == [2e-3]
    assert lines["agrees"].size == 4
    assert lines["tolerance 1e-06"].tolist() == [1e-6, 1e-6]
    assert ax.get_xlim()[1] > 2e-3


def with_logic() -> dict[str, Any]:
    """A run whose trigger's words were part of the design."""
    result = synthetic()
    luts = {"value": 93.4, "initial": 229.5, "limit": 100.0, "unit": "LUT", "multiplier": 2e-3, "active": True}
    result["constraints"]["luts"] = result["constraints"]["cost"] | luts
    for point in result["front"]["points"]:
        point["used"].append(93.4)
    change = {"value": -0.012, "stderr": 0.004, "luts": -53.4}
    words = [{"words": "inputs", "bits": 12, "fewer": change, "more": change | {"value": 0.0, "luts": 42.6}}]
    points = [{"limit": 50.0 * n, "used": 45.0 * n, "value": 2.0 + 0.2 * n, "stderr": 0.05} for n in (3, 1, 2)]
    return result | {
        "audit_tolerance": 0.05,
        "logic": {"luts": 93.4, "weights": 41, "words": words, "front": {"constraint": "luts", "points": points}},
    }


def test_what_a_bit_is_worth_is_in_the_report_of_a_run_that_learned_them(tmp_path):
    classifier = {"schema": "diffhep trigger learned classifier", "layers": [{"weight": [[0.5]]}]}
    run = make_run(tmp_path / "run", with_logic(), proof=PROOF, card=classifier)
    page = Page(write_report(run))
    assert {"logic", "words"} <= set(page.ids)
    assert (run.path / "figures" / "logic.png").is_file()
    assert f"inputs 12 {MINUS}0.0120 ± 0.0040 {MINUS}53.4" in page.text
    assert "between the exported Verilog and the function in JAX" in page.text
    assert "words" not in Page(write_report(make_run(tmp_path / "other", synthetic()))).ids


def test_the_front_against_the_logic_is_in_the_order_of_what_is_used():
    r, ax = Result.model_validate(with_logic()), Figure().add_subplot()
    assert r.logic
    assert r.logic.front
    logic_front(ax, r.logic.front, [("final", 93.4, r.final.hard)], symbol="$Z$", unit="LUT")
    assert "[LUT]" in ax.get_xlabel()
    front = ax.get_lines()[0]
    assert np.asarray(front.get_xdata()).tolist() == [45.0, 90.0, 135.0]
    np.testing.assert_allclose(np.asarray(front.get_ydata()), [2.2, 2.4, 2.6])


def test_a_front_of_an_unknown_constraint_is_refused(tmp_path):
    content = with_logic()
    content["logic"]["front"]["constraint"] = "flip-flops"
    with pytest.raises(ValueError, match=r"logic\.front\.constraint: no constraint is called 'flip-flops'"):
        write_report(make_run(tmp_path / "run", content))


def test_a_dominated_point_is_not_on_the_front():
    ax = Figure().add_subplot()
    points = [{"limit": x, "used": [x], "objective": y} for x, y in ((3.0, 2.0), (1.0, 1.0), (2.0, 2.5), (4.0, 3.0))]
    front = Front.model_validate({"constraint": "cost", "points": points})
    figures.pareto_front(ax, front, 0, (), objective="reach", unit="")
    lines = {str(line.get_label()): np.asarray(line.get_xdata()).tolist() for line in ax.get_lines()}
    assert lines["front, relaxed"] == [1.0, 2.0, 4.0]
    assert lines["dominated"] == [3.0]


def test_signal_is_stacked_on_the_background():
    ax = Figure().add_subplot()
    content = Spectrum(signal=np.array([1.0, 5.0]), background=np.array([10.0, 20.0]))
    figures.mass_spectrum(ax, np.array([100.0, 101.0, 102.0]), content)
    stairs = {patch.get_label(): patch.get_data() for patch in ax.patches if isinstance(patch, StepPatch)}
    values, _, baseline = stairs["signal"]
    assert np.asarray(baseline).tolist() == [10.0, 20.0]
    assert values.tolist() == [11.0, 25.0]
    assert "of which jets taken for photons" not in stairs


def test_rates_that_are_all_zero_can_be_drawn():
    curve = RateCurve(shift=np.array([0.0, 1.0]), rate=np.zeros(2), error=np.zeros(2))
    ax = figures.rate_curve(Figure().add_subplot(), curve, curve, budget=None)
    assert ax.get_yscale() == "linear"
    assert figures.single(lambda ax: figures.rate_curve(ax, curve, curve, budget=None)).startswith(b"\x89PNG")
