"""Kinds TuningProfile and ClusterTuningProfile: reusable settings that a job overrides."""

from __future__ import annotations

from kubetune.api.training.settings import TrainingSettings


class TuningProfileSpec(TrainingSettings):
    """What the platform team declares; a job's own settings win field by field."""
