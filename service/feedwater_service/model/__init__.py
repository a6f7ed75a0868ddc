"""The model: what a pod's loaders would do under other settings, and what to choose. Pure.

The way of an epoch through it: `values.Epoch` (measured) → ``estimate`` (fitted quantities) → ``curve`` (each
setting simulated: ``simulate`` on ``bucket``) → ``capacity`` and ``choose`` (within budget) → ``verify`` (did
the last change help) → ``explain`` (verdict, sentence). ``recommend`` strings them together.
"""

from feedwater_service.model.figures import Figures, summarise
from feedwater_service.model.recommend import Draft, draft, recommend
from feedwater_service.model.values import (
    Budget,
    Change,
    Container,
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
    WorkerMemory,
)

__all__ = [
    "Budget",
    "Change",
    "Container",
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
    "WorkerMemory",
    "draft",
    "recommend",
    "summarise",
]
