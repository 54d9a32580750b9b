"""AV-HuBERT with a decoder that spells what is said: the lip-reading expert and observer.

Ported from facebookresearch/av_hubert `avhubert/hubert_asr.py` (AVHubertSeq2Seq) and `decoder.py`.
Field defaults are the base model; `LARGE_DECODER` holds the fields in which the large one differs.
"""

import math
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from tfg_jax.networks.attention import (
  MultiHeadAttention,
  attention_weights,
  causal_bias,
  padding_bias,
)
from tfg_jax.networks.avhubert import AVHubertEncoder
from tfg_jax.networks.beam_search import Hypotheses, beam_search
from tfg_jax.networks.layers import Dense, LayerNorm

LARGE_DECODER = dict(width=1024, depth=9, mlp_width=4096, heads=8)

PAD, EOS = 1, 2  # token ids; EOS also starts a sentence
MAX_TOKENS = 2047  # longest output of the official decoder, before its EOS


def token_positions(tokens):
  """Positions (B, L) of tokens: 2, 3, ... over those that are not `PAD`, and 1 for `PAD`."""
  real = tokens != PAD
  return jnp.where(real, jnp.cumsum(real, axis=1) + PAD, PAD)


def sinusoids(positions, width: int):
  """Returns fairseq's position vectors (..., width): sines, then cosines; zeros at `PAD`."""
  half = width // 2
  frequencies = jnp.exp(jnp.arange(half) * -(math.log(10_000) / (half - 1)))
  angles = positions[..., None] * frequencies
  table = jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)
  return jnp.where(positions[..., None] == PAD, 0.0, table)


class DecoderLayer(nn.Module):
  """Pre-norm layer: causal self-attention, attention to the encoder, ReLU mlp."""

  features: int
  mlp_width: int
  heads: int
  dropout: float = 0.1
  attention_dropout: float = 0.0
  activation_dropout: float = 0.1
  dtype: Any = jnp.float32

  def setup(self):
    def attention():
      return MultiHeadAttention(
        self.features,
        self.heads,
        self.attention_dropout,
        kernel_init=nn.initializers.variance_scaling(0.5, 'fan_avg', 'uniform'),
        out_init=nn.initializers.xavier_uniform(),
        bias_init=nn.initializers.zeros,
        dtype=self.dtype,
      )

    self.self_attn_layer_norm = LayerNorm(dtype=self.dtype)
    self.self_attn = attention()
    self.encoder_attn_layer_norm = LayerNorm(dtype=self.dtype)
    self.encoder_attn = attention()
    self.final_layer_norm = LayerNorm(dtype=self.dtype)
    self.fc1 = Dense(self.mlp_width, dtype=self.dtype)
    self.fc2 = Dense(self.features, dtype=self.dtype)
    self.drop = nn.Dropout(self.dropout)
    self.activation_drop = nn.Dropout(self.activation_dropout)

  def _mlp(self, x, *, train: bool):
    y = nn.relu(self.fc1(self.final_layer_norm(x)))
    y = self.fc2(self.activation_drop(y, deterministic=not train))
    return x + self.drop(y, deterministic=not train)

  def __call__(self, x, bias, keys, values, memory_bias, *, train: bool):
    """Decodes whole sequences x (B, L, D) against the memory's keys and values."""
    y = self.self_attn_layer_norm(x)
    x = x + self.drop(self.self_attn(y, y, bias, train=train), deterministic=not train)
    y = self.encoder_attn_layer_norm(x)
    y = self.encoder_attn.attend(y, keys, values, memory_bias, train=train)
    return self._mlp(x + self.drop(y, deterministic=not train), train=train)

  def step(self, x, cache, step, memory):
    """Decodes one position x (B, K, D) of K beams; returns it and the extended cache.

    cache holds `keys` and `values` (B, K, L, heads, D / heads); positions from `step` on are
    unused.
    """
    y = self.self_attn_layer_norm(x)
    key, value = self.self_attn.project_keys(y)
    keys = cache['keys'].at[:, :, step].set(key)
    values = cache['values'].at[:, :, step].set(value)
    scores = jnp.einsum('bkhd,bklhd->bhkl', self.self_attn.project_queries(y), keys)
    bias = jnp.where(jnp.arange(keys.shape[2]) <= step, 0.0, -jnp.inf)
    weights = attention_weights(scores, bias).astype(self.dtype)
    x = x + self.self_attn.merge(jnp.einsum('bhkl,bklhd->bkhd', weights, values))
    # All beams read the same memory: they are its queries, as the positions are in `__call__`.
    y = self.encoder_attn_layer_norm(x)
    x = x + self.encoder_attn.attend(y, *memory, train=False)
    return self._mlp(x, train=False), {'keys': keys, 'values': values}


class Decoder(nn.Module):
  """Transformer decoder whose output projection is its token embedding.

  `__call__` decodes given tokens at once (teacher forcing); `start` and `step` decode one token
  after the other from a cache, for K beams per sentence, to the same logits.
  """

  width: int = 768
  depth: int = 6
  mlp_width: int = 3072
  heads: int = 4
  vocabulary: int = 1000
  dropout: float = 0.1
  attention_dropout: float = 0.0
  activation_dropout: float = 0.1
  dtype: Any = jnp.float32

  def setup(self):
    self.embed_tokens = nn.Embed(
      self.vocabulary,
      self.width,
      embedding_init=nn.initializers.normal(self.width**-0.5),
      dtype=self.dtype,
    )
    self.drop = nn.Dropout(self.dropout)
    self.layers = [
      DecoderLayer(
        self.width,
        self.mlp_width,
        self.heads,
        self.dropout,
        self.attention_dropout,
        self.activation_dropout,
        dtype=self.dtype,
      )
      for _ in range(self.depth)
    ]
    self.layer_norm = LayerNorm(dtype=self.dtype)
    # A marker of dtype and device in the official state_dict; it takes part in nothing.
    self.position_marker = self.param('position_marker', nn.initializers.zeros, (1,))

  def _embed(self, tokens, positions):
    return self.embed_tokens(tokens) + sinusoids(positions, self.width).astype(self.dtype)

  def _logits(self, x):
    return self.embed_tokens.attend(self.layer_norm(x)).astype(jnp.float32)

  def __call__(self, tokens, memory, padding_mask=None, *, train: bool):
    """Predicts each next token.

    Args:
      tokens: (B, L) int, `EOS` and then the sentence, `PAD` at the end.
      memory: (B, T, width) encoder output.
      padding_mask: (B, T) bool, True where the memory is padding, or None.
      train: dropout (rng `dropout`).

    Returns:
      (B, L, vocabulary) float32 logits.
    """
    x = self._embed(tokens, token_positions(tokens))
    self.sow('intermediates', 'embedded', x)
    x = self.drop(x, deterministic=not train)
    bias = causal_bias(tokens.shape[1])
    memory_bias = None if padding_mask is None else padding_bias(padding_mask)
    for i, layer in enumerate(self.layers):
      keys, values = layer.encoder_attn.project_keys(memory)
      x = layer(x, bias, keys, values, memory_bias, train=train)
      self.sow('intermediates', f'layer_{i}', x)
    return self._logits(x)

  def start(self, memory, padding_mask, *, beam: int, length: int):
    """Prepares incremental decoding: returns (cache, memory) for `step`.

    cache: tree of (B, beam, length, heads, width / heads) zeros, which beam search reorders.
    memory: keys, values and bias of the encoder output, per layer; the same for all beams.
    """
    bias = None if padding_mask is None else padding_bias(padding_mask)
    projected = [(*layer.encoder_attn.project_keys(memory), bias) for layer in self.layers]
    shape = (len(memory), beam, length, self.heads, self.width // self.heads)
    empty = {'keys': jnp.zeros(shape, self.dtype), 'values': jnp.zeros(shape, self.dtype)}
    return [empty] * self.depth, projected

  def step(self, tokens, step, cache, memory):
    """Returns logits (B, K, vocabulary) after tokens (B, K) at `step` 0, 1, ..., and the cache."""
    x = self._embed(tokens, step + PAD + 1)
    updated = []
    for layer, layer_cache, layer_memory in zip(self.layers, cache, memory, strict=True):
      x, layer_cache = layer.step(x, layer_cache, step, layer_memory)
      updated.append(layer_cache)
    return self._logits(x), updated


class AVHubertSeq2Seq(nn.Module):
  """Encoder and decoder of a fine-tuned AV-HuBERT; their widths are equal."""

  encoder: AVHubertEncoder
  decoder: Decoder

  def __call__(self, tokens, audio=None, video=None, padding_mask=None, *, train: bool):
    """Reads lips, speech or both under teacher forcing.

    Args:
      tokens: (B, L) int, `EOS` and then the sentence, `PAD` at the end.
      audio, video, padding_mask: see `AVHubertEncoder`.
      train: dropout and batch statistics.

    Returns:
      Logits (B, L, vocabulary) of each next token, and the encoder output (B, T, width).
    """
    memory = self.encoder(audio, video, padding_mask, train=train)
    return self.decoder(tokens, memory, padding_mask, train=train), memory

  def transcribe(self, audio=None, video=None, padding_mask=None, **search) -> Hypotheses:
    """Reads lips, speech or both freely: encodes, then calls `spell` with the keywords `search`.

    Takes what the encoder takes, (B, T, ...) each, and a mask (B, T), True where a clip has ended.
    Beam search needs the memory of B * beam decoder caches; jit with the keywords static.
    """
    memory = self.encoder(audio, video, padding_mask, train=False)
    return self.spell(memory, padding_mask, **search)

  def spell(
    self,
    memory,
    padding_mask=None,
    *,
    beam: int = 50,
    max_length: int | None = None,
    min_length: int = 1,
    length_penalty: float = 1.0,
  ) -> Hypotheses:
    """Finds the sentences that an encoder output spells, by beam search.

    Args:
      memory: (B, T, width) encoder output.
      padding_mask: (B, T) bool, True where the memory is padding, or None.
      beam: live hypotheses per sentence (official: 50).
      max_length: most tokens before `EOS`; by default the number of frames T, as in the official
        setting of one token per padded frame. (With audio, the official code takes 104, the width
        of the features.)
      min_length, length_penalty: see `beam_search`.
    """
    batch, frames = memory.shape[:2]
    max_length = min(frames if max_length is None else max_length, MAX_TOKENS)
    beam = min(beam, self.decoder.vocabulary - 1)
    cache, projected = self.decoder.start(memory, padding_mask, beam=beam, length=max_length + 1)
    decoder, variables = self.decoder.unbind()

    def step_fn(tokens, step, cache):
      return decoder.apply(variables, tokens, step, cache, projected, method='step')

    return beam_search(
      step_fn,
      cache,
      batch=batch,
      vocabulary=self.decoder.vocabulary,
      beam=beam,
      max_length=max_length,
      min_length=min_length,
      length_penalty=length_penalty,
      pad=PAD,
      eos=EOS,
    )
