"""The report: a summary for the terminal, `audit.csv` for programs, `audit.html` for people."""

import collections
import csv
import dataclasses
import io
import math
import os

import cv2
import numpy as np

from data_prep.audits import faults, listening, measures
from tfg_jax import html_page
from tfg_jax.data import clip_codec, records

PAGE_FILE, TABLE_FILE = 'audit.html', 'audit.csv'
HOW_TO_SYNC = (
  'No sync expert was asked, so nothing is known of lips and sound. Name one with --sync=DIR: '
  'train it on these records (python -m tfg_jax.main --config=configs/sync_expert.py '
  '--workdir=DIR --config.data.root=RECORDS; :puppets_color for puppets) or import a public one '
  '(python -m tfg_jax.convert import --network=syncnet_v2 --input=FILE --output=DIR).'
)
CANNOT_TELL = (
  'The sync expert cannot tell these clips from clips with the sound of others: it accuses nobody. '
  'It may not have learnt enough, or know another kind of faces; or most of the sound is wrong.'
)
_SHOWN, _STRIP, _FACE = 12, 4, 96  # clips of a kind, pictures of a clip, their height in pixels


def write(folder, directory, found):
  """Writes both files; `found` is an `audit.Audit` of the records in `directory`."""
  html_page.write(os.path.join(folder, TABLE_FILE), _table(found.findings))
  html_page.write(os.path.join(folder, PAGE_FILE), _page(directory, found))


# --------------------------------------------------------------------------------------------------
# For the terminal and for programs
# --------------------------------------------------------------------------------------------------


def summary(found) -> str:
  """Some lines for the terminal."""
  clips = [finding.measures for finding in found.findings]
  accused = sum(bool(finding.faults) for finding in found.findings)
  lines = [
    f'{found.info.corpus}: {len(clips)} clips, {hours(clips):.2f} hours, '
    f'{len({clip.speaker for clip in clips if clip.speaker})} speakers; {accused} with a fault',
    f'  licence: {found.info.licence}',
    *(f'  {name}: {text}' for name, text in _facts(found)),
  ]
  counted = list(_counted(found))
  for kind in ('fault', 'remark'):
    said = [f'{name} {count}' for of, name, _, count in counted if of == kind and count]
    lines.append(f'  {kind}s: {", ".join(said) or "none"}')
  return '\n'.join(lines)


def _counted(found):
  """(kind, name, meaning, clips that have it) of every fault and remark there is."""
  for kind, names in (('fault', faults.FAULTS), ('remark', faults.REMARKS)):
    counts = collections.Counter(name for x in found.findings for name in getattr(x, f'{kind}s'))
    for name, meaning in names.items():
      yield kind, name, meaning, counts[name]


def hours(clips) -> float:
  """That they last together."""
  return sum(clip.seconds for clip in clips) / 3600


def _facts(found):
  """(what, text) of the record set as a whole."""
  clips = [finding.measures for finding in found.findings]
  for name, what, unit, digits in (
    ('seconds', 'length', ' s', 2), ('source_fps', 'frames per second before', '', 2),
    ('fps', 'frames per second', '', 2), ('distinct_fps', 'different ones per second', '', 1),
    ('face_height', 'height of the face', ' px', 0),
    ('jitter', 'box jitter', ' % of the height', 2), ('level', 'loudness', ' dB', 1),
    ('silence', 'silence', ' of the sound', 2), ('clipping', 'clipping', ' of the samples', 5),
    ('match', 'match of lips and sound', '', 2), ('offset', 'offset of the sound', ' frames', 0),
  ):  # fmt: skip
    values = _known(clips, name)
    if len(values):
      low, middle, high = (f'{x:.{digits}f}' for x in np.percentile(values, [2, 50, 98]))
      text = middle + unit
      yield what, text if low == high else f'{text} (96 % of the clips: {low} to {high})'
  yield from _texts_and_speakers(clips)
  if not any(not math.isnan(clip.match) for clip in clips):
    yield 'sync', HOW_TO_SYNC
  elif not found.threshold.is_known:
    yield 'sync', CANNOT_TELL
  else:
    yield (
      'sync',
      f'{listening.FOREIGN_SHARE:.0%} of foreign sounds match worse than '
      f'{found.threshold.anywhere:.2f}, and where they are than {found.threshold.in_place:.2f}',
    )
  if not found.looks:
    yield 'faces', 'not sought (--looks=0)'


def _texts_and_speakers(clips):
  splits = collections.defaultdict(list)
  for clip in clips:
    splits[clip.split].append(clip)
  words = {
    split: {word for clip in own for word in clip.text.lower().split()}
    for split, own in splits.items()
  }
  people = {split: {clip.speaker for clip in own} - {''} for split, own in splits.items()}
  for split, own in splits.items():
    written = sum(bool(clip.text.strip()) for clip in own)
    text = f'{len(own)} clips, {hours(own):.2f} hours, {len(people[split])} speakers, '
    text += f'{written / len(own):.0%} with text, {len(words[split])} different words'
    if split != 'train' and 'train' in splits:
      known, new = people[split] & people['train'], words[split] - words['train']
      text += f'; speakers that are in train too: {len(known)}, words that are not: {len(new)}'
    yield f'split {split}', text


def _known(clips, name):
  values = np.array([getattr(clip, name) for clip in clips], float)
  return values[~np.isnan(values)]


def _table(findings):
  """All measures of all clips, with faults and remarks; numbers nobody knows stay empty."""
  file = io.StringIO()
  names = [field.name for field in dataclasses.fields(measures.Measures)]
  table = csv.writer(file, lineterminator='\n')
  table.writerow(['faults', 'remarks', *names])
  for finding in findings:
    values = [getattr(finding.measures, name) for name in names]
    table.writerow(
      [
        '; '.join(finding.faults),
        '; '.join(finding.remarks),
        *(('' if math.isnan(x) else f'{x:.6g}') if isinstance(x, float) else x for x in values),
      ]
    )
  return file.getvalue()


# --------------------------------------------------------------------------------------------------
# For people
# --------------------------------------------------------------------------------------------------


def _page(directory, found):
  clips = [finding.measures for finding in found.findings]
  accused = [finding for finding in found.findings if finding.faults]
  parts = [
    f'<h1>Audit of {html_page.text(found.info.corpus)}</h1>',
    f'<p>{len(clips)} clips, {hours(clips):.2f} hours. '
    + (
      f'<b class="bad">{len(accused)} have a fault.</b>'
      if accused
      else '<b class="fine">None has a fault.</b>'
    )
    + f' Licence: {html_page.text(found.info.licence)}. '
    f'Made by {html_page.text(found.info.tool)}.</p>',
    '<h2>Findings</h2>',
    _counts(found),
    '<h2>The record set <small>(medians)</small></h2>',
    html_page.facts(_facts(found)),
    '<h2>Measures</h2><div class="charts">',
    *_charts(found, clips),
    '</div>',
    *_sheets(directory, found),
    *_listing(found),
  ]
  return html_page.document(f'Audit of {found.info.corpus}', parts)


def _counts(found):
  rows = []
  for kind, name, meaning, count in _counted(found):
    style = 'none' if not count else 'bad' if kind == 'fault' else ''
    shown = f'<a href="#{_anchor(name)}">{name}</a>' if count else name
    rows.append(
      f'<tr class="{style}"><td>{shown}</td><td class="n">{count}</td>'
      f'<td class="n">{count / len(found.findings):.1%}</td><td>{kind}: {meaning}</td></tr>'
    )
  return f'<table>{"".join(rows)}</table>'


def _anchor(name):
  return name.replace(' ', '-')


def _charts(found, clips):
  """Histograms of what is known."""
  shapes = (
    ('offset', 'offset: frames by which the sound has to be moved', (-15.5, 15.5)),
    ('match', 'match of lips and sound; grey: sound of other clips', None),
    ('seconds', 'length, seconds', None), ('source_fps', 'frames/s before resampling', None),
    ('distinct_fps', 'different pictures per second', None),
    ('face_height', 'height of the face, pixels', None),
    ('jitter', 'box jitter, % of the height', None), ('level', 'loudness, dB', None),
    ('silence', 'share of silence', (0, 1)), ('clipping', 'share of clipped samples', None),
  )  # fmt: skip
  for name, caption, limits in shapes:
    values = _known(clips, name)
    if len(values):
      others = found.foreign[:, 1] if name == 'match' else np.zeros(0)
      mark = found.threshold.in_place if name == 'match' else math.nan
      yield html_page.histogram(values, caption, limits, others, mark)


def _sheets(directory, found):
  """Contact sheets: clips of every fault and remark, and of those without any."""
  kinds = [(name, [x for x in found.findings if name in x.faults]) for name in faults.FAULTS]
  kinds += [(name, [x for x in found.findings if name in x.remarks]) for name in faults.REMARKS]
  kinds.append(('nothing found', [x for x in found.findings if not x.faults + x.remarks]))
  sources = {}
  for name, findings in kinds:
    if findings:
      places = np.unique(np.linspace(0, len(findings) - 1, _SHOWN).astype(int))
      shown = f'{name} <small>({len(places)} of {len(findings)})</small>'
      yield f'<h2 id="{_anchor(name)}">{shown}</h2><div class="sheet">'
      for place in places:
        yield _figure(directory, findings[place].measures, sources)
      yield '</div>'


def _figure(directory, clip, sources):
  source = sources.setdefault(clip.split, records.RecordSource(directory, clip.split))
  where = source.locate(clip.number)
  record = clip_codec.decode(source[clip.number], where=where)
  frames = measures.decode(record, where)
  chosen = np.linspace(0, len(frames) - 1, _STRIP).astype(int)
  width = round(record.width * _FACE / record.height)
  strip = []
  for index in chosen:
    x1, y1, x2, y2 = map(int, record.boxes[index])
    picture = cv2.rectangle(frames[index].copy(), (x1, y1), (x2 - 1, y2 - 1), (90, 200, 120))
    strip.append(cv2.resize(picture, (width, _FACE), interpolation=cv2.INTER_AREA))
  (jpeg,) = clip_codec.encode_jpegs([np.concatenate(strip, axis=1)], quality=80)
  name = html_page.text(f'{clip.split}/{clip.clip}')
  image = f'<img src="{html_page.data_uri("image/jpeg", jpeg)}" alt="{name}">'
  return f'<figure>{image}<figcaption>{name}<br>{_about(clip)}</figcaption></figure>'


def _about(clip):
  """A line of what faults are judged by."""
  said = [f'{clip.seconds:.1f} s', f'{clip.level:.0f} dB']
  if faults.is_frozen(clip):
    said.append(f'one picture for {clip.still:.1f} s')
  if clip.faces_beside > 0:
    said.append(f'faces beside in {clip.faces_beside:.0%}')
  if faults.sync_is_known(clip):
    said += [f'offset {clip.offset:+.0f}', f'match {clip.match:.2f}']
  return ', '.join(said)


def _listing(found):
  """Every clip with a fault or a remark, in the order of the faults."""
  order = {name: place for place, name in enumerate((*faults.FAULTS, *faults.REMARKS))}
  named = [finding for finding in found.findings if finding.faults or finding.remarks]
  named.sort(key=lambda finding: [order[name] for name in finding.faults + finding.remarks])
  if not named:
    return
  numbers = ('seconds', 'level', 'still', 'faces_beside', 'offset', 'match', 'confidence')
  yield f'<h2>All findings <small>({len(named)} clips)</small></h2>'
  yield '<div class="scroll"><table><tr><th>clip</th><th>split</th><th>found</th>'
  yield ''.join(f'<th class="n">{name.replace("_", " ")}</th>' for name in numbers) + '</tr>'
  for finding in named:
    clip = finding.measures
    yield f'<tr><td>{html_page.text(clip.clip)}</td><td>{html_page.text(clip.split)}</td>'
    bad, other = (', '.join(names) for names in (finding.faults, finding.remarks))
    yield f'<td><span class="bad">{bad}</span> {other}</td>'
    values = (getattr(clip, name) for name in numbers)
    cells = ('' if math.isnan(x) else f'{x:.3g}' for x in values)
    yield ''.join(f'<td class="n">{cell}</td>' for cell in cells) + '</tr>'
  yield '</table></div>'
