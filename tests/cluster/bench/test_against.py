"""A comparison takes turns, says what it measured, and tells what is missing. No test asserts a time."""

import json
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from cluster.bench.against import Against, AgainstWork, Peer
from cluster.bench.contestant import Contestant, Entry
from cluster.bench.model_files import ModelFiles
from cluster.bench.peers.talk import LoadOrder, peak_bytes
from cluster.bench.roofline import Roofline
from cluster.bench.table import table
from cluster.errors import PeerAbsent, PeerFailed
from model.cache_dir import CACHE_VARIABLE
from model.q8 import is_q8

ROOF = Roofline(read_bytes_per_s=1e9, read_kernel="by hand", flops_per_s=1e10)
NOWHERE = LoadOrder("/nowhere.gguf", num_threads=1, max_sequences=1, context_tokens=64, num_steps=2, num_prompt=4)


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModelFiles:
    """The tiny model's files, in a folder whose cache goes away with the test."""
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    return ModelFiles(tmp_path, "tiny", None, lambda _: None)


def test_rounds_alternate_and_every_ratio_is_of_one_round(files: ModelFiles) -> None:
    """Transformers is among the tests' requirements; a tiny model's speed says nothing, its rows are complete."""
    told: list[str] = []
    work = AgainstWork(
        Peer("transformers"), [{"mode": "precise"}], batches=(2,), prompts=(20,), num_steps=3, num_rounds=2
    )
    comparison = Against(work, files, told.append)
    comparison.run()
    rows = {(row.name, str(row.facts["program"])): row for row in comparison.rows(ROOF)}
    assert list(rows) == [
        ("decode", "expertmesh precise"),
        ("decode", "transformers"),
        ("prefill", "expertmesh precise"),
        ("prefill", "transformers"),
    ]
    turns = [line.split(": ")[1] for line in told if line.startswith("round")]
    first = ["decode 2, expertmesh precise", "decode 2, transformers"]
    second = ["prefill 20, expertmesh precise", "prefill 20, transformers"]
    assert turns == [*first, *second, *first[::-1], *second[::-1]]
    ours, theirs = rows["decode", "expertmesh precise"], rows["decode", "transformers"]
    ratios = sorted(b / a for a, b in zip(ours.timing.durations_s, theirs.timing.durations_s, strict=True))
    assert [ours.facts["ratio_low"], ours.facts["ratio_high"]] == [round(each, 3) for each in ratios]
    assert "ratio" not in theirs.facts
    assert str(theirs.facts["version"]).startswith("transformers ")
    assert float(ours.facts["peak_gb"] or 0) > 0.05
    assert json.loads(ours.to_json({}))["batch"] == 2


def test_both_programs_load_the_same_weights(files: ModelFiles) -> None:
    """The peer's bf16 experts are this engine's MXFP4 ones, dequantised."""
    from model.checkpoint.open import open_checkpoint
    from model.mxfp4 import Mxfp4Tensor, dequantize

    weights = open_checkpoint(files.gguf()).expert(0, 1).mlp2
    assert isinstance(weights, Mxfp4Tensor)
    stored = {name: each for file in files.directory().glob("*.safetensors") for name, each in load_file(file).items()}
    theirs = stored["model.layers.0.mlp.experts.down_proj"][1].T
    assert dequantize(weights, theirs.dtype).equal(theirs)


def test_files_in_8_bits_lie_beside_the_others(files: ModelFiles, tmp_path: Path) -> None:
    from model.checkpoint.open import open_checkpoint
    from model.checkpoint.q8_dense import Q8Dense

    narrow = ModelFiles(tmp_path, "tiny", None, lambda _: None, "q8_0")
    assert narrow.gguf() != files.gguf()
    assert narrow.gguf().stat().st_size < files.gguf().stat().st_size
    assert is_q8(Q8Dense.of(open_checkpoint(narrow.gguf())).embedding().embedding)


def test_files_that_are_there_are_not_written_again(files: ModelFiles) -> None:
    before = files.gguf().stat().st_mtime_ns
    assert files.gguf().stat().st_mtime_ns == before


def test_an_absent_peer_is_told_with_how_to_get_it(tmp_path: Path) -> None:
    """An interpreter without any packages stands for an environment that lacks the peer."""
    python = tmp_path / "python"
    python.write_text(
        f"#!/bin/sh\nexec {sys.executable} -I -S -c \"import sys; sys.path.insert(0, '.'); "
        'import runpy; runpy.run_module(sys.argv[2], run_name=\'__main__\')" "$@"\n'
    )
    python.chmod(0o755)
    with pytest.raises(
        PeerAbsent, match=r"llama\.cpp is not installed for .*pip install llama-cpp-python.*--peer-python"
    ):
        Contestant(Entry("llama.cpp", "llama.cpp", NOWHERE, python))


def test_an_interpreter_that_is_none_is_told(tmp_path: Path) -> None:
    with pytest.raises(PeerFailed, match="cannot be started"):
        Contestant(Entry("transformers", "transformers", NOWHERE, tmp_path / "python"))


def test_what_a_program_refuses_is_told_in_its_words() -> None:
    with pytest.raises(PeerFailed, match=r"expertmesh precise, load: CheckpointMissing: .*nowhere\.gguf"):
        Contestant(Entry("expertmesh precise", "expertmesh", NOWHERE))


def test_a_program_that_dies_is_told_with_its_last_words(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho out of luck >&2\nexit 3\n")
    python.chmod(0o755)
    with pytest.raises(PeerFailed, match=r"(?s)ended with 3 at load: out of luck"):
        Contestant(Entry("transformers", "transformers", NOWHERE, python))


def test_a_process_knows_its_peak() -> None:
    before = peak_bytes()
    block = bytearray(200_000_000)
    block[::4096] = b"\x01" * len(block[::4096])
    assert peak_bytes() >= before
    assert peak_bytes() > 200_000_000


def test_the_table_has_a_line_for_each_program_and_leaves_other_rows_out() -> None:
    ours = {"bench": "decode", "layers": 4, "program": "expertmesh precise", "batch": 8, "tokens_per_s": 61.25}
    ours |= {"ratio": 1.5, "ratio_low": 1.25, "ratio_high": 1.75, "roofline": 0.5, "bound": "memory", "peak_gb": 4.44}
    peer = {"bench": "prefill", "layers": 2, "program": "transformers", "prompt": 512, "tokens_per_s": 9.0}
    peer |= {"roofline": None, "bound": "", "peak_gb": 11.0}
    lines = table([ours, {"bench": "kernel"}, peer]).splitlines()
    assert lines[2:] == [
        "| decode, batch 8, 4 layers | expertmesh precise | 61.2 | 1.50 (1.25 to 1.75) | 50 % of memory | 4.4 GB |",
        "| prefill, 512 tokens, 2 layers | transformers | 9.0 |  |  | 11.0 GB |",
    ]
