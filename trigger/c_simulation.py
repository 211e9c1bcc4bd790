"""The C simulation of an hls4ml project as a program that runs events through it.

One translation unit, whose headers are parsed once, and a program of its own: hls4ml's library would be called event by
event from Python, would write to our standard output and could not be unloaded.
"""

import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

DRIVER = """\
#include "firmware/{name}.cpp"
#include "{name}_bridge.cpp"
#include <cstdio>
#include <vector>

int main(int, char **argv) {{
    std::vector<double> x({inputs}), y({outputs});
    FILE *in = std::fopen(argv[1], "rb"), *out = std::fopen(argv[2], "wb");
    if (!in || !out) return 2;
    while (std::fread(x.data(), sizeof(double), x.size(), in) == x.size()) {{
        {name}_double({arrays});
        if (std::fwrite(y.data(), sizeof(double), y.size(), out) != y.size()) return 3;
    }}
    return std::fclose(in) || std::fclose(out) ? 4 : 0;
}}
"""


def compile_simulation(build: Path, compiler: str, name: str, inputs: Sequence[int], outputs: Sequence[int]) -> Path:
    """The simulation as a program: reads events of doubles from one file, writes results to another.

    Args:
        build: folder of the project, to be compiled in.
        compiler: g++.
        name: of the project.
        inputs: words in each array that the top function takes.
        outputs: words in each array that it fills.

    Raises:
        ValueError: the compiler fails.
    """
    places = [
        f"{letter}.data() + {start}"
        for letter, sizes in (("x", inputs), ("y", outputs))
        for start in np.cumsum([0, *sizes[:-1]]).tolist()
    ]
    driver = DRIVER.format(name=name, inputs=sum(inputs), outputs=sum(outputs), arrays=", ".join(places))
    (build / "driver.cpp").write_text(driver, encoding="utf-8")
    # weights are read at run time, relative to the folder the program runs in; higher optimisation takes half as long
    # again to compile logic that is one long function, and does not make it faster
    flags = ["-O1", "-w", "-std=c++17", "-Ifirmware/ap_types", '-DWEIGHTS_DIR="firmware/weights"']
    command = [compiler, *flags, "driver.cpp", "-o", "simulation"]
    result = subprocess.run(command, cwd=build, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        first = next((line for line in result.stderr.splitlines() if "error" in line), "no message")
        msg = f"verify: g++ failed on the C simulation of {name}: {first.strip()}"
        raise ValueError(msg)
    return build / "simulation"


def simulate(program: Path, values: Float[np.ndarray, "event in"], outputs: int) -> Float[np.ndarray, "event out"]:
    """The results of the C simulation, so many words an event; a ValueError if it fails."""
    source, target = program.parent / "inputs.bin", program.parent / "outputs.bin"
    np.ascontiguousarray(values, np.float64).tofile(source)
    command = [str(program), source.name, target.name]
    result = subprocess.run(command, cwd=program.parent, capture_output=True, text=True, check=False)
    found = np.fromfile(target, np.float64) if target.exists() else np.zeros(0)
    if result.returncode != 0 or result.stderr or found.size != len(values) * outputs:
        first = (result.stderr.splitlines() or [f"exit status {result.returncode}"])[0]
        msg = f"verify: the C simulation failed: {first}"
        raise ValueError(msg)
    return found.reshape(-1, outputs)
