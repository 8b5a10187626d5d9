"""EDGE-1 and its kin: what the report warns of."""

import dataclasses
from pathlib import Path

import pytest
from synthetic import Study

from analysis import health
