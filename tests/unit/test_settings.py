"""Settings: the file that operators copy says what the code does."""

import tomllib
from pathlib import Path

import pytest

from sfu.settings import Settings, SettingsError, load

CONFIG = Path(__file__).parents[2] / "config" / "sfu.toml"


def test_the_file_holds_every_setting_with_its_default():
    values = tomllib.loads(CONFIG.read_text())
    assert values == Settings().model_dump()


def test_the_file_has_the_sentence_of_every_setting():
    text = " ".join(line.lstrip("# ") for line in CONFIG.read_text().splitlines())
    for section in Settings.model_fields.values():
        for name, field in section.annotation.model_fields.items():
            assert field.description in text, name


def test_the_environment_wins_over_the_file(tmp_path, monkeypatch):
    file = tmp_path / "sfu.toml"
    file.write_text("[http]\nport = 1234\nhost = '127.0.0.2'\n")
    monkeypatch.setenv("SFU_HTTP__PORT", "4321")
    settings = load(file)
    assert (settings.http.port, settings.http.host) == (4321, "127.0.0.2")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[http]\nport = 70000\n", "http.port"),
        ("[http]\nprot = 80\n", "http.prot"),
        ("[nonsense]\nx = 1\n", "nonsense"),
        ("not toml", "sfu.toml"),
        ("[log]\nlevel = 'loud'\n", "log.level"),
    ],
)
def test_a_wrong_setting_is_named(tmp_path, text, told):
    file = tmp_path / "sfu.toml"
    file.write_text(text)
    with pytest.raises(SettingsError, match=told):
        load(file)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(SettingsError, match=r"missing\.toml"):
        load(tmp_path / "missing.toml")


def test_the_secret_is_not_shown():
    assert "hunter2" not in repr(Settings(auth={"secret": "hunter2" * 8}))
