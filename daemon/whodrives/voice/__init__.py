"""From blocks of sound to a decision about the speaker.

Owns segmentation by voice activity, sound quality, scoring with its calibration, and the decision.
Must not know devices, model files, the car or the broker: pure functions with explicit time.
Start with `decision.judge`, then `scoring` and `segments`.
"""
