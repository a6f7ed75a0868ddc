"""Settings: flags over variables over defaults, and every problem at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from feedwater_service.errors import UnusableError
from feedwater_service.settings import OPTIONS, SidecarSettings, documentation, read_settings


def test_defaults_hold_where_nothing_is_said() -> None:
    """No flag and no variable give the defaults; an empty variable counts as absent."""
    assert read_settings([], {}) == SidecarSettings()
    assert read_settings([], {"FEEDWATER_HTTP_PORT": ""}) == SidecarSettings()


def test_flag_wins_over_variable() -> None:
    """A flag is nearer than the environment."""
    settings = read_settings(
        ["--http-port", "0"], {"FEEDWATER_HTTP_PORT": "9000", "FEEDWATER_MAX_WORKERS": "8"}
    )
    assert (settings.http_port, settings.max_workers) == (0, 8)


def test_switch_is_on_by_its_flag_alone() -> None:
    """`--reflection` needs no value."""
    assert read_settings(["--reflection"], {}).reflection
    assert not read_settings(["--reflection", "false"], {}).reflection


def test_all_problems_are_told_at_once(tmp_path: Path) -> None:
    """Seven wrong settings give seven lines, each with its name, what was expected and what came."""
    file = tmp_path / "file"
    file.touch()
    environ = {
        "FEEDWATER_HTTP_PORT": "70000",
        "FEEDWATER_MAX_MODE": "turbo",
        "FEEDWATER_LISTEN": "0.0.0.0:80",
        "FEEDWATER_SOCKET": "/" + "x" * 107,
        "FEEDWATER_MIN_WORKERS": "9",
        "FEEDWATER_MAX_WORKERS": "3",
        "FEEDWATER_MEMORY_MARGIN": "nan",
        "FEEDWATER_STATE_DIR": str(file / "state"),
    }
    with pytest.raises(UnusableError) as error:
        read_settings([], environ)
    lines = str(error.value).splitlines()
    named = {line.partition(":")[0] for line in lines}
    assert named == set(environ) - {"FEEDWATER_MAX_WORKERS"}
    assert "FEEDWATER_HTTP_PORT: expected a whole number from 0 to 65535, got '70000'" in lines
    assert "FEEDWATER_SOCKET: expected at most 107 bytes, the path has 108" in "\n".join(lines)


def test_no_address_at_all_is_a_problem() -> None:
    """Without socket and loopback address clients have nowhere to go; one of them is enough."""
    # An empty variable counts as absent, so an empty socket is said by its flag.
    with pytest.raises(UnusableError, match="nowhere to connect"):
        read_settings(["--socket", ""], {})
    assert read_settings(["--socket", "", "--listen", "127.0.0.1:0"], {}).listen == "127.0.0.1:0"


def test_unknown_flag_ends_with_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    """A flag that does not exist is told by argparse."""
    with pytest.raises(SystemExit) as ended:
        read_settings(["--no-such-flag"], {})
    assert ended.value.code == 2
    assert "--no-such-flag" in capsys.readouterr().err


def test_help_tells_every_flag_and_variable(capsys: pytest.CaptureFixture[str]) -> None:
    """`--help` names each flag with its variable."""
    with pytest.raises(SystemExit):
        read_settings(["--help"], {})
    text = "".join(capsys.readouterr().out.split())
    for option in OPTIONS:
        assert option.flag in text
        assert option.variable in text


def test_every_field_is_an_option_and_documented() -> None:
    """The table of options, the fields and their documentation are the same set."""
    fields = set(SidecarSettings.__dataclass_fields__)
    assert {option.field for option in OPTIONS} == fields
    assert set(documentation()) == fields
