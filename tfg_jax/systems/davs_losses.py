"""The losses of DAVS, term by term: what each side of the game wants of the other.

Pure functions of what the networks made and said; nothing here runs a network.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from tfg_jax import errors, losses
from tfg_jax.systems.davs_players import ADVERSARIAL, CONFUSION, CONTRASTIVE, Settings


class Inputs(NamedTuple):
  """One batch as the joint stage sees it."""

  portrait: jax.Array  # (B, S, S, 3), frame k
  kept: jax.Array  # (B, 20, S, S, 3), consecutive
  seen: jax.Array  # (B, 12, S, S, 3)
  heard: jax.Array  # (B, 12, 20, 12)
  drawn: jax.Array  # (B, 6), which of the twelve are drawn
  word: jax.Array  # (B,)
  person: jax.Array  # (B,)

  def real(self):
    """(B, 6, S, S, 3): what is to be drawn."""
    return pick(self.seen, self.drawn)

  def sound(self):
    """(B, 6, 20, 12)"""
    return pick(self.heard, self.drawn)


class Made(NamedTuple):
  """What the generating side makes of a batch, and the only way that losses reach it.

  N of the B clips are drawn.
  """

  identity: jax.Array  # what C_p^w reads of the 20 frames
  heard: jax.Array  # (B, 12, D)
  seen: jax.Array  # (B, 12, D)
  heard_words: jax.Array  # (B, words)
  seen_words: jax.Array
  from_audio: jax.Array  # (N, 6, S, S, 3)
  from_video: jax.Array


class Verdicts(NamedTuple):
  """What the opposing side says of it, as logits; None where a term has no weight."""

  domain_heard: Any = None  # (B, 12)
  domain_seen: Any = None
  identity_words: Any = None  # (B, words)
  heard_persons: Any = None  # (B, 12, persons)
  seen_persons: Any = None
  sequence: Any = None  # (patches (2N, h, w), pairs (2N,)): each clip's from audio, from video
  images: Any = None  # the same of single frames


def drawn_clips(settings: Settings, rows):
  """Of arrays (B, ...) the rows of those clips whose faces are drawn: one of every `draw_every`.

  Raises:
    ConfigError: if they do not come out even, for each device under pmap.
  """
  every = settings.draw_every

  def thin(x):
    if len(x) % every:
      raise errors.ConfigError(
        f"model.draw_every is {every}; a batch, or a device's share of it, has {len(x)} clips.",
        where='config',
        hint='use a data.batch_size that it divides.',
      )
    # Every n-th and not the first ones: each device draws some of its own.
    return x.reshape(-1, every, *x.shape[1:])[:, 0]

  return jax.tree.map(thin, rows)


def pick(x, index):
  """(B, T, ...) and (B, n) to (B, n, ...)."""
  return jnp.take_along_axis(x, index.reshape(*index.shape, *[1] * (x.ndim - 2)), axis=1)


def mouth(settings: Settings):
  """(S, S), 1 in the mouth's box."""
  top, bottom, left, right = settings.mouth_box
  return jnp.zeros((settings.face_size,) * 2).at[top:bottom, left:right].set(1)


def opponents(settings: Settings, made: Verdicts, real: Verdicts, inputs: Inputs, softening):
  """What the opposing side wants, by name.

  Args:
    settings: of the model.
    made, real: what it says of the generated and of the real side; `real` only has pictures.
    inputs: the batch.
    softening: (4,) numbers for each discriminator, how far its labels are off.
  """
  adversarial = ADVERSARIAL[settings.adversarial]
  terms = {}
  if made.domain_heard is not None:
    terms['domain'] = 0.5 * (
      losses.soft_cross_entropy(made.domain_heard, 1.0)
      + losses.soft_cross_entropy(made.domain_seen, 0.0)
    )
  if made.identity_words is not None:
    terms['identity_words'] = losses.cross_entropy(made.identity_words, inputs.word)
  if made.seen_persons is not None:
    terms['persons'] = losses.cross_entropy(
      jnp.concatenate([made.heard_persons, made.seen_persons], axis=1), inputs.person
    )
  off = iter(softening)
  for name in ('sequence', 'images'):
    fakes, truths = getattr(made, name), getattr(real, name)
    if fakes is not None:
      for head, fake, true in zip(('patches', 'pairs'), fakes, truths, strict=True):
        terms[f'{name}_{head}'] = 0.5 * (
          adversarial(fake, next(off)) + adversarial(true, 1 - next(off))
        )
  return terms


def embedding(settings: Settings, seen, heard, seen_words, heard_words, word, *, both: bool):
  """What brings the two senses of a clip together, by name.

  Args:
    settings: of the model.
    seen, heard: (B, 12, D).
    seen_words, heard_words: (B, words) logits.
    word: (B,) labels.
    both: whether the video's side follows the audio's too, as in stage 1; else it only leads.
  """
  stop = jax.lax.stop_gradient
  terms = {
    'words_audio': losses.cross_entropy(heard_words, word),
    'words_video': losses.cross_entropy(seen_words, word),
  }
  distance = CONTRASTIVE[settings.contrastive]
  seen, heard = (x.reshape(len(x), -1) for x in (seen, heard))
  if settings.contrastive == 'eq1':
    return terms | {'contrastive': distance(seen, heard)}
  terms['contrastive'] = distance(stop(seen), heard)
  if both:
    terms['contrastive_video'] = distance(seen, stop(heard))
  return terms


def generators(settings: Settings, made: Made, said: Verdicts, inputs: Inputs):
  """What the generating side wants in the joint stage, by name; `total` weighs it."""
  w, drawn, box = settings.weights, drawn_clips(settings, inputs), mouth(settings)
  reconstruct = functools.partial(
    losses.mouth_weighted_l1, target=drawn.real(), mouth=box, whole=w.l1, extra=w.mouth_l1
  )
  terms = {'l1_audio': reconstruct(made.from_audio), 'l1_video': reconstruct(made.from_video)}
  if w.steadiness:
    terms['steadiness'] = losses.unsteadiness(made.from_audio, drawn.portrait, box)
  words = made.seen_words, made.heard_words
  terms |= embedding(settings, made.seen, made.heard, *words, inputs.word, both=False)
  return terms | defeats(settings, said)


def defeats(settings: Settings, said: Verdicts):
  """How far the opponents still are from being wrong, or from knowing nothing, by name."""
  adversarial = ADVERSARIAL[settings.adversarial]
  confusion = CONFUSION[settings.confusion]
  terms = {}
  if said.domain_heard is not None:
    terms['domain_audio'] = losses.soft_cross_entropy(said.domain_heard, 0.0)
    terms['domain_video'] = losses.soft_cross_entropy(said.domain_seen, 1.0)
  if said.identity_words is not None:
    terms['identity_words'] = confusion(said.identity_words)
  if said.seen_persons is not None:
    terms['persons'] = confusion(jnp.concatenate([said.heard_persons, said.seen_persons], axis=1))
  for name in ('sequence', 'images'):
    if (verdict := getattr(said, name)) is not None:
      for head, logits in zip(('patches', 'pairs'), verdict, strict=True):
        terms[f'{name}_{head}'] = adversarial(logits, 1.0)
  return terms


def total(settings: Settings, terms, *, domain: float):
  """The weighted sum of the generating side's terms; `domain` is the weight of that one."""
  w = settings.weights
  weights = {
    'l1': 1.0,  # weighted inside
    'steadiness': w.steadiness,
    'contrastive': w.contrastive,
    'words': w.words,
    'domain': domain,
    'identity': w.identity_words,
    'persons': w.persons,
    'sequence': w.adversarial,
    'images': w.image_adversarial,
  }
  return sum(weights[name.split('_')[0]] * value for name, value in terms.items())
