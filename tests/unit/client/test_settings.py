"""The client's settings."""

from __future__ import annotations

import pytest

from feedwater.settings import VARIABLES, Settings, read_settings, table
from feedwater.values import Mode


def test_an_empty_environment_gives_the_defaults() -> None:
    """All fields but those that name this machine and script are the dataclass's own."""
    settings = read_settings({})
    assert settings == Settings(job=settings.job, pod=settings.pod)
    assert settings.job
    assert settings.pod


def test_values_are_read() -> None:
    """Each variable reaches its field, torchrun's too."""
    settings = read_settings(
        {
            "FEEDWATER_MODE": "Advise",
            "FEEDWATER_ADDRESS": "127.0.0.1:9000",
            "FEEDWATER_DEADLINE_SECONDS": "0.5",
            "FEEDWATER_JOB": "resnet",
            "POD_NAMESPACE": "team",
            "POD_NAME": "resnet-0",
            "FEEDWATER_DISABLED": "yes",
            "FEEDWATER_RUN_DIR": "/run/x",
            "RANK": "3",
            "LOCAL_RANK": "1",
            "WORLD_SIZE": "4",
            "LOCAL_WORLD_SIZE": "2",
        }
    )
    assert settings == Settings(
        Mode.ADVISE, "127.0.0.1:9000", 0.5, "resnet", "team", "resnet-0", True, "/run/x", 3, 1, 4, 2
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("FEEDWATER_MODE", "fast"),
        ("FEEDWATER_ADDRESS", "nowhere"),
        ("FEEDWATER_ADDRESS", "unix:"),
        ("FEEDWATER_ADDRESS", "host:99999"),
        ("FEEDWATER_DEADLINE_SECONDS", "0"),
        ("FEEDWATER_DEADLINE_SECONDS", "nan"),
        ("FEEDWATER_DEADLINE_SECONDS", "soon"),
        ("FEEDWATER_DISABLED", "maybe"),
        ("FEEDWATER_RUN_DIR", "here"),
        ("RANK", "-1"),
    ],
)
def test_a_bad_value_draws_one_warning_and_the_default(
    name: str, value: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The warning names the variable, the value and what is allowed; training goes on."""
    settings = read_settings({name: value})
    assert settings == Settings(job=settings.job, pod=settings.pod)
    (record,) = caplog.records
    assert f"{name}={value!r} is ignored: expected " in record.getMessage()


def test_the_table_has_a_row_for_each_variable() -> None:
    """One line each, after the two of the head."""
    lines = table().splitlines()
    assert len(lines) == 2 + len(VARIABLES)
    assert all(f"`{v.name}`" in line for v, line in zip(VARIABLES, lines[2:], strict=True))
