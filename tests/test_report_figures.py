"""The figures of a report, and what they are drawn from."""

from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.patches import StepPatch

from diffhep import figures
from diffhep.logic_figures import logic_front
from diffhep.report import (
    best_cell,
    final_point,
    over_budget,
    write_report,
)
from diffhep.result import Front, Grid, RateCurve, Result, Spectrum
from tests.report_run import DASH, MINUS, PROOF, Page, make_run, synthetic


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


def test_what_geant4_says_is_in_the_report_of_a_run_that_asked_for_it(tmp_path):
    value = lambda value, stderr: {"value": value, "stderr": stderr}
    rows = [
        {
            "design": name,
            "showers": 3000,
            "surrogate": value(2.31, 0.012),
            "geant4": None if name == "initial" else value(2.27, 0.031),
            "deviation": None if name == "initial" else value(0.0176, 0.0149),
            "surrogate_rate": value(24.1, 0.2),
            "geant4_rate": value(23.8, 0.4),
        }
        for name in ("initial", "final")
    ]
    energies = [
        {
            "low": 0.5,
            "high": 2.66,
            "response": value(0.998, 0.004),
            "surrogate": value(0.09, 0.002),
            "geant4": value(0.091, 0.002),
        }
    ]
    confirmation = {"designs": rows, "energies": energies}
    page = Page(write_report(make_run(tmp_path / "run", synthetic() | {"confirmation": confirmation})))
    assert "confirmation" in page.ids
    assert f"initial design 2.310 ± 0.012 {DASH} {DASH} 24.10 ± 0.20 23.80 ± 0.40 3" in page.text
    assert "final design 2.310 ± 0.012 2.270 ± 0.031 1.8 ± 1.5" in page.text
    assert "0.5 to 2.66 0.9980 ± 0.0040 9.00 ± 0.20 9.10 ± 0.20" in page.text
    assert "confirmation" not in Page(write_report(make_run(tmp_path / "other", synthetic()))).ids
