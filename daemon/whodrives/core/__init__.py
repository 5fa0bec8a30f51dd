"""The engine: inputs in, events out, deterministic.

Owns the order of the stages: voice activity, segments, embedding, decision, trip.
Must not know a clock, thread, file, socket or logger. Each stage's rule lives in its own package.
Start with `engine.Recognizer.step`; `events` lists every input and every event.
"""
