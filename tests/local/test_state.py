"""The state folder: made for its user alone, and not trusted where others could have made it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from forebay_api import local
from forebay_cli.state import NothingRuns, State, Untrusted


def test_it_is_made_for_its_user_alone_and_others_files_are_not_read(tmp_path: Path) -> None:
    state = State(tmp_path / "made" / "state")
    with pytest.raises(NothingRuns, match="nothing runs in"):
        state.operator()
    state.make()
    assert state.folder.stat().st_mode & 0o777 == 0o700
    state.make()
    (state.folder / local.OPERATOR_FILE).write_text(json.dumps({"pid": os.getpid(), "address": "unix:x"}))
    assert state.operator() == "unix:x"
    state.folder.chmod(0o777)
    with pytest.raises(Untrusted, match=r"can be written by others \(mode 777\): chmod go-w it"):
        state.operator()
    assert not state.runs()
    with pytest.raises(Untrusted):
        state.make()


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir(mode=0o700)
    link = State(tmp_path / "link")
    link.folder.symlink_to(tmp_path / "real")
    with pytest.raises(Untrusted, match="is a symbolic link: name what it points to with --state"):
        link.make()
    State(tmp_path / "real").make()


def test_somebody_elses_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.getuid", lambda: os.stat(tmp_path).st_uid + 1)
    with pytest.raises(Untrusted, match="belongs to user"):
        State(tmp_path).make()
