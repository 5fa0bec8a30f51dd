"""The program that builds the model files: what it refuses, and how it rounds."""

import hashlib
import importlib
import io
import json
import os
import pickle
import sys
import types
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools" / "build_models"))  # a program, not a package

build_models = importlib.import_module("__main__", None) if False else None
