"""Philox4x32-10: random numbers as a function of a counter, without generator state.

Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011; the constants are the paper's.
"""

import numpy as np
import numpy.typing as npt

Words = npt.NDArray[np.uint64]

_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_WEYL = (np.uint64(0x9E3779B9), np.uint64(0xBB67AE85))
_NUM_ROUNDS = 10
_LOW = np.uint64(0xFFFFFFFF)
_WORD_BITS = np.uint64(32)


def philox4x32(counters: Words, keys: Words) -> Words:
    """Return four random 32-bit words a row [N, 4] for counters [N, 4] and keys [N, 2], all below 2**32."""
    c0, c1, c2, c3 = (counters[:, word] for word in range(4))
    k0, k1 = keys[:, 0], keys[:, 1]
    for _ in range(_NUM_ROUNDS):
        first, second = _MULTIPLIERS[0] * c0, _MULTIPLIERS[1] * c2
        c0, c1, c2, c3 = (
            (second >> _WORD_BITS) ^ c1 ^ k0,
            second & _LOW,
            (first >> _WORD_BITS) ^ c3 ^ k1,
            first & _LOW,
        )
        k0, k1 = (k0 + _WEYL[0]) & _LOW, (k1 + _WEYL[1]) & _LOW
    return np.stack((c0, c1, c2, c3), axis=1)


def uniform(seeds: Words, choices: Words, positions: Words) -> npt.NDArray[np.float64]:
    """Return one number in [0, 1) a row, with 53 random bits: a function of its seed, choice and position alone.

    The seed's 64 bits fill the key; the counter is (position's low word, high word, choice, 0), so that no two
    (seed, choice, position) share a draw.
    """
    counters = np.stack((positions & _LOW, positions >> _WORD_BITS, choices, np.zeros_like(choices)), axis=1)
    keys = np.stack((seeds & _LOW, seeds >> _WORD_BITS), axis=1)
    words = philox4x32(counters, keys)
    high, low = words[:, 0] >> np.uint64(5), words[:, 1] >> np.uint64(6)
    return (high * np.uint64(2**26) + low).astype(np.float64) * 2.0**-53
