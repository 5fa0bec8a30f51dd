"""The ONNX models on disk, verified and run.

Owns manifests, checksums, the set-up of ONNX Runtime, and the calibration that belongs to a model.
Must not know who speaks: samples go in, numbers come out, nobody is remembered.
Start with `manifests`, then `encoder` and `vad`.
"""

import os

# From 1.29 on ONNX Runtime's builds for Linux report every start to their maker over HTTPS and
# keep a machine id in the home folder. The variable is read once, when the runtime is imported.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
