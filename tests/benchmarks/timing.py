"""Times of things that are compared: each in turn, so that a noisy machine troubles all alike."""

import statistics
import time
from collections.abc import Callable, Mapping

_REST = 0.5  # seconds: threads of OpenMP spin for 0.2 s after their work, on cores of the next one


def in_turn(calls: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
  """Calls each twice unmeasured, as memory still grows then, and all of them in turn so many times.

  Args:
    calls: name -> what to measure; it returns when it has done its work.
    rounds: how often.

  Returns:
    Name -> seconds of each round.
  """
  for call in (*calls.values(), *calls.values()):
    call()
  seconds = {name: [] for name in calls}
  for _ in range(rounds):
    for name, call in calls.items():
      time.sleep(_REST)
      began = time.perf_counter()
      call()
      seconds[name].append(time.perf_counter() - began)
  return seconds


def ratio(seconds: Mapping[str, list[float]], name: str, other: str) -> str:
  """How much longer one takes than the other: median over rounds, least and most."""
  rounds = [a / b for a, b in zip(seconds[name], seconds[other], strict=True)]
  return (
    f'{name} takes {statistics.median(rounds):.2f} times as long as {other} '
    f'({min(rounds):.2f} to {max(rounds):.2f} in {len(rounds)} rounds)'
  )
