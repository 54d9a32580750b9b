"""Building blocks of the HTML pages: one file each that opens from disk, without any script."""

import base64
import html
import os
from collections.abc import Iterable, Sequence

import numpy as np

import tfg_jax
from tfg_jax import storage

_BARS = 31
_WIDTH, _HEIGHT = 330, 120  # of a chart, in its own units

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; background: #fff;
  max-width: 1080px; margin: 2em auto; padding: 0 1em; }
h1 { font-size: 1.6em; } h2 { font-size: 1.2em; margin-top: 2em; border-bottom: 1px solid #ddd; }
table { border-collapse: collapse; } td, th { padding: .2em .8em .2em 0; text-align: left;
  vertical-align: top; border-bottom: 1px solid #eee; overflow-wrap: anywhere; }
td:first-child { min-width: 8em; } td.n, th.n { text-align: right; white-space: nowrap;
  font-variant-numeric: tabular-nums; } tr.none { color: #6b6b6b; } a { color: inherit; }
.charts, .sheet { display: grid; gap: 1em 1.2em;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 330px), 1fr)); }
figure { margin: 0; } figcaption { font-size: .85em; color: #555; overflow-wrap: anywhere; }
.end { fill: #6b6b6b; font-size: 11px; paint-order: stroke; stroke: #fff; stroke-width: 4px; }
svg, .sheet img, .sheet video { width: 100%; height: auto; display: block; }
.bad { color: #b3261e; } .fine { color: #1b6e3c; }
.scroll { max-height: 32em; overflow: auto; font-size: .85em; }
.scroll th { position: sticky; top: 0; background: #fff; }
"""


def document(title: str, parts: Iterable[str], style: str = '') -> str:
  """A whole page: the title is text, its parts and the style added to the common one are not."""
  head = '<!doctype html><html lang="en"><meta charset="utf-8">'
  head += '<meta name="viewport" content="width=device-width">'
  head += f'<meta name="generator" content="tfg_jax {tfg_jax.__version__}">'
  head += f'<title>{text(title)}</title><style>{_STYLE}{style}</style>'
  return head + '\n'.join(parts) + '</html>\n'


def text(value: object) -> str:
  """As text of a page, whatever characters it has."""
  return html.escape(str(value))


def data_uri(kind: str, content: bytes) -> str:
  """A file as an address, e.g. of the kind 'video/mp4'."""
  return f'data:{kind};base64,{base64.b64encode(content).decode()}'


def facts(pairs: Iterable[tuple[str, object]]) -> str:
  """A table of (what, value), as text."""
  rows = (f'<tr><td>{text(what)}</td><td>{text(value)}</td></tr>' for what, value in pairs)
  return f'<table>{"".join(rows)}</table>'


def histogram(
  values: np.ndarray,
  caption: str,
  limits: tuple[float, float] | None = None,
  others: Sequence[float] = (),
  mark: float = np.nan,
) -> str:
  """A figure of two histograms over each other, each with its own scale.

  Args:
    values: (N,) in front.
    caption: below it, and what screen readers say.
    limits: what lies outside is counted in the first and the last bar; None for all there is.
    others: (M,) behind, in grey.
    mark: where a red line stands; NaN for none.
  """
  both = np.concatenate([values, others])
  low, high = limits or (both.min(), both.max())
  if high - low < 1e-9:
    return f'<figure>{text(caption)}: <b>{low:.3g}</b> in every clip</figure>'
  shapes = []
  for one, colour in ((others, '#999'), (values, '#3367a8')):
    counts, edges = np.histogram(np.clip(one, low, high), _BARS, (low, high))
    for place, count in enumerate(counts):
      if count:
        tall = max(1.0, _HEIGHT * count / counts.max())
        shapes.append(
          f'<rect x="{_WIDTH * place / _BARS:.1f}" y="{_HEIGHT - tall:.1f}" fill="{colour}" '
          f'width="{_WIDTH / _BARS - 1:.1f}" height="{tall:.1f}" opacity="0.8">'
          f'<title>{edges[place]:.3g} to {edges[place + 1]:.3g}: {count}</title></rect>'
        )
  if not np.isnan(mark):
    x = _WIDTH * (mark - low) / (high - low)
    shapes.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="{_HEIGHT}" stroke="#b3261e"/>')
  return _chart(shapes, f'{low:.3g}', f'{high:.3g}', caption, text(caption))


LINE_COLOURS = '#3367a8', '#1b6e3c', '#c4611a', '#7a5195', '#6b6b6b', '#b3261e'


def lines(curves: Sequence[tuple], label: str, caption: str) -> str:
  """A figure of curves over the same steps; its scale is logarithmic if values span a factor 50.

  Args:
    curves: (steps, means, lows, highs) of each, (N,) arrays; a pale band goes from low to high.
      Their colours are `LINE_COLOURS`, again and again.
    label: what screen readers say.
    caption: below it, as HTML.
  """
  first, last = (function(steps[place] for steps, *_ in curves) for function, place in _ENDS)
  values = np.concatenate([means for _, means, *_ in curves])
  low, high = values.min(), values.max()
  logarithmic = low > 0 and high / low > 50
  if logarithmic:
    caption += ' <small>(log scale)</small>'

  def x(steps):
    return _WIDTH * (np.asarray(steps, float) - first) / max(last - first, 1)

  def y(numbers):
    numbers, ends = np.clip(numbers, low, high), np.array([low, high])
    if logarithmic:
      numbers, ends = np.log(numbers), np.log(ends)
    # A line that is level runs through the middle.
    share = (numbers - ends[0]) / (ends[1] - ends[0]) if high > low else np.full(len(numbers), 0.5)
    return _HEIGHT - 2 - (_HEIGHT - 4) * share

  labels = [
    f'<text class="end" x="{_WIDTH}" y="{place}" text-anchor="end">{end:.3g}</text>'
    for place, end in ((9, high), (_HEIGHT - 4, low))[: 1 + (high > low)]
  ]
  shapes = []
  for number, (steps, means, lows, highs) in enumerate(curves):
    colour = LINE_COLOURS[number % len(LINE_COLOURS)]
    along, middle = x(steps), y(means)
    if len(steps) == 1:
      shapes.append(f'<circle cx="{_WIDTH / 2}" cy="{middle[0]:.1f}" r="3" fill="{colour}"/>')
      continue
    band = _points(np.append(along, along[::-1]), np.append(y(lows), y(highs)[::-1]))
    shapes.append(f'<polygon points="{band}" fill="{colour}" opacity="0.15"/>')
    shapes.append(
      f'<polyline points="{_points(along, middle)}" fill="none" stroke="{colour}" '
      f'stroke-width="1.5" stroke-linejoin="round"/>'
    )
  return _chart(shapes + labels, f'step {first:.0f}', f'{last:.0f}', label, caption)


_ENDS = (min, 0), (max, -1)


def _points(along, up):
  return ' '.join(f'{x:.1f},{y:.1f}' for x, y in zip(along, up, strict=True))


def _chart(shapes, left, right, label, caption):
  base = _HEIGHT + 13
  return (
    f'<figure><svg viewBox="0 0 {_WIDTH} {_HEIGHT + 16}" role="img" aria-label="{text(label)}">'
    f'{"".join(shapes)}<line x1="0" x2="{_WIDTH}" y1="{_HEIGHT}" y2="{_HEIGHT}" stroke="#888"/>'
    f'<text x="0" y="{base}" font-size="11">{left}</text>'
    f'<text x="{_WIDTH}" y="{base}" font-size="11" text-anchor="end">{right}</text>'
    f'</svg><figcaption>{caption}</figcaption></figure>'
  )


def write(path: str | os.PathLike, content: str):
  """Writes a text file that is whole or absent, whatever characters names in it have."""
  storage.write_whole(path, [content.encode('utf-8', 'backslashreplace')])
