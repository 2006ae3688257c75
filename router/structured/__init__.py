"""Structured output: what requests ask of the form of answers and calls, as constraints for the engine."""
