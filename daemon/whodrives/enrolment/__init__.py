"""From a person's speech to a profile that may be kept, or the reason why not.

Owns what a good recording is, the checks before a voice is kept, and the texts that people read.
Must not know devices, the store, names or MQTT.
Start with `recording.Enrolment`; `session` is the enrolment that a head unit asks for.
"""
