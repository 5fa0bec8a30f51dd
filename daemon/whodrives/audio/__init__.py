"""Sound in: microphone, sound files and pipes become blocks of 16 kHz mono.

Owns sample formats, sampling rates, channels, resampling, the sound device and its failures.
Must not know what a voice, a profile, a model or an MQTT topic is.
Start with `blocks` (the value that everything else consumes), then `files` or `microphone`.
"""
