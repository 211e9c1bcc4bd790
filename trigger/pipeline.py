"""Logic cut into a pipeline: registers after so many levels, and the stages then made as equal as they can be."""

import math
from typing import Any


def cut(logic: Any, levels: int) -> Any:
    """The pipeline of da4ml's logic with at most so many levels between two registers, if no operation has more.

    The number of stages is what that takes; the least depth that takes no more of them is then found by bisection, and
    the logic is traced anew for it. da4ml's own retiming does the same, but drops inputs that nothing depends on, and
    with them the places of all others in the input port.
    """
    from da4ml.trace import FixedVariable, HWConfig, comb_trace, to_pipeline

    best = to_pipeline(logic, levels, retiming=False, verbose=False)
    stages = len(best.solutions)
    low, high = max(1, math.ceil(logic.latency[1] / stages)), levels
    while low < high:
        depth = (low + high) // 2
        config = HWConfig(logic.adder_size, logic.carry_size, depth)
        inputs = [FixedVariable(*interval, hwconf=config) for interval in logic.inp_qint]
        try:
            again = comb_trace(inputs, list(logic(inputs)), keep_dead_inputs=True)
        except AssertionError:
            # da4ml's way to say that a single operation is deeper
            low = depth + 1
            continue
        found = to_pipeline(again, depth, retiming=False, verbose=False)
        if len(found.solutions) > stages:
            low = depth + 1
        else:
            high, best = depth, found
    return best
