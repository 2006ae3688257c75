"""Where the cache lies, on each platform and by choice."""

from pathlib import Path

import pytest

from model.cache_dir import cache_dir, model_dir


def test_the_variable_wins(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EXPERTMESH_CACHE", str(tmp_path / "chosen"))
    assert cache_dir() == tmp_path / "chosen"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EXPERTMESH_CACHE", "near")
    assert cache_dir() == tmp_path / "near"


def test_linux_follows_the_xdg_base_directories(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("EXPERTMESH_CACHE", raising=False)
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_dir() == tmp_path / "xdg" / "expertmesh"
    for unusable in ("", "relative/path"):
        monkeypatch.setenv("XDG_CACHE_HOME", unusable)
        assert cache_dir() == tmp_path / ".cache" / "expertmesh"


def test_macos_has_its_own_place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("EXPERTMESH_CACHE", raising=False)
    monkeypatch.setattr("sys.platform", "darwin")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_dir() == tmp_path / "Library" / "Caches" / "expertmesh"


def test_a_fetched_model_lies_below_its_owner(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EXPERTMESH_CACHE", str(tmp_path))
    assert model_dir("openai/gpt-oss-20b") == tmp_path / "models" / "openai" / "gpt-oss-20b"


@pytest.mark.parametrize("name", ["gpt-oss-20b", "a/b/c", "../x", "openai/..", "/x", "openai/", "a\\..\\b/c"])
def test_a_name_that_leads_out_of_the_cache_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="owner/model"):
        model_dir(name)
