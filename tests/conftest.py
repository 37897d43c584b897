"""Tests keep compiled signatures in a folder of their own, never in a home."""

import os
import tempfile

_cache = tempfile.TemporaryDirectory(prefix="raywatch-tests-")
os.environ["XDG_CACHE_HOME"] = _cache.name
