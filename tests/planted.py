"""Faults planted into clean clips, and what the audit finds of them.

python tests/planted.py --data=RECORDS --sync=DIR --output=NEW

RECORDS are clean; --share of them get one fault each. Writes NEW/records, the audit's NEW/report,
and prints how many clips of each fault were called by its name and how many were called faulty.

shifted        the sound comes 3 frames too early or too late
silent         nothing but the hiss of a quiet room
other sound    that of another clip; clips with this fault pass theirs on in a ring
frozen         one picture stands from some moment of the first half on
two faces      a second head beside the first, both smaller
"""

import dataclasses
import os
from collections.abc import Mapping, Sequence

import cv2
import numpy as np
from absl import app, flags

from data_prep import audit
from data_prep.audits import faults, page
from tfg_jax import errors
from tfg_jax.data import clip_codec, pipeline, records

FAULTS = ('shifted', 'silent', 'other sound', 'frozen', 'two faces')
_SHIFT = 3  # frames


def plant(directory, output, *, share: float = 0.5, seed: int = 0) -> dict[str, str]:
  """Writes the clips of all splits again, `share` of each split with faults, all kinds as often.

  Returns:
    Clip id -> its fault, '' for none.
  """
  info, rng, truth = records.read_info(directory), np.random.default_rng(seed), {}
  os.makedirs(output, exist_ok=True)
  for split in info.clips:
    source = records.RecordSource(directory, split)
    clips = [clip_codec.decode(source[i]) for i in range(len(source))]
    chosen = rng.permutation(len(clips))[: round(share * len(clips))]
    faults = dict(zip(chosen.tolist(), np.resize(FAULTS, len(chosen)).tolist(), strict=True))
    ring = [number for number, fault in faults.items() if fault == 'other sound']
    donors = dict(zip(ring, np.roll(ring, 1).tolist(), strict=True))
    made = []
    for number, clip in enumerate(clips):
      fault = faults.get(number, '')
      truth[clip.clip_id] = fault
      other = clips[donors.get(number, rng.integers(len(clips)))]
      made.append(clip_codec.encode(with_fault(clip, fault, other, rng)))
    records.write_shard(records.shard_path(output, info.corpus, split, 0, 1), made)
  records.finish_dataset(output, info)
  return truth


def with_fault(clip: clip_codec.Clip, fault: str, other: clip_codec.Clip, rng) -> clip_codec.Clip:
  """The clip with one of `FAULTS`; `other` gives its sound or its face."""
  match fault:
    case 'shifted':
      return moved(clip, int(rng.choice([-_SHIFT, _SHIFT])))
    case 'silent':
      hiss = rng.standard_normal(len(clip.wav)) * 32767 * 10 ** (rng.uniform(-72, -60) / 20)
      return dataclasses.replace(clip, wav=np.round(hiss).astype(np.int16))
    case 'other sound':
      return dataclasses.replace(clip, wav=np.resize(other.wav, len(clip.wav)))
    case 'frozen':
      first = int(rng.integers(len(clip.frames) // 2))
      frames = clip.frames[: first + 1] + [clip.frames[first]] * (len(clip.frames) - first - 1)
      boxes = np.concatenate([clip.boxes[:first], np.tile(clip.boxes[first], (len(frames), 1))])
      return dataclasses.replace(clip, frames=frames, boxes=boxes[: len(frames)])
    case 'two faces':
      return _beside(clip, other, rng)
  return clip


def moved(clip: clip_codec.Clip, frames: int) -> clip_codec.Clip:
  """The clip with its sound later by so many frames, filled up with hiss, and all else as it was.

  Not `repair.moved`, which has to undo it.
  """
  samples = round(frames * clip.sample_rate / clip.fps)
  wav = np.roll(clip.wav, samples)
  beyond = slice(0, samples) if samples > 0 else slice(len(wav) + samples, None)
  wav[beyond] = np.random.default_rng(0).integers(-20, 21, len(wav[beyond]))
  return dataclasses.replace(clip, wav=wav)


def _beside(clip, other, rng):
  """Both heads at 0.7 of their size in one picture, before the first one's background, blurred."""
  sides, pictures, boxes = rng.permutation(2), [], []
  heights = rng.uniform(0.05, 0.25, 2)
  ours, theirs = _decoded(clip), _decoded(other)
  for number, box in enumerate(clip.boxes):
    picture = cv2.GaussianBlur(ours[number], None, clip.width / 6)
    heads = (ours[number], box), (theirs[number % len(theirs)], other.boxes[number % len(theirs)])
    for (frame, there), side, height in reversed(list(zip(heads, sides, heights, strict=True))):
      placed = _paste(picture, frame, there, side, height)
    pictures.append(picture)
    boxes.append(placed)
  return dataclasses.replace(clip, frames=clip_codec.encode_jpegs(pictures), boxes=np.array(boxes))


def _paste(picture, frame, box, side, height):
  """Pastes the head of `frame` into one half of `picture`; returns its box there."""
  size, half = picture.shape[0], picture.shape[1] // 2
  x1, y1, x2, y2 = box
  # The head: hair above and beside the box, as wide as half the picture at 0.7 of its size.
  width = round(half / 0.7)
  left = int(np.clip((x1 + x2 - width) // 2, 0, frame.shape[1] - width))
  top = max(0, y1 - (y2 - y1) // 3)
  head = frame[top : y2 + (y2 - y1) // 6, left : left + width]
  small = cv2.resize(head, (half, round(0.7 * len(head))), interpolation=cv2.INTER_AREA)
  above = min(round(height * size), size - len(small))
  picture[above : above + len(small), side * half : side * half + half] = small
  scale = half / width
  corners = np.array([x1 - left, y1 - top, x2 - left, y2 - top]) * scale
  corners += np.array([side * half, above, side * half, above])
  return np.clip(np.rint(corners), 0, size).astype(np.int64)


def _decoded(clip):
  frames = np.empty((len(clip.frames), clip.height, clip.width, 3), np.uint8)
  pipeline.decode_jpegs(clip.frames, frames, where=clip.clip_id)
  return frames


# --------------------------------------------------------------------------------------------------
# What the audit finds of them
# --------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Tally:
  """Of all clips with one fault, or of the clean ones: how many there are, how many the audit calls
  by that name (nobody calls clean ones so) and how many it accuses of any fault."""

  clips: int
  named: int
  accused: int


def tallies(findings: Sequence[faults.Finding], truth: Mapping[str, str]) -> dict[str, Tally]:
  """Fault -> its tally, '' for clean clips; `truth` is what `plant` returns."""
  found = {}
  for fault in (*FAULTS, ''):
    said = [x.faults for x in findings if truth[x.measures.clip] == fault]
    found[fault] = Tally(len(said), sum(fault in x for x in said), sum(map(bool, said)))
  return found


def table(found: Mapping[str, Tally]) -> str:
  """The tallies as a table in Markdown."""
  lines = ['| planted | clips | called so | called faulty |', '| --- | --- | --- | --- |']
  ill = [tally for fault, tally in found.items() if fault]
  every = Tally(*(sum(getattr(x, f.name) for x in ill) for f in dataclasses.fields(Tally)))
  for name, tally in (*found.items(), ('any of these', every)):
    named = _share(tally.named, tally.clips) if name else '-'
    accused = _share(tally.accused, tally.clips)
    lines.append(f'| {name or "nothing"} | {tally.clips} | {named} | {accused} |')
  return '\n'.join(lines)


def _share(count, total):
  return f'{count} ({count / total:.1%})' if total else '0'


def define_flags(values=flags.FLAGS):
  for name, text in (('data', 'Folder of clean records.'), ('sync', 'Folder of a sync expert.'),
                     ('output', 'New folder for the records and the report.')):  # fmt: skip
    flags.DEFINE_string(name, None, text, flag_values=values)
  flags.DEFINE_float('share', 0.5, 'Of the clips that get a fault.', 0, 1, flag_values=values)
  flags.DEFINE_integer('seed', 0, 'Of what is planted where.', flag_values=values)
  flags.DEFINE_integer('looks', 5, 'As of the audit.', flag_values=values)


def main(argv, values=flags.FLAGS):
  errors.check_arguments(argv, values, 'data', 'sync', 'output')
  faulty, report = (os.path.join(values.output, name) for name in ('records', 'report'))
  truth = plant(values.data, faulty, share=values.share, seed=values.seed)
  found = audit.audit(faulty, sync=values.sync, looks=values.looks)
  os.makedirs(report, exist_ok=True)
  page.write(report, faulty, found)
  print(page.summary(found))
  print(table(tallies(found.findings, truth)))


if __name__ == '__main__':
  define_flags()
  app.run(errors.exit_on_expected_failure(main), flags_parser=errors.parse_flags)
