"""A pytest plugin for mutation tests: nothing is remembered from one question to the next.

mutmut runs only the tests that reached a function before it was changed. What another test had asked for already would
be remembered, and would hide a rule from the tests that hold it.
"""

from __future__ import annotations

from volenti.core.data_subject import DataSubjectState
from volenti.core.policy.compile import CompiledPolicy


def pytest_configure() -> None:
    CompiledPolicy.premises = property(lambda self: {})  # type: ignore[assignment,method-assign]
    DataSubjectState._choices = property(lambda self: {})  # type: ignore[assignment,method-assign]
