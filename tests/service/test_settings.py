"""Settings: read once, frozen, each described where people look."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from service.settings import PREFIX, Settings, describe, read_settings, refuse_unknown_variables


def test_every_setting_is_described_with_flag_variable_default_and_a_sentence() -> None:
    described = describe()
    names = list(Settings.model_fields)
    assert [flag for flag, *_ in described] == [f"--{name.replace('_', '-')}" for name in names]
    assert [variable for _, variable, *_ in described] == [f"GLASSBLOCK_{name.upper()}" for name in names]
    assert [default for _, _, default, _ in described] == [field.default for field in Settings.model_fields.values()]
    assert all(text.endswith((".", ").")) and len(text) > 20 for *_, text in described)


def test_settings_are_frozen() -> None:
    settings = read_settings([])
    with pytest.raises(ValidationError, match="frozen"):
        settings.threads = 3


def test_no_setting_has_a_name_that_a_kubernetes_service_link_would_set() -> None:
    links = ("port", "port_8000_tcp", "service_host", "service_port", "service_port_http", "gateway_port")
    assert not set(Settings.model_fields) & {"host", *links}
    refuse_unknown_variables({PREFIX + link.upper(): "tcp://10.0.0.1:80" for link in links})


def test_a_flag_beats_its_variable_and_a_variable_its_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLASSBLOCK_THREADS", "3")
    monkeypatch.setenv("GLASSBLOCK_MAX_OUTPUTS", "5")
    settings = read_settings(["--threads=2", "--models=elsewhere"])
    assert (settings.threads, settings.max_outputs, settings.models) == (2, 5, Path("elsewhere"))
    assert settings.max_in_flight == Settings.model_fields["max_in_flight"].default


def test_every_default_is_within_its_own_bounds() -> None:
    defaults = {name: field.default for name, field in Settings.model_fields.items()}
    assert Settings.model_validate(defaults).model_dump() == defaults


def test_help_shows_every_setting_and_its_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        read_settings(["--help"])
    assert ended.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())
    for flag, _, _, text in describe():
        assert flag in shown
        assert " ".join(text.split())[:40] in shown
