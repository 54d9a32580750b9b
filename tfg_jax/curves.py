"""Curves of a run that may be long: any number of steps in a bounded number of points."""

import json
import math
from collections.abc import Iterable, Mapping

import numpy as np

MOST_POINTS = 400


class Curves:
  """Means, lows and highs of named numbers over neighbouring steps.

  As many steps share a point as are needed to stay at `MOST_POINTS`: 1, 2, 4, ... The points follow
  from the numbers alone, so a resumed run that adds the same ones has the same curves.
  """

  def __init__(self):
    self._steps_per_point = 1
    self._points = {}  # name -> {place: _Point}
    self._not_finite = {}  # name -> count

  def add(self, step: int, values: Mapping[str, float]):
    """Adds the numbers of one step; those that are not finite are only counted."""
    while (step - 1) // self._steps_per_point >= MOST_POINTS:
      self._halve()
    place = (step - 1) // self._steps_per_point
    for name, value in values.items():
      if math.isfinite(value):
        self._points.setdefault(name, {}).setdefault(place, _Point()).add(step, value)
      else:
        self._not_finite[name] = self._not_finite.get(name, 0) + 1

  @property
  def names(self) -> list[str]:
    """Of the numbers, in the order in which they came."""
    return list(self._points)

  def not_finite(self, name: str) -> int:
    """In how many steps the number was not finite."""
    return self._not_finite.get(name, 0)

  def curve(self, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Mean step, mean, low and high of each point, in the order of steps."""
    points = [point for _, point in sorted(self._points[name].items())]
    steps, means = (
      np.array([total / point.count for point, total in zip(points, totals, strict=True)])
      for totals in ([point.steps for point in points], [point.total for point in points])
    )
    lows, highs = (np.array([getattr(point, end) for point in points]) for end in ('low', 'high'))
    return steps, means, lows, highs

  def _halve(self):
    self._steps_per_point *= 2
    for name, points in self._points.items():
      merged = {}
      for place, point in points.items():
        merged.setdefault(place // 2, _Point()).merge(point)
      self._points[name] = merged


def read(lines: Iterable[str | bytes]) -> tuple[Curves, Curves]:
  """The curves of training steps and those of evaluations, from the lines of a metrics.jsonl.

  Every step has a line, and an evaluation after it a second one.
  """
  training, evaluations = Curves(), Curves()
  last = None
  for line in lines:
    row = json.loads(line)
    step = row.pop('step')
    (evaluations if step == last else training).add(step, row)
    last = step
  return training, evaluations


class _Point:
  __slots__ = 'count', 'steps', 'total', 'low', 'high'

  def __init__(self):
    self.count = self.steps = self.total = 0
    self.low, self.high = math.inf, -math.inf

  def add(self, step, value):
    self.count += 1
    self.steps += step
    self.total += value
    self.low, self.high = min(self.low, value), max(self.high, value)

  def merge(self, other):
    self.count += other.count
    self.steps += other.steps
    self.total += other.total
    self.low, self.high = min(self.low, other.low), max(self.high, other.high)
