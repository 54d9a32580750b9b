"""Attention shared by the transformers: PyTorch's four projections, masks as additive biases."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.nn.initializers import Initializer

from tfg_jax.networks.layers import Dense

# Far below any score, yet finite: a row without a single valid key gives an average, not NaN.
_MASKED = -1e30


def padding_bias(padding_mask):
  """Turns a padding mask (B, S), True = padding, into the bias (B, 1, 1, S) of its keys."""
  return jnp.where(padding_mask, _MASKED, 0.0)[:, None, None, :]


def causal_bias(length: int):
  """Returns the bias (1, 1, L, L) that hides from every position what comes after it."""
  return jnp.where(jnp.tri(length, dtype=bool), 0.0, _MASKED)[None, None]


def attention_weights(scores, bias):
  """Softmax over the keys, in float32: scores (B, H, L, S), bias broadcastable to it or None."""
  scores = scores.astype(jnp.float32)
  return jax.nn.softmax(scores if bias is None else scores + bias)


class MultiHeadAttention(nn.Module):
  """Scaled dot-product attention with `heads` heads; every projection has a bias.

  The keys of one attention may be computed once (`project_keys`) and attended to many times
  (`attend`), as incremental decoding does.
  """

  features: int
  heads: int
  dropout: float = 0.0
  kernel_init: Initializer | None = None  # of queries, keys and values
  out_init: Initializer | None = None
  bias_init: Initializer | None = None
  dtype: Any = jnp.float32

  def setup(self):
    def dense(kernel_init):
      return Dense(
        self.features, kernel_init=kernel_init, bias_init=self.bias_init, dtype=self.dtype
      )

    self.q_proj = dense(self.kernel_init)
    self.k_proj = dense(self.kernel_init)
    self.v_proj = dense(self.kernel_init)
    self.out_proj = dense(self.out_init)
    self.drop = nn.Dropout(self.dropout)

  def _split(self, x):
    return x.reshape(*x.shape[:-1], self.heads, self.features // self.heads)

  def project_keys(self, memory):
    """Returns keys and values (..., heads, D / heads) of a memory (..., D)."""
    return self._split(self.k_proj(memory)), self._split(self.v_proj(memory))

  def project_queries(self, x):
    """Returns queries (..., heads, D / heads) of x (..., D), already scaled."""
    return self._split(self.q_proj(x)) * (self.features // self.heads) ** -0.5

  def attend(self, x, keys, values, bias, *, train: bool):
    """Returns what x (B, L, D) reads from keys and values (B, S, heads, D / heads): (B, L, D)."""
    queries = self.project_queries(x)
    weights = attention_weights(jnp.einsum('blhd,bshd->bhls', queries, keys), bias)
    self.sow('intermediates', 'weights', weights)
    weights = self.drop(weights.astype(self.dtype), deterministic=not train)
    return self.merge(jnp.einsum('bhls,bshd->blhd', weights, values))

  def merge(self, heads):
    """Projects what all heads (..., heads, D / heads) read together: (..., D)."""
    return self.out_proj(heads.reshape(*heads.shape[:-2], self.features))

  def __call__(self, x, memory, bias=None, *, train: bool):
    """Attends from x (B, L, D) to memory (B, S, D); bias is broadcastable to (B, heads, L, S)."""
    keys, values = self.project_keys(memory)
    return self.attend(x, keys, values, bias, train=train)
