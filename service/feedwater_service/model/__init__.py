"""The model: what a pod's loaders would do under other settings, and what to choose. Pure.

The way of an epoch through it: ``observed`` (statistics of what was measured) → ``fit`` (the quantities
that the simulator needs) → ``predict`` (each setting simulated by ``simulator``, corrected by what was
measured, with bounds) → ``choose`` (within the limits of the pod; other CPU limits; did the last change help)
→ ``explain`` (verdict, evidence, sentence). ``analysis`` holds what the stages hand on; ``recommend`` strings
them together.
"""

from feedwater_service.model.analysis import Draft
from feedwater_service.model.observed.figures import EpochStats, summarise
from feedwater_service.model.recommend import draft, recommend
from feedwater_service.model.types import (
    Budget,
    Change,
    ContainerUsage,
    DeviceStep,
    Epoch,
    Evidence,
    Load,
    Loader,
    NoRecommendation,
    Pod,
    Policy,
    Prediction,
    Reason,
    Recommendation,
    Settings,
    Verdict,
    WhatIf,
    WorkerMemory,
)

__all__ = [
    "Budget",
    "Change",
    "ContainerUsage",
    "DeviceStep",
    "Draft",
    "Epoch",
    "EpochStats",
    "Evidence",
    "Load",
    "Loader",
    "NoRecommendation",
    "Pod",
    "Policy",
    "Prediction",
    "Reason",
    "Recommendation",
    "Settings",
    "Verdict",
    "WhatIf",
    "WorkerMemory",
    "draft",
    "recommend",
    "summarise",
]
