"""Design files: the round trip, files written by hand, and one line for whatever is wrong with one."""

import json
import re
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from diffhep.design.config import SearchSettings
from diffhep.design.design_file import DESIGN, NETWORKS, load_json, read_design, with_parameters, write_design
from diffhep.design.problem import Constraint, Outcome, Problem
from diffhep.design.study import AbstractStudy
from diffhep.io import RunFolder
from diffhep.parameters import Param, named_params


def unused(*args, **kwargs):
    raise NotImplementedError


class Study(AbstractStudy):
    """Two parameters and a network."""

    name = "toy"
    settings = SearchSettings()
    problem = Problem(lambda d, c: Outcome(jnp.ones(()), jnp.ones(1)), None, (Constraint("cost", 1.0, ""),))
    integers = adjustable = ()
    objective_name = "Z"
    initial: Any = unused
    start: Any = unused
    rescaled: Any = unused
    scan: Any = unused
    evaluate: Any = unused
    settle: Any = unused
    judge: Any = unused
    pictures: Any = unused
    hardware: Any = unused
    least_use: Any = unused
    provenance: Any = unused

    def untrained(self):
        return {
            "absorber": Param(5.6, unit="mm", role="geometry", bounds=(0.3, 20.0)),
            "menu": {"leading": Param(40.0, unit="GeV", role="threshold", scale=10.0)},
            "network": jnp.zeros(3),
        }

    def train(self, design, *, progress):
        progress("training", 1.0)
        return design | {"network": design["absorber"].unwrap() * jnp.ones(3)}


STUDY = Study()
NAMES = ("absorber", "menu.leading")


def quiet(phase, fraction):
    del phase, fraction


def design():
    return {
        "absorber": Param(6.123456789, unit="mm", role="geometry", bounds=(0.3, 20.0)),
        "menu": {"leading": Param(37.7, unit="GeV", role="threshold", scale=10.0)},
        "network": jr.normal(jr.key(1), (3,)),
    }


@pytest.fixture
def run(tmp_path):
    return RunFolder.create(tmp_path / "run", {"study": "toy"})


@pytest.fixture
def written(run):
    run.save_tree(NETWORKS, design())
    write_design(run, STUDY, design())
    return run


def by_hand(folder, content):
    file = folder / "mine.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    return file


def values(tree):
    return {name: float(p.unwrap()) for name, p in named_params(tree).items()}


def refused(file):
    """The message, which must be one line and begin with the file."""
    with pytest.raises(ValueError, match=re.escape(str(file))) as caught:
        read_design(file, STUDY, progress=quiet)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"{file}: ")
    return message.removeprefix(f"{file}: ")


# what is written is read ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["", DESIGN], ids=["folder", "file"])
def test_the_round_trip(written, name):
    back = read_design(written.path / name, STUDY, progress=quiet)
    assert_array_equal(np.asarray(back["network"]), np.asarray(design()["network"]))
    assert jax.tree.structure(back) == jax.tree.structure(design())
    # a bounded value goes through its logit and back
    assert_allclose(list(values(back).values()), list(values(design()).values()), rtol=4e-15)


def test_the_file_holds_values_in_their_units(written):
    content = json.loads((written.path / DESIGN).read_text())
    assert content["study"] == "toy"
    assert content["networks"] == NETWORKS
    assert_allclose([content["parameters"][name] for name in NAMES], [6.123456789, 37.7], rtol=4e-15)


def test_a_value_changed_by_hand_keeps_the_networks(written):
    content = json.loads((written.path / DESIGN).read_text())
    content["parameters"]["absorber"] = 7.5
    written.write_json(DESIGN, content)
    back = read_design(written.path, STUDY, progress=quiet)
    assert_allclose(back["absorber"].unwrap(), 7.5, rtol=4e-15)
    assert_array_equal(np.asarray(back["network"]), np.asarray(design()["network"]))


def test_what_is_left_out_keeps_its_initial_value_and_networks_are_trained(tmp_path):
    said = []
    file = by_hand(tmp_path, {"study": "toy", "parameters": {"menu.leading": 55}})
    back = read_design(str(file), STUDY, progress=lambda phase, fraction: said.append((phase, fraction)))
    assert_allclose(list(values(back).values()), [5.6, 55.0], rtol=1e-14)
    assert said == [("training", 1.0)]


def test_networks_are_trained_at_the_layout_of_the_file(tmp_path):
    file = by_hand(tmp_path, {"study": "toy", "parameters": {"absorber": 3.25}})
    assert_allclose(read_design(file, STUDY, progress=quiet)["network"], 3.25, rtol=1e-14)


def test_a_file_that_only_names_its_study_is_the_initial_design(tmp_path):
    back = read_design(by_hand(tmp_path, {"study": "toy"}), STUDY, progress=quiet)
    assert values(back) == values(STUDY.untrained())


@given(st.floats(0.3, 20.0, exclude_min=True, exclude_max=True), st.floats(-1e6, 1e6))
def test_any_value_inside_the_bounds_is_taken_over(absorber, leading):
    moved = with_parameters(design(), {"absorber": absorber, "menu.leading": leading}, source="file")
    # rounding next to the far bound: an ulp of 20
    assert_allclose(moved["absorber"].unwrap(), absorber, rtol=1e-14, atol=4e-15)
    # numbers too small for all their digits are flushed to 0
    assert_allclose(moved["menu"]["leading"].unwrap(), leading, rtol=1e-15, atol=1e-300)
    assert_array_equal(np.asarray(moved["network"]), np.asarray(design()["network"]))


def test_a_parameter_keeps_its_unit_bounds_role_and_freedom():
    frozen = design() | {"absorber": design()["absorber"].freeze()}
    moved = with_parameters(frozen, {"absorber": 2.0}, source="file")
    assert jax.tree.structure(moved) == jax.tree.structure(frozen)


# what is wrong --------------------------------------------------------------------------------------------------------

TOY = '{"study": "toy", "parameters": %s}'


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not valid JSON (Expecting property name enclosed in double quotes: line 1 column 2 (char 1))"),
        ("", "not valid JSON (Expecting value: line 1 column 1 (char 0))"),
        ("[1, 2]", "a JSON object is wanted, got list"),
        ("3", "a JSON object is wanted, got int"),
        ("{}", "a design of study None, wanted 'toy'"),
        ('{"study": "higgs"}', "a design of study 'higgs', wanted 'toy'"),
        ('{"study": "toy", "parameter": {}}', "unknown key 'parameter'; a design has study, parameters and networks"),
        (TOY % '{"absorbr": 4}', "no parameter is called 'absorbr'; there are absorber, menu.leading"),
        (TOY % '{"absorber": "4"}', "absorber: a finite number is wanted, got '4'"),
        (TOY % '{"absorber": null}', "absorber: a finite number is wanted, got None"),
        (TOY % '{"absorber": [4]}', "absorber: a finite number is wanted, got [4]"),
        (TOY % '{"absorber": NaN}', "absorber: a finite number is wanted, got nan"),
        (TOY % '{"menu.leading": -Infinity}', "menu.leading: a finite number is wanted, got -inf"),
        (TOY % '{"menu.leading": 1e999}', "menu.leading: a finite number is wanted, got inf"),
        (TOY % '{"absorber": 20}', "absorber: value 20.0 mm outside its bounds (0.3, 20.0) mm"),
        (TOY % '{"absorber": -4.5}', "absorber: value -4.5 mm outside its bounds (0.3, 20.0) mm"),
    ],
)
def test_one_line_says_what_is_wrong(tmp_path, content, message):
    assert refused(by_hand(tmp_path, content)) == message


def test_a_missing_file_and_a_folder_without_a_design(tmp_path):
    assert refused(tmp_path / "none.json") == "cannot be read (No such file or directory)"
    (tmp_path / "run").mkdir()
    with pytest.raises(ValueError, match=r"run/design\.json: cannot be read \(No such file or directory\)$"):
        read_design(tmp_path / "run", STUDY, progress=quiet)


def test_bytes_that_are_no_text(tmp_path):
    file = tmp_path / "mine.json"
    file.write_bytes(b"\xff\xfe{}")
    assert refused(file).startswith("not valid JSON (")


def test_networks_that_are_missing_or_of_another_size(written):
    content = json.loads((written.path / DESIGN).read_text())
    written.write_json(DESIGN, content | {"networks": "checkpoints/none.eqx"})
    with pytest.raises(ValueError, match=r"^\S+checkpoints/none\.eqx: cannot be read back \([^\n]+\)$"):
        read_design(written.path, STUDY, progress=quiet)
    written.save_tree(NETWORKS, eqx.tree_at(lambda d: d["network"], design(), jnp.zeros(4)))
    written.write_json(DESIGN, content)
    with pytest.raises(ValueError, match=r"^\S+final\.eqx: cannot be read back \([^\n]*shape[^\n]*\)$"):
        read_design(written.path, STUDY, progress=quiet)


def test_nothing_is_trained_for_a_file_that_is_wrong(tmp_path):
    said = []
    file = by_hand(tmp_path, TOY % '{"absorber": 21}')
    with pytest.raises(ValueError, match="outside its bounds"):
        read_design(file, STUDY, progress=lambda *args: said.append(args))
    assert said == []


def test_a_json_object_is_read_as_it_is(tmp_path):
    assert load_json(by_hand(tmp_path, {"a": [1, 2.5, None]})) == {"a": [1, 2.5, None]}


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (TOY % "[4.0]", "parameters"),
        (TOY % "null", "parameters"),
        ('{"study": "toy", "networks": 5}', "networks"),
        ('{"study": "toy", "networks": null}', "networks"),
        (TOY % '{"absorber": true}', "absorber"),
        (TOY % ('{"absorber": 1' + 400 * "0" + "}"), "absorber"),
    ],
    ids=["a list", "null", "a number", "no networks", "true", "an integer beyond all floats"],
)
def test_values_of_the_wrong_type_are_named(tmp_path, content, word):
    assert word in refused(by_hand(tmp_path, content))


def test_the_round_trip_of_an_array_of_parameters(run):
    class Radii(Study):
        def untrained(self):
            return {"radius": Param(np.array([30.0, 60.0]), unit="mm", role="geometry", bounds=(10.0, 900.0))}

    moved = {"radius": Radii().untrained()["radius"].at(np.array([35.0, 75.0]))}
    run.save_tree(NETWORKS, moved)
    write_design(run, Radii(), moved)
    back = read_design(run.path, Radii(), progress=quiet)
    assert_allclose(back["radius"].unwrap(), [35.0, 75.0], rtol=1e-14)
