"""`--fix`: a new record set without the faults that can be mended or left out."""

import dataclasses
import os
from collections.abc import Collection, Sequence

import numpy as np

from data_prep.audits.faults import Finding
from tfg_jax.data import clip_codec, records
from tfg_jax.errors import ConfigError, DataError

WAYS = ('shift', 'drop')
_HEARD_TIMES = ('word_times', 'phoneme_times')  # extras in seconds of the sound


@dataclasses.dataclass(frozen=True)
class Counts:
  """What became of the clips."""

  kept: int
  fixed: int
  dropped: int

  def __str__(self):
    total = self.kept + self.fixed + self.dropped
    return f'{total} clips in = {self.kept} kept + {self.fixed} fixed + {self.dropped} dropped'


def check(ways: Collection[str], output):
  """Refuses what cannot be before hours are spent on measuring.

  Raises:
    ConfigError: for unknown ways, or no place to write to, or one that is in use.
  """
  for way in ways:
    if way not in WAYS:
      raise ConfigError(f'--fix={way}; expected shift, drop or shift,drop')
  if os.path.exists(output) and (not os.path.isdir(output) or os.listdir(output)):
    raise ConfigError(
      f'--output={output} is not empty',
      hint='name a new folder: the fixed records are written beside the old ones',
    )


def write(directory, output, findings: Sequence[Finding], ways: Collection[str]) -> Counts:
  """Writes the records again, the shards of every split as they were.

  Args:
    directory: the record set, which stays as it is.
    output: an empty or new folder.
    findings: of all its clips.
    ways: 'shift' moves the sound of shifted clips into place; 'drop' leaves out those that still
      have a fault.

  Raises:
    DataError: if a split would be left without clips.
  """
  info = records.read_info(directory)
  plan = {(x.measures.split, x.measures.number): fate(x, ways) for x in findings}
  for split, counts in info.clips.items():
    if sum(counts) and all(end == 'dropped' for (of, _), end in plan.items() if of == split):
      raise DataError(
        f'every clip of split {split!r} would be dropped',
        where=directory,
        hint='see the report; the sync expert may not fit this corpus',
      )
  offsets = {(x.measures.split, x.measures.number): x.measures.offset for x in findings}
  os.makedirs(output, exist_ok=True)
  for split, counts in info.clips.items():
    source, first = records.RecordSource(directory, split) if sum(counts) else (), 0
    for shard, count in enumerate(counts):
      path = records.shard_path(output, info.corpus, split, shard, len(counts))
      numbers = range(first, first + count)
      records.write_shard(path, _records(source, split, numbers, plan, offsets))
      first += count
  preparation = {**info.preparation, 'audit': ','.join(sorted(ways))}
  records.finish_dataset(output, dataclasses.replace(info, preparation=preparation))
  ends = list(plan.values())
  return Counts(*(ends.count(end) for end in ('kept', 'fixed', 'dropped')))


def fate(finding: Finding, ways: Collection[str]) -> str:
  """'kept', 'fixed' or 'dropped'."""
  mended = {'shifted'} if 'shift' in ways else set()
  if 'drop' in ways and set(finding.faults) - mended:
    return 'dropped'
  return 'fixed' if mended & set(finding.faults) else 'kept'


def _records(source, split, numbers, plan, offsets):
  for number in numbers:
    end = plan[split, number]
    if end == 'fixed':
      clip = clip_codec.decode(source[number], where=source.locate(number))
      yield clip_codec.encode(moved(clip, int(offsets[split, number])))
    elif end == 'kept':
      yield source[number]


def moved(clip: clip_codec.Clip, frames: int) -> clip_codec.Clip:
  """The clip with its sound, and the times of what is heard, later by so many frames.

  What moves in at one end is silence.
  """
  samples = round(frames * clip.sample_rate / clip.fps)
  wav = np.zeros_like(clip.wav)
  count = max(0, len(wav) - abs(samples))
  start = max(0, samples)
  wav[start : start + count] = clip.wav[max(0, -samples) :][:count]
  times = {
    name: np.clip(value + frames / clip.fps, 0, len(wav) / clip.sample_rate)
    for name, value in clip.extras.items()
    if name in _HEARD_TIMES
  }
  return dataclasses.replace(clip, wav=wav, extras={**clip.extras, **times})
