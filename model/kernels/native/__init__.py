"""The CPU kernels' C++ source, built on first use by `model.kernels.native_library`."""
