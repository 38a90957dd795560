"""A step's log, and how errors reach the user."""

from __future__ import annotations

import errno
import logging
import warnings

import pytest

from nightflow import steps


def test_warnings_and_messages_go_to_the_log(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        with steps.logged(tmp_path / "step.log"):
            logging.getLogger("nightflow.x").warning("be careful")
            warnings.warn("odd pixels", stacklevel=1)
    text = (tmp_path / "step.log").read_text()
    assert "WARNING be careful" in text and "odd pixels" in text


def test_a_users_error_is_a_sentence(tmp_path):
    with pytest.raises(SystemExit, match="nightflow: the master is missing"), steps.logged(tmp_path / "step.log"):
        raise steps.UserError("the master is missing")
    assert (tmp_path / "step.log").read_text() == "ERROR the master is missing\n"


@pytest.mark.parametrize(("code", "words"), [(errno.ENOSPC, "the disk is full"), (errno.EROFS, "read-only")])
def test_storage_errors_are_sentences(tmp_path, code, words):
    with pytest.raises(SystemExit, match=words), steps.logged(tmp_path / "step.log"):
        raise OSError(code, "no", "out.fits")


def test_a_programming_error_keeps_its_traceback(tmp_path):
    with pytest.raises(ZeroDivisionError), steps.logged(tmp_path / "step.log"):
        1 / 0  # noqa: B018
    assert "Traceback" in (tmp_path / "step.log").read_text()
