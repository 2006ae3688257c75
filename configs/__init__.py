"""The presets: one YAML document a file, installed with the package and named without their ending."""
