"""Fixed point: the algebra by hypothesis, exact rational arithmetic and the vendor's own C++ headers as oracles."""

import itertools
import math
import subprocess
from fractions import Fraction
from importlib.util import find_spec
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffhep.trigger.fixed_point import FixedPoint, decode, encode, format_for, quantise, requantise
from diffhep.trigger.modes import OVERFLOWS, ROUNDINGS, power_of_two
from diffhep.trigger.primitive import quantise_kif

MODES = list(itertools.product(ROUNDINGS, OVERFLOWS))
NUMBERS = 48  # values of one example: a fixed shape, so that each operation is compiled once


@st.composite
def formats(draw, rounding=ROUNDINGS, overflow=OVERFLOWS):
    k = draw(st.integers(0, 1))
    width = draw(st.integers(1, 24))
    i = draw(st.integers(-12, 20))
    return FixedPoint(k, i, width - k - i, draw(st.sampled_from(rounding)), draw(st.sampled_from(overflow)))


def values(format, seed):
    """Grid points, ties, neighbours of ties, both ends of the range, values far outside, zeros."""
    rng = np.random.default_rng(seed)
    low, high = format.codes
    codes = np.concatenate([rng.integers(low, high, NUMBERS - 12, endpoint=True), [low, high, -1, 0, 1, low, high]])
    offset = rng.choice([0.0, 0.5, -0.5, 0.25, np.nextafter(0.5, 0), np.nextafter(-0.5, -1)], codes.size)
    offset[-2:] = -0.5, 0.5
    far = rng.normal(size=4) * 3 * (high - low + 1)
    return np.ldexp(np.concatenate([codes + offset, far, [0.0]]), -format.f)


def exact(x, format):
    """The code by exact rational arithmetic: another way to the same definition."""
    return exact_code(Fraction(float(x)) * Fraction(2) ** format.f, format)


def exact_code(scaled, format):
    nearest, tie = round(scaled), scaled - math.floor(scaled) == Fraction(1, 2)  # Python rounds ties to even
    up = {"RND": True, "RND_ZERO": scaled < 0, "RND_MIN_INF": False, "RND_INF": scaled > 0}
    match format.rounding:
        case "TRN":
            code = math.floor(scaled)
        case "TRN_ZERO":
            code = math.trunc(scaled)
        case "RND_CONV":
            code = nearest
        case mode:
            code = math.floor(scaled) + up[mode] if tie else nearest
    low, high = -format.k * 2 ** (format.i + format.f), 2 ** (format.i + format.f) - 1
    if format.overflow == "WRAP":
        return (code - low) % (1 << format.width) + low
    if format.overflow == "SAT_ZERO":
        return code if low <= code <= high else 0
    if format.overflow == "SAT_SYM" and format.width > 1:
        low = -format.k * high
    return min(max(code, low), high)


relaxed = settings(deadline=None, max_examples=60)  # of 48 values each; each mode compiles once
seeds = st.integers(0, 2**32 - 1)


@relaxed
@given(formats(), seeds)
def test_codes_are_those_of_rational_arithmetic(format, seed):
    x = values(format, seed)
    assert np.asarray(encode(x, format)).tolist() == [exact(v, format) for v in x]


@relaxed
@given(formats(), seeds)
def test_quantise_is_decode_of_encode_and_idempotent(format, seed):
    x = values(format, seed)
    q = quantise(x, format)
    np.testing.assert_array_equal(q, decode(encode(x, format), format))
    np.testing.assert_array_equal(quantise(q, format), q)
    assert format.minimum <= float(q.min())
    assert float(q.max()) <= format.maximum


@relaxed
@given(formats(), seeds)
def test_float32_gives_the_same_values_where_the_word_fits(format, seed):
    x = values(format, seed).astype(np.float32)
    q = quantise(x, format)
    assert q.dtype == jnp.float32
    np.testing.assert_array_equal(np.asarray(q, np.float64), quantise(x.astype(np.float64), format))


@relaxed
@given(formats(), seeds)
def test_error_is_at_most_half_an_lsb_inside_the_range(format, seed):
    x = values(format, seed)
    inside = (x >= format.minimum) & (x <= format.maximum)
    error = (x - np.asarray(quantise(x, format)))[inside]  # exact: the difference of near neighbours
    if format.rounding.startswith("RND"):
        assert (np.abs(error) <= format.lsb / 2).all()
    elif format.rounding == "TRN":
        assert ((error >= 0) & (error < format.lsb)).all()
    else:
        assert ((np.sign(error) * np.sign(x[inside]) >= 0) & (np.abs(error) < format.lsb)).all()


@relaxed
@given(formats(overflow=("SAT", "SAT_SYM")), seeds)
def test_saturating_quantise_is_monotone(format, seed):
    assert (np.diff(np.asarray(quantise(np.sort(values(format, seed)), format))) >= 0).all()


@relaxed
@given(formats(), formats(), seeds)
def test_requantise_in_integers_equals_the_float_path(source, target, seed):
    codes = encode(values(source, seed), source)
    np.testing.assert_array_equal(requantise(codes, source, target), encode(decode(codes, source), target))


@pytest.mark.parametrize(("rounding", "overflow"), MODES)
@pytest.mark.parametrize(
    ("source_f", "target_f"), [(200, -50), (-200, 50), (63, 0), (64, 0), (0, 63), (0, 64), (0, 62)]
)
def test_requantise_survives_shifts_beyond_the_word(rounding, overflow, source_f, target_f):
    source = FixedPoint(1, 23 - source_f, source_f)
    target = FixedPoint(1, 11 - target_f, target_f, rounding, overflow)
    codes = [-(2**23), -(2**22) - 1, -1, 0, 1, 2**22, 2**23 - 1]
    want = [exact_code(Fraction(c) * Fraction(2) ** (target_f - source_f), target) for c in codes]
    assert np.asarray(requantise(np.array(codes), source, target)).tolist() == want


def test_rounding_does_not_add_one_half_in_floating_point():
    just_below = np.nextafter(0.5, 0)  # + 0.5 is 1.0 in float64
    assert int(encode(just_below, FixedPoint(1, 3, 0))) == 0
    odd = 2.0**52 - 1  # + 0.5 is halfway between two doubles above 2**52
    assert int(encode(odd, FixedPoint(1, 52, 0))) == 2**52 - 1


@pytest.mark.parametrize("x", [1e308, -1e308, 2.0**80, -(2.0**1000)])
@pytest.mark.parametrize(("rounding", "overflow"), MODES)
def test_values_far_outside_the_integers_are_exact(x, rounding, overflow):
    format = FixedPoint(1, 3, 20, rounding, overflow)
    assert int(encode(x, format)) == exact(x, format)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_powers_of_two_are_exact_over_all_normal_exponents(dtype):
    info = jnp.finfo(dtype)
    exponents = np.arange(info.minexp, info.maxexp)
    want = np.ldexp(np.ones((), dtype), exponents)
    np.testing.assert_array_equal(power_of_two(exponents, dtype), want)
    np.testing.assert_array_equal(jax.jit(lambda e: power_of_two(e, dtype))(exponents), want)


@settings(deadline=None, max_examples=8)
@given(formats(), seeds)
def test_jit_and_vmap_change_no_bit(format, seed):
    x = values(format, seed)
    np.testing.assert_array_equal(jax.jit(jax.vmap(lambda v: quantise(v, format)))(x), quantise(x, format))


def test_formats_broadcast_per_element():
    k, i, f = jnp.array([1, 0, 1]), jnp.array([3, 2, -1]), jnp.array([[0, 4, 5], [2, 1, -2]])
    x = jnp.array([[1.4, 2.03, -0.3], [-9.1, 7.0, 3.0]])
    # the last word has 1 - 1 - 2 < 1 bits: the constant 0
    want = [[float(quantise(x[r, c], FixedPoint(int(k[c]), int(i[c]), int(f[r, c])))) for c in range(3)] for r in (0,)]
    got = quantise_kif(x, k, i, f)
    np.testing.assert_array_equal(got[0], want[0])
    np.testing.assert_array_equal(got[1], [-8.0, 3.5, 0.0])


def test_gradient_is_straight_through_inside_and_zero_where_clipped():
    format = FixedPoint(1, 3, 4)
    x = jnp.array([0.3, 7.96, 7.97, 9.0, -8.03, -8.04, -20.0])  # 7.96 rounds to the maximum, 7.97 would pass it
    slope = lambda f: jax.grad(lambda v: quantise(v, f).sum())(x).tolist()
    assert slope(format) == [1, 1, 0, 0, 1, 0, 0]
    assert slope(FixedPoint(1, 3, 4, "RND", "WRAP")) == [1] * 7
    forward = jax.jvp(lambda v: quantise(v, format), (x,), (2 * jnp.ones_like(x),))[1]
    assert forward.tolist() == [2, 2, 0, 0, 2, 0, 0]
    no_bits = jax.grad(lambda v: quantise_kif(v, 1, 3, jnp.full(7, -4)).sum())(x)
    assert no_bits.tolist() == [0] * 7


def test_gradient_matches_finite_differences_of_the_unquantised_clip():
    # the surrogate is the slope of clip(x): compare away from its corners
    format = FixedPoint(1, 1, 6)
    x = np.linspace(-3.0, 3.0, 25) + 0.01
    clip = lambda v: np.clip(v, format.minimum, format.maximum)
    want = (clip(x + 1e-3) - clip(x - 1e-3)) / 2e-3
    got = jax.vmap(jax.grad(lambda v: quantise(v, format)))(jnp.asarray(x))
    np.testing.assert_allclose(got, want, atol=1e-9)


@relaxed
@given(formats())
def test_text_of_a_format_reads_back(format):
    assert FixedPoint.parse(str(format)) == format


def test_text_of_formats_is_the_vendors():
    assert str(FixedPoint(1, 3, 4)) == "ap_fixed<8,4,AP_RND,AP_SAT>"
    assert str(FixedPoint(0, -2, 7, "TRN", "WRAP")) == "ap_ufixed<5,-2,AP_TRN,AP_WRAP>"
    assert FixedPoint.parse(" ap_fixed< 8, 4 >") == FixedPoint(1, 3, 4, "TRN", "WRAP")
    assert FixedPoint.parse("ap_fixed<8,4,AP_RND,AP_SAT,0>") == FixedPoint(1, 3, 4)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("fixed<8,4>", "not understood"),
        ("ap_fixed<8>", "not understood"),
        ("ap_fixed<8,4,AP_RND,AP_SAT,3>", "not understood"),
        (8, "not understood"),
        ("ap_fixed<8,4,AP_ROUND>", "rounding must be one of RND, .*, TRN_ZERO, got 'ROUND'"),
        ("ap_fixed<8,4,AP_RND,AP_WRAP_SM>", "overflow must be one of SAT, .*, WRAP, got 'WRAP_SM'"),
        ("ap_fixed<0,4>", "0 bits, wanted 1 to 53"),
        ("ap_fixed<54,4>", "54 bits, wanted 1 to 53"),
        ("ap_fixed<8,1000>", "at most 256"),
    ],
)
def test_bad_text_is_refused_in_one_line(text, message):
    with pytest.raises(ValueError, match=message) as caught:
        FixedPoint.parse(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kif", [(2, 3, 4), (1, 2.5, 4), (1, True, 4), (1, 3, "4"), (1, -3, 2)])
def test_bad_bits_are_refused(kif):
    with pytest.raises(ValueError, match="fixed-point format"):
        FixedPoint(*kif)


def test_a_format_is_immutable_and_hashable():
    numpy_integers = FixedPoint(np.int64(1), np.int8(3), 4)  # type: ignore[arg-type]
    assert len({FixedPoint(1, 3, 4), numpy_integers}) == 1
    with pytest.raises(AttributeError):
        FixedPoint(1, 3, 4).f = 5  # type: ignore[misc]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_codes_of_no_number_are_refused(bad):
    with pytest.raises(ValueError, match=r"index \[1\] is not finite"):
        encode(np.array([0.0, bad]), FixedPoint(1, 3, 4))


def test_words_wider_than_the_significand_are_refused():
    with pytest.raises(ValueError, match="30 bits, float32 holds 24"):
        quantise(jnp.zeros(2, jnp.float32), FixedPoint(1, 3, 26))
    with pytest.raises(ValueError, match="floating-point values wanted, got int"):
        quantise(jnp.arange(3), FixedPoint(1, 3, 4))


@pytest.mark.parametrize(
    "call",
    [
        lambda: encode(0.5, FixedPoint(1, 3, 4)),
        lambda: decode(1, FixedPoint(1, 3, 4)),
        lambda: requantise(1, FixedPoint(1, 3, 4), FixedPoint(1, 3, 2)),
    ],
)
def test_codes_need_64_bits(call):
    with jax.enable_x64(False), pytest.raises(ValueError, match="jax_enable_x64"):
        call()


# the vendor's headers -------------------------------------------------------------------------------------------------

PROGRAM = """
#include "ap_fixed.h"
#include <cstdio>
#include <vector>
// values (double) -> A -> B: the codes of both
template <class A, class B> void run(const std::vector<double> &x, FILE *out) {
    for (double v : x) {
        const A a = v;
        const B b = a;
        const long long codes[2] = {(long long)ldexp(a.to_double(), A::width - A::iwidth),
                                    (long long)ldexp(b.to_double(), B::width - B::iwidth)};
        fwrite(codes, sizeof(long long), 2, out);
    }
}
int main(int, char **argv) {
    std::vector<double> x(COUNT);
    FILE *in = fopen(argv[1], "rb"), *out = fopen(argv[2], "wb");
    CALLS
    fclose(in); fclose(out);
    return 0;
}
"""
BLOCKS = 50  # of NUMBERS values a type
TYPES = list(itertools.product(range(1, 33), MODES))  # widths and modes, of either sign


def chain(number, k, width, mode):
    """A type, and the one its values are converted to: every mode, words narrower and wider, grids coarser and finer.

    Not coarser than the source is wide: with AP_RND the headers then read a bit beyond the word, and abort.
    """
    integer = (-3, 0, 4, 9, 31)[number % 5]
    source = FixedPoint(k, integer - k, width - integer, *mode)
    target_width, target_k = TYPES[(7 * number + 5) % len(TYPES)][0], number // 2 % 2
    target_f = source.f - min((3, -2, 0, 1, 6)[number // 5 % 5], width)
    return source, FixedPoint(target_k, target_width - target_k - target_f, target_f, *MODES[(5 * number + 3) % 28])


def vendor_codes(pairs, batches, folder):
    """The codes of both types of each pair, by a program made of the vendor's headers."""
    spec = find_spec("hls4ml")
    assert spec is not None
    assert spec.origin is not None
    headers = Path(spec.origin).parent / "templates" / "vivado" / "ap_types"
    calls = [f"if (fread(x.data(), 8, COUNT, in) != COUNT) return 2; run<{a}, {b}>(x, out);" for a, b in pairs]
    program = PROGRAM.replace("CALLS", "\n    ".join(calls)).replace("COUNT", str(batches[0].size))
    (folder / "oracle.cpp").write_text(program)
    np.concatenate(batches).tofile(folder / "x.bin")
    command = ["g++", "-w", "-O0", "-std=c++17", f"-I{headers}", "oracle.cpp", "-o", "oracle"]
    subprocess.run(command, cwd=folder, check=True)
    subprocess.run(["./oracle", "x.bin", "codes.bin"], cwd=folder, check=True)
    return np.fromfile(folder / "codes.bin", np.int64).reshape(len(pairs), -1, 2)


def differences(pairs, seed, folder):
    """By type: how many codes differ, from doubles and from the other type; and how many were compared."""
    rng = np.random.default_rng(seed)
    batches = [np.concatenate([values(a, rng.integers(2**31)) for _ in range(BLOCKS)]) for a, _ in pairs]
    vendor, different = vendor_codes(pairs, batches, folder), {}
    for (source, target), x, codes in zip(pairs, batches, vendor, strict=True):
        ours = encode(x, source)
        again = requantise(ours, source, target)
        wrong = int((np.asarray(ours) != codes[:, 0]).sum()), int((np.asarray(again) != codes[:, 1]).sum())
        if any(wrong):
            different[f"{source} -> {target}"] = wrong
    return different, vendor.size


@pytest.mark.needs("g++")
def test_codes_are_those_of_the_vendors_headers(tmp_path):
    # every width and every mode as the source, and again as the target; test-long has all of the 1,792 types
    pairs = [chain(n, n % 2, 7 * n % 32 + 1, MODES[n % 28]) for n in range(32)]
    assert {source.width for source, _ in pairs} == set(range(1, 33))
    assert {(target.rounding, target.overflow) for _, target in pairs} == set(MODES)
    different, compared = differences(pairs, 5, tmp_path)
    assert compared == 2 * 32 * BLOCKS * NUMBERS
    assert different == {}


@pytest.mark.long
@pytest.mark.needs("g++")
@pytest.mark.parametrize("k", [0, 1])
@pytest.mark.parametrize("part", range(8))
def test_every_mode_and_width_is_that_of_the_vendors_headers(k, part, tmp_path):
    # in parts: the compiler's memory grows with the number of types
    pairs = [chain(n + k, k, width, mode) for n, (width, mode) in enumerate(TYPES)][part::8]
    different, compared = differences(pairs, 6 + part, tmp_path)
    assert compared == 2 * 112 * BLOCKS * NUMBERS
    assert different == {}


# choice of a format ---------------------------------------------------------------------------------------------------


@relaxed
@given(st.integers(2, 32), st.integers(0, 1), st.integers(-20, 20), st.integers(-10, 31), seeds)
def test_format_for_is_the_finest_that_clips_nothing(bits, k, exponent, finest, seed):
    values = np.ldexp(np.random.default_rng(seed).normal(size=20), exponent)
    values = values if k else np.abs(values)
    format = format_for(values, bits=bits, k=k, finest=finest)
    rounded = np.floor(np.ldexp(values, format.f) + 0.5)
    assert format.width <= bits
    assert format.f <= finest
    assert format.codes[0] <= rounded.min()
    assert rounded.max() <= format.codes[1]
    if format.f < min(finest, 31):
        finer = np.floor(np.ldexp(values, format.f + 1) + 0.5)
        half = 1 << (bits - k)
        assert finer.max() > half - 1 or finer.min() < -k * half


def test_format_for_values_that_are_all_zero_is_that_of_a_number_below_one():
    assert format_for(np.zeros(3), bits=8, k=1) == FixedPoint(1, 0, 7)
    assert format_for(np.zeros(3), bits=8, k=0) == FixedPoint(0, 0, 8)
