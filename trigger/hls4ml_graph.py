"""A list of layers as an hls4ml project for Vitis HLS, freed of what changes from run to run.

`ModelGraph.from_layer_list` takes plain dictionaries, so neither Keras nor TensorFlow takes part.
"""

import contextlib
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

UNUSED = {"default": "ap_fixed<16,6>", "maximum": "ap_fixed<64,32>"}  # hls4ml wants types that no layer takes


def write_graph(
    folder: Path,
    layers: Sequence[Mapping[str, Any]],
    *,
    stamp: str,
    name: str,
    clock_period_ns: float,
    part: str,
    bit_exact: bool,
    types: Mapping[str, str] | None = None,
) -> None:
    """Write what hls4ml generates for layers into a new folder.

    Args:
        folder: of the project.
        layers: as `ModelGraph.from_layer_list` takes them, the input layers first and the output layer last.
        stamp: in place of the random one that hls4ml draws; eight hexadecimal digits.
        name: of the project and of its top C++ function.
        clock_period_ns: target clock period [ns].
        part: FPGA part number.
        bit_exact: whether hls4ml derives the types from the quantisers among the layers.
        types: of the results of layers, by their names.

    Raises:
        ValueError: hls4ml warns that the project is not bit-exact.
    """
    from hls4ml.model.graph import ModelGraph
    from hls4ml.utils.config import create_config

    sources = [layer["name"] for layer in layers if layer["class_name"] == "InputLayer"]
    with foreign_output():
        config = create_config(
            output_dir=str(folder),
            project_name=name,
            backend="Vitis",
            io_type="io_parallel",
            clock_period=float(clock_period_ns),  # 5 and 5.0 are written alike
            part=part,
        )
        settings = {"Precision": dict(UNUSED), "ReuseFactor": 1, "Strategy": "Latency", "BitExact": bit_exact}
        config["HLSConfig"] = {"Model": settings}
        if types:
            config["HLSConfig"]["LayerName"] = {key: {"Precision": {"result": types[key]}} for key in types}
        config["InputData"] = config["OutputPredictions"] = None
        graph = ModelGraph.from_layer_list(config, list(layers), sources, [layers[-1]["name"]])
        graph.write()
    # hls4ml draws a random stamp and records the folder: neither belongs to the project
    drawn = graph.config.get_config_value("Stamp")
    script, record = folder / "build_lib.sh", folder / "hls4ml_config.yml"
    script.write_text(script.read_text(encoding="utf-8").replace(drawn, stamp), encoding="utf-8")
    lines, kept, folded = {"OutputDir": "OutputDir: .", "Stamp": f"Stamp: '{stamp}'"}, [], False
    for line in record.read_text(encoding="utf-8").splitlines():
        # a long path goes on in lines that are indented
        if folded and line.startswith(" "):
            continue
        key = line.split(":")[0]
        folded = key in lines
        kept.append(lines.get(key, line))
    record.write_text("\n".join(kept) + "\n", encoding="utf-8")


@contextlib.contextmanager
def foreign_output() -> Iterator[None]:
    """Keeps hls4ml's messages off standard output, and turns the one warning that matters into an error.

    Standard output belongs to the JSON of the command line.
    """
    with contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings():
        # "... bit-exactness may be compromised", in several wordings
        warnings.filterwarnings("error", message=".*[Bb]it-?exact", category=UserWarning)
        try:
            yield
        except UserWarning as warning:
            msg = f"export: hls4ml warns about a layer: {' '.join(str(warning).split())}"
            raise ValueError(msg) from warning
