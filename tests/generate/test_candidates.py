"""Photon candidates of events made by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from diffhep.generate import Candidate, photon_candidates
from diffhep.generate.hadronisation import pairs_of


def event(*particles):
    """Massless particles (pdg_id, pt, eta, phi) as `photon_candidates` takes them."""
    kind, pt, eta, phi = np.array(particles, float).T
    momentum = np.stack([pt * np.cos(phi), pt * np.sin(phi), pt * np.sinh(eta), pt * np.cosh(eta)], axis=1)
    return kind.astype(int), momentum


def test_a_lone_photon_is_its_candidate():
    (c,) = photon_candidates(*event((22, 40.0, 1.2, -3.0)))
    assert_allclose([c.pt, c.eta, c.phi, c.hoe, c.isolation, c.rms], [40.0, 1.2, -3.0, 0, 0, 0], atol=1e-7)
    assert c.fractions == (1.0, 0.0, 0.0)
    assert c.mass < 1e-4
    assert c.leader == 0


def test_a_neutral_pion_is_one_candidate():
    (c,) = photon_candidates(*event((22, 10.0, 0.02, 0.0), (22, 30.0, -0.02, 0.0)))
    # at eta near 0: m^2 = 2 pt1 pt2 (cosh 0.04 - 1); distances from the axis are shared in inverse proportion
    assert_allclose(c.mass, np.sqrt(2 * 300 * (np.cosh(0.04) - 1)), rtol=1e-6)
    assert_allclose(c.fractions, (0.75, 0.25, 0.0), rtol=1e-3)
    assert_allclose(c.rms, 0.04 * np.sqrt(0.75 * 0.25), rtol=1e-3)
    assert c.leader == 1


def test_the_third_fraction_is_all_the_rest():
    (c,) = photon_candidates(*event(*((22, pt, 0.0, 0.0) for pt in (8.0, 4.0, 2.0, 1.0, 1.0))))
    assert_allclose(c.fractions, (0.5, 0.25, 0.25), rtol=1e-9)


def test_electrons_count_as_electromagnetic():
    (c,) = photon_candidates(*event((11, 20.0, 0.0, 0.0), (-11, 10.0, 0.01, 0.0)))
    assert_allclose(c.pt, 30.0, rtol=1e-4)


def test_particles_apart_are_two_candidates_in_descending_pt():
    # the softer candidate has the harder seed
    a, b = photon_candidates(*event((22, 20.0, 0.0, 0.0), (22, 15.0, 0.0, 1.0), (22, 15.0, 0.01, 1.0)))
    assert_allclose([a.pt, b.pt], [30.0, 20.0], rtol=1e-4)


@pytest.mark.parametrize(("energy", "kept"), [(11.9, True), (12.1, False)])
@pytest.mark.parametrize("hadron", [211, -321, 130, 2112])
def test_hadrons_behind_a_candidate(energy, kept, hadron):
    found = photon_candidates(*event((22, 40.0, 0.0, 0.0), (hadron, energy, 0.0, 0.05)))
    assert bool(found) == kept
    if kept:
        assert_allclose([found[0].hoe, found[0].isolation], energy / 40.0, rtol=1e-9)


def test_isolation_is_the_sum_within_its_cone():
    (c,) = photon_candidates(
        *event(
            (22, 40.0, 0.0, 0.0), (211, 4.0, 0.2, 0.0), (22, 0.5, 0.0, 0.25), (211, 9.0, 0.31, 0.0), (13, 2.0, 0.2, 0.1)
        )
    )
    assert_allclose(c.isolation, 6.5 / 40.0, rtol=1e-9)
    assert c.hoe == 0.0


@pytest.mark.parametrize("invisible", [12, -14, 16])
def test_neutrinos_leave_no_trace(invisible):
    (c,) = photon_candidates(*event((22, 40.0, 0.0, 0.0), (invisible, 40.0, 0.01, 0.0)))
    assert (c.hoe, c.isolation) == (0.0, 0.0)


def test_muons_are_not_hadrons():
    (c,) = photon_candidates(*event((22, 40.0, 0.0, 0.0), (13, 40.0, 0.01, 0.0)))
    assert c.hoe == 0.0
    assert_allclose(c.isolation, 1.0)


@pytest.mark.parametrize(("eta", "count"), [(2.49, 1), (-2.49, 1), (2.51, 0), (-2.51, 0), (9.0, 0)])
def test_acceptance(eta, count):
    assert len(photon_candidates(*event((22, 40.0, eta, 0.0)))) == count


def test_cones_across_the_seam_of_phi():
    (c,) = photon_candidates(*event((22, 20.0, 0.0, np.pi - 0.02), (22, 20.0, 0.0, -np.pi + 0.02)))
    assert_allclose([c.pt, abs(c.phi), c.rms], [40 * np.cos(0.02), np.pi, 0.02], rtol=1e-6)


def test_nothing_electromagnetic():
    assert photon_candidates(*event((211, 40.0, 0.0, 0.0))) == []


particle = st.tuples(
    st.sampled_from([22, 22, 11, 211, 130, 13, 12]), st.floats(0.1, 60), st.floats(-3, 3), st.floats(-3.1, 3.1)
)


@settings(max_examples=50, deadline=None)
@given(st.lists(particle, min_size=1, max_size=25), st.floats(-3, 3), st.randoms(use_true_random=False))
def test_rotations_and_order_do_not_matter(particles, angle, random):
    # exact ties would be broken by order
    particles = list({p[1]: p for p in particles}.values())
    before = photon_candidates(*event(*particles))
    turned = [(k, pt, eta, phi + angle) for k, pt, eta, phi in particles]
    random.shuffle(turned)
    after = photon_candidates(*event(*turned))
    assert len(before) == len(after)
    for a, b in zip(before, after, strict=True):
        assert_allclose(
            [a.pt, a.eta, a.hoe, a.isolation, *a.fractions], [b.pt, b.eta, b.hoe, b.isolation, *b.fractions], atol=1e-9
        )
        assert_allclose(sum(a.fractions), 1.0, rtol=1e-12)


def found(pt, phi, prompt=False):
    return (Candidate(pt, 0.0, phi, 0.0, 0.0, 0.0, (1.0, 0.0, 0.0), 0.0, 0), prompt)


A, B, C = found(40.0, 0.0), found(30.0, 3.0), found(20.0, 0.3)


def test_one_hadronisation_gives_its_leading_pair():
    pairs, chances = pairs_of([[A, B, C]], 1, (35.0, 15.0))
    assert pairs == [(A, B)]
    assert chances.tolist() == [1.0]
    assert pairs_of([[B, C]], 1, (35.0, 15.0))[0] == []
    assert pairs_of([[A]], 1, (35.0, 15.0))[0] == []
    assert pairs_of([], 1, (35.0, 15.0))[0] == []


def test_distant_candidates_combine_across_hadronisations():
    # A in 2 of 4 hadronisations, B in 1 of 4: the chance of both is 2/4 * 1/4
    pairs, chances = pairs_of([[A], [A], [B]], 4, (35.0, 15.0))
    assert pairs == [(A, B), (A, B)]
    assert chances.sum() == 2 / 4 * 1 / 4


def test_close_candidates_come_from_one_hadronisation():
    pairs, chances = pairs_of([[A, C], [A], [C]], 4, (35.0, 15.0))
    assert pairs == [(A, C)]
    assert chances.tolist() == [1 / 4]


def test_the_leading_candidate_passes_the_higher_threshold():
    assert pairs_of([[B], [C]], 2, (35.0, 15.0))[0] == []
    assert pairs_of([[found(36.0, 0.0)], [found(38.0, 3.0)]], 2, (35.0, 15.0))[0] == [
        (found(38.0, 3.0), found(36.0, 0.0))
    ]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=2, max_size=12))
def test_the_sum_of_chances_is_the_product_of_frequencies(history):
    count = len(history)
    histories = [[c for c, there in zip((A, B), row, strict=True) if there] for row in history]
    _, chances = pairs_of(histories, count, (35.0, 15.0))
    frequency = np.mean(history, axis=0)
    assert_allclose(chances.sum(), frequency[0] * frequency[1], rtol=1e-12)
