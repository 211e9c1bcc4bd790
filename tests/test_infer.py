"""`diffhep infer`: a workspace with every constrained modifier against pyhf, and the run folder."""

import json

import numpy as np
import pyhf
import pytest
from numpy.testing import assert_allclose
from pyhf.infer import mle
from scipy.stats import norm

from diffhep.inference import Analysis, Workspace
from tests.infer_command import call, make_spec
from tests.specifications import modifier, sample

TOYS = 160


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    path = tmp_path_factory.mktemp("infer") / "workspace.json"
    path.write_text(json.dumps(make_spec()))
    return path


@pytest.fixture(scope="module")
def run(workspace):
    """One run with everything that can be asked for; the other tests use what it compiled."""
    folder = workspace.parent / "run"
    options = ["--mu", "2", "--impacts", "--toys", str(TOYS), "--seed", "3", "--scan", "jes", "-o", folder, "--json"]
    status, out, err = call(workspace, *options)
    assert status == 0, err
    return folder, json.loads(out)


@pytest.fixture(scope="module")
def twin():
    """The same in pyhf: model, data, and its order of the components."""
    spec = make_spec()
    settings = spec["measurements"][0]["config"]["parameters"]
    model = pyhf.Model({"channels": spec["channels"], "parameters": settings}, poi_name="mu", validate=False)
    observed = {one["name"]: one["data"] for one in spec["observations"]}
    return model, np.array([x for name in model.config.channels for x in observed[name]] + model.config.auxdata)


@pytest.fixture(scope="module")
def point(run, twin):
    """Best fit and uncertainties in pyhf's order, and pyhf's full covariance there from its own log-density."""
    model, data = twin
    parameters = run[1]["fit"]["parameters"]
    assert set(parameters) == set(model.config.par_names)
    value, sigma = (np.array([parameters[n][key] for n in model.config.par_names]) for key in ("value", "uncertainty"))
    nll = lambda x: -float(np.asarray(model.logpdf(x, data))[0])

    def hessian(step):
        up = np.diag(step * sigma)
        four = lambda a, b: nll(value + a + b) - nll(value + a - b) - nll(value - a + b) + nll(value - a - b)
        half = np.array([[four(a, b) if i <= j else 0.0 for j, b in enumerate(up)] for i, a in enumerate(up)])
        return (half + np.triu(half, 1).T) / (4 * step**2)

    # Richardson: what is left of the truncation is of order step^4 = 1e-6, rounding of 1e-14/step^2 = 1e-11
    scaled = (4 * hessian(0.03) - hessian(0.06)) / 3
    return value, sigma, np.linalg.inv(scaled) * np.outer(sigma, sigma)


def test_the_best_fit_is_pyhfs(run, twin, point):
    model, data = twin
    value, sigma, _ = point
    twice = lambda x: -2 * float(np.asarray(model.logpdf(x, data))[0])
    assert_allclose(run[1]["fit"]["twice_nll"], twice(value), rtol=1e-10)
    # no slope in any direction, in units of the uncertainties; the difference quotient's own error is 1e-6
    slope = [(twice(value + s) - twice(value - s)) / 2e-3 for s in np.diag(1e-3 * sigma)]
    assert_allclose(slope, 0, atol=1e-5)
    _, theirs = mle.fit(data, model, return_fitted_val=True)
    # SLSQP stops 1e-6 or so above the minimum, never below it
    assert -1e-8 < theirs - twice(value) < 1e-4


def test_uncertainties_are_those_of_the_full_hessian(run, point):
    _, sigma, covariance = point
    # analytic bin-by-bin factors as well; the oracle's own error is 1e-6 or so of the curvature
    assert_allclose(sigma, np.sqrt(np.diagonal(covariance)), rtol=1e-5)


def test_linear_impacts_are_the_covariances_with_the_strength(run, twin, point):
    _, sigma, covariance = point
    names = list(twin[0].config.par_names)
    poi = names.index("mu")
    expected = dict(zip(names, covariance[poi] / sigma, strict=True))
    found = {row["name"]: row["linear"] for row in run[1]["impacts"]}
    assert set(found) == set(names) - {"mu"}
    assert_allclose(list(found.values()), [expected[name] for name in found], atol=1e-5 * sigma[poi])


def test_refitted_impacts_are_ranked_and_equal_pyhfs(run, twin, point):
    model, data = twin
    value, sigma, _ = point
    names = list(model.config.par_names)
    poi = names.index("mu")
    ranked = run[1]["impacts"]
    size = [max(abs(row["up"]), abs(row["down"])) for row in ranked]
    assert size == sorted(size, reverse=True)
    for row in (r for r in ranked if r["name"] in ("top_norm", "mc[1]", "fake_unc[1]")):
        k = names.index(row["name"])
        for side, key in ((1, "up"), (-1, "down")):
            start, fixed = value.copy(), list(model.config.suggested_fixed())
            start[k], fixed[k] = value[k] + side * sigma[k], True
            theirs = mle.fit(data, model, init_pars=start.tolist(), fixed_params=fixed)
            # SLSQP finds the strength to 1e-3 of its uncertainty or so
            assert_allclose(row[key], theirs[poi] - value[poi], atol=3e-3 * sigma[poi])


def test_tests_and_limit_equal_pyhfs(run, twin):
    model, data = twin
    result = run[1]
    observed, expected = pyhf.infer.hypotest(2.0, data, model, return_expected_set=True)
    # SLSQP is 1e-6 above the minima or so, and CLs changes by its square root times a density below 0.4
    assert_allclose(result["cls"]["observed"], float(observed), atol=1e-3)
    assert_allclose(result["cls"]["expected"], np.array(expected, dtype=float), atol=1e-3)
    p_value, median = pyhf.infer.hypotest(0.0, data, model, test_stat="q0", return_expected=True)
    assert_allclose(result["discovery"]["p_value"], float(p_value), rtol=1e-3)
    assert_allclose(result["discovery"]["observed"], norm.isf(float(p_value)), atol=1e-3)
    assert_allclose(result["discovery"]["expected"], norm.isf(float(median)), atol=1e-3)
    limit = result["limit"]
    assert_allclose(pyhf.infer.hypotest(limit["observed"], data, model), 0.05, atol=1e-4)
    for k, strength in enumerate(limit["expected"]):
        bands = pyhf.infer.hypotest(strength, data, model, return_expected_set=True)[1]
        assert_allclose(float(bands[k]), 0.05, atol=1e-4)
    assert limit["expected"] == sorted(limit["expected"])


def test_reference_values_of_the_two_bin_model(tmp_path):
    mu, unc = modifier("mu", "normfactor"), modifier("unc", "shapesys", [3.0, 7.0])
    channels = [{"name": "c", "samples": [sample("s", [12.0, 11.0], mu), sample("b", [50.0, 52.0], unc)]}]
    measurement = {"name": "m", "config": {"poi": "mu", "parameters": []}}
    spec = {"channels": channels, "observations": [{"name": "c", "data": [51.0, 48.0]}], "version": "1.0.0"}
    (tmp_path / "w.json").write_text(json.dumps({**spec, "measurements": [measurement]}))
    status, out, _ = call(tmp_path / "w.json", "--json")
    result = json.loads(out)
    # closed form for the factors and a bracketed root for the strength, to the digits given
    assert status == 0
    assert_allclose(result["fit"]["twice_nll"], 24.98393520, atol=1e-8)
    assert_allclose(result["cls"]["observed"], 0.05251553, atol=1e-8)
    bands = [0.00260640, 0.01382064, 0.06445515, 0.23526090, 0.57304165]
    assert_allclose(result["cls"]["expected"], bands, atol=1e-8)
    assert_allclose(result["discovery"]["observed"], 0, atol=1e-8)
    assert_allclose(result["discovery"]["expected"], 1.87695350, atol=1e-8)
    # the best fit is on its bound, where curvature says nothing about the uncertainty
    strength = result["fit"]["parameters"]["mu"]
    assert strength == {"value": 0.0, "uncertainty": None, "fixed": False, "at_bound": True}
    assert list(tmp_path.iterdir()) == [tmp_path / "w.json"]


def test_toys_agree_with_the_asymptotic_formula(run):
    result = run[1]
    toys = result["toys"]
    assert (toys["toys"], toys["failed"], toys["converged"]) == (TOYS, 0, True)
    # four standard errors, and two per cent for the approximation
    assert abs(toys["observed"] - result["cls"]["observed"]) < 4 * toys["error"] + 0.02
    assert abs(toys["cl_b"] - result["cls"]["cl_b"]) < 4 * np.sqrt(0.25 / TOYS) + 0.02
    assert toys["expected"] == sorted(toys["expected"])


def test_scan_passes_through_one_at_one_uncertainty(run):
    scan, jes = run[1]["scan"], run[1]["fit"]["parameters"]["jes"]
    assert scan["parameter"] == "jes"
    values, rise = np.array(scan["values"]), np.array(scan["twice_delta_nll"])
    assert_allclose(values[[0, -1]], jes["value"] + 3 * jes["uncertainty"] * np.array([-1, 1]))
    middle = len(values) // 2
    assert_allclose(rise[middle], 0, atol=1e-9)
    assert np.all(np.diff(rise[: middle + 1]) < 0)
    assert np.all(np.diff(rise[middle:]) > 0)


def test_yields_and_their_uncertainties_are_those_of_the_full_covariance(run, twin, point):
    model, _ = twin
    value, sigma, covariance = point
    main = lambda x: np.asarray(model.expected_data(x, include_auxdata=False))
    jacobian = np.array([(main(value + s) - main(value - s)) / 0.02 for s in np.diag(0.01 * sigma)]) / sigma[:, None]
    spec = make_spec()
    spec["channels"].reverse()
    after = Analysis(*Workspace(spec).build()).after
    flat = lambda x: np.concatenate([np.asarray(x)[0, :2], np.asarray(x)[1, :3]])
    assert_allclose(flat(after.after.total), main(value), rtol=1e-9)
    # the oracle's own error, from the truncation of the difference quotients
    assert_allclose(flat(after.after.uncertainty) ** 2, np.sum((covariance @ jacobian) * jacobian, axis=0), rtol=1e-4)
    width = {"lumi": 0.02, "mu": 0.0, "top_norm": 0.0}
    start = np.array(model.config.suggested_init())
    aux = np.array([row.get("constraint") or np.inf for row in run[1]["fit"]["parameters"].values()])
    before = dict(zip(run[1]["fit"]["parameters"], aux, strict=True))
    prior = np.array([width.get(n, s / before[n]) for n, s in zip(model.config.par_names, sigma, strict=True)])
    slope = np.array([(main(start + s) - main(start - s)) / 2e-4 for s in np.diag(np.full(start.size, 1e-4))])
    assert_allclose(flat(after.before.uncertainty) ** 2, np.sum((prior[:, None] * slope) ** 2, axis=0), rtol=1e-5)
    assert_allclose(np.sum(np.asarray(after.after.samples), axis=1), after.after.total, rtol=1e-12)


def test_run_folder_holds_result_workspace_and_figures(run, workspace):
    folder, result = run
    assert json.loads((folder / "result.json").read_text()) == result
    assert sorted(p.name for p in folder.iterdir()) == ["config.toml", "figures", "result.json", "workspace.json"]
    wanted = {"pulls", "impacts", "scan", "scan_jes", "brazil_band", "yields_control", "yields_signal_region"}
    assert {f"figures/{name}.png" for name in wanted} == set(result["figures"])
    for name in result["figures"]:
        content = (folder / name).read_bytes()
        assert content[:8] == b"\x89PNG\r\n\x1a\n"
        assert len(content) > 10_000
    assert result["versions"].keys() >= {"diffhep", "jax"}
    assert result["timing"].keys() >= {"compile_s", "fit_s", "limit_s"}
    again = Workspace(json.loads((folder / "workspace.json").read_text()))
    assert again.measurements == ("search",)
    status, out, err = call(workspace, "-o", folder)
    assert (status, out) == (2, "")
    assert f"{folder}: is not empty" in err


def test_people_get_a_summary(run, workspace):
    status, out, err = call(workspace, "--poi", "mu")
    assert (status, err) == (0, "")
    assert "95% limit on mu: observed" in out
    assert "fake_unc[2]" in out


def test_a_patch_makes_the_signal(run, workspace, tmp_path):
    patch = [{"op": "replace", "path": "/channels/0/samples/0/data", "value": [8.0, 24.0, 14.0]}]
    # twice the signal with the relative errors it had
    patch.append({"op": "replace", "path": "/channels/0/samples/0/modifiers/3/data", "value": [0.6, 1.2, 0.8]})
    plain, patches = tmp_path / "patch.json", tmp_path / "patches.json"
    plain.write_text(json.dumps(patch))
    entry = lambda name, patch: {"metadata": {"name": name, "values": [1]}, "patch": patch}
    content = {"metadata": {}, "patches": [entry("double", patch), entry("same", [])], "version": "1.0.0"}
    patches.write_text(json.dumps(content))
    status, out, _ = call(workspace, "--patch", plain, "--json")
    assert status == 0
    direct = json.loads(out)
    named = json.loads(call(workspace, "--patch", f"{patches}:double", "--json")[1])
    assert named["limit"] == direct["limit"]
    # half the strength, but for the statistical errors of the larger signal
    assert_allclose(direct["limit"]["expected"][2], 0.5 * run[1]["limit"]["expected"][2], rtol=0.02)
    status, _, err = call(workspace, "--patch", patches)
    assert status == 2
    assert "a patch set of 2; choose one" in err
    status, _, err = call(workspace, "--patch", f"{patches}:triple")
    assert status == 2
    assert f"{patches}: no patch 'triple'" in err


def test_what_the_data_do_not_determine_has_no_uncertainty(run, workspace, tmp_path):
    # without expected signal nothing depends on its strength
    patch = [
        {"op": "replace", "path": "/channels/0/samples/0/data", "value": [0.0, 0.0, 0.0]},
        {"op": "replace", "path": "/channels/0/samples/0/modifiers/3/data", "value": [0.0, 0.0, 0.0]},
    ]
    (tmp_path / "patch.json").write_text(json.dumps(patch))
    status, out, _ = call(workspace, "--patch", tmp_path / "patch.json", "--impacts", "--json")
    result = json.loads(out)
    assert status == 1
    assert result["fit"]["converged"]
    assert result["fit"]["parameters"]["mu"]["uncertainty"] is None
    assert result["fit"]["parameters"]["top_norm"]["uncertainty"] > 0
    assert not result["limit"]["converged"]
    assert result["limit"]["observed"] is None
    assert "CLs does not fall to 0.05" in result["limit"]["reason"]
    assert all(row["up"] is None for row in result["impacts"])


def test_a_failed_fit_prints_no_number(run, workspace, tmp_path):
    # events where nothing at all is expected: the likelihood is zero everywhere
    spec = make_spec()
    for one in spec["channels"][0]["samples"]:
        one["data"][0] = 0.0
        for m in one["modifiers"]:
            for values in m["data"].values() if m["type"] == "histosys" else [m["data"]] * isinstance(m["data"], list):
                values[0] = 0.0
    path, folder = tmp_path / "impossible.json", tmp_path / "run"
    path.write_text(json.dumps(spec))
    status, out, _ = call(path, "--impacts", "--toys", "5", "-o", folder, "--json")
    assert status == 1
    result = json.loads(out)
    assert not result["converged"]
    assert result["fit"]["reason"].startswith("channel 'signal_region', bin 0: 49 counts where 0 are expected")
    assert result["fit"]["parameters"] is None
    assert result["fit"]["twice_nll"] is None
    assert result["impacts"] is None
    assert result["toys"] is None
    for name in ("cls", "discovery", "limit"):
        assert not result[name]["converged"]
        assert result[name]["reason"]
        assert result[name]["observed"] is None
    assert result["cls"]["expected"] == [None] * 5
    assert json.loads((folder / "result.json").read_text()) == result
    status, out, _ = call(path)
    assert status == 1
    assert "fit FAILED: channel 'signal_region', bin 0" in out
