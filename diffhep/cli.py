"""The `diffhep` command: one verb a function.

Every verb takes `--json` and then prints exactly one JSON object on standard output; progress and messages go to
standard error. Exit status: 0 on success, 1 when a check failed, 2 for bad input (one line, no traceback).
"""

import contextlib
import dataclasses
import difflib
import io
import json
import re
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import tyro

from diffhep.design.config import STUDIES, Settings, settings_from

HELP = """usage: diffhep VERB [arguments]

Differentiable high-energy physics: from events to a better detector and its trigger on an FPGA.

  optimise STUDY [-o DIR] [--resume] [--config FILE] [overrides]   find the best design within the budget
  evaluate STUDY --design FILE [overrides]                         a design on held-out events, relaxed and hard
  audit STUDY [--design FILE] [overrides]                          every gradient against finite differences
  studies                                                          the shipped studies
  generate pythia PROCESS -n N -o FILE.root                        events from Pythia 8
  trigger export RUN -o DIR                                        a run's trigger classifier as an hls4ml project
  trigger verify DIR [--n N]                                       the project's C simulation against JAX, bit for bit
  report RUN                                                       write a run's report.html again

Every verb takes --json (one JSON object on standard output) and --help (all its options, with units).
"""
VERBS = ("optimise", "evaluate", "audit", "studies", "generate", "trigger", "report")
QUIET = tyro.conf.FlagCreatePairsOff


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
        verb = choose(args[0], VERBS, "verb")
        return {
            "optimise": optimise,
            "evaluate": evaluate,
            "audit": audit,
            "studies": studies,
            "generate": generate,
            "trigger": trigger,
            "report": report,
        }[verb](args[1:])
    except ValueError as error:
        print(f"diffhep: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("diffhep: interrupted; the run can be resumed with --resume", file=sys.stderr)
        return 130


def optimise(args: list[str]) -> int:
    """Find the best design of a study within its budget."""
    name, options, settings = study_options(
        "optimise",
        args,
        output=(Path | None, None, "run folder (default: runs/STUDY)", ("-o",)),
        resume=(bool, False, "go on with a killed run in the same folder", ()),
        firmware=(bool, True, "export the trigger's classifier and prove it bit-exact (needs g++)", ()),
    )
    start_jax()
    from diffhep.design.optimise import optimise_study
    from diffhep.design.studies import open_study
    from diffhep.io import RunFolder
    from diffhep.report import write_report

    path = options.output or Path("runs") / name
    content = {"study": name, "settings": settings.model_dump(mode="json")}
    if options.resume:
        run = RunFolder.open(path)
        settings = resumed(run.config(), content, name, path)
        study = open_study(name, settings)
    else:
        RunFolder(path).check_free()
        study = open_study(name, settings)
        study.check_feasible()
        run = RunFolder.create(path, content)
    with progress_bar() as progress:
        result = optimise_study(study, run, progress, firmware=options.firmware)
    page = write_report(run)
    if options.json:
        print_json(result)
    else:
        print_outcome(result, page)
    return 0


def evaluate(args: list[str]) -> int:
    """A design on held-out events, relaxed and hard."""
    name, options, settings = study_options(
        "evaluate", args, design=(Path, dataclasses.MISSING, "design.json, or the run folder that holds it", ())
    )
    start_jax()
    from diffhep.design.design_file import read_design
    from diffhep.design.studies import open_study

    study = open_study(name, settings)
    with progress_bar() as progress:
        design = read_design(options.design, study, progress=progress)
        judged = {kind: study.judge(design, relaxed=kind == "relaxed") for kind in ("relaxed", "hard")}
    out: dict[str, Any] = {
        "study": name,
        **{kind: measured["objective"].summary() for kind, measured in judged.items()},
        "constraints": {
            c.name: {**judged["hard"][c.name].summary(), "limit": c.limit, "unit": c.unit}
            for c in study.problem.constraints
        },
    }
    if options.json:
        print_json(out)
    else:
        for kind in ("relaxed", "hard"):
            print(f"{study.objective_name}, {kind}: {out[kind]['value']:.4f} +- {out[kind]['stderr']:.4f}")
        for label, c in out["constraints"].items():
            print(f"{label}: {c['value']:.4g} +- {c['stderr']:.2g} {c['unit']} (limit {c['limit']:g})")
    return 0


def audit(args: list[str]) -> int:
    """Every gradient of a study against central finite differences."""
    name, options, settings = study_options(
        "audit", args, design=(Path | None, None, "where to compare; the initial design if left out", ())
    )
    start_jax()
    from diffhep.audit import table
    from diffhep.design.design_file import read_design
    from diffhep.design.optimise import audit_study
    from diffhep.design.studies import open_study

    study = open_study(name, settings)
    with progress_bar() as progress:
        design = (
            read_design(options.design, study, progress=progress)
            if options.design
            else study.initial(progress=progress)
        )
        rows = audit_study(study, design, seed=settings.search.seed, progress=progress)
    passed = all(row.passed for row in rows)
    if options.json:
        print_json({"study": name, "passed": passed, "rows": [vars(row) for row in rows]})
    else:
        print(table(rows))
    return 0 if passed else 1


def studies(args: list[str]) -> int:
    """The shipped studies."""
    options = parse("diffhep studies", args)
    found = {name: (model.__doc__ or "").strip().splitlines()[0] for name, model in STUDIES.items()}
    if options.json:
        print_json({"studies": found})
    else:
        for name, summary in found.items():
            print(f"{name:20s} {summary}")
    return 0


def generate(args: list[str]) -> int:
    """Events from a generator."""
    generator = choose(args[0] if args else "", ("pythia",), "generator")
    options = parse(
        f"diffhep generate {generator}",
        args[1:],
        process=(str, tyro.MISSING, "higgs-diphoton, diphoton or jets", None),
        n=(int, tyro.MISSING, "events to keep", ("-n",)),
        output=(Path, tyro.MISSING, "the new ROOT file", ("-o",)),
        seed=(int, 1, "of the generator, 1 to 900000000", ()),
        setting=(tuple[str, ...], (), "further settings of Pythia, as in 'PartonLevel:MPI = off'", ()),
    )
    start_jax()
    from diffhep.generate.pythia import generate as generate_pythia
    from diffhep.io import read_sample

    path = generate_pythia(options.process, options.n, seed=options.seed, path=options.output, settings=options.setting)
    sample = read_sample(path)
    out = {
        "file": str(path),
        "events": sample.events.size,
        "generated": sample.n_generated,
        "cross_section_pb": sample.cross_section,
        "luminosity_per_pb": sample.luminosity,
        "seed": options.seed,
    }
    if options.json:
        print_json(out)
    else:
        print(f"{path}: {out['events']} events, cross-section {sample.cross_section:.4g} pb before the selection")
    return 0


def trigger(args: list[str]) -> int:
    """Export of the trigger to an FPGA project, and its proof."""
    action = choose(args[0] if args else "", ("export", "verify"), "trigger action")
    return {"export": trigger_export, "verify": trigger_verify}[action](args[1:])


def trigger_export(args: list[str]) -> int:
    """A run's trigger classifier as an hls4ml project."""
    options = parse(
        "diffhep trigger export",
        args,
        run=(Path, tyro.MISSING, "run folder", None),
        output=(Path, tyro.MISSING, "folder of the new project", ("-o",)),
        clock_period=(float, 5.0, "clock period [ns]", ()),
    )
    start_jax()
    from diffhep.design.firmware import export_run
    from diffhep.io import RunFolder

    card = export_run(RunFolder.open(options.run), options.output, clock_period_ns=options.clock_period)
    if options.json:
        print_json({"folder": str(options.output), "model_card": card})
    else:
        print(f"{options.output}: hls4ml project written; prove it with: diffhep trigger verify {options.output}")
    return 0


def trigger_verify(args: list[str]) -> int:
    """A project's C simulation against the integer emulation in JAX."""
    options = parse(
        "diffhep trigger verify",
        args,
        folder=(Path, tyro.MISSING, "folder of the project", None),
        n=(int, 100_000, "random inputs", ("-n",)),
        seed=(int, 0, "of the random inputs", ()),
    )
    start_jax()
    from diffhep.trigger import verify

    found = verify(options.folder, n=options.n, seed=options.seed)
    if options.json:
        print_json(found)
    else:
        print(f"{found['mismatches']} of {found['outputs']} outputs differ, for {found['inputs']} inputs")
    return 0 if found["mismatches"] == 0 else 1


def report(args: list[str]) -> int:
    """Write a run's report again."""
    options = parse("diffhep report", args, run=(Path, tyro.MISSING, "run folder", None))
    from diffhep.io import RunFolder
    from diffhep.report import write_report

    page = write_report(RunFolder.open(options.run))
    if options.json:
        print_json({"report": str(page)})
    else:
        print(page)
    return 0


# --- parsing ---------------------------------------------------------------------------------------------------------

Option = tuple[Any, Any, str, tuple[str, ...] | None]
"""Type, default, help text, aliases; None for the aliases makes it positional."""


def choose(word: str, among: tuple[str, ...] | list[str], what: str) -> str:
    """The word if it is one of those; a ValueError with the nearest one otherwise."""
    if word in among:
        return word
    near = difflib.get_close_matches(word, among, n=1, cutoff=0.4)
    hint = f"; did you mean {near[0]!r}?" if near else f"; there are {', '.join(among)}"
    msg = f"unknown {what} {word!r}{hint}" if word else f"a {what} is wanted: {', '.join(among)}"
    raise ValueError(msg)


def parse(program: str, args: list[str], *, extra: tuple = (), **wanted: Option) -> Any:
    """Options of a verb, `--json` among them; a ValueError with one line for anything that does not parse."""
    fields = []
    for name, (kind, default, text, aliases) in wanted.items():
        notes = (tyro.conf.Positional,) if aliases is None else ()
        annotated: Any = Annotated[(kind, tyro.conf.arg(help=text, aliases=aliases or None), *notes)]
        if default is dataclasses.MISSING or default is tyro.MISSING:
            fields.append((name, annotated))
        else:
            fields.append((name, annotated, dataclasses.field(default=default)))
    fields.sort(key=len)
    fields.append(("json", Annotated[bool, tyro.conf.arg(help="one JSON object on standard output")], False))
    fields += extra
    model = dataclasses.make_dataclass("Options", fields)
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            return tyro.cli(model, args=args, prog=program, config=(QUIET,))
    except SystemExit as stop:
        if not stop.code:
            raise
        msg = first_words(errors.getvalue())
        raise ValueError(msg) from None


def first_words(text: str) -> str:
    """The sentence in a boxed message of the parser: what lies between its first two rules, or all of it."""
    lines = [line.strip(" │╭╰╮╯─") for line in text.splitlines()]
    rules = [i for i, line in enumerate(text.splitlines()) if re.fullmatch(r"\s*[-─╭╮╰╯]{5,}\s*", line)]
    body = lines[rules[0] + 1 : rules[1]] if len(rules) >= 2 else lines
    sentence = re.sub(r"For further information visit \S+|\[type=[^\]]*\]", "", " ".join(body))
    hints = re.findall(r"--[\w.-]+", " ".join(lines[rules[1] :])) if len(rules) >= 2 and "meant" in text else []
    near = f"; did you mean {hints[0]}?" if hints else ""
    return " ".join(sentence.split()) + near


def study_options(verb: str, args: list[str], **wanted: Option) -> tuple[str, Any, Any]:
    """Name of the study, options of the verb, and validated settings: defaults, then `--config`, then overrides."""
    if args and args[0] in ("-h", "--help"):
        print(f"usage: diffhep {verb} STUDY [options]\n\nstudies: {', '.join(STUDIES)}")
        print(f"options of one study: diffhep {verb} {next(iter(STUDIES))} --help")
        raise SystemExit(0)
    name = choose(args[0] if args else "", list(STUDIES), "study")
    rest, base = take_config(args[1:], STUDIES[name])
    extra = (
        (
            "settings",
            Annotated[STUDIES[name], tyro.conf.arg(name="")],
            dataclasses.field(default_factory=lambda: base),
        ),
        ("config", Annotated[Path | None, tyro.conf.arg(help="TOML file of settings")], None),
        ("seed", Annotated[int | None, tyro.conf.arg(help="of every random number; same as --search.seed")], None),
    )
    options = parse(f"diffhep {verb} {name}", rest, extra=extra, **wanted)
    settings = options.settings
    if options.seed is not None:
        values = settings.model_dump()
        values["search"]["seed"] = options.seed
        settings = settings_from(STUDIES[name], values, source="--seed")
    return name, options, settings


def take_config(args: list[str], model: type[Settings]) -> tuple[list[str], Settings]:
    """The arguments without `--config FILE`, and the settings it names (the defaults if there is none)."""
    for i, word in enumerate(args):
        if word == "--config" or word.startswith("--config="):
            file = Path(word.split("=", 1)[1] if "=" in word else next(iter(args[i + 1 : i + 2]), ""))
            rest = args[:i] + args[i + (1 if "=" in word else 2) :]
            try:
                values = tomllib.loads(file.read_text())
            except OSError as error:
                msg = f"{file}: cannot be read ({error.strerror})"
                raise ValueError(msg) from None
            except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
                msg = f"{file}: not valid TOML ({error})"
                raise ValueError(msg) from None
            # a run's own config.toml serves as well
            return rest, settings_from(model, values.get("settings", values), source=str(file))
    return args, model()


def resumed(stored: dict[str, Any], given: dict[str, Any], name: str, path: Path) -> Any:
    """The settings a run was started with; a ValueError if the study differs or an override contradicts them."""
    if stored.get("study") != name:
        msg = f"{path}: holds a run of study {stored.get('study')!r}, not {name!r}"
        raise ValueError(msg)
    model = STUDIES[name]
    settings = settings_from(model, stored["settings"], source=f"{path}/config.toml")
    asked = given["settings"]
    if asked not in (settings.model_dump(mode="json"), model().model_dump(mode="json")):
        msg = f"{path}: the run was started with other settings; resume it without overrides"
        raise ValueError(msg)
    return settings


# --- talking ---------------------------------------------------------------------------------------------------------


def start_jax() -> None:
    """Double precision for the whole command: fits need it. The command may choose; the library never does."""
    import jax

    jax.config.update("jax_enable_x64", True)


@contextlib.contextmanager
def progress_bar() -> Iterator[Callable[[str, float], None]]:
    """A bar on standard error, one row a phase; yields a function of the phase and the fraction done."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description:>18s}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        tasks: dict[str, Any] = {}

        def progress(phase: str, fraction: float) -> None:
            if phase not in tasks:
                tasks[phase] = bar.add_task(phase, total=1.0)
            bar.update(tasks[phase], completed=fraction)

        yield progress


def print_json(content: Any) -> None:
    """Exactly one JSON object on standard output."""
    from diffhep.io.run import plain

    print(json.dumps(plain(content), indent=1, allow_nan=False))


def print_outcome(result: dict[str, Any], page: Path) -> None:
    """What a person wants to know after an optimisation."""
    gain = result["improvement"]
    for name in ("initial", "final"):
        hard, relaxed = result[name]["hard"], result[name]["relaxed"]
        print(f"{name:8s} Z = {hard['value']:.3f} +- {hard['stderr']:.3f} (relaxed {relaxed['value']:.3f})")
    verdict = "" if gain["significance"] > 2 else " - not significant"
    print(
        f"improvement {gain['value']:.3f} +- {gain['stderr']:.3f}: {gain['significance']:.1f} standard errors{verdict}"
    )
    for name, p in result["parameters"].items():
        if p["role"] in ("geometry", "threshold"):
            print(f"  {name:24s} {p['initial']:10.4g} -> {p['final']:10.4g} {p['unit']}")
    for name, c in result["constraints"].items():
        worth = f"one more is worth {c['multiplier']:.3g} in Z"
        print(f"  {name:24s} {c['value']:10.4g} of {c['limit']:.4g} {c['unit']}; {worth}")
    print(f"report: {page}")


if __name__ == "__main__":
    sys.exit(main())
