"""Energy correlation functions: loops, closed forms, fastjet-contrib, symmetries, and jets that have none."""

import itertools

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given
from numpy.testing import assert_allclose, assert_array_equal

from diffhep.generate import substructure
from diffhep.generate.substructure import FEATURES, correlations, high_level_features

RATIOS = FEATURES[4:14]


def momenta(pt, y, phi, mass=0.0):
    pt, y, phi, mass = np.broadcast_arrays(pt, y, phi, mass)
    transverse = np.hypot(pt, mass)
    return np.stack(
        [pt * np.cos(phi), pt * np.sin(phi), transverse * np.sinh(y), transverse * np.cosh(y)], axis=-1
    ).astype(float)


def features_of(*jets):
    """The features by name, of jets that grooming leaves as they are."""
    flat, counts = np.concatenate(jets), [len(jet) for jet in jets]
    return dict(zip(FEATURES, high_level_features(flat, counts, flat, counts).T, strict=True))


def random_jets(seed, sizes):
    rng = np.random.default_rng(seed)
    return [
        momenta(
            rng.exponential(20.0, n) + 0.1, rng.normal(1.0, 0.3, n), rng.normal(3.0, 0.3, n), rng.choice([0, 0.14], n)
        )
        for n in sizes
    ]


def by_loops(jet):
    """All sixteen, by their definitions, from the momenta of one jet."""
    px, py, pz, energy = jet.T
    pt = np.hypot(px, py)
    z, y, phi = pt / pt.sum(), np.log((energy + pz) / (energy - pz)) / 2, np.arctan2(py, px)

    def distance(i, j):
        return np.hypot(y[i] - y[j], (phi[i] - phi[j] + np.pi) % (2 * np.pi) - np.pi)

    def e2(beta):
        return sum(z[i] * z[j] * distance(i, j) ** beta for i, j in itertools.combinations(range(len(z)), 2))

    def e3(k, beta):
        total = 0.0
        for i, j, l in itertools.combinations(range(len(z)), 3):
            nearest = sorted([distance(i, j), distance(i, l), distance(j, l)])[:k]
            total += z[i] * z[j] * z[l] * np.prod(nearest) ** beta
        return total

    total = jet.sum(axis=0)
    return (
        (z * np.log(z)).sum(),
        *(e2(beta) for beta in (0, 1, 2)),
        *(e3(3, beta) / e2(beta) ** 2 for beta in (1, 2)),
        *(e3(3, beta) / e2(beta) ** 3 for beta in (1, 2)),
        e3(3, 1) / e2(1) ** 3,
        e3(3, 1) / e2(2) ** 1.5,
        *(e3(1, beta) / e2(beta) for beta in (1, 2)),
        *(e3(2, beta) / e2(beta) ** 2 for beta in (1, 2)),
        np.sqrt(total[3] ** 2 - total[:3] @ total[:3]),
        len(jet),
    )


@pytest.mark.parametrize("chunk", [1, 500, 2**15])
def test_loops_over_the_definitions(monkeypatch, chunk):
    monkeypatch.setattr(substructure, "CHUNK", chunk)
    jets = random_jets(1, [2, 3, 4, 7, 7, 15, 31, 5])
    flat, counts = np.concatenate(jets), [len(jet) for jet in jets]
    # both sides add up some thousand terms of one sign: 1e-10 is far above their rounding, C1 of two particles included
    assert_allclose(
        high_level_features(flat, counts, flat, counts), [by_loops(jet) for jet in jets], rtol=1e-10, atol=1e-14
    )


def test_two_particles_in_closed_form():
    z, r = 0.3, 0.2
    found = features_of(momenta([700 * z, 700 * (1 - z)], [0.1, 0.1], [3.1, 3.1 + r - 2 * np.pi]))
    for beta in (0, 1, 2):
        assert found[f"c1_b{beta}_mmdt"][0] == pytest.approx(z * (1 - z) * r**beta, rel=1e-12)
    assert all(found[name][0] == 0 for name in RATIOS)
    assert found["zlogz"][0] == pytest.approx(z * np.log(z) + (1 - z) * np.log(1 - z), rel=1e-12)
    # m^2 = 2 pT1 pT2 (cosh dy - cos dphi)
    assert found["mass_mmdt"][0] == pytest.approx(700 * np.sqrt(2 * z * (1 - z) * (1 - np.cos(r))), rel=1e-9)
    assert found["multiplicity"][0] == 2


def test_three_equal_particles_in_closed_form():
    r = 0.4  # an equilateral triangle of shares 1/3: e2 = R^b/3, e3 = R^3b/27, and k distances give R^kb/27
    found = features_of(momenta(np.full(3, 100.0), r * np.array([0, 1, 0.5]), r * np.array([0, 0, np.sqrt(0.75)])))
    for beta in (1, 2):
        side = r**beta
        for name, wanted in {
            f"c1_b{beta}": side / 3,
            f"c2_b{beta}": side / 3,
            f"d2_b{beta}": 1.0,
            f"m2_b{beta}": 1 / 9,
            f"n2_b{beta}": 1 / 3,
        }.items():
            assert found[f"{name}_mmdt"][0] == pytest.approx(wanted, rel=1e-12)
    assert found["d2_a1_b2_mmdt"][0] == pytest.approx(r**3 / 27 / (r**2 / 3) ** 1.5, rel=1e-12)
    assert_array_equal(found["d2_a1_b1_mmdt"], found["d2_b1_mmdt"])
    assert found["c1_b0_mmdt"][0] == pytest.approx((1 - 1 / 3) / 2, rel=1e-12)


def test_a_collinear_three_prong_chain():
    # distances r, r, 2r: the smallest is r, the two smallest make r^2
    r = 0.1
    found = features_of(momenta(np.full(3, 50.0), [0.0, r, 2 * r], np.zeros(3)))
    e2 = 4 * r / 9
    assert found["m2_b1_mmdt"][0] == pytest.approx(r / 27 / e2, rel=1e-12)
    assert found["n2_b1_mmdt"][0] == pytest.approx(r**2 / 27 / e2**2, rel=1e-12)
    assert found["d2_b1_mmdt"][0] == pytest.approx(2 * r**3 / 27 / e2**3, rel=1e-12)


@pytest.mark.needs("fastjet")
def test_the_correlators_of_fastjet_contrib():
    import awkward as ak
    import fastjet

    jets = random_jets(2, [3, 8, 20, 40])
    found = features_of(*jets)
    inputs = ak.Array([[dict(zip(("px", "py", "pz", "E"), p.tolist(), strict=True)) for p in jet] for jet in jets])
    clusters = fastjet.ClusterSequence(inputs, fastjet.JetDefinition(fastjet.cambridge_algorithm, 1000.0))
    theirs = lambda **options: np.asarray(clusters.exclusive_jets_energy_correlator(1, **options))
    for beta in (1, 2):
        for name, options in {
            "c1": {"func": "cseries", "npoint": 1},
            "c2": {"func": "cseries", "npoint": 2},
            "d2": {"func": "generalizedd2", "alpha": beta},
            "m2": {"func": "mseries", "npoint": 2},
            "n2": {"func": "nseries", "npoint": 2},
        }.items():
            assert_allclose(found[f"{name}_b{beta}_mmdt"], theirs(beta=beta, **options), rtol=1e-8, err_msg=name)
    assert_allclose(found["d2_a1_b2_mmdt"], theirs(func="generalizedd2", alpha=1, beta=2), rtol=1e-8)


def test_sums_over_sizes_do_not_mix():
    jets = random_jets(3, [12, 40, 3, 25])
    together = features_of(*jets)
    for k, jet in enumerate(jets):
        for name, value in features_of(jet).items():
            # the sums are the same, in the order that the widest jet of a chunk sets
            assert together[name][k] == pytest.approx(value[0], rel=1e-11), name


def test_features_of_the_whole_and_of_what_grooming_left():
    whole, part = random_jets(4, [20, 6])
    found = high_level_features(whole, [20], part, [6])[0]
    of_whole, of_part = features_of(whole), features_of(part)
    for name, value in zip(FEATURES, found, strict=True):
        source = of_whole if name in ("zlogz", "multiplicity") else of_part
        assert value == source[name][0], name


sizes = st.integers(1, 12)
seeds = st.integers(0, 2**32 - 1)


@given(seed=seeds, n=sizes, boost=st.floats(-2.0, 2.0), angle=st.floats(-7.0, 7.0))
def test_boosts_along_the_beam_and_rotations_about_it_change_nothing(seed, n, boost, angle):
    (jet,) = random_jets(seed, [n])
    px, py, pz, energy = jet.T
    moved = np.stack(
        [
            px * np.cos(angle) - py * np.sin(angle),
            px * np.sin(angle) + py * np.cos(angle),
            pz * np.cosh(boost) + energy * np.sinh(boost),
            energy * np.cosh(boost) + pz * np.sinh(boost),
        ],
        axis=1,
    )
    here, there = features_of(jet), features_of(moved)
    for name in FEATURES:
        # mass and rapidity lose digits in E^2 - p^2, at most cosh(2 * 4)^2 of 1e-16; ratios are of order 1
        assert_allclose(there[name], here[name], rtol=1e-6, atol=1e-5 if name == "mass_mmdt" else 1e-9, err_msg=name)


@given(seed=seeds, n=sizes, scale=st.floats(0.1, 10.0))
def test_order_and_scale_of_momenta(seed, n, scale):
    (jet,) = random_jets(seed, [n])
    here = features_of(jet)
    there = features_of(scale * np.random.default_rng(seed).permutation(jet))
    for name in FEATURES:
        factor = scale if name == "mass_mmdt" else 1.0
        assert_allclose(
            there[name], factor * here[name], rtol=1e-7, atol=1e-5 if name == "mass_mmdt" else 1e-12, err_msg=name
        )


@given(seed=seeds, n=st.integers(1, 10), share=st.floats(0.1, 0.9))
def test_a_collinear_split_changes_the_multiplicity_alone(seed, n, share):
    rng = np.random.default_rng(seed)
    jet = momenta(rng.exponential(20.0, n) + 1, rng.normal(0, 0.3, n), rng.normal(0, 0.3, n))
    split = np.concatenate([jet[1:], share * jet[:1], (1 - share) * jet[:1]])
    here, there = features_of(jet), features_of(split)
    safe = [name for name in FEATURES if name not in ("zlogz", "c1_b0_mmdt", "multiplicity", "mass_mmdt")]
    if n == 1:
        # two particles in one direction are as one: no distance but a rounding error
        assert all(abs(there[name][0]) < 1e-6 for name in ("c1_b1_mmdt", "c1_b2_mmdt"))
        return
    for name in safe:
        assert_allclose(there[name], here[name], rtol=1e-6, atol=1e-7, err_msg=name)
    assert there["multiplicity"] == n + 1


@pytest.mark.parametrize(
    "jet",
    [
        momenta([500.0], [0.3], [1.0]),
        momenta([500.0, 20.0], [0.3, 0.3], [1.0, 1.0]),
        momenta([500.0, 20.0, 1.0], [0.3] * 3, [1.0] * 3),
        momenta([500.0, 20.0, 1.0], [0.3, 0.3 + 1e-9, 0.3], [1.0] * 3),
        momenta([1e3, 0.1, 0.1], [5.0, 5.0, -5.0], [0.0, 3.0, 3.0]),
        momenta([1e3, 1e-9, 1e-9, 1e-9], [0.0, 1e-7, 0.0, 0.1], [0.0, 0.0, 1e-7, 0.1]),
    ],
    ids=["one", "two collinear", "three collinear", "nearly collinear", "far apart", "soft"],
)
def test_jets_without_substructure_are_finite(jet):
    found = features_of(jet)
    for name, value in found.items():
        assert np.isfinite(value.astype(np.float32)).all(), name
        assert name == "zlogz" or value[0] >= 0, name


def test_one_particle():
    found = features_of(momenta([500.0], [0.3], [1.0], 80.0))
    assert found["mass_mmdt"][0] == pytest.approx(80.0, rel=1e-9)
    assert found["multiplicity"][0] == 1
    assert all(found[name][0] == 0 for name in FEATURES if name not in ("mass_mmdt", "multiplicity"))


@pytest.mark.parametrize(
    ("momentum", "counts", "wanted"),
    [
        (np.ones((3, 4)), [2], r"wanted the shape \(2, 4\) for these jets, got \(3, 4\)"),
        (np.ones((3, 3)), [3], "got"),
        (np.ones((3, 4)), [3, 0], "jet 1 has no constituent"),
        (np.array([[1.0, 0, 0, 1], [0, 0, 5, 5]]), [2], "constituent 1 has the transverse momentum 0.0 GeV"),
    ],
)
def test_bad_input(momentum, counts, wanted):
    with pytest.raises(ValueError, match=wanted):
        high_level_features(momentum, counts, momentum, counts)


def test_the_jets_must_be_the_same():
    with pytest.raises(ValueError, match="those of 2 jets, the groomed ones of 1"):
        high_level_features(np.ones((2, 4)), [1, 1], np.ones((1, 4)), [1])


def test_padding_does_not_matter():
    rng = np.random.default_rng(5)
    pt, y, phi = rng.exponential(1.0, (3, 4, 9))
    narrow = correlations(pt, y, phi)
    wide = correlations(*(np.pad(x, ((0, 0), (0, 5))) for x in (pt, y, phi)))
    assert_array_equal(narrow.e2, wide.e2)
    assert_array_equal(narrow.e3, wide.e3)
