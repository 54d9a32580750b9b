"""SF2F (Bai et al., 2020): a portrait of somebody from their voice.

Generator      1 to 1.5 s of log-mel -> embedding -> portrait; with a fuser, many windows (3.2, 3.3)
Losses         10 pixels + 1 adversarial + 0.05 identity + 100 perceptual                   (3.4)
Players        generator, image discriminators and identity discriminators (one of each for every
               size that is drawn), fuser; each its own optimiser
Stages         0: FaceNet, where no weights are given, learns the corpus' faces; 1: all but the
               fuser; 2: the generator's batch norm is frozen, its optimiser begins again and rates
               fall; 3: the fuser alone, in front of frozen networks, and the discriminators. A
               stage ends with the evaluation after its number of steps.

Numbers are those of the official code (BAI-Yeqi/SF2F_PyTorch), which differs from the paper in
places. Its baseline voice2face (Wen et al., 2019) and the paper's ablations are settings.

Departures     An epoch goes over records, not people. People with fewer windows than others get a
               mask instead of an error. Batch norm stays frozen in stage 3, as the paper says;
               officially it thaws by accident. Rates fall with every step, not with every epoch.
"""

from collections.abc import Iterable

import jax
import jax.numpy as jnp
import numpy as np
import optax

from tfg_jax import configuration, light_random, losses
from tfg_jax.features import portrait, voice
from tfg_jax.systems import base, players, sf2f_players
from tfg_jax.systems.sf2f_painter import Painter
from tfg_jax.systems.sf2f_players import FACES, FUSION, LONGEST, SETTLING, SHORTEST
from tfg_jax.systems.sources import Source

_DRAWN = {'generator', 'image_discriminator', 'identity_discriminator'}  # what stage 3 takes over


class SF2F(Painter):
  """See the module; `from_config` builds it."""

  @classmethod
  def from_config(cls, run: configuration.Run, *, axis_name: str | None = None) -> 'SF2F':
    """Builds networks and settings from `run.model`.

    Raises:
      ConfigError: for unknown keys or values that cannot be.
    """
    settings, *networks = sf2f_players.build(run, axis_name)
    return cls(settings, run.data.fps, *networks, axis_name)

  # ------------------------------------------------------------------------------------------------
  # State
  # ------------------------------------------------------------------------------------------------

  def init(self, key: jax.Array) -> base.State:
    """Fresh networks; FaceNet is one of them where no weights are given, else in `frozen`."""
    keys = jax.random.split(light_random.from_key(key), 4)
    shape = (1, 2, voice.WINDOW, voice.MEL_BINS) if self._fuses else (1, LONGEST, voice.MEL_BINS)
    variables = self.generator.init(keys[0], jnp.zeros(shape), train=False)
    params = dict(variables['params'])
    trees = {'fuser': {'params': params.pop('fuser')}} if self._fuses else {}
    trees['generator'] = {**variables, 'params': params}
    for (name, modules), judge_key in zip(self.judges.items(), keys[1:3], strict=False):
      made = {
        str(size): module.init(judge_key, jnp.zeros((1, size, size, 3)), train=False)
        for size, module in modules.items()
      }
      trees[name] = {
        kind: {size: tree.get(kind, {}) for size, tree in made.items()}
        for kind in ('params', 'batch_stats')
      }
    frozen = {}
    facenet = self.facenet.init(keys[3], jnp.zeros((1, 8, 8, 3)), train=False)
    if self.settings.facenet_weights:
      frozen['facenet'] = facenet
    else:
      trees['facenet'] = facenet
    nets = {
      name: base.Net.create(tree['params'], tree.get('batch_stats', {}), self._optimizer(1.0))
      for name, tree in trees.items()
    }
    return base.State.create(key, nets, frozen=frozen, stage=self._stage_at(0))

  @property
  def sources(self) -> dict[str, str]:
    """Where FaceNet and the networks of stage 1 come from, if not from here."""
    folders = {'facenet': self.settings.facenet_weights, 'portraits': self.settings.start}
    return {name: folder for name, folder in folders.items() if folder}

  def start(
    self, state: base.State, taken: dict[str, Source], batches: Iterable[dict]
  ) -> base.State:
    """On the host, before the first step: takes over FaceNet, and the networks of stage 1.

    Raises:
      CheckpointError: if they do not fit.
    """
    del batches
    nets, frozen = dict(state.nets), dict(state.frozen)
    if 'facenet' in taken:
      frozen['facenet'] = taken['facenet'].replace(frozen['facenet'], 'facenet')
    if 'portraits' in taken:
      for name in sorted(nets.keys() & (_DRAWN | {'facenet'})):
        found = taken['portraits'].replace(
          {'params': nets[name].params, 'batch_stats': nets[name].stats}, name
        )
        nets[name] = nets[name].replace(params=found['params'], stats=found['batch_stats'])
    return state.replace(nets=nets, frozen=frozen)

  def _optimizer(self, rate) -> optax.GradientTransformation:
    return optax.adam(rate, b2=self.settings.b2)

  def _stage_at(self, step: int) -> int:
    steps = self.settings
    ends = np.cumsum([steps.face_steps, steps.portrait_steps, steps.settling_steps])
    return min(sum(step >= int(end) for end in ends), self.last_stage)

  def on_evaluation(self, state: base.State, results: dict[str, float]) -> base.State:
    """The stage that the number of steps asks for. With stage 2 the generator's optimiser begins
    again, with stage 3 those of the discriminators."""
    del results
    stage = self._stage_at(int(state.step))
    if stage == state.stage:
      return state
    again = {SETTLING: ('generator',), FUSION: tuple(self.judges)}.get(stage, ())
    nets = dict(state.nets)
    for name in again:
      zeros = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), nets[name].opt_state)
      nets[name] = nets[name].replace(opt_state=zeros)
    return state.replace(nets=nets, stage=stage)

  def finished(self, state: base.State) -> bool:
    return False

  def _rates(self, state) -> dict[str, jax.Array]:
    """Learning rates by player in the state's stage."""
    settings = self.settings
    rates = dict.fromkeys(('generator', *self.judges), settings.learning_rate)
    if state.stage == SETTLING:
      begun = settings.face_steps + settings.portrait_steps
      done = (state.step - begun) / max(settings.settling_steps, 1)
      # To a thousandth; officially the identity discriminators' stays.
      for name in ('generator', 'image_discriminator'):
        rates[name] = settings.learning_rate * (1 - 0.999 * done)
    elif state.stage == FUSION:
      rates = dict.fromkeys(('fuser', *self.judges), settings.fusion_learning_rate)
    return rates | {'facenet': settings.face_learning_rate}

  # ------------------------------------------------------------------------------------------------
  # Training
  # ------------------------------------------------------------------------------------------------

  def train_step(self, state: base.State, batch: base.Batch) -> tuple[base.State, base.Metrics]:
    """Updates the generator (in stage 3 the fuser), then both kinds of discriminators, on one
    forward pass of the portraits; in stage 0 FaceNet alone."""
    nets, rates = dict(state.nets), self._rates(state)
    metrics = {}

    def learn(name, loss):
      nets[name], numbers, made = players.learn(
        name, nets[name], loss, self._optimizer(rates[name]), axis_name=self.axis_name
      )
      metrics.update(numbers)
      return made

    if state.stage == FACES:
      learn('facenet', lambda params: self._face_loss(state, params, batch))
      return state.replace(nets=nets), metrics

    real = self.real(batch['portrait'])
    judges = {name: (state.nets[name].params, state.nets[name].stats) for name in self.judges}
    player = 'fuser' if state.stage == FUSION else 'generator'

    def generator_loss(params):
      drawn, stats = self._draw_in_training(state, batch, **{player: params})
      terms, judged = self.generator_terms(
        drawn, real, batch['identity'], judges, self._facenet_variables(state)
      )
      return sum(terms.values()), (terms, stats, (drawn, judged))

    drawn, judged = learn(player, generator_loss)
    drawn = jax.lax.stop_gradient(drawn)
    for name in self.judges:
      learn(
        name,
        lambda params, name=name: self.judge_loss(
          name, params, judged[name], drawn, real, batch['identity']
        ),
      )
    return state.replace(nets=nets), metrics

  def _draw_in_training(self, state, batch, *, generator=None, fuser=None):
    """Portraits of a batch and the generator's new statistics; None where they stay."""
    variables = self._variables(state, generator=generator, fuser=fuser)
    key = jax.random.fold_in(state.step_key(self.axis_name), 1)
    noise = self._noise(key, len(batch['portrait']))
    if state.stage == FUSION:
      mel = voice.log_mel(batch['windows'], batch['windows_samples'])
      drawn, _ = self.generator.apply(
        variables, mel, mask=batch['windows_mask'], noise=noise, train=False
      )
      return drawn, None
    mel, lengths = self._crop(state, batch)
    if state.stage == SETTLING:
      drawn, _ = self.generator.apply(variables, mel, lengths, noise=noise, train=False)
      return drawn, None
    (drawn, _), updated = self.generator.apply(
      variables, mel, lengths, noise=noise, train=True, mutable=['batch_stats']
    )
    return drawn, updated['batch_stats']

  def _crop(self, state, batch):
    """Log-mel (B, 150, 40) of which the first n frames count, and n (B,): one for the batch."""
    number = jax.random.randint(state.step_key(), (), SHORTEST, LONGEST + 1)
    mel = voice.log_mel(batch['voice'], batch['voice_samples'])
    spare = jnp.maximum(voice.valid_frames(batch['voice_samples']) - number, 0)
    first = jnp.floor(batch['voice_place'] * (spare + 1)).astype(jnp.int32)
    index = jnp.minimum(first[:, None] + jnp.arange(LONGEST), LONGEST - 1)
    mel = jnp.take_along_axis(mel, index[..., None], axis=1)
    return mel, jnp.full(len(mel), number)

  def generator_terms(self, drawn, real, labels, judges, facenet):
    """Every weighted term of the generator's loss.

    Args:
      drawn, real: tuples of (B, S, S, 3) portraits, one for each size.
      labels: (B,) int, who they are.
      judges: player -> (parameters, running statistics), both by size.
      facenet: FaceNet's variables.

    Returns:
      Scalars by name, with the size behind it where there are several; and the discriminators'
      statistics, which the drawn portraits have changed: player -> size -> statistics.
    """
    weights, terms = self.settings.loss, {}
    judged = {name: dict(stats) for name, (_, stats) in judges.items()}
    for size, fake, true in zip(self.generator.decoder.sizes, drawn, real, strict=True):
      behind = f'_{size}' if len(drawn) > 1 else ''
      if weights.pixel:
        terms[f'pixel{behind}'] = weights.pixel * losses.masked_l1(fake, true)
      if 'image_discriminator' in judges:
        logits, judged['image_discriminator'][str(size)] = self._judge(
          'image_discriminator', size, *judges['image_discriminator'], fake
        )
        adversarial = losses.adversarial_loss(logits, real=True, kind=self.settings.gan)
        terms[f'adversarial{behind}'] = weights.adversarial * adversarial
      if 'identity_discriminator' in judges:
        (logits, who), judged['identity_discriminator'][str(size)] = self._judge(
          'identity_discriminator', size, *judges['identity_discriminator'], fake
        )
        terms[f'identity{behind}'] = weights.identity * losses.cross_entropy(who, labels)
        adversarial = losses.adversarial_loss(logits, real=True, kind=self.settings.gan)
        terms[f'identity_adversarial{behind}'] = weights.identity * adversarial
      if weights.perceptual or weights.cosine:
        seen, meant = (self._recognise(facenet, image) for image in (fake, true))
        meant = jax.lax.stop_gradient(meant)
        each = losses.perceptual_terms(seen, meant)
        terms[f'perceptual{behind}'] = weights.perceptual * (
          each @ jnp.array(losses.PERCEPTUAL_WEIGHTS)
        )
        if weights.cosine:
          similarity = jnp.sum(seen.embedding * meant.embedding, -1)
          terms[f'cosine{behind}'] = weights.cosine * (1 - similarity).mean()
    return terms, judged

  def judge_loss(self, name, params, stats, drawn, real, labels):
    """A discriminator's loss, of all its sizes together, as `players.learn` wants it.

    The image discriminators see what was drawn first, the identity discriminators what is real.
    """
    terms, stats = {}, dict(stats)
    order = (False, True) if name == 'image_discriminator' else (True, False)
    for i, size in enumerate(self.generator.decoder.sizes):
      behind = f'_{size}' if len(drawn) > 1 else ''
      for is_real in order:
        image = (real if is_real else drawn)[i]
        logits, stats[str(size)] = self._judge(name, size, params, stats, image)
        if name == 'identity_discriminator':
          logits, who = logits
          if is_real:
            terms[f'identity{behind}'] = losses.cross_entropy(who, labels)
        terms[f'{"real" if is_real else "drawn"}{behind}'] = losses.adversarial_loss(
          logits, real=is_real, kind=self.settings.gan
        )
    return sum(terms.values()), (terms, stats, None)

  def _judge(self, name, size, params, stats, image):
    """What a discriminator says in training, and its new statistics."""
    key = str(size)
    said, updated = self.judges[name][size].apply(
      {'params': params[key], 'batch_stats': stats[key]},
      image,
      train=True,
      mutable=['batch_stats'],
    )
    return said, updated.get('batch_stats', {})

  def _recognise(self, facenet, image):
    return self.facenet.apply(facenet, portrait.facenet_input(image), train=False)

  def _face_loss(self, state, params, batch):
    """Who is in a frame of the video, and in the portrait."""
    pictures = jnp.concatenate([batch['face'], batch['portrait']])
    labels = jnp.tile(batch['identity'], 2)
    key = jax.random.fold_in(state.step_key(self.axis_name), 2)
    seen, updated = self.facenet.apply(
      {'params': params, 'batch_stats': state.nets['facenet'].stats},
      portrait.facenet_input(portrait.from_uint8(pictures)),
      train=True,
      mutable=['batch_stats'],
      rngs={'dropout': key},
    )
    loss = losses.cross_entropy(seen.logits, labels)
    accuracy = (seen.logits.argmax(-1) == labels).mean()
    return loss, ({'accuracy': accuracy}, updated['batch_stats'], None)
