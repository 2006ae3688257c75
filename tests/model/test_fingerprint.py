"""Fingerprints: equal for equal numerics, different for any other, one for both roles."""

from model.fingerprint import joint_fingerprint, numerics_fingerprint
from model.numerics import MODES, Numerics


def test_a_fingerprint_tells_modes_apart_and_stays_the_same() -> None:
    precise = numerics_fingerprint("cpu", Numerics.of("precise"))
    assert precise == numerics_fingerprint("cpu", Numerics.of("precise"))
    others = {numerics_fingerprint("cpu", Numerics.of(mode)) for mode in MODES if mode != "precise"}
    assert len({precise, *others}) == len(MODES)


def test_keys_and_values_in_8_bits_have_a_fingerprint_of_their_own() -> None:
    wide, narrow = (numerics_fingerprint("cpu", Numerics.of("precise", dtype)) for dtype in ("auto", "int8"))
    assert wide != narrow
    assert narrow != numerics_fingerprint("cpu", Numerics.of("bf16", "int8"))


def test_dense_weights_in_8_bits_have_a_fingerprint_of_their_own_and_other_dtypes_none() -> None:
    kinds = ("bfloat16", "float32", "q8_0")
    wide, wider, narrow = (numerics_fingerprint("cpu", Numerics.of("precise", "auto", dense)) for dense in kinds)
    assert wide == wider != narrow
    assert narrow != numerics_fingerprint("cpu", Numerics.of("precise", "int8", "q8_0"))


def test_both_roles_have_one_fingerprint() -> None:
    """The same numerics spread over processes keep their name: their bits are the same."""
    assert joint_fingerprint("a", None) == joint_fingerprint("a", "a") == "a"
    assert len({"a", joint_fingerprint("a", "b"), joint_fingerprint("b", "a"), joint_fingerprint("a", "c")}) == 4
