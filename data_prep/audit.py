r"""Looks over a record set before it costs a week of training: what is in it, and what is wrong.

python -m data_prep.audit --data=RECORDS [--sync=DIR] [--report=DIR]
python -m data_prep.audit --data=RECORDS --sync=DIR --fix=shift,drop --output=NEW

Prints a summary and writes REPORT/audit.html (one file, pictures inside) and REPORT/audit.csv (one
row for each clip). --sync names a sync expert, the workdir of a run of configs/sync_expert.py or a
converted color_syncnet or syncnet_v2: with it every clip is asked whether its sound belongs to its
lips, and by how much it is shifted. An expert trained on the same corpus will do if most of that
is right. Faces beside the one of the boxes are sought by MTCNN in --looks pictures of every clip,
which takes most of the time; --looks=0 does not.

--fix writes a new record set to --output and leaves the old one as it is: `shift` moves the sound
of shifted clips into place, `drop` leaves out those with a fault, `shift,drop` does one where it
can and the other elsewhere. data_prep/audits/faults.py says what counts as a fault.
"""

import dataclasses
import functools
import os
from collections.abc import Sequence

import numpy as np
from absl import app, flags

from tfg_jax import errors
from tfg_jax.errors import ConfigError

_OVERLAP = 0.2  # of two boxes of one face
_TRUSTED = 0.5  # share of clips that must match for the expert's accusations to be believed


@dataclasses.dataclass(frozen=True)
class Audit:
  """What was found.

  Attributes:
    info: of the record set.
    findings: of all clips, `data_prep.audits.faults.Finding`.
    foreign: (M, 2) matches of lips with the sound of other clips, see `listening`; (0, 2) without
      an expert.
    threshold: what a clip must reach; UNKNOWN without an expert, or with one that cannot tell.
    looks: pictures of every clip in which faces were sought.
  """

  info: object
  findings: Sequence
  foreign: np.ndarray
  threshold: object
  looks: int


def audit(directory, *, sync: str = '', looks: int = 5, progress: bool = True) -> Audit:
  """Measures and judges every clip of a record set.

  Args:
    directory: holds the records.
    sync: folder of a sync expert; '' for none.
    looks: pictures of every clip in which faces are sought; 0 seeks none.
    progress: whether to show a bar on stderr.

  Raises:
    DataError: if the records are damaged or none.
    CheckpointError, ConversionError, ConfigError: if the expert cannot be used.
    MissingDependencyError: if faces are to be sought without a detector.
  """
  from tqdm import tqdm

  from data_prep.audits import faults, listening, measures
  from tfg_jax import faces
  from tfg_jax.data import clip_codec, records

  info = records.read_info(directory)
  sources = {
    split: records.RecordSource(directory, split) for split in sorted(info.clips)
    if sum(info.clips[split])
  }  # fmt: skip
  total = sum(map(len, sources.values()))
  listener = listening.Listener(sync, info) if sync else None
  detector = faces.mtcnn_detector() if looks else None
  clips, sample = [], []
  with tqdm(total=total, unit='clip', desc='audit', disable=not progress) as bar:
    for split, source in sources.items():
      for number in range(len(source)):
        where = source.locate(number)
        clip = clip_codec.decode(source[number], where=where)
        clip = dataclasses.replace(clip, split=split)
        frames = measures.decode(clip, where)
        row = measures.measure(clip, frames, number)
        if detector:
          row = dataclasses.replace(row, **look(frames, clip.boxes, detector, looks))
        heard = listener.hear(clip, frames) if listener else None
        if heard is not None:
          said = listener.agreement(heard, heard)
          names = ('match', 'confidence', 'offset')
          row = dataclasses.replace(row, **{name: float(getattr(said, name)) for name in names})
          if faults.sync_is_known(row) and len(clips) in listening.sampled(total):
            sample.append(heard)
        clips.append(row)
        bar.update()
  foreign, threshold = np.zeros((0, 2)), listening.UNKNOWN
  if len(sample) > 1:
    foreign = listening.foreign_matches(listener, sample)
    threshold = listening.threshold(foreign)
    own = [clip for clip in clips if faults.sync_is_known(clip)]
    if np.mean([threshold.passed(clip.match, clip.offset) for clip in own]) < _TRUSTED:
      threshold = listening.UNKNOWN
  return Audit(info, faults.judge(clips, threshold), foreign, threshold, looks)


def look(frames: np.ndarray, boxes: np.ndarray, detector, looks: int) -> dict[str, float]:
  """`faces_found` and `faces_beside` of `Measures`, from a few pictures evenly spread."""
  from tfg_jax import faces

  chosen = np.unique(np.linspace(0, len(frames) - 1, looks + 2).astype(int)[1:-1])
  seen = faces.detect_faces([frames[i] for i in chosen], detector)
  own, beside = [], []
  for index, found in zip(chosen, seen, strict=True):
    box = boxes[index].astype(float)
    nearest = max(found, key=lambda face, box=box: faces.overlap(face, box), default=None)
    own.append(nearest is not None and faces.overlap(nearest, box) >= _OVERLAP)
    # A box may be as large as the picture: what is seen of the face says better where it is.
    touches = nearest is not None and faces.overlap(nearest, box) > 0
    reference = nearest if touches else box
    beside.append(any(faces.overlap(face, reference) < _OVERLAP for face in found))
  return {'faces_found': float(np.mean(own)), 'faces_beside': float(np.mean(beside))}


def define_flags(values=flags.FLAGS):
  """Defines the flags; other commands have a --data too, so importing this does not."""
  text = functools.partial(flags.DEFINE_string, flag_values=values)
  text('data', None, 'Folder of the records.')
  text('sync', '', 'Folder of a sync expert.')
  text('report', None, 'Folder for audit.html and audit.csv; default DATA_audit.')
  flags.DEFINE_integer(
    'looks', 5, 'Pictures of each clip in which faces are sought; 0: none.', flag_values=values
  )
  flags.DEFINE_list('fix', [], 'shift, drop or shift,drop; needs --output.', flag_values=values)
  text('output', None, 'New folder for the records that --fix writes.')


def main(argv, values=flags.FLAGS):
  errors.check_arguments(argv, values, 'data')
  if values.looks < 0:
    raise ConfigError(f'--looks={values.looks}; expected 0 or more')
  if bool(values.fix) != bool(values.output):
    missing, given = ('output', 'fix') if values.fix else ('fix', 'output')
    raise ConfigError(f'--{missing} is missing beside --{given}', hint='see --help')
  if 'shift' in values.fix and not values.sync:
    raise ConfigError('--fix=shift needs --sync', hint='only a sync expert knows the offsets')
  from data_prep.audits import page, repair

  report = values.report or os.path.abspath(values.data) + '_audit'
  if values.fix:
    repair.check(values.fix, values.output)
  _claim(report, values.data)
  found = audit(values.data, sync=values.sync, looks=values.looks)
  page.write(report, values.data, found)
  print(page.summary(found))
  print(f'  {os.path.join(report, page.PAGE_FILE)}\n  {os.path.join(report, page.TABLE_FILE)}')
  if values.fix:
    counts = repair.write(values.data, values.output, found.findings, values.fix)
    print(f'{values.output}: {counts}')


def _claim(report, data):
  """Makes the folder of the report, before hours are spent on measuring."""
  if os.path.realpath(report) == os.path.realpath(data):
    raise ConfigError(f'--report={report} is the folder of the records', hint='name another one')
  try:
    os.makedirs(report, exist_ok=True)
  except OSError as error:
    raise ConfigError(f'--report={report} cannot be made: {error.strerror}') from error


if __name__ == '__main__':
  define_flags()
  app.run(errors.exit_on_expected_failure(main), flags_parser=errors.parse_flags)
