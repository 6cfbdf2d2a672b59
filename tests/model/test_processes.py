from __future__ import annotations

import os

import pytest

from alexnet_model.errors import ClientError
from alexnet_model.processes import check_same_process


def test_use_in_the_process_that_made_it_is_allowed() -> None:
    check_same_process("client", os.getpid(), kind=ClientError)


def test_use_in_another_process_is_an_error_of_the_given_class() -> None:
    with pytest.raises(
        ClientError, match=r"client: got a use in process \d+.*Make one in each process"
    ) as caught:
        check_same_process("client", os.getpid() + 1, kind=ClientError)
    assert "\n" not in str(caught.value)
