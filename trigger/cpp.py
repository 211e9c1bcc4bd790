"""Logic as C++ for Vitis HLS, by da4ml, and right where its generator is not."""

import re
from typing import Any

from diffhep.trigger.netlist import Circuit

REDUCED, ANY = 9, 1  # da4ml's operation `are any, or all, bits 1`, and which of the two
TYPE = r"ap_u?fixed<-?\d+,-?\d+>"


def cpp(circuit: Circuit, name: str) -> str:
    """A function template from an array of all input words to one of all output words."""
    from da4ml.codegen.hls import hls_logic_and_bridge_gen

    logic = circuit.logic
    code, _ = hls_logic_and_bridge_gen(logic, name, "vitis", pragmas=["#pragma HLS INLINE"])
    for number, operation in enumerate(logic.ops):
        if abs(operation.opcode) == REDUCED and operation.data:
            code = re.sub(
                rf"({TYPE}) v{number} = .*;",
                # da4ml 0.6 assigns the truth as a number, which is 0 in a word whose only bit is worth 2 and more
                rf"\1 v{number}; v{number}[0] = {reduction(logic, operation)};",
                code,
            )
    return code


def reduction(logic: Any, operation: Any) -> str:
    """Whether any bit of a word is 1, or all are; da4ml 0.6 looks for ones in the bits of the result instead."""
    from da4ml.types import QInterval, minimal_kif

    source = f"v{operation.id0}"
    if operation.data == ANY:
        return f"({source} != 0)"
    low, high, step = logic.ops[operation.id0].qint
    turned = operation.opcode < 0
    k, i, f = minimal_kif(QInterval(-high, -low, step) if turned else QInterval(low, high, step))
    ones = -(2.0**-f) if k else 2.0**i - 2.0**-f
    return f"({source} == {-ones if turned else ones!r})"
