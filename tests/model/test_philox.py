"""Philox against the known answers of the paper's own library, and what draws are made of."""

import numpy as np

from model.philox import philox4x32, uniform


def _words(*rows: str) -> np.ndarray:
    return np.array([[int(word, 16) for word in row.split()] for row in rows], dtype=np.uint64)


def test_philox_gives_the_known_answers_of_random123() -> None:
    """The three vectors for philox4x32, 10 rounds, in Random123's kat_vectors: zeros, ones, digits of pi."""
    counters = _words(
        "00000000 00000000 00000000 00000000",
        "ffffffff ffffffff ffffffff ffffffff",
        "243f6a88 85a308d3 13198a2e 03707344",
    )
    keys = _words("00000000 00000000", "ffffffff ffffffff", "a4093822 299f31d0")
    expected = _words(
        "6627e8d5 e169c58d bc57ac4c 9b00dbd8",
        "408f276d 41c83b0e a20bc7c6 6d5451fd",
        "d16cfe09 94fdcceb 5001e420 24126ea1",
    )
    assert np.array_equal(philox4x32(counters, keys), expected)


def _draws(seeds: list[int], choices: list[int], positions: list[int]) -> list[float]:
    return uniform(*(np.array(values, dtype=np.uint64) for values in (seeds, choices, positions))).tolist()


def test_each_of_seed_choice_and_position_gives_other_draws() -> None:
    seeds = [0, 1, 2**32, 2**64 - 1, 0, 0, 0, 0]
    choices = [0, 0, 0, 0, 1, 2**32 - 1, 0, 0]
    positions = [0, 0, 0, 0, 0, 0, 1, 2**32]
    assert len(set(_draws(seeds, choices, positions))) == len(seeds)


def test_a_draw_does_not_depend_on_the_draws_beside_it() -> None:
    together = _draws([7, 8, 9], [0, 1, 2], [100, 200, 300])
    assert [_draws([7 + n], [n], [100 * (n + 1)])[0] for n in range(3)] == together


def test_draws_are_uniform_over_the_unit_interval() -> None:
    """The mean of N uniforms has standard deviation 1 / sqrt(12 N); the bound is four of them."""
    count = 100_000
    draws = np.array(_draws([5] * count, [0] * count, list(range(count))))
    assert draws.min() >= 0.0
    assert draws.max() < 1.0
    assert abs(draws.mean() - 0.5) < 4.0 / np.sqrt(12 * count)
    in_tenths = np.bincount((draws * 10).astype(int), minlength=10)
    assert np.all(np.abs(in_tenths - count / 10) < 4 * np.sqrt(count * 0.1 * 0.9))
