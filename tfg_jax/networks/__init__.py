"""Flax modules by family: no losses, no files, no downloads.

`OFFICIAL` builds each public network at its published size; `EXAMPLES` names the inputs that shape
it.
"""

import jax

from tfg_jax.networks.avhubert import LARGE, AVHubertEncoder
from tfg_jax.networks.avhubert_seq2seq import LARGE_DECODER, AVHubertSeq2Seq, Decoder
from tfg_jax.networks.conformer import ConformerLipReader
from tfg_jax.networks.discriminator import QualityDiscriminator
from tfg_jax.networks.mel_encoder import MelEncoder
from tfg_jax.networks.mvm import MVM
from tfg_jax.networks.syncnet import ColorSyncNet, SyncNetV2
from tfg_jax.networks.talklip import ContrastiveHead, TalkLip
from tfg_jax.networks.wav2lip import Wav2Lip

# Name of the public network -> its full-size module.
OFFICIAL = {
  'avhubert_base_encoder': lambda: AVHubertEncoder(prediction_head=True),
  'avhubert_base_seq2seq': lambda: AVHubertSeq2Seq(AVHubertEncoder(), Decoder()),
  'avhubert_large_encoder': lambda: AVHubertEncoder(**LARGE, prediction_head=True),
  'avhubert_large_seq2seq': lambda: AVHubertSeq2Seq(
    AVHubertEncoder(**LARGE), Decoder(**LARGE_DECODER)
  ),
  'color_syncnet': ColorSyncNet,
  'conformer_observer': ConformerLipReader,
  'mvm_lrw': MVM,
  'syncnet_v2': SyncNetV2,
  'talklip_discriminator': QualityDiscriminator,
  'talklip_generator': lambda: TalkLip(AVHubertEncoder()),
  'talklip_local_audio_encoder': MelEncoder,
  'talklip_sync': ContrastiveHead,
  'wav2lip_generator': Wav2Lip,
  'wav2lip_quality_discriminator': QualityDiscriminator,
}


def _array(*shape, dtype='float32'):
  return jax.ShapeDtypeStruct(shape, dtype)


_SPEECH = dict(audio=_array(1, 4, 104), train=False)
_SPELLED = dict(tokens=_array(1, 3, dtype='int32'), **_SPEECH)
_FACE_PAIR = _array(1, 96, 96, 6)
_MEL = _array(1, 80, 16, 1)

# Keyword arguments of `init` for each of them: array shapes, and whatever else the call needs.
EXAMPLES = {
  'avhubert_base_encoder': _SPEECH,
  'avhubert_base_seq2seq': _SPELLED,
  'avhubert_large_encoder': _SPEECH,
  'avhubert_large_seq2seq': _SPELLED,
  'color_syncnet': dict(face=_array(1, 48, 96, 15), mel=_MEL, train=False),
  'conformer_observer': dict(
    video=_array(1, 2, 112, 112, 1),
    lengths=_array(1, dtype='int32'),
    required=_array(1, dtype='int32'),
    tokens=_array(1, 2, dtype='int32'),
    frames=3,
    train=False,
  ),
  'mvm_lrw': dict(video=_array(1, 2, 112, 112, 1), train=False),
  'syncnet_v2': dict(frames=_array(1, 5, 224, 224, 3), mfcc=_array(1, 13, 20, 1), train=False),
  'talklip_discriminator': dict(face=_array(1, 96, 96, 3)),
  'talklip_generator': dict(
    face=_FACE_PAIR,
    audio=_array(1, 4, 104),
    padding_mask=_array(1, 4, dtype='bool'),
    rows=_array(1, dtype='int32'),
    train=False,
  ),
  'talklip_local_audio_encoder': dict(mel=_MEL, train=False),
  'talklip_sync': dict(audio=_array(1, 768)),
  'wav2lip_generator': dict(face=_FACE_PAIR, mel=_MEL, train=False),
  'wav2lip_quality_discriminator': dict(face=_array(1, 96, 96, 3)),
}


def official_shapes(network):
  """Returns the variables of an official network as shapes and dtypes; computes nothing."""
  module, inputs = OFFICIAL[network](), EXAMPLES[network]
  arrays = {name: x for name, x in inputs.items() if isinstance(x, jax.ShapeDtypeStruct)}
  settings = {name: x for name, x in inputs.items() if name not in arrays}
  variables = jax.eval_shape(lambda x: module.init(jax.random.key(0), **x, **settings), arrays)
  return {name: tree for name, tree in variables.items() if name in ('params', 'batch_stats')}
