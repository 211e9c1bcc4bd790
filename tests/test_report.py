"""The report of a run, on a synthetic result."""

import base64
import copy
import dataclasses
import json
import re
from decimal import Decimal
from typing import Any

import matplotlib as mpl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffhep.audit import AuditRow
from diffhep.checked import Value
from diffhep.io import RunFolder
from diffhep.report import (
    agreement,
    parameter_rows,
    verdict,
    warnings,
    write_report,
)
from diffhep.result import Compared, Proof, Result
from diffhep.trigger import verify
from diffhep.typeset import number, pm, seconds
from tests.report_run import (
    CARD,
    DASH,
    FIGURES,
    MINUS,
    PARAMETERS,
    PROOF,
    SECTIONS,
    TIMES,
    Page,
    bare,
    make_run,
    synthetic,
)


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
