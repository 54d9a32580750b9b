"""Numbers of systems on the same clips or people: means, and what differs more than by chance."""

import csv
import dataclasses
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

_RESAMPLINGS = 10_000
_SURE = 0.95


def read_columns(path: pathlib.Path) -> dict[str, np.ndarray]:
  """The columns of a table but for the first, which says whose the lines are."""
  with path.open(newline='') as file:
    rows = list(csv.DictReader(file))
  return {name: np.array([float(row[name]) for row in rows]) for name in list(rows[0])[1:]}


@dataclasses.dataclass(frozen=True)
class Difference:
  """Of the means of two systems on the same clips or people: the second less the first.

  `low` and `high` bound it with 95 % confidence, by bootstrap over these (Efron 1979). They know
  nothing of what another seed of the training would have given.
  """

  value: float
  low: float
  high: float

  @classmethod
  def between(cls, first: np.ndarray, second: np.ndarray) -> 'Difference':
    """From numbers of each, (clips,) or (people,); both are resampled together."""
    apart = second - first
    chosen = np.random.default_rng(0).integers(len(apart), size=(_RESAMPLINGS, len(apart)))
    low, high = np.quantile(apart[chosen].mean(1), [(1 - _SURE) / 2, (1 + _SURE) / 2])
    return cls(float(apart.mean()), float(low), float(high))


@dataclasses.dataclass(frozen=True)
class Claim:
  """An ordering of a paper: what `second` is against `first` in `metric`.

  Attributes:
    sentence: what the paper says.
    metric: a column of the table.
    first, second: rows of the table.
    better: 'lower', 'higher' or 'close'; 'not higher' and 'not lower' are refuted by a sure rise or
      fall alone.
    by: what the difference has to reach at least, or for 'close' stay within.
    relative: whether `by` is a share of the first's mean.
  """

  sentence: str
  metric: str
  first: str
  second: str
  better: str
  by: float = 0.0
  relative: bool = False

  def judge(self, numbers: Mapping[str, Mapping[str, np.ndarray]]) -> 'Verdict':
    """From `numbers[row][metric]`, (clips,) or (people,) each."""
    first, second = (numbers[row][self.metric] for row in (self.first, self.second))
    found = Difference.between(first, second)
    by = self.by * float(first.mean()) if self.relative else self.by
    if self.better == 'close':
      holds, fails = -by <= found.low and found.high <= by, found.low > by or found.high < -by
    else:
      sign = -1 if self.better in ('lower', 'not higher') else 1
      worst, best = sorted((sign * found.low, sign * found.high))
      if self.better.startswith('not'):
        holds, fails = best >= 0, best < 0
      else:
        holds, fails = worst > 0 and sign * found.value >= by, best <= by
    answer = 'holds' if holds else 'does not hold' if fails else 'not decided'
    return Verdict(self, answer, float(first.mean()), float(second.mean()), found)


@dataclasses.dataclass(frozen=True)
class Verdict:
  """What became of a claim."""

  claim: Claim
  answer: str  # 'holds', 'does not hold' or 'not decided': within chance
  first: float  # means
  second: float
  difference: Difference

  def cells(self) -> list[str]:
    """A row of a table: what was claimed, the two means, their difference, the answer."""
    claim, found = self.claim, self.difference
    return [
      f'{claim.sentence} ({claim.second} against {claim.first})',
      f'{claim.metric.upper().replace("_", "-")} {_number(self.second)} against '
      f'{_number(self.first)}: {found.value:+.3f} ({found.low:+.3f} to {found.high:+.3f})',
      f'**{self.answer}**',
    ]


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
  """A table."""
  lines = [head, ['---'] * len(head), *rows]
  return '\n'.join('| ' + ' | '.join(line) + ' |' for line in lines)


def _number(value: float) -> str:
  return f'{value:.2f}' if abs(value) >= 10 else f'{value:.3f}'
