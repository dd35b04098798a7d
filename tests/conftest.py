"""What all tests share: a cache of their own, so that no test reads or fills the user's."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JOINTNAS_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield
