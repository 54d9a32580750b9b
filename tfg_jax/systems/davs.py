"""DAVS (Zhou et al., AAAI 2019): one photo speaks, driven by audio or by another person's video.

Encoders       E_p, who a face is; E_w, what a face or 0.2 s of sound says: one space for both
Decoder        G(E_p(photo), E_w(moment)) -> the face at that moment
Embedding      a word classifier shared by both senses, a contrastive loss, and a classifier of the
               sense that the encoders defeat                                  (paper: joint space)
Disentangling  C_p^w looks for the word in E_p, C_w^p for the person in E_w; each encoder is drawn
               to where its classifier knows nothing                                (Eq. 2 to 5)
Generation     L1, and a discriminator of 6 frames with their sound                 (Eq. 6 to 8)
Stages         0: E_p learns persons; 1: the joint space; 2: everything at once. A stage ends with
               an evaluation.

Weights and forms are those of the released code (Hangz-nju-cuhk/Talking-Face-Generation-DAVS),
which made the public checkpoint; `contrastive='eq1'` and `weights.persons` are the paper's where
the code has something else or nothing.

Departures     Frames are drawn for every clip, not once per batch. k is drawn from the frames that
               there are, not from 29. Scales of fresh norms are 1, not N(1, 0.02).
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp

from tfg_jax import configuration, errors, light_random, losses
from tfg_jax.features import audio as audio_features
from tfg_jax.networks import davs as networks
from tfg_jax.systems import base, davs_losses, davs_players
from tfg_jax.systems.davs_losses import Made, Verdicts, drawn_clips, pick
from tfg_jax.systems.davs_players import Passes
from tfg_jax.systems.davs_speaker import HEADS, Speaker


class DAVS(Speaker):
  """See the module; `from_config` builds it."""

  @classmethod
  def from_config(cls, run: configuration.Run, *, axis_name: str | None = None) -> 'DAVS':
    """Builds networks and settings from `run.model`.

    Raises:
      ConfigError: for unknown keys or values that cannot be.
    """
    return cls(*davs_players.build(run, axis_name), axis_name)

  # ------------------------------------------------------------------------------------------------
  # State
  # ------------------------------------------------------------------------------------------------

  def init(self, key: jax.Array) -> base.State:
    """Fresh networks, one `Net` each; see `davs_players.learners`."""
    keys = jax.random.split(light_random.from_key(key), len(self.networks))
    examples = self._examples()
    nets = {}
    for (name, module), net_key in zip(self.networks.items(), keys, strict=True):
      arguments = examples[name]
      settings = {'train': False} if davs_players.has_modes(module) else {}
      variables = module.init(net_key, *arguments, **settings)
      nets[name] = base.Net.create(
        variables['params'], variables.get('batch_stats', {}), self._optimizer(name)
      )
    return base.State.create(key, nets, stage=davs_players.stage_at(0, self.settings))

  def _examples(self):
    """Inputs of every network that shape its parameters."""
    s, size = self.settings, self.settings.face_size
    face, video = jnp.zeros((1, size, size, 3)), jnp.zeros((1, 1, size, size, 3))
    mfcc = jnp.zeros((1, 1, *audio_features.MFCC_WINDOW))
    widths = self.networks
    embedding = widths['lip_encoder'].embedding if 'lip_encoder' in widths else 0
    words = jnp.zeros((1, s.word_frames, embedding))
    identity = None
    if 'identity_encoder' in widths:
      module = widths['identity_encoder']
      shapes = jax.eval_shape(
        lambda x: module.init_with_output(jax.random.key(0), x, train=False)[0], face
      )
      identity = networks.Identity(*(jnp.zeros(x.shape) for x in shapes))
    examples = {
      'lip_encoder': (video,),
      'mfcc_encoder': (mfcc,),
      'word_classifier': (words,),
      'lip_word_classifier': (words,),
      'domain_classifier': (words,),
      'person_probe': (words,),
      'sequence_discriminator': (
        jnp.zeros((1, s.drawn_frames, size, size, 3)),
        jnp.zeros((1, s.drawn_frames, *audio_features.MFCC_WINDOW)),
      ),
      'image_discriminator': (video, mfcc),
    }
    if identity is not None:
      kept = self._kept(
        jax.tree.map(lambda x: jnp.zeros((s.identity_frames, *x.shape[1:])), identity)
      )
      examples |= {
        'identity_encoder': (face,),
        'person_classifier': (identity.vector,),
        'identity_word_classifier': (kept,),
        'decoder': (identity.vector, identity.net2, words),
      }
    return examples

  @property
  def sources(self):
    """Folders of other runs by any name, and of converted networks by the name of a player."""
    return {name: folder for name, folder in self.settings.sources.items() if folder}

  def start(self, state: base.State, sources, batches) -> base.State:
    """Takes over every network of the sources that this run has too; the last source wins.

    Raises:
      CheckpointError: if a source has none of them, or one of another size.
    """
    del batches
    for called, source in sources.items():
      held = _players(called, source)
      shared = sorted(set(held.nets) & set(state.nets))
      if not shared:
        raise errors.CheckpointError(
          f'it holds {", ".join(held.nets)} and nothing that this run has.',
          where=source.where,
          hint=f'this run has {", ".join(state.nets)}.',
        )
      for name in shared:
        net = state.nets[name]
        taken = held.replace({'params': net.params, 'batch_stats': net.stats}, name)
        fresh = base.Net.create(taken['params'], taken['batch_stats'], self._optimizer(name))
        state = state.replace(nets=state.nets | {name: fresh})
    return state

  def on_evaluation(self, state: base.State, results: dict[str, float]) -> base.State:
    """Begins the next stage where this one has had its steps."""
    del results
    return state.replace(stage=davs_players.stage_at(int(state.step), self.settings))

  def finished(self, state: base.State) -> bool:
    del state
    return False

  # ------------------------------------------------------------------------------------------------
  # Training
  # ------------------------------------------------------------------------------------------------

  def train_step(self, state: base.State, batch: base.Batch) -> tuple[base.State, base.Metrics]:
    """One step of the state's stage; every network is updated by its own losses only."""
    inputs = self._inputs(batch)
    return (self._identity_step, self._word_step, self._joint_step)[state.stage](state, inputs)

  def _identity_step(self, state, inputs):
    """E_p and its classifier learn to name the person of a face."""
    passes = Passes(self.networks, state, state.step_key(self.axis_name))
    params = passes.params('identity_encoder', 'person_classifier')

    def loss(params):
      stats = passes.stats
      who, stats = passes.train(params, stats, 'identity_encoder', inputs.portrait)
      logits, stats = passes.train(params, stats, 'person_classifier', who.vector)
      return losses.cross_entropy(logits, inputs.person), stats

    (total, stats), grads = jax.value_and_grad(loss, has_aux=True)(params)
    return self._updated(state, grads, stats, {'g/persons': total})

  def _word_step(self, state, inputs):
    """The joint space: first the classifier of the sense learns, then those who defeat it."""
    passes = Passes(self.networks, state, state.step_key(self.axis_name))
    players = passes.params(*davs_players.embedders(self.settings))

    def embed(params):
      return self._embed(passes, params, passes.stats, inputs)

    embedded, pullback, stats = jax.vjp(embed, players, has_aux=True)
    metrics, opposed = {}, 'domain_classifier' in self.networks
    if opposed:

      def opponent_loss(params):
        verdicts = self._domain(passes, params, *embedded[:2])
        terms = davs_losses.opponents(self.settings, verdicts, Verdicts(), inputs, ())
        return terms['domain'], terms

      grads, terms = jax.grad(opponent_loss, has_aux=True)(passes.params('domain_classifier'))
      metrics |= {f'd/{name}': value for name, value in terms.items()}
      state, norms = self._updated(state, grads, {}, {})
      metrics |= norms

    def loss(embedded):
      terms = davs_losses.embedding(self.settings, *embedded, inputs.word, both=True)
      if opposed:
        params = {'domain_classifier': state.nets['domain_classifier'].params}
        verdicts = self._domain(passes, params, *embedded[:2])
        terms |= davs_losses.defeats(self.settings, verdicts)
      weight = self.settings.weights.word_stage_domain
      return davs_losses.total(self.settings, terms, domain=weight), terms

    (total, terms), cotangents = jax.value_and_grad(loss, has_aux=True)(embedded)
    (grads,) = pullback(cotangents)
    metrics |= {'g/total': total, **{f'g/{name}': value for name, value in terms.items()}}
    return self._updated(state, grads, stats, metrics)

  def _joint_step(self, state, inputs):
    """Everything: one pass of the generating side, the opponents learn, then it defeats them."""
    passes = Passes(self.networks, state, state.step_key(self.axis_name))
    embedders = davs_players.embedders(self.settings)
    generators = passes.params('identity_encoder', 'decoder', *embedders)
    make = functools.partial(self._make, passes, stats=passes.stats, inputs=inputs)
    made, pullback, stats = jax.vjp(make, generators, has_aux=True)

    opponents = davs_players.opponents(self.settings)
    softening = jax.random.uniform(
      jax.random.fold_in(passes.key, 1), (8,), maxval=self.settings.softening
    )
    drawn = drawn_clips(self.settings, inputs)
    real, sound = drawn.real(), drawn.sound()

    def opponents_loss(params):
      stopped = jax.lax.stop_gradient(made)
      said, d_stats = self._judge(passes, params, stats, stopped, sound)
      truth, d_stats = self._judge_pictures(passes, params, d_stats, real, real, sound)
      terms = davs_losses.opponents(self.settings, said, truth, inputs, softening)
      return sum(terms.values(), jnp.zeros(())), (terms, d_stats)

    d_grads, (d_terms, stats) = jax.grad(opponents_loss, has_aux=True)(passes.params(*opponents))
    metrics = {f'd/{name}': value for name, value in d_terms.items()}
    state, norms = self._updated(state, d_grads, {}, {})
    metrics |= norms
    defeated = {name: state.nets[name].params for name in opponents}

    def generators_loss(made):
      said, g_stats = self._judge(passes, defeated, stats, made, sound)
      terms = davs_losses.generators(self.settings, made, said, inputs)
      weight = self.settings.weights.domain
      return davs_losses.total(self.settings, terms, domain=weight), (terms, g_stats)

    (total, (terms, stats)), cotangents = jax.value_and_grad(generators_loss, has_aux=True)(made)
    (grads,) = pullback(cotangents)
    metrics |= {'g/total': total, **{f'g/{name}': value for name, value in terms.items()}}
    return self._updated(state, grads, stats, metrics)

  def _updated(self, state, grads, stats, metrics):
    """A step of every network that has gradients; new statistics for those that have any."""
    grads, metrics = base.mean_over_devices((grads, metrics), self.axis_name)
    nets = {name: net.replace(stats=stats.get(name, net.stats)) for name, net in state.nets.items()}
    for name, gradient in grads.items():
      nets[name] = nets[name].update(gradient, self._optimizer(name))
      metrics[f'{name}/grad_norm'] = base.global_norm(gradient)
    return state.replace(nets=nets), metrics

  def _embed(self, passes, params, stats, inputs):
    """((seen, heard, seen_words, heard_words), new statistics) of the twelve moments."""
    heard, stats = passes.train(params, stats, 'mfcc_encoder', inputs.heard)
    seen, stats = passes.train(params, stats, 'lip_encoder', inputs.seen)
    seen_words = passes.classify(params, self._lip_classifier, seen)
    heard_words = passes.classify(params, 'word_classifier', heard)
    return (seen, heard, seen_words, heard_words), stats

  def _make(self, passes, params, stats, inputs) -> tuple[Made, dict]:
    portrait = drawn_clips(self.settings, inputs.portrait)
    who, stats = passes.train(params, stats, 'identity_encoder', portrait)
    identity = ()
    if self.settings.weights.identity_words:
      faces = inputs.kept.reshape(-1, *inputs.kept.shape[2:])
      maps, stats = passes.train(params, stats, 'identity_encoder', faces)
      identity = self._kept(maps)
    (seen, heard, seen_words, heard_words), stats = self._embed(passes, params, stats, inputs)
    moments = drawn_clips(self.settings, [pick(x, inputs.drawn) for x in (heard, seen)])
    moments = jnp.concatenate(moments, axis=1)
    drawn, stats = passes.train(params, stats, 'decoder', who.vector, who.net2, moments)
    from_audio, from_video = jnp.split(drawn, 2, axis=1)
    return Made(identity, heard, seen, heard_words, seen_words, from_audio, from_video), stats

  def _kept(self, identity: networks.Identity):
    """What C_p^w reads of consecutive frames, (B, 20, ...)."""
    source = identity.net1 if self.settings.identity_source == 'net1' else identity.vector
    return source.reshape(-1, self.settings.identity_frames, *source.shape[1:])

  def _domain(self, passes, params, seen, heard):
    return Verdicts(
      domain_heard=passes.classify(params, 'domain_classifier', heard),
      domain_seen=passes.classify(params, 'domain_classifier', seen),
    )

  def _judge(self, passes, params, stats, made, sound) -> tuple[Verdicts, dict]:
    """What all opponents say of what was made, and their new statistics."""
    said, stats = self._judge_pictures(
      passes, params, stats, made.from_audio, made.from_video, sound
    )
    if 'domain_classifier' in params:
      domain = self._domain(passes, params, made.seen, made.heard)
      said = said._replace(domain_heard=domain.domain_heard, domain_seen=domain.domain_seen)
    if 'identity_word_classifier' in params:
      said = said._replace(
        identity_words=passes.classify(params, 'identity_word_classifier', made.identity)
      )
    if 'person_probe' in params:
      said = said._replace(
        heard_persons=passes.classify(params, 'person_probe', made.heard),
        seen_persons=passes.classify(params, 'person_probe', made.seen),
      )
    return said, stats

  def _judge_pictures(self, passes, params, stats, one, other, sound) -> tuple[Verdicts, dict]:
    """Verdicts of the discriminators on two lots of (N, 6, S, S, 3), clip by clip of either."""
    frames, sounds = _side_by_side(one, other), _side_by_side(sound, sound)
    said = {}
    if 'sequence_discriminator' in params:
      said['sequence'], stats = passes.train(
        params, stats, 'sequence_discriminator', frames, sounds
      )
    if 'image_discriminator' in params:
      frames, sounds = (x.reshape(-1, 1, *x.shape[2:]) for x in (frames, sounds))
      said['images'], stats = passes.train(params, stats, 'image_discriminator', frames, sounds)
    return Verdicts(**said), stats


def _side_by_side(one, other):
  """Twice (N, ...) to (2N, ...), in pairs, so that devices keep their own rows."""
  return jnp.stack([one, other], axis=1).reshape(-1, *one.shape[1:])


def _players(called, source):
  """The networks of a source by player; the public classifiers are several heads in one."""
  if source.public != 'davs_classifiers':
    return source.called(called)
  (variables,) = source.nets.values()
  # The other heads of the manifest are not in the released checkpoint.
  heads = ('words', 'domain', 'identity_words')
  nets = {HEADS[head]: {'params': variables['params'][head], 'batch_stats': {}} for head in heads}
  return dataclasses.replace(source, nets=nets)
