"""The model: what a pod's loaders would do under other settings, and what to choose. Pure.

The way of an epoch through it: `values.Epoch` (measured) → ``estimate`` (fitted quantities), ``device`` (what
of a step is the device's), ``company`` (who shares the machine) → ``curve`` (each setting simulated:
``simulate``, of ``rank`` and ``loader`` on ``bucket``) → ``capacity`` and ``choose`` (within budget) →
``what_if`` (other CPU limits) → ``verify`` (did the last change help) → ``explain`` (verdict, sentence).
``recommend`` strings them together.
"""

from feedwater_service.model.drafting import Draft
from feedwater_service.model.figures import Figures, summarise
from feedwater_service.model.recommend import draft, recommend
from feedwater_service.model.values import (
    Budget,
    Change,
    Container,
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
    "Container",
    "DeviceStep",
    "Draft",
    "Epoch",
    "Evidence",
    "Figures",
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
