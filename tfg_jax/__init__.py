"""Talking-face generation in JAX: TalkLip, DAVS, SF2F and Speech2Video on one training loop."""

__version__ = '0.1.0'
