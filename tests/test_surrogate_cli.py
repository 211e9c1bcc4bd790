"""`diffhep surrogate`: train, validate and sample from the command line, and what bad input is told."""

import json

import numpy as np
import pytest

from diffhep.cli import main
from diffhep.io import read_showers, shipped_showers, write_showers

QUICK = [
    "--network.kind=gan",
    "--network.width=16",
    "--network.depth=1",
    "--network.moments=8",
    "--schedule.moments=20",
    "--schedule.generator=20",
    "--schedule.student=20",
    "--schedule.checkpoint=20",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("surrogate")
    assert main(["surrogate", "train", "-o", str(path / "run"), *QUICK]) == 0
    write_showers(path / "some.npz", read_showers(shipped_showers())[:300])
    return path


def said(capsys, args) -> str:
    assert main(args) == 2
    return capsys.readouterr().err


def test_a_run_folder_holds_card_curve_and_picture(folder):
    card = json.loads((folder / "run" / "card.json").read_text())
    assert card["stack"]["layers"] == 30
    assert card["data"][0]["showers"] == 6000
    assert (folder / "run" / "figures" / "training.png").stat().st_size > 1000
    lines = (folder / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["phase"] for line in lines] == ["moments", "generator"]


def test_training_goes_on_from_the_weights_of_another(folder, capsys):
    some, new = str(folder / "some.npz"), folder / "further"
    args = ["surrogate", "train", "-o", str(new), "--start-from", str(folder / "run"), "--data", some, "--replay", some]
    steps = [word for word in QUICK if word.startswith("--schedule")]
    assert main([*args, *steps, "--json"]) == 0
    card = json.loads(capsys.readouterr().out)["card"]
    first = json.loads((folder / "run" / "card.json").read_text())
    # kind and widths are those of the surrogate that it starts from
    assert card["settings"]["network"] == first["settings"]["network"]
    assert card["started_from"] == first["weights"] != card["weights"]
    assert [row["file"] for row in card["data"]] == ["some.npz", "some.npz"]
    # killed after its last checkpoint, it ends the same
    (new / "card.json").unlink()
    assert main(["surrogate", "train", "-o", str(new), "--resume", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["card"]["weights"] == card["weights"]
    other = ["surrogate", "train", "-o", str(folder / "x"), "--start-from", "shipped", "--network.width=16"]
    assert "brings its network" in said(capsys, other)
    assert not (folder / "x").exists()


def test_validation_prints_one_json_object(folder, capsys):
    assert main(["surrogate", "validate", str(folder / "run"), "--data", str(folder / "some.npz"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["showers"] == 300
    assert 0 <= found["auc"]["high"] <= 1
    assert found["in_domain"] == 1.0
    assert (folder / "run" / "figures" / "profile.png").exists()


def test_samples_are_a_file_of_showers(folder, capsys):
    new = folder / "new.npz"
    args = ["surrogate", "sample", str(folder / "run"), "--like", str(folder / "some.npz"), "-o", str(new), "--json"]
    assert main(args) == 0
    assert json.loads(capsys.readouterr().out)["showers"] == 300
    made, like = read_showers(new), read_showers(folder / "some.npz")
    assert np.array_equal(made.absorber_thickness, like.absorber_thickness)
    assert np.all(made.active_energy.sum(axis=1) <= made.energy)


def test_bad_input_is_one_line(folder, capsys, tmp_path):
    run, some = str(folder / "run"), str(folder / "some.npz")
    assert "already holds a run" in said(capsys, ["surrogate", "train", "-o", run])
    assert "trane" in said(capsys, ["surrogate", "trane"])
    (tmp_path / "bad.toml").write_text("[network]\nkind = 'magic'\n")
    assert "network.kind" in said(capsys, ["surrogate", "train", str(tmp_path / "bad.toml"), "-o", str(tmp_path / "x")])
    assert "holds no surrogate" in said(capsys, ["surrogate", "validate", str(tmp_path), "--data", some])
    (tmp_path / "no.npz").write_bytes(b"nothing")
    assert "no.npz" in said(capsys, ["surrogate", "validate", run, "--data", str(tmp_path / "no.npz")])
    showers = read_showers(shipped_showers())[:50]
    far = type(showers)(**{**showers.arrays(), "energy": 100 * showers.energy}, config=showers.config)
    write_showers(tmp_path / "far.npz", far)
    told = said(
        capsys, ["surrogate", "sample", run, "--like", str(tmp_path / "far.npz"), "-o", str(tmp_path / "y.npz")]
    )
    assert "outside the trained domain" in told
    assert not (tmp_path / "y.npz").exists()
    assert "other settings" in said(capsys, ["surrogate", "train", "-o", run, "--resume", "--network.width=99"])
