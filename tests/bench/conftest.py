"""A small export of real files, as the tests of serving have it."""

from __future__ import annotations

from ..serving.conftest import artifacts as artifacts
from ..serving.conftest import images as images
