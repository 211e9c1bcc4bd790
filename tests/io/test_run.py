"""The folder of a run: nothing overwritten, nothing half-written, and everything back exactly as it was."""

import json
import math
import os
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from diffhep.io import RunFolder
from diffhep.io.run import CONFIG, METRICS, plain, without_none
from diffhep.parameters import Param

keys = st.text("abcdefgh-_", min_size=1, max_size=6)
finite = st.floats(allow_nan=False, allow_infinity=False)
scalars = st.booleans() | st.integers(-(2**62), 2**62) | finite | st.text("abc \"'\n\\é", max_size=8)
trees = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3))


@pytest.fixture
def run(tmp_path):
    return RunFolder.create(tmp_path / "run", {"seed": 1})


def files(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


# a new run, an existing one -------------------------------------------------------------------------------------------


def test_a_new_run_holds_its_configuration(tmp_path):
    config = {
        "study": "toy",
        "samples": {"signal": None, "events": 400},
        "limits": [1.5, 2.0],
        "file": Path("a/b.root"),
    }
    made = RunFolder.create(tmp_path / "deep" / "run", config)
    assert files(made.path) == [CONFIG]
    assert made.config() == {"study": "toy", "samples": {"events": 400}, "limits": [1.5, 2.0], "file": "a/b.root"}
    assert RunFolder.open(made.path).config() == made.config()


def test_an_empty_folder_will_do(tmp_path):
    (tmp_path / "run").mkdir()
    assert RunFolder.create(str(tmp_path / "run"), {}).config() == {}


def test_a_run_is_never_started_on_top_of_another(run):
    before = (run.path / CONFIG).read_bytes()
    with pytest.raises(ValueError, match=r"^\S+/run: already holds a run; choose another folder, or --resume$"):
        RunFolder.create(run.path, {"seed": 2})
    assert (run.path / CONFIG).read_bytes() == before
    assert files(run.path) == [CONFIG]


def test_a_folder_with_other_things_in_it_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(ValueError, match=r": is not empty; choose another folder, or --resume$"):
        RunFolder.create(tmp_path, {})
    assert files(tmp_path) == ["thesis.tex"]


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "run").write_text("x")
    with pytest.raises(ValueError, match=r"/run: is a file; a run needs a folder of its own$"):
        RunFolder.create(tmp_path / "run", {})
    assert (tmp_path / "run").read_text() == "x"


@pytest.mark.parametrize("name", ["", "none"])
def test_a_folder_without_a_run_is_not_opened(tmp_path, name):
    with pytest.raises(ValueError, match=r": holds no run \(config\.toml is missing\)$"):
        RunFolder.open(tmp_path / name)


@given(st.dictionaries(keys, trees, max_size=4))
def test_any_configuration_comes_back(tmp_path_factory, config):
    run = RunFolder.create(tmp_path_factory.mktemp("any") / "run", config)
    assert run.config() == config


# whole files only -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("failure", [RuntimeError, KeyboardInterrupt])
def test_a_failure_leaves_neither_a_part_nor_a_changed_file(run, failure):
    run.write_json("result.json", {"a": 1})
    with pytest.raises(failure), run.replacing("result.json") as file:  # noqa: PT012
        file.write_text("half of")
        raise failure
    assert run.read_json("result.json") == {"a": 1}
    assert files(run.path) == [CONFIG, "result.json"]


def test_a_failure_before_anything_was_written_leaves_nothing(run):
    with pytest.raises(ZeroDivisionError), run.replacing("figures/front.png"):
        raise ZeroDivisionError
    assert files(run.path) == [CONFIG]
    assert not run.has("figures/front.png")


def test_until_the_block_ends_the_old_file_is_there(run):
    run.write_json("a.json", 1)
    with run.replacing("a.json") as file:
        file.write_text("2")
        assert run.read_json("a.json") == 1
        # beside its target, or the renaming would not be atomic
        assert file.parent == run.path
        assert file.name.startswith(".")
        assert str(os.getpid()) in file.name
    assert run.read_json("a.json") == 2


def test_a_tree_that_cannot_be_stored_leaves_the_old_one(run):
    run.save_tree("checkpoints/a.eqx", {"x": jnp.arange(3.0), "y": jnp.ones(2)})
    before = (run.path / "checkpoints/a.eqx").read_bytes()
    gone = jnp.zeros(2)
    gone.delete()
    with pytest.raises(RuntimeError, match="leaf with path"):
        run.save_tree("checkpoints/a.eqx", {"x": jnp.arange(4.0), "y": gone})
    assert (run.path / "checkpoints/a.eqx").read_bytes() == before
    assert files(run.path) == ["checkpoints/a.eqx", CONFIG]


def test_has_asks_for_files(run):
    run.save_tree("checkpoints/a.eqx", jnp.ones(1))
    assert run.has("checkpoints/a.eqx")
    assert not run.has("checkpoints")
    assert not run.has("b")


# JSON -----------------------------------------------------------------------------------------------------------------


def test_json_comes_back_as_plain_numbers(run):
    content = {
        "value": jnp.asarray(0.1),
        "count": np.int64(3),
        "active": np.bool_(True),
        "pair": (1, 2.5),
        "grid": np.arange(4).reshape(2, 2),
        "path": Path("a/b"),
        "none": None,
        7: "seven",
    }
    run.write_json("deep/result.json", content)
    assert run.read_json("deep/result.json") == {
        "value": 0.1,
        "count": 3,
        "active": True,
        "pair": [1, 2.5],
        "grid": [[0, 1], [2, 3]],
        "path": "a/b",
        "none": None,
        "7": "seven",
    }


@given(trees)
def test_plain_changes_nothing_that_json_knows(content):
    assert json.loads(json.dumps(plain(content))) == content


@given(st.lists(finite, min_size=1, max_size=5))
def test_arrays_are_exact(numbers):
    assert json.loads(json.dumps(plain(np.array(numbers)))) == numbers
    assert json.loads(json.dumps(plain(jnp.array(numbers)))) == plain(np.asarray(jnp.array(numbers)))


@pytest.mark.parametrize(
    ("content", "name"),
    [
        ({"a": math.nan}, "a: nan"),
        ({"front": {"points": [{"used": 1.0}, {"used": np.array([1.0, np.inf])}]}}, "front.points[1].used: [ 1. inf]"),
        ({"a": (0.0, -math.inf)}, "a[1]: -inf"),
        ({"a": {3: jnp.asarray(np.nan)}}, "a.3: nan"),
    ],
)
def test_a_number_that_is_not_finite_is_named_and_nothing_is_written(run, content, name):
    with pytest.raises(ValueError, match=r"is not finite$") as caught:
        run.write_json("result.json", content)
    assert str(caught.value) == f"{name} is not finite"
    assert files(run.path) == [CONFIG]


def test_json_that_is_missing_or_broken_is_named(run):
    with pytest.raises(ValueError, match=r"/run/result\.json: missing; the run has not come that far$"):
        run.read_json("result.json")
    for text in ("", '{"a": 1', "{'a': 1}", '{"a": 1}\n{"b"'):
        (run.path / "result.json").write_text(text)
        with pytest.raises(ValueError, match=r"^\S+/run/result\.json: not valid JSON \([^\n]+\)$"):
            run.read_json("result.json")


def test_metrics_grow_by_a_line_a_time(run):
    run.log({"phase": "ascent", "objective": np.array([1.0, 2.0])})
    run.log({"phase": "integers", "time": 0})
    lines = [json.loads(line) for line in (run.path / METRICS).read_text().splitlines()]
    assert [line["phase"] for line in lines] == ["ascent", "integers"]
    assert lines[0]["objective"] == [1.0, 2.0]
    assert lines[0]["time"] > 1.7e9
    assert lines[1]["time"] == 0


def test_metrics_that_are_not_finite_add_no_line(run):
    with pytest.raises(ValueError, match=r"^objective\[1\]: nan is not finite$"):
        run.log({"objective": [1.0, math.nan]})
    assert files(run.path) == [CONFIG]


# trees of arrays ------------------------------------------------------------------------------------------------------


def tree():
    return {
        "param": Param(np.array([1.0, 2.0]), unit="mm", role="geometry", bounds=(0.3, 20.0)),
        "network": eqx.nn.MLP(2, 1, 3, 1, key=jr.key(0)),
        "half": jnp.arange(3, dtype=jnp.float32) / 3,
        "step": jnp.asarray(7),
        "history": np.array([[0.1, np.nan], [np.inf, -0.0]]),
        "mask": jnp.array([True, False]),
        "number": 0.1,
    }


def test_arrays_come_back_bit_for_bit(run):
    run.save_tree("checkpoints/final.eqx", tree())
    back = run.load_tree(
        "checkpoints/final.eqx", eqx.filter_eval_shape(tree) | {"history": np.zeros((2, 2)), "number": 0.0}
    )
    for one, other in zip(jax.tree.leaves(tree()), jax.tree.leaves(back), strict=True):
        if eqx.is_array_like(one):
            assert np.asarray(one).dtype == np.asarray(other).dtype
            assert np.asarray(one).tobytes() == np.asarray(other).tobytes()
    assert back["param"].bounds == (0.3, 20.0)


SMALL = {"a": jnp.arange(6.0).reshape(2, 3), "b": np.array(3), "c": jnp.asarray(2, dtype=jnp.int32)}


def test_a_file_cut_short_anywhere_is_refused_in_one_line(run):
    run.save_tree("t.eqx", SMALL)
    whole = (run.path / "t.eqx").read_bytes()
    for length in range(0, len(whole), 7):
        (run.path / "t.eqx").write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"^\S+/run/t\.eqx: cannot be read back \([^\n]+\)$"):
            run.load_tree("t.eqx", SMALL)
    (run.path / "t.eqx").write_bytes(whole)
    assert_array_equal(np.asarray(run.load_tree("t.eqx", SMALL)["a"]), np.asarray(SMALL["a"]))


@pytest.mark.parametrize(
    "like",
    [
        SMALL | {"a": jnp.zeros((3, 2))},
        SMALL | {"a": jnp.zeros((2, 3), dtype=jnp.float32)},
        SMALL | {"b": np.zeros(2)},
        SMALL | {"d": jnp.zeros(2)},
    ],
    ids=["shape", "precision", "NumPy shape", "one more"],
)
def test_a_tree_of_another_kind_is_refused_in_one_line(run, like):
    run.save_tree("t.eqx", SMALL)
    with pytest.raises(ValueError, match=r"^\S+/run/t\.eqx: cannot be read back \([^\n]+\)$"):
        run.load_tree("t.eqx", like)


def test_a_missing_checkpoint_is_named(run):
    with pytest.raises(ValueError, match=r"/checkpoints/none\.eqx: cannot be read back \([^\n]*No such file[^\n]*\)$"):
        run.load_tree("checkpoints/none.eqx", SMALL)


def test_a_pickle_is_not_read(run):
    """It could run anything."""
    np.save(run.path / "t.npy", np.array([{"x": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match=r"^\S+/run/t\.npy: cannot be read back \([^\n]+\)$"):
        run.load_tree("t.npy", {"a": np.zeros(1)})


# TOML's missing null --------------------------------------------------------------------------------------------------


def test_keys_without_a_value_are_left_out_at_any_depth():
    config = {"a": None, "b": {"c": None, "d": {"e": None, "f": 0}}, "g": False, "h": "", "i": []}
    assert without_none(config) == {"b": {"d": {"f": 0}}, "g": False, "h": "", "i": []}
    assert config["a"] is None


@given(st.dictionaries(keys, st.recursive(scalars | st.none(), lambda x: st.dictionaries(keys, x, max_size=3))))
def test_only_keys_without_a_value_are_left_out(config):
    def expected(node):
        if not isinstance(node, dict):
            return node
        return {key: expected(value) for key, value in node.items() if value is not None}

    assert without_none(config) == expected(config)


# reported -------------------------------------------------------------------------------------------------------------


def test_a_configuration_that_is_not_finite_is_named():
    with pytest.raises(ValueError, match=r"^budget\.cost: nan is not finite$"):
        without_none({"budget": {"cost": math.nan}})


def test_a_configuration_that_cannot_be_written_leaves_no_folder(tmp_path):
    with pytest.raises(ValueError, match="not finite"):
        RunFolder.create(tmp_path / "run", {"a": math.nan})
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["result.json", CONFIG])
def test_files_that_are_no_text_are_named(run, name):
    (run.path / name).write_bytes(b"\xff\xfe{}")
    with pytest.raises(ValueError, match=rf"^\S+/run/{name}: [^\n]+$"):
        run.config() if name == CONFIG else run.read_json(name)


def test_a_tree_with_fewer_arrays_than_the_file_is_refused(run):
    run.save_tree("t.eqx", SMALL)
    with pytest.raises(ValueError, match="cannot be read back"):
        run.load_tree("t.eqx", {name: SMALL[name] for name in ("a", "b")})


@pytest.mark.parametrize("content", [{1}, np.array(["x"]), object()], ids=["set", "texts", "object"])
def test_what_json_cannot_say_is_named(content):
    with pytest.raises(ValueError, match=r"^a\.b: "):
        plain({"a": {"b": content}})


def test_a_pickle_is_not_written(run):
    with pytest.raises(ValueError, match="object"):
        run.save_tree("t.eqx", {"a": np.array([{"x": 1}], dtype=object)})
