"""workdir/report.html: what a run trained, how far it is and how good, in one file.

It holds pictures, clips and curves itself, needs no script and opens from disk. All it shows is
read from the workdir, so it is right after a resume, too:

  config.json, results.json, samples/   as other modules write them
  metrics.jsonl                         the curves; the loop's Reporter has them at hand
  sessions.json                         when, where and how long each go of the run trained

It stays bounded however long a run is: curves have `curves.MOST_POINTS` points, strips of at most
`_EARLIER` earlier evaluations are shown with a clip each, spread evenly from the first on, and
pictures and clips take `_MEDIA_BYTES` together; what is left out is linked.
"""

import datetime
import json
import pathlib
import platform
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any

import av
import cv2
import jax
import numpy as np

import tfg_jax
from tfg_jax import curves, errors, evaluate, html_page, reporting, trained
from tfg_jax.curves import Curves
from tfg_jax.data import clip_codec, records

REPORT_FILE = 'report.html'
SESSIONS_FILE = 'sessions.json'
_EARLIER = 8
_MEDIA_BYTES = 6_000_000  # before base64, which adds a third
_SIDE = 1200  # longest of a picture, pixels
_SESSIONS = 8
_text = html_page.text


# --------------------------------------------------------------------------------------------------
# Keeping it up to date
# --------------------------------------------------------------------------------------------------


class RunReport:
  """Writes the page of a run that is training, on process 0, after evaluations and checkpoints.

  A page that cannot be written (a full disk, a damaged file beside it) stops no training: the fault
  is said in one line, the page before stays whole, and the next time is another try.
  """

  def __init__(self, workdir: pathlib.Path, start_step: int, devices: Sequence[jax.Device]):
    self._workdir = workdir
    self._start_step = start_step
    self._devices = f'{len(devices)} x {devices[0].device_kind}'
    self._began = _now()
    self._mark = time.monotonic()
    self._before = None  # the sessions before this one, once they are read

  def update(self, step: int, training: Curves, evaluations: Curves, *, ended: bool = False):
    """Writes the page after `step`; `ended` if it is the run's last."""
    if jax.process_index() != 0:
      return
    try:
      self._save_sessions(step, ended)
      write(self._workdir, training, evaluations)
    except Exception as error:  # whatever it is, the run is worth more than its page
      reporting.say(f'{REPORT_FILE} was not written: {type(error).__name__}: {error}')

  def _save_sessions(self, step, ended):
    path = self._workdir / SESSIONS_FILE
    if self._before is None:
      before = _read_json(path, [])
      for session in before:  # what a killed one did after its last checkpoint is done again
        session['to_step'] = min(session['to_step'], self._start_step)
      self._before = [session for session in before if session['from_step'] < session['to_step']]
    now = {
      'began': self._began,
      'from_step': self._start_step,
      'to_step': step,
      'seconds': round(time.monotonic() - self._mark, 1),
      'ended': ended,
      'devices': self._devices,
      'processes': jax.process_count(),
      'tfg_jax': tfg_jax.__version__,
      'jax': jax.__version__,
      'python': platform.python_version(),
      'system': f'{platform.system()} {platform.machine()}',
    }
    html_page.write(path, json.dumps([*self._before, now], indent=2) + '\n')


def refresh(workdir: pathlib.Path):
  """Writes the page anew, for what --mode=evaluate found.

  Raises:
    OSError: if a file cannot be read or written; the page stays as it was.
  """
  path = workdir / reporting.METRICS_FILE
  write(workdir, *curves.read(path.read_text().splitlines() if path.exists() else []))


# --------------------------------------------------------------------------------------------------
# The page
# --------------------------------------------------------------------------------------------------


def write(workdir: pathlib.Path, training: Curves, evaluations: Curves):
  """Writes the page of what stands in the workdir, with these curves.

  Raises:
    OSError: if a file cannot be read or written; the page stays as it was.
  """
  config = trained.read_config(workdir).to_dict()
  sessions = _read_json(workdir / SESSIONS_FILE, [])
  results = _read_json(workdir / evaluate.RESULTS_FILE, {})
  step = sessions[-1]['to_step'] if sessions else results.get('step', 0)
  if results.get('step', 0) > step:  # of a go that was killed before it could save the step
    results = {}
  shown = _Samples(workdir, step)
  parts = [
    *_head(config, sessions, results, step),
    *_results(results),
    *shown.latest(),
    *_evaluations(evaluations),
    *_training(training),
    *shown.earlier(),
    *_data(config),
    *_config(config),
    *_environment(sessions),
    f'<footer>Written {_now()} by tfg_jax {_text(tfg_jax.__version__)}.</footer>',
  ]
  title = f'{config["system"]}, step {step} of {config["num_steps"]}'
  html_page.write(workdir / REPORT_FILE, html_page.document(title, parts, _STYLE))


_STYLE = """
h1 { margin-bottom: .2em; } .lead { font-size: 1.15em; } footer, .quiet { color: #6b6b6b; }
progress { width: 100%; height: .8em; accent-color: #3367a8; }
.wide { overflow-x: auto; } .wide td, .wide th { white-space: nowrap; }
tr.truth td { color: #1b6e3c; }
.samples { display: grid; gap: 1em 1.2em; grid-template-columns: 3fr 2fr; align-items: start; }
.samples img, .samples video { width: 100%; height: auto; display: block; }
.clips { display: grid; gap: .6em; grid-template-columns: repeat(auto-fill, minmax(min(100%, 260px),
  1fr)); }
.settings { columns: 3 16em; font-size: .85em; } .settings div { break-inside: avoid;
  overflow-wrap: anywhere; } .settings h3 { font-size: 1em; margin: .6em 0 .1em; }
@media (max-width: 600px) { .samples { grid-template-columns: 1fr; } body { margin-top: 1em; } }
"""


def _head(config, sessions, results, step):
  total = config['num_steps']
  ended = bool(sessions) and sessions[-1]['ended']
  yield f'<h1>{_text(config["system"])}</h1>'
  yield f'<progress value="{step}" max="{step if ended else total}"></progress>'
  said = f'{step} of {total} steps'
  if ended:
    said = f'<b class="fine">Trained:</b> {said}'
    if step < total:
      said += ' (its schedule has ended)'
  if sessions:
    said += f', {_duration(sum(session["seconds"] for session in sessions))}'
    if len(sessions) > 1:
      said += f' in {len(sessions)} sessions'
    said += f' on {_text(sessions[-1]["devices"])}'
  yield f'<p>{said}.</p>'
  if results.get('summary'):
    yield f'<p class="lead">{_text(results["summary"])}</p>'


def _results(results):
  yield '<h2>Results</h2>'
  if not results:
    yield '<p>Not evaluated yet.</p>'
    return
  metrics, rows = evaluate.arrange(results['means'])
  yield (
    f'<p class="quiet">Means over {results["clips"]} clips of split '
    f'{_text(repr(results["split"]))} after step {results["step"]}.</p>'
  )
  head = ''.join(f'<th class="n">{_text(metric)}</th>' for metric in metrics)
  yield f'<div class="wide"><table><tr><th></th>{head}</tr>'
  for who, values in rows.items():
    style = ' class="truth"' if who == 'ground_truth' else ''
    cells = (values.get(metric) for metric in metrics)
    cells = (f'<td class="n">{"" if x is None else f"{x:.4g}"}</td>' for x in cells)
    yield f'<tr{style}><td>{_text(who.replace("_", " "))}</td>{"".join(cells)}</tr>'
  yield '</table></div>'


def _evaluations(found):
  """Charts of each metric, with a line for everybody of whom it was measured."""
  metrics = {}
  for name in found.names:
    metrics.setdefault(name.split('/')[1], []).append(name)
  if not metrics or all(len(found.curve(name)[0]) < 2 for name in found.names):
    return
  yield '<h2>Evaluations over time</h2><div class="charts">'
  for metric, names in metrics.items():
    legend = []
    for number, name in enumerate(names):
      colour = html_page.LINE_COLOURS[number % len(html_page.LINE_COLOURS)]
      who = _text(name.split('/')[0].replace('_', ' '))
      last = found.curve(name)[1][-1]
      legend.append(f'<span style="color: {colour}">{who} {last:.4g}</span>')
    caption = f'<b>{_text(metric)}</b>: {", ".join(legend)}'
    yield html_page.lines([found.curve(name) for name in names], metric, caption)
  yield '</div>'


def _training(found):
  if not found.names:
    return
  yield '<h2>Training</h2><div class="charts">'
  for name in found.names:
    curve = found.curve(name)
    caption = f'{_text(name)} <b>{curve[1][-1]:.4g}</b>'
    if count := found.not_finite(name):
      caption += f' <span class="bad">not finite in {count} steps, which were not applied</span>'
    yield html_page.lines([curve], name, caption)
  yield '</div>'


def _data(config):
  data = config['data']
  yield '<h2>Data</h2>'
  try:
    info = records.read_info(data['root'])
  except errors.DataError:
    yield f'<p>The records are no longer in {_text(data["root"])}.</p>'
    return
  counts = ', '.join(f'{split} {sum(shards)}' for split, shards in info.clips.items())
  made = ', '.join(f'{name} {value}' for name, value in info.preparation.items() if value != [])
  facts = {
    'corpus': info.corpus,
    'clips': counts,
    'licence': info.licence,
    'pictures': f'{info.width} x {info.height} pixels, {info.fps:g} a second',
    'sound': f'{info.sample_rate} Hz',
    'prepared with': made,
    'by': info.tool,
    'folder': data['root'],
  }
  yield html_page.facts((what, value) for what, value in facts.items() if value != '')


def _config(config):
  yield '<h2>Config</h2><div class="settings">'
  sections: dict[str, list[tuple[str, Any]]] = {'': []}
  for key, value in config.items():
    if isinstance(value, Mapping):
      sections[key] = list(_flat(value))
    else:
      sections[''].append((key, value))
  for name, pairs in sections.items():
    if name:
      yield f'<h3>{_text(name)}</h3>'
    yield from (f'<div>{_text(key)} <b>{_text(_plain(value))}</b></div>' for key, value in pairs)
  yield '</div>'


def _flat(section, prefix=''):
  for key, value in section.items():
    if isinstance(value, Mapping):
      yield from _flat(value, f'{prefix}{key}.')
    else:
      yield prefix + key, value


def _plain(value):
  if isinstance(value, (list, tuple)):
    return ', '.join(map(str, value))
  return "''" if value == '' else value


def _environment(sessions):
  if not sessions:
    return
  yield '<h2>Environment</h2>'
  *_, last = sessions
  versions = ', '.join(f'{name} {last[key]}' for name, key in _VERSIONS.items())
  processes = f', {last["processes"]} processes' if last['processes'] > 1 else ''
  software = f'{versions}, {last["system"]}'
  yield html_page.facts([('devices', last['devices'] + processes), ('software', software)])
  yield '<div class="wide"><table><tr><th>session</th><th class="n">from step</th>'
  yield '<th class="n">to</th><th class="n">time</th><th class="n">steps/s</th><th>devices</th>'
  yield '<th>JAX</th></tr>'
  if len(sessions) > _SESSIONS:
    yield f'<tr><td colspan="7">{len(sessions) - _SESSIONS} before these</td></tr>'
  for session in sessions[-_SESSIONS:]:
    steps = session['to_step'] - session['from_step']
    rate = f'{steps / session["seconds"]:.3g}' if session['seconds'] else ''
    numbers = session['from_step'], session['to_step'], _duration(session['seconds']), rate
    cells = ''.join(f'<td class="n">{value}</td>' for value in numbers)
    devices, version = _text(session['devices']), _text(session['jax'])
    yield f'<tr><td>{session["began"]}</td>{cells}<td>{devices}</td><td>{version}</td></tr>'
  yield '</table></div>'


_VERSIONS = {'tfg_jax': 'tfg_jax', 'JAX': 'jax', 'Python': 'python'}


# --------------------------------------------------------------------------------------------------
# Pictures and clips
# --------------------------------------------------------------------------------------------------


class _Samples:
  """What evaluations up to a step wrote into `samples`, as parts of the page, within its size."""

  def __init__(self, workdir, step):
    found = {}  # step -> [the strip, clips ...]
    for path in sorted((workdir / 'samples').glob('step_*')):
      match = re.fullmatch(r'step_(\d+)(\.png|_clip_\d+\.mp4)', path.name)
      if match and int(match[1]) <= step:
        found.setdefault(int(match[1]), []).append(path)
    steps = sorted(found)
    # The latest are the last to be left out.
    places = np.unique(np.linspace(0, len(steps) - 2, _EARLIER).astype(int)) if steps[1:] else []
    self._earlier = [steps[place] for place in places]
    self._latest = steps[-1:]
    self._left = _MEDIA_BYTES
    self._shown = {}  # path -> HTML
    for at in self._latest:
      for path in sorted(found[at], key=lambda path: path.suffix != '.png'):
        self._take(path)
    for at in reversed(self._earlier):
      for path in sorted(found[at], key=lambda path: path.suffix != '.png')[:2]:
        self._take(path)

  def latest(self):
    for at in self._latest:
      strip, *clips = self._of(at)
      yield f'<h2>Samples <small>after step {at}</small></h2><div class="samples">'
      yield f'<figure>{strip}</figure><div class="clips">{"".join(clips)}</div></div>'
      yield (
        '<p class="quiet">Of clips that are evaluated, not trained on. What a network drew is '
        'synthetic: say so wherever you show it.</p>'
      )

  def earlier(self):
    if not self._earlier:
      return
    yield '<h2>Earlier samples</h2><div class="sheet">'
    for at in self._earlier:
      yield f'<figure>{"".join(self._of(at))}<figcaption>step {at}</figcaption></figure>'
    yield '</div>'

  def _of(self, step):
    return [shown for path, shown in self._shown.items() if path.name.startswith(_stem(step))]

  def _take(self, path):
    is_strip = path.suffix == '.png'
    picture = _small_jpeg(cv2.imread(str(path))[..., ::-1] if is_strip else _first_frame(path))
    clip = b'' if is_strip else path.read_bytes()
    if len(picture) + len(clip) > self._left:
      link = _text(f'samples/{path.name}')
      self._shown[path] = f'<a href="{link}">{link}</a>, too large for this page. '
      return
    self._left -= len(picture) + len(clip)
    image = html_page.data_uri('image/jpeg', picture)
    if is_strip:
      self._shown[path] = f'<img src="{image}" alt="samples">'
    else:
      video = html_page.data_uri('video/mp4', clip)
      self._shown[path] = f'<video controls loop poster="{image}" src="{video}"></video>'


def _stem(step):
  return f'step_{step:09d}'


def _first_frame(path):
  with av.open(str(path)) as container:
    return next(container.decode(video=0)).to_ndarray(format='rgb24')


def _small_jpeg(picture):
  scale = _SIDE / max(picture.shape)
  if scale < 1:
    picture = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
  (jpeg,) = clip_codec.encode_jpegs([picture], quality=85)
  return jpeg


def _read_json(path, missing):
  return json.loads(path.read_text()) if path.exists() else missing


def _now():
  return datetime.datetime.now(datetime.UTC).strftime('%Y-%m-%d %H:%M UTC')


def _duration(seconds):
  hours, minutes = divmod(round(seconds / 60), 60)
  if hours:
    return f'{hours} h {minutes:02d} min'
  return f'{seconds / 60:.1f} minutes' if seconds >= 60 else f'{seconds:.0f} seconds'
