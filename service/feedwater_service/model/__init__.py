"""The model: predicts a pod's loaders under other settings, and chooses one. It is pure.

An epoch passes these stages: ``observed`` (statistics of the measurements) → ``fit`` (the quantities that the
simulator needs) → ``predict`` (each setting simulated by ``simulator``, corrected by measurements, with
bounds) → ``choose`` (within the pod's limits; under other CPU limits; whether the last change helped) →
``explain`` (verdict, evidence, sentence). ``analysis`` holds the results of the first stages, ``recommend``
calls all of them. ``numbers`` holds every constant, ``types`` the input and output.
"""

from feedwater_service.model.analysis import Analysis
from feedwater_service.model.observed.epoch_stats import EpochStats, summarise
from feedwater_service.model.recommend import analyse, recommend
from feedwater_service.model.types import (
    Budget,
    Change,
    ContainerUsage,
    DeviceStep,
    Epoch,
    Evidence,
    Load,
    Loader,
    LoaderSettings,
    NoRecommendation,
    NoRecommendationReason,
    Pod,
    Policy,
    Prediction,
    Recommendation,
    Verdict,
    WhatIf,
    WorkerMemory,
)

__all__ = [
    "Analysis",
    "Budget",
    "Change",
    "ContainerUsage",
    "DeviceStep",
    "Epoch",
    "EpochStats",
    "Evidence",
    "Load",
    "Loader",
    "LoaderSettings",
    "NoRecommendation",
    "NoRecommendationReason",
    "Pod",
    "Policy",
    "Prediction",
    "Recommendation",
    "Verdict",
    "WhatIf",
    "WorkerMemory",
    "analyse",
    "recommend",
    "summarise",
]
