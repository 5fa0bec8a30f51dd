"""Every setting: default, unit, bounds and meaning; the YAML configuration file.

Owns parsing, error messages and the reference configuration, all generated from one schema.
Must not know what a setting does. Only `location` touches the disk.
Start with `schema.Config`.
"""
