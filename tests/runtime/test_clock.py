"""Two clocks that go together: the machine's, and one that is given."""

from __future__ import annotations

import time

from keyrush import Gate
from keyrush.runtime import clock as clocks
from tests.conftest import Clock, settings


def test_the_machine_s() -> None:
    """Where none is given, it is the machine's, and said to be."""
    clock = clocks.Clock.of(None)
    assert clock.is_real
    assert abs(clock.now() - time.time() * 1000) < 1000
    assert clock.monotonic is time.monotonic


def test_one_that_is_given(clock: Clock) -> None:
    """What is given moves both, and is not real: servers go by it, too."""
    both = clocks.Clock.of(clock)
    before = both.now(), both.monotonic()
    clock.advance(1500)
    assert (both.now() - before[0], round(both.monotonic() - before[1], 3)) == (1500, 1.5)
    assert not both.is_real


def test_a_gate_s_own(clock: Clock) -> None:
    """A gate goes by the callable that it is given, and by the machine's clock where by none."""
    given, real = Gate.open(settings(), clock=clock), Gate.open(settings())
    assert given.clock() == clock()
    assert abs(real.clock() - time.time() * 1000) < 1000
    given.close()
    real.close()
