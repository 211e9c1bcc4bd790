"""The workspace that the tests of `diffhep infer` share, and the command as a function."""

import contextlib
import io

from diffhep import cli
from tests.specifications import modifier, sample


def make_spec():
    """Two channels, not in pyhf's order, with modifiers of every type but shapefactor, and correlated nuisances."""
    mu, lumi = modifier("mu", "normfactor"), modifier("lumi", "lumi")
    jes = {"hi_data": [33.0, 41.0, 20.0], "lo_data": [28.0, 40.0, 23.0]}
    eff = lambda hi, lo: modifier("eff", "normsys", {"hi": hi, "lo": lo})
    signal_region = [
        sample("signal", [4.0, 12.0, 7.0], mu, lumi, eff(1.06, 0.95), modifier("mc", "staterror", [0.3, 0.6, 0.4])),
        sample(
            "top",
            [30.0, 41.0, 22.0],
            modifier("top_norm", "normfactor"),
            eff(1.04, 0.97),
            modifier("jes", "histosys", jes),
            modifier("mc", "staterror", [2.0, 2.5, 1.8]),
        ),
        sample("fakes", [11.0, 6.0, 2.0], modifier("fake_unc", "shapesys", [3.0, 1.5, 0.8])),
    ]
    control = [
        sample(
            "top",
            [150.0, 90.0],
            modifier("top_norm", "normfactor"),
            modifier("jes", "histosys", {"hi_data": [155.0, 92.0], "lo_data": [146.0, 87.0]}),
            modifier("mc_control", "staterror", [4.0, 3.0]),
        ),
        sample("fakes", [20.0, 12.0], lumi, modifier("fake_rate", "normsys", {"hi": 1.3, "lo": 0.75})),
    ]
    constraint = {"name": "lumi", "auxdata": [1.0], "sigmas": [0.02], "inits": [1.0], "bounds": [[0.5, 1.5]]}
    return {
        "channels": [{"name": "signal_region", "samples": signal_region}, {"name": "control", "samples": control}],
        "observations": [
            {"name": "signal_region", "data": [49.0, 60.0, 33.0]},
            {"name": "control", "data": [178.0, 96.0]},
        ],
        "measurements": [{"name": "search", "config": {"poi": "mu", "parameters": [constraint]}}],
        "version": "1.0.0",
    }


def call(*args):
    """The command in this process: exit status, what it printed, what it said."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = cli.main(["infer", *map(str, args)])
    return status, out.getvalue(), err.getvalue()
