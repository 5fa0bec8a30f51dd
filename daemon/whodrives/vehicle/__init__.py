"""The car: the signals whodrives can set, and what the car reports about itself.

Owns the catalogue of VSS signals (`vss`) and the state of the car (`state`).
Must not know MQTT, files, or when a movement is safe: that is `trip.interlock`.
Start with `vss.SIGNALS` and `state.VehicleState`.
"""
