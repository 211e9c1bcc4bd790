"""Design files: the values of a design's parameters, and where its networks are.

`design.json` in a run folder holds `study`, `parameters` (name -> value in the parameter's unit) and `networks` (a file
beside it). One can be written by hand as well: parameters that are left out keep their initial values, and without
networks they are trained at that layout.
"""

import sys
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import PyTree

from diffhep.design.study import AbstractStudy, Report
from diffhep.io import RunFolder, read_json
from diffhep.parameters import Param, is_param, named_params, path_name

DESIGN = "design.json"
NETWORKS = "checkpoints/final.eqx"


def write_design(run: RunFolder, study: AbstractStudy, design: PyTree) -> None:
    """Write `design.json` of a run whose final design is stored."""
    values = {name: np.asarray(p.unwrap()) for name, p in named_params(design).items()}
    run.write_json(DESIGN, {"study": study.name, "parameters": values, "networks": NETWORKS})


def read_design(file: str | Path, study: AbstractStudy, *, progress: Report) -> PyTree:
    """The design of a file (or of a run folder), for a study.

    Raises:
        ValueError: the file is missing, not JSON, of another study, or names an unknown parameter or a value out of
            bounds.
    """
    file = Path(file)
    file = file / DESIGN if file.is_dir() else file
    content = load_json(file)
    if content.get("study") != study.name:
        msg = f"{file}: a design of study {content.get('study')!r}, wanted {study.name!r}"
        raise ValueError(msg)
    for key in content.keys() - {"study", "parameters", "networks"}:
        msg = f"{file}: unknown key {key!r}; a design has study, parameters and networks"
        raise ValueError(msg)
    values, networks = content.get("parameters", {}), content.get("networks", "")
    if not isinstance(values, dict):
        msg = f"{file}: parameters: an object of names and values is wanted, got {values!r}"
        raise ValueError(msg)
    if not isinstance(networks, str):
        msg = f"{file}: networks: the name of a file is wanted, got {networks!r}"
        raise ValueError(msg)
    if networks:
        try:
            design = RunFolder(file.parent).load_tree(networks, study.untrained())
        except ValueError as error:
            # the structure of a design goes with the options of its run: --response, --budget.luts, widths of networks
            msg = (
                f"{error}; a design is read with the options of its run (--config, with the config.toml of that folder)"
            )
            raise ValueError(msg) from None
        return with_parameters(design, values, source=str(file))
    moved = with_parameters(study.untrained(), values, source=str(file))
    return study.train(moved, progress=progress)


def load_json(file: Path) -> dict[str, Any]:
    """A JSON object; a ValueError that names the file otherwise."""
    content = read_json(file)
    if not isinstance(content, dict):
        msg = f"{file}: a JSON object is wanted, got {type(content).__name__}"
        raise ValueError(msg)
    return content


def with_parameters(design: PyTree, values: dict[str, Any], *, source: str) -> PyTree:
    """The design with some Params at other values; a ValueError that names the parameter if that cannot be."""
    known = named_params(design)
    for name, value in values.items():
        if name not in known:
            msg = f"{source}: no parameter is called {name!r}; there are {', '.join(known)}"
            raise ValueError(msg)
        shape = np.shape(known[name].raw)
        if not finite_numbers(value, shape):
            wanted = f"an array of finite numbers of shape {shape}" if shape else "a finite number"
            msg = f"{source}: {name}: {wanted} is wanted, got {value!r}"
            raise ValueError(msg)

    def replace(path: tuple, node: object) -> object:
        name = path_name(path)
        if not isinstance(node, Param) or name not in values:
            return node
        try:
            return eqx.tree_at(lambda p: p.raw, node, node.at(np.asarray(values[name], dtype=float)).raw)
        except ValueError as error:
            msg = f"{source}: {name}: {error}"
            raise ValueError(msg) from None

    return jax.tree_util.tree_map_with_path(replace, design, is_leaf=is_param)


def finite_numbers(value: Any, shape: tuple[int, ...]) -> bool:
    """Whether a JSON value is an array of finite numbers of a shape; () is a number. true and false are none."""
    if shape:
        return isinstance(value, list) and len(value) == shape[0] and all(finite_numbers(v, shape[1:]) for v in value)
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
