"""The ONNX models on disk, verified and run.

Owns manifests, checksums, the set-up of ONNX Runtime, and the calibration that belongs to a model.
Must not know who speaks: samples in, numbers out, and no state about speakers.
Start with `manifests`, then `encoder` and `vad`.
"""

import os

# From version 1.29 the Linux builds of ONNX Runtime send telemetry over HTTPS and keep a machine id
# in the home folder. The variable is read once, when the runtime is imported.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
