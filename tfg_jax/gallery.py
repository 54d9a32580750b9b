r"""Searches for people by the portraits that a trained SF2F draws of their voices.

python -m tfg_jax.gallery --workdir=DIR [--split=test] [--data=DIR] [--judge=DIR] [--vggface=DIR]

The protocol of the paper's tables: ten random crops of 1.25 s and of 5 s from each person's speech,
each drawn and looked for among the portraits of a hundred people by FaceNet's embedding; means
over the crops. A system with a fuser draws 5 s with it and without. With fewer than a hundred
people all are the gallery, which makes it easier; the row 'chance' says how much. The embedding is
that of the run's own FaceNet, which it may have learnt from, or of a judge's.

`vfs`, the paper's VGGFace score, says how sure a network is of whom each portrait shows, and how
different the portraits are. That network is VGGFace2's where its folder is given, as in the paper,
else the FaceNet that compares; the output says which.

The means are printed and written to WORKDIR/gallery.json, each person's numbers to people.csv.
"""

import collections
import csv
import functools
import json
import pathlib

import numpy as np
from absl import app, flags

from tfg_jax import errors

CROPS = 10
SECONDS = (1.25, 5.0)
RESULTS_FILE, PEOPLE_FILE = 'gallery.json', 'people.csv'
_PARTS = 5  # of the set, for the score
_BATCH = 32


def search(system, state, source, *, judge=None, vggface=None, crops: int = CROPS, seed: int = 0):
  """The numbers of one split.

  Args:
    system, state: a trained SF2F.
    source: `records.RecordSource`; all records of a person are used.
    judge: portraits (B, S, S, 3) in the network space -> `facenet.FaceFeatures`; None: the system's
      own FaceNet.
    vggface: portraits (B, S, S, 3) uint8 -> (B, people) logits, for 'vfs'; None: the judge's.
    crops: random crops for each person and length; a person's number is the mean over them.
    seed: of the crops.

  Returns:
    (row -> {'cosine', 'l1', 'recall_K' in [0, 1], 'seconds' that were heard, 'vfs'}, names of the
    people). Each is (people,), recalls NaN for people who are in no gallery; 'vfs' and the row
    'chance' are numbers.

  Raises:
    DataError: if a record has no portrait, or nobody speaks in any of a person's.
  """
  import jax
  import jax.numpy as jnp

  from tfg_jax.features import portrait, voice
  from tfg_jax.metrics import likeness

  judge = judge or functools.partial(system.see_faces, state)
  names, people = _people(system, source)

  def show(images):
    seen = judge(images)
    return seen.embedding, seen.logits, portrait.to_uint8(images)

  @jax.jit
  def show_real(pixels):
    return show(system.real(pixels)[-1])

  @jax.jit
  def show_drawn(windows, samples, mask):
    """Of what is drawn from windows (B, N, S), or from single crops (B, S)."""
    mel = voice.log_mel(windows, samples)
    return show(system.draw(state, mel, mask=mask, key=jax.random.key(seed)))

  def recognise(shown, *inputs):
    embedding, logits, pixels = shown(*map(jnp.asarray, inputs))
    return embedding, jax.nn.softmax(vggface(pixels) if vggface else logits)

  # The mean over a person's portraits is not normalised again, as officially.
  portraits = [files for files, _ in people]
  every, classes = _batched(functools.partial(recognise, show_real))(np.concatenate(portraits))
  firsts = np.cumsum([0, *(len(files) for files in portraits)])[:-1]
  gallery = np.stack([rows.mean(0) for rows in np.split(every, firsts[1:])])

  rows = {'ground_truth': _scores(every[firsts], classes[firsts], gallery, likeness, seed)}
  for seconds in SECONDS:
    for fused in (False, True) if system.generator.fuser is not None else (False,):
      if fused and seconds < 2:
        continue  # one window: nothing to fuse
      found = collections.defaultdict(list)
      for crop in range(crops):
        rng = np.random.default_rng([seed, crop, int(100 * seconds)])
        inputs, heard = _crops([waves for _, waves in people], seconds, fused, rng)
        drawn = _batched(functools.partial(recognise, show_drawn))(*inputs)
        scores = _scores(*drawn, gallery, likeness, seed) | {'seconds': heard}
        for name, value in scores.items():
          found[name].append(value)
      name = f'{"fused" if fused else "generated"}_{seconds:g}s'
      rows[name] = {name: np.mean(values, 0) for name, values in found.items()}
  size = min(len(people), likeness.GALLERY)
  rows['chance'] = {f'recall_{k}': min(k / size, 1.0) for k in likeness.RECALLS}
  return rows, names


def _people(system, source):
  """Names, and each person's portraits (P, S, S, 3) and voiced utterances, in their order."""
  from tfg_jax.data import clip_codec, voices
  from tfg_jax.features import portrait

  found = {}
  for number in range(len(source)):
    clip = clip_codec.decode(source[number], where=source.locate(number))
    pictures, waves = found.setdefault(clip.speaker, ([], []))
    if not pictures:
      voices.read_portrait(clip, system.face_size)  # says what is wrong if there is none
      pictures += [portrait.read(file, system.face_size) for file in clip.extras['portrait']]
    parts = voices.utterances(clip)
    waves += voices.voiced_utterances(parts, system.settings.voice_activity)
  names = sorted(found)
  return names, [(np.stack(found[name][0]), found[name][1]) for name in names]


def _crops(voices_of_people, seconds, fused, rng):
  """One random crop of each person, as arrays of `voice.cut`; and how many seconds they are long.

  A crop comes from a random utterance that is long enough, else from the longest there is. Where
  that is shorter too, the crop is padded, and windows that do not exist are masked.
  """
  from tfg_jax.data import voices
  from tfg_jax.features import audio, voice

  frames = round(100 * seconds)
  arrays, heard = [], []
  for waves in voices_of_people:
    enough = [wave for wave in waves if audio.num_frames(len(wave)) >= frames]
    wave = enough[rng.integers(len(enough))] if enough else max(waves, key=len)
    crop = voices.random_crop(wave, frames, rng)
    heard.append(min(int(audio.num_frames(len(wave))), frames) / 100)
    if fused:
      whole = crop['voice'][voice.HOP : crop['voice_samples']]
      count = len(voice.window_starts(frames, voice.WINDOW, voice.STRIDE))
      made = voices.windows([whole], count, voice.STRIDE)
      arrays.append((made['windows'], made['windows_samples'], made['windows_mask']))
    else:
      arrays.append((crop['voice'], crop['voice_samples'], np.True_))
  return [np.stack(x) for x in zip(*arrays, strict=True)], np.array(heard)


def _scores(embedded, classes, gallery, likeness, seed):
  found = likeness.places(embedded, gallery)
  shuffled = np.random.default_rng(seed).permutation(classes)
  return {
    'cosine': likeness.cosine(gallery, embedded),
    'l1': likeness.l1(gallery, embedded),
    **{f'recall_{k}': np.where(np.isnan(found), np.nan, found < k) for k in likeness.RECALLS},
    'vfs': likeness.class_score(shuffled, min(_PARTS, len(classes))).mean,
  }


def _batched(function):
  """Applies a function of rows, which gives several arrays, to blocks of one size, so that it
  compiles once."""

  def run(*arrays):
    made = []
    for start in range(0, len(arrays[0]), _BATCH):
      block = [x[start : start + _BATCH] for x in arrays]
      missing = _BATCH - len(block[0])
      padded = [np.concatenate([x, np.repeat(x[-1:], missing, axis=0)]) for x in block]
      made.append([np.asarray(x)[: len(block[0])] for x in function(*padded)])
    return [np.concatenate(x) for x in zip(*made, strict=True)]

  return run


def means(rows) -> dict[str, dict[str, float]]:
  """Over people who have the number."""
  return {
    row: {metric: float(np.nanmean(values)) for metric, values in numbers.items()}
    for row, numbers in rows.items()
  }


def table(rows, people: int, split: str, classes: str) -> str:
  """Means by row and metric, recalls in percent; `classes` is whose the score is of."""
  metrics = ['seconds', 'cosine', 'l1', *(name for name in rows['chance']), 'vfs']
  lines = [
    f'{people} people of split {split!r}; recalls in percent; vfs: classes of {classes}',
    f'{"":16}' + ''.join(f'{metric:>11}' for metric in metrics),
  ]
  for name, row in rows.items():
    cells = (
      '-'
      if metric not in row
      else f'{100 * row[metric]:.2f}'
      if metric.startswith('recall')
      else f'{row[metric]:.3f}'
      for metric in metrics
    )
    lines.append(f'{name.replace("_", " "):16}' + ''.join(f'{cell:>11}' for cell in cells))
  return '\n'.join(lines)


def define_flags(values=flags.FLAGS):
  """Defines the flags; other commands have a --workdir too, so importing this does not."""
  text = functools.partial(flags.DEFINE_string, flag_values=values)
  text('workdir', None, 'Folder of a trained run of sf2f.')
  text('split', None, "Split to search; default: the run's evaluation.split.")
  text('data', None, "Record set; default: the run's data.root.")
  text('judge', None, 'Whose FaceNet compares: a run of sf2f or a converted sf2f_facenet.')
  text('vggface', None, "Whose classes vfs is of: a converted vggface2_resnet50; default: judge's.")


def main(argv, values=flags.FLAGS):
  errors.check_arguments(argv, values, 'workdir')
  from tfg_jax import trained
  from tfg_jax.data import records
  from tfg_jax.systems.sf2f import SF2F

  run = trained.load(values.workdir)
  if not isinstance(run.system, SF2F):
    raise errors.CheckpointError(
      f'a run of {run.run.system} draws no portraits.', where=values.workdir, hint='see --help'
    )
  split = values.split or run.run.evaluation.split
  source = records.RecordSource(values.data or run.run.data.root, split)
  judge = _read_judge(values.judge) if values.judge else None
  vggface = _read_vggface(values.vggface) if values.vggface else None
  rows, names = search(run.system, run.state, source, judge=judge, vggface=vggface)
  whose = values.judge or 'its own FaceNet'
  print(table(means(rows), len(names), split, values.vggface or whose))
  content = {
    'split': split,
    'step': run.step,
    'judge': whose,
    'vfs_classes': values.vggface or whose,
    'people': len(names),
    'crops': CROPS,
    'rows': means(rows),
  }
  folder = pathlib.Path(values.workdir)
  (folder / RESULTS_FILE).write_text(json.dumps(content, indent=2) + '\n')
  _write_people(folder / PEOPLE_FILE, rows, names)


def _read_judge(folder):
  """The `judge` of `search` in a folder."""
  from tfg_jax import networks, trained
  from tfg_jax.features import portrait
  from tfg_jax.pytorch import converted
  from tfg_jax.systems.sf2f import SF2F

  if converted.is_converted(folder):
    variables, conversion = converted.load(folder, 'sf2f_facenet')
    module = networks.OFFICIAL[conversion.network]()
    return lambda image: module.apply(variables, portrait.facenet_input(image), train=False)
  run = trained.load(folder)
  if not isinstance(run.system, SF2F):
    raise errors.CheckpointError(
      f'a run of {run.run.system} has no FaceNet.',
      where=folder,
      hint='name a run of sf2f, or a converted sf2f_facenet.',
    )
  return functools.partial(run.system.see_faces, run.state)


def _read_vggface(folder):
  """The `vggface` of `search` in a folder."""
  import jax
  import jax.numpy as jnp

  from tfg_jax.features import portrait
  from tfg_jax.networks.resnet import ResNet
  from tfg_jax.pytorch import converted

  variables, _ = converted.load(folder, 'vggface2_resnet50')
  module = ResNet.plain(variables)

  @jax.jit
  def name(variables, pixels):
    return module.apply(variables, portrait.vggface_input(pixels), train=False)

  return functools.partial(name, jax.tree.map(jnp.asarray, variables))


def _write_people(path, rows, names):
  """A line for each person, a column for each 'row/metric' that everybody has."""
  columns = {
    f'{row}/{metric}': values
    for row, numbers in rows.items()
    for metric, values in numbers.items()
    if np.shape(values) == (len(names),)
  }
  with path.open('w', newline='') as file:
    table = csv.writer(file, lineterminator='\n')
    table.writerow(['person', *columns])
    for number, name in enumerate(names):
      table.writerow([name, *(f'{values[number]:.6g}' for values in columns.values())])


if __name__ == '__main__':
  define_flags()
  app.run(errors.exit_on_expected_failure(main), flags_parser=errors.parse_flags)
