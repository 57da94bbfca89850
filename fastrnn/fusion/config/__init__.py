"""Configuration: the options of a run, their checks and presets."""
