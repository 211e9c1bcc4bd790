"""What a run found, as one JSON-able dictionary: `result.json`."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from jaxtyping import PyTree

from diffhep.audit import AuditRow, unfrozen
from diffhep.design.exact import Certificate
from diffhep.design.honest import Measured
from diffhep.design.study import AbstractStudy
from diffhep.parameters import named_params, split


class Designs(NamedTuple):
    """The design to beat, the constrained optimum of the relaxed objective, and that with its thresholds settled."""

    initial: PyTree
    optimum: PyTree
    final: PyTree


def summary(
    study: AbstractStudy,
    designs: Designs,
    judged: Mapping[str, Mapping[str, Measured]],
    certificate: Certificate,
    audit: Sequence[AuditRow],
) -> dict[str, Any]:
    """Values with errors, parameters, constraints and the audit.

    Args:
        study: the problem.
        designs: see `Designs`.
        judged: "initial hard", "final relaxed", ... -> named numbers on held-out events.
        certificate: of the constrained optimum.
        audit: of the final design.
    """
    gain = judged["final hard"]["objective"].minus(judged["initial hard"]["objective"])
    values = {
        name: {kind: judged[f"{name} {kind}"]["objective"].summary() for kind in ("relaxed", "hard")}
        for name in ("initial", "final")
    }
    return {
        "study": study.name,
        "objective": study.objective_name,
        "estimator": study.estimator,
        **values,
        "improvement": {**gain.summary(), "significance": gain.value / gain.stderr if gain.stderr else None},
        "parameters": parameters(study, designs, audit),
        "constraints": constraints(study, judged, certificate),
        "kkt": {"residual": certificate.residual, "excess": certificate.excess},
        "audit": [vars(row) for row in audit],
        "audit_tolerance": study.audit_tolerance,
        "events": bool(study.provenance()),
        "data": study.provenance(),
    }


def parameters(study: AbstractStudy, designs: Designs, audit: Sequence[AuditRow]) -> dict[str, dict[str, Any]]:
    """Name -> initial and final value, unit, gradient of the objective per unit at the end, and what one unit is worth.

    `worth` is the relative change of the objective per unit; a parameter that a budget holds back has a large one.
    """
    before, after = named_params(designs.initial), named_params(designs.final)
    gradients = {row.name: row.automatic for row in audit}
    value = float(study.problem.value(*split(unfrozen(designs.final)), study.problem.context))
    table = {}
    for name, p in after.items():
        # numbers of bits have a section of their own
        if p.role == "bits":
            continue
        digits = 0 if name in study.integers else 12
        gradient = gradients.get(name)
        table[name] = {
            "initial": round(float(before[name].unwrap()), 12),
            "final": round(float(p.unwrap()), digits),
            "unit": p.unit,
            "role": p.role,
            "bounds": p.bounds,
            "gradient": gradient,
            "worth": None if gradient is None else gradient / value,
        }
    return table


def constraints(
    study: AbstractStudy, judged: Mapping[str, Mapping[str, Measured]], certificate: Certificate
) -> dict[str, dict[str, Any]]:
    """Name -> use on held-out events (hard), its error, limit, and the multiplier d(objective)/d(limit)."""
    hard, relaxed = judged["final hard"], judged["final relaxed"]
    return {
        c.name: {
            **hard[c.name].summary(),
            "initial": judged["initial hard"][c.name].value,
            "relaxed": relaxed[c.name].value,
            "limit": c.limit,
            "unit": c.unit,
            "multiplier": float(certificate.multipliers[i]),
            "active": bool(certificate.active[i]),
        }
        for i, c in enumerate(study.problem.constraints)
    }
