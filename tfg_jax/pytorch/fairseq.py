"""What a fairseq checkpoint holds besides tensors: dictionary, tokenizer, config.

Everything comes from inert records (`pickles.Record`); neither fairseq nor sentencepiece is needed.
Source: the layout of `checkpoint_utils.py` in facebookresearch/fairseq@afc77bd and of TalkLip's
`task_state.pt`.
"""

import dataclasses
import math
from typing import Any

from tfg_jax.pytorch.pickles import Record

_MAX_DEPTH = 12
_MAX_VALUES = 10_000
_MAX_CHARACTERS = 10_000
_SECTIONS = ('model', 'criterion')  # of the config: what rebuilding the network and its loss needs


@dataclasses.dataclass(frozen=True)
class Extras:
  """Attributes are empty where the file has none.

  symbols: the target dictionary in the order of token ids, '<s>', '<pad>', '</s>', '<unk>' first.
  tokenizer: the serialised sentencepiece model.
  config: plain values of the sections 'model' and 'criterion'.
  """

  symbols: list[str]
  tokenizer: bytes
  config: dict[str, Any]


def extras(tree) -> Extras:
  """Collects the extras of a whole checkpoint, or of a `task_state.pt` alone."""
  if not isinstance(tree, dict):
    return Extras([], b'', {})
  task = tree.get('task_state', tree)
  task = task if isinstance(task, dict) else {}
  symbols = _attribute(task.get('target_dictionary'), 'symbols')
  processor = _attribute(task.get('s2s_tokenizer'), 'sp')
  model = processor.state if isinstance(processor, Record) else None
  budget = iter(range(_MAX_VALUES))
  config = _plain(tree.get('cfg'), budget)
  sections = config if isinstance(config, dict) else {}
  return Extras(
    symbols if _is_list_of_text(symbols) else [],
    model if isinstance(model, bytes) else b'',
    {name: sections[name] for name in _SECTIONS if sections.get(name) is not None},
  )


def _attribute(record, name):
  state = record.state if isinstance(record, Record) else None
  return state.get(name) if isinstance(state, dict) else None


def _is_list_of_text(value):
  return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _plain(value, budget, depth=0):
  """Returns JSON values of nested dicts, lists, Namespaces and OmegaConf nodes; None for the rest.

  `budget` runs out for configs that are too large or contain themselves.
  """
  if next(budget, None) is None or depth > _MAX_DEPTH:
    return None
  if isinstance(value, Record):
    state = value.state if isinstance(value.state, dict) else {}
    if value.name == 'argparse.Namespace':
      return _plain(state, budget, depth)
    if value.name.startswith('omegaconf.'):
      # Containers keep `_content`, leaves `_val`.
      return _plain(state.get('_content', state.get('_val')), budget, depth)
    return None
  if isinstance(value, dict):
    return {
      key: _plain(item, budget, depth + 1)
      for key, item in value.items()
      if isinstance(key, str) and len(key) <= _MAX_CHARACTERS
    }
  if isinstance(value, list | tuple):
    return [_plain(item, budget, depth + 1) for item in value]
  if isinstance(value, str):
    return value if len(value) <= _MAX_CHARACTERS else None
  if isinstance(value, float):
    return value if math.isfinite(value) else None
  return value if isinstance(value, bool | int) else None
