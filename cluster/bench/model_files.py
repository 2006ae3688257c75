"""Model files that several programs can load: one set of weights, written once in each program's format."""

import os
from collections.abc import Callable
from pathlib import Path

from cluster.bench.contestant import PeerName
from cluster.bench.geometry import open_geometry
from model.cache_dir import CACHE_VARIABLE, cache_dir
from model.checkpoint import write_checkpoint
from model.checkpoint.gguf.write import DenseType, write_gguf
from model.checkpoint.open import open_checkpoint
from model.checkpoint.weights import WeightSource
from model.numerics import Numerics
from model.packed_experts import PackedExperts, packed_experts

Report = Callable[[str], None]


class ModelFiles:
    """A folder with the files of one geometry; what is there already is used again."""

    def __init__(
        self, folder: Path, geometry: str, num_layers: int | None, report: Report, dense: DenseType = "bf16"
    ) -> None:
        """Use `folder`, made if it is not there; GGUF has `dense` beside the experts.

        Raises ValueError for a geometry that cannot be had.
        """
        self._folder = folder.absolute()
        self._report = report
        self.geometry = geometry
        self.dense: DenseType = dense
        self._weights: WeightSource = open_geometry(geometry, num_layers)
        self.config = self._weights.config
        self._name = f"{Path(geometry).stem}-{self.config.num_layers}-layers"
        folder.mkdir(parents=True, exist_ok=True)

    def gguf(self) -> Path:
        """Return a GGUF file."""
        ending = "" if self.dense == "bf16" else f"-{self.dense}"
        file = self._folder / f"{self._name}{ending}.gguf"
        if not file.exists():
            self._report(f"writing {file.name}")
            write_gguf(file, self._weights, self.dense)
        return file

    def directory(self) -> Path:
        """Return a directory in Hugging Face's layout with bf16 experts, which transformers computes on a CPU."""
        directory = self._folder / f"{self._name}-bf16"
        if not directory.exists():
            self._report(f"writing {directory.name}")
            write_checkpoint(directory, self._weights, "bf16")
        return directory

    def of(self, peer: PeerName) -> Path:
        """Return the file or directory that a peer loads."""
        return self.gguf() if peer == "llama.cpp" else self.directory()

    def keep_packed(self, mode: str) -> None:
        """Pack the GGUF file's experts now, so that this engine loads them as on every start but the first.

        They lie in the folder, not in the user's cache: from here on the process and its children use the folder.
        """
        self._move_cache()
        source = packed_experts(open_checkpoint(self.gguf()), Numerics.of(mode), "cpu")
        if not isinstance(source, PackedExperts):
            return
        self._report("packing experts")
        for layer in range(self.config.num_layers):
            for expert in range(self.config.num_experts):
                source.expert(layer, expert)
            source.release()
        source.keep()

    def _move_cache(self) -> None:
        """Let the cache lie in the folder, with the kernels that are built already."""
        own, kernels = self._folder / "cache", cache_dir() / "kernels"
        if cache_dir() == own:
            return
        own.mkdir(exist_ok=True)
        if kernels.is_dir() and not (own / "kernels").exists():
            (own / "kernels").symlink_to(kernels)
        os.environ[CACHE_VARIABLE] = str(own)
