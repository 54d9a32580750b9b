"""The corpora as TFDS datasets, for those who work with `tfds.load`.

    import data_prep.tfds_builders  # registers tfg_grid, tfg_lrs2, ...
    data = tfds.load('tfg_grid', download_and_prepare_kwargs=dict(
        download_config=tfds.download.DownloadConfig(manual_dir=RAW)))

or `tfds build tfg_grid --imports=data_prep.tfds_builders --manual_dir=RAW`. Clips are listed and
made by the same code as those of `data_prep.prepare`, in one process; what is dropped is logged
with its reason and counted in the info's metadata.
"""

import dataclasses
import io
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from absl import logging

from data_prep import clip_maker, corpora
from data_prep.listing import Drop
from tfg_jax.errors import DataError, MediaError

_NUMBERS = {  # extra -> shape and type
  'identity': ((1,), np.int64),
  'word_label': ((1,), np.int64),
  'word_times': ((None,), np.float32),
  'utterances': ((None,), np.int64),
}
_TEXTS = ('clip_id', 'speaker', 'text', 'word', 'emotion')


@dataclasses.dataclass
class CorpusConfig(tfds.core.BuilderConfig):
  """Settings of a corpus other than its own; give each a name.

  Attributes:
    licence: of data that have none of their own.
    framing: field of `listing.Framing` -> value.
    settings: of the adapter's `list_clips`, e.g. {'speech': DIR} for hq_voxceleb.
  """

  name: str = 'default'
  licence: str = 'as of the files'
  framing: dict[str, Any] = dataclasses.field(default_factory=dict)
  settings: dict[str, Any] = dataclasses.field(default_factory=dict)


class Corpus(tfds.core.GeneratorBasedBuilder, skip_registration=True):
  """Any corpus; a subclass names its own."""

  VERSION = tfds.core.Version('1.0.0')
  BUILDER_CONFIGS = [CorpusConfig()]
  MANUAL_DOWNLOAD_INSTRUCTIONS = 'See data_prep/corpora; manual_dir is INPUT there.'
  corpus = ''
  extras: tuple[str, ...] = ()  # of its records

  def _info(self):
    framing = self._framing()
    picture = tfds.features.Image(
      shape=(framing.size, framing.size, 3),
      encoding_format='png' if self.corpus == 'hq_voxceleb' else 'jpeg',
    )
    features = {
      **{name: tfds.features.Text() for name in _TEXTS},
      'frames': tfds.features.Sequence(picture),
      'fps': np.float32,
      'boxes': tfds.features.Tensor(shape=(None, 4), dtype=np.int64),
      'wav': tfds.features.Tensor(shape=(None,), dtype=np.int16),
      'sample_rate': np.int64,
    }
    for name in self.extras:
      if name in _NUMBERS:
        shape, dtype = _NUMBERS[name]
        features[name] = tfds.features.Tensor(shape=shape, dtype=dtype)
    if 'level' in self.extras:
      features['level'] = tfds.features.Text()
    if 'portrait' in self.extras:
      features['portrait'] = tfds.features.Sequence(picture)
    module = corpora.adapter(self.corpus)
    return self.dataset_info_from_configs(
      description=module.__doc__,
      license=module.LICENCE or self.builder_config.licence,
      features=tfds.features.FeaturesDict(features),
      metadata=tfds.core.MetadataDict(),
    )

  def _framing(self):
    framing = corpora.adapter(self.corpus).FRAMING
    return dataclasses.replace(framing, **self.builder_config.framing)

  def _split_generators(self, dl_manager):
    from data_prep.prepare import make_job

    config = self.builder_config
    own = corpora.adapter(self.corpus).LICENCE
    job = make_job(
      self.corpus,
      str(dl_manager.manual_dir),
      licence='' if own else config.licence,
      framing=config.framing,
      settings=config.settings,
    )
    for drop in job.listing.drops:
      self._count(drop)
    splits = {}
    for raw in job.listing.clips:
      splits.setdefault(raw.split, []).append(raw)
    return {split: self._generate_examples(raws) for split, raws in splits.items()}

  def _generate_examples(self, raws):
    for raw in raws:
      try:
        clip = clip_maker.make_clip(raw, self._framing()).clip
      except (DataError, MediaError) as error:
        self._count(Drop(raw.clip_id, raw.split, error.what, error.where))
        continue
      yield raw.clip_id, self._example(clip)

  def _count(self, drop):
    logging.warning('%s is dropped: %s (%s)', drop.clip_id, drop.message, drop.where)
    dropped = self.info.metadata.setdefault('dropped', {})
    dropped[drop.reason] = dropped.get(drop.reason, 0) + 1

  def _example(self, clip):
    example = {name: getattr(clip, name) for name in (*_TEXTS, 'fps', 'boxes', 'wav')}
    example['sample_rate'] = clip.sample_rate
    example['frames'] = [io.BytesIO(file) for file in clip.frames]
    for name in self.extras:
      value = clip.extras.get(name, np.zeros(0))
      if name == 'portrait':
        example[name] = [io.BytesIO(file) for file in value]
      elif name == 'level':
        example[name] = value[0].decode()
      else:
        example[name] = np.asarray(value, _NUMBERS[name][1])
    return example


class TfgCremaD(Corpus):
  """`tfg_crema_d`, see `data_prep/corpora/crema_d.py`."""

  corpus = 'crema_d'
  extras = ('identity', 'level')


class TfgFolder(Corpus):
  """`tfg_folder`, see `data_prep/corpora/folder.py`."""

  corpus = 'folder'


class TfgGrid(Corpus):
  """`tfg_grid`, see `data_prep/corpora/grid.py`."""

  corpus = 'grid'
  extras = ('word_times',)


class TfgHqVoxceleb(Corpus):
  """`tfg_hq_voxceleb`, see `data_prep/corpora/hq_voxceleb.py`."""

  corpus = 'hq_voxceleb'
  extras = ('identity', 'portrait', 'utterances')


class TfgLrs2(Corpus):
  """`tfg_lrs2`, see `data_prep/corpora/lrs2.py`."""

  corpus = 'lrs2'


class TfgLrs3(Corpus):
  """`tfg_lrs3`, see `data_prep/corpora/lrs3.py`."""

  corpus = 'lrs3'


class TfgLrw(Corpus):
  """`tfg_lrw`, see `data_prep/corpora/lrw.py`."""

  corpus = 'lrw'
  extras = ('word_label',)


class TfgNamedFaces(Corpus):
  """`tfg_named_faces`, see `data_prep/corpora/named_faces.py`."""

  corpus = 'named_faces'
  extras = ('identity',)


class TfgVoxceleb2(Corpus):
  """`tfg_voxceleb2`, see `data_prep/corpora/voxceleb2.py`."""

  corpus = 'voxceleb2'
  extras = ('identity',)
