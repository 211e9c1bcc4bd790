"""Words of the command line to values: a verb's options, a study's settings.

What does not parse is a ValueError of one line, which names the word.
"""

import contextlib
import dataclasses
import difflib
import io
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import tyro

from diffhep.design.config import STUDIES
from diffhep.quantities import without_units
from diffhep.settings import Settings, read_toml, settings_from, units_of

QUIET = tyro.conf.FlagCreatePairsOff

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


def one_of(verbs: Mapping[str, Callable[[list[str]], int]], args: list[str], program: str, what: str) -> int:
    """Runs the verb that the first word names, or prints what each of them does."""
    if args and args[0] in ("-h", "--help"):
        print(f"usage: {program} {what.split()[-1].upper()} [options]\n")
        for name, function in verbs.items():
            print(f"  {name:9s} {(function.__doc__ or '').splitlines()[0]}")
        print(f"\noptions of one of them: {program} {next(iter(verbs))} --help")
        return 0
    return verbs[choose(args[0] if args else "", tuple(verbs), what)](args[1:])


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
    hints = re.findall(r"--\w[\w.-]*", " ".join(lines[rules[1] :])) if len(rules) >= 2 and "meant" in text else []
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
            values = read_toml(file)
            # a run's own config.toml serves as well: made by a machine, it has plain numbers
            plain = values.get("settings") or without_units(values, units_of(model), source=str(file))
            return rest, settings_from(model, plain, source=str(file))
    return args, model()


def training_options(program: str, args: list[str], model: type[Settings]) -> Any:
    """Options of a training that ends in a run folder: `settings`, `output`, `resume`, `json`.

    The configuration may stand first, as a word of its own.
    """
    rest, base = take_config(["--config", *args] if args and not args[0].startswith("-") else args, model)
    settings_option = (
        "settings",
        Annotated[model, tyro.conf.arg(name="")],
        dataclasses.field(default_factory=lambda: base),
    )
    config_option = ("config", Annotated[Path | None, tyro.conf.arg(help="TOML file of settings")], None)
    return parse(
        program,
        rest,
        extra=(settings_option, config_option),
        output=(Path, tyro.MISSING, "run folder", ("-o",)),
        resume=(bool, False, "go on with a killed training in the same folder", ()),
    )


def stored_settings(config: Mapping[str, Any], given: Settings, path: Path) -> Any:
    """The settings a training was started with; a ValueError if those given now are others, and not the defaults."""
    model = type(given)
    stored = settings_from(model, config.get("settings", {}), source=str(path / "config.toml"))
    if given not in (stored, model()):
        msg = f"{path}: the training was started with other settings; resume it without overrides"
        raise ValueError(msg)
    return stored
