import pytest


@pytest.mark.parametrize("x", range(200))
def test_x(x):
    pass
