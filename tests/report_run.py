"""A run folder with a synthetic result, for the tests of the report: no number here was measured."""

from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np

from diffhep.io import RunFolder

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
