"""The table of verbs, and what the command does with the first word, with bad input and with an interrupt."""

import sys
from collections.abc import Callable

from diffhep.cli.black_box import black_box
from diffhep.cli.doctor import doctor
from diffhep.cli.events import generate
from diffhep.cli.firmware import trigger
from diffhep.cli.infer import infer
from diffhep.cli.options import choose
from diffhep.cli.studies import audit, evaluate, optimise, report, studies
from diffhep.cli.surrogate import surrogate

HELP = """usage: diffhep VERB [arguments]

Differentiable high-energy physics: from events to a better detector and its trigger on an FPGA.

  optimise STUDY [-o DIR] [--resume] [--config FILE] [overrides]   find the best design within the budget
  evaluate STUDY --design FILE [overrides]                         a design on held-out events, relaxed and hard
  audit STUDY [--design FILE] [overrides]                          every gradient against finite differences
  studies                                                          the shipped studies
  black-box FILE.py -o DIR --events N [--resume]                   the best design of a simulator without gradients
  infer WORKSPACE.json [--patch P] [--impacts] [--toys N] [-o DIR] fit, CLs, significance and limit of a pyhf workspace
  generate pythia PROCESS -n N -o FILE.root                        events from Pythia 8
  generate jets -n N -o FILE.npz [--classes ...] [--constituents]  labelled jets with their substructure from Pythia 8
  generate geant4 -n N -o FILE.npz [options] [--resume]            showers in a sampling calorimeter from Geant4
  trigger menu CONFIG.toml -o DIR [--rate-budget R]                rates, efficiencies and best thresholds of a menu
  trigger train [CONFIG.toml] -o DIR [--resume] [overrides]        learned bit widths within a budget, proved as logic
  trigger anomaly [CONFIG.toml] -o DIR [--resume] [overrides]      an autoencoder's anomaly score, proved as logic
  trigger export RUN -o DIR                                        a run's trigger classifier for hls4ml and as Verilog
  trigger verify DIR [--n N]                                       C simulation and Verilog against JAX, bit for bit
  surrogate train [CONFIG.toml] -o DIR [--resume] [overrides]      a stand-in for Geant4, conditioned on the stack
  surrogate validate DIR --data FILE                               its showers against full simulation
  surrogate sample DIR --like FILE -o FILE                         showers from it
  report RUN                                                       write a run's report.html again
  doctor                                                           optional parts: what is there, how to get the rest

Every verb takes --json (one JSON object on standard output) and --help (all its options, with units).
"""
VERBS: dict[str, Callable[[list[str]], int]] = {
    "optimise": optimise,
    "evaluate": evaluate,
    "audit": audit,
    "studies": studies,
    "black-box": black_box,
    "infer": infer,
    "generate": generate,
    "trigger": trigger,
    "surrogate": surrogate,
    "report": report,
    "doctor": doctor,
}


def main(argv: list[str] | None = None) -> int:
    """Run one verb; returns the exit status."""
    args = list(sys.argv[1:] if argv is None else argv)
    if not args or args[0] in ("-h", "--help"):
        print(HELP, end="")
        return 0
    if args[0] == "--version":
        import diffhep

        print(f"diffhep {diffhep.__version__}")
        return 0
    try:
        return VERBS[choose(args[0], tuple(VERBS), "verb")](args[1:])
    except ValueError as error:
        print(f"diffhep: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        without = (["infer"], ["generate", "pythia"], ["generate", "jets"])
        resume = "" if args[:1] in without or args[:2] in without else "; the run can be resumed with --resume"
        print(f"diffhep: interrupted{resume}", file=sys.stderr)
        return 130
