"""Flax modules by family: no losses, no files, no downloads.

`OFFICIAL` builds each public network at its published size; `EXAMPLES` names the inputs that shape
it.
"""

import jax

from tfg_jax.networks import davs
from tfg_jax.networks.avhubert import LARGE, AVHubertEncoder
from tfg_jax.networks.avhubert_seq2seq import LARGE_DECODER, AVHubertSeq2Seq, Decoder
from tfg_jax.networks.conformer import ConformerLipReader
from tfg_jax.networks.cpc import CPC
from tfg_jax.networks.discriminator import QualityDiscriminator
from tfg_jax.networks.facenet import FaceNet
from tfg_jax.networks.mel_encoder import MelEncoder
from tfg_jax.networks.mvm import MVM
from tfg_jax.networks.resnet import SENET50, ResNet
from tfg_jax.networks.sf2f import (
  AttentionFuser,
  FaceDecoder,
  IdentityDiscriminator,
  ImageDiscriminator,
  VoiceEncoder,
  VoiceToFace,
)
from tfg_jax.networks.syncnet import ColorSyncNet, SyncNetV2
from tfg_jax.networks.talklip import ContrastiveHead, TalkLip
from tfg_jax.networks.vgg import VGGFace
from tfg_jax.networks.voice2face import JUDGE_PLAIN, DeconvolutionDecoder, PlainVoiceEncoder
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
  'cpc_audio': CPC,
  'davs_classifiers': davs.Classifiers,
  'davs_decoder': davs.Decoder,
  'davs_identity_encoder': davs.IdentityEncoder,
  'davs_image_discriminator': davs.Discriminator,
  'davs_lip_encoder': davs.LipEncoder,
  'davs_mfcc_encoder': davs.MfccEncoder,
  'davs_sequence_discriminator': davs.Discriminator,
  'mvm_lrw': MVM,
  'senet50_ferplus': lambda: ResNet(**SENET50),
  'sf2f_facenet': FaceNet,
  'sf2f_generator_128_multires': lambda: VoiceToFace(
    VoiceEncoder(), FaceDecoder(sizes=(64, 128)), AttentionFuser()
  ),
  'sf2f_generator_64': lambda: VoiceToFace(VoiceEncoder(), FaceDecoder()),
  'sf2f_generator_64_fuser': lambda: VoiceToFace(VoiceEncoder(), FaceDecoder(), AttentionFuser()),
  # The identities of the manifests; official files have as many as their training set.
  'sf2f_identity_discriminator': lambda: IdentityDiscriminator(10),
  'sf2f_image_discriminator': ImageDiscriminator,
  'syncnet_v2': SyncNetV2,
  'talklip_discriminator': QualityDiscriminator,
  'talklip_generator': lambda: TalkLip(AVHubertEncoder()),
  'talklip_local_audio_encoder': MelEncoder,
  'talklip_sync': ContrastiveHead,
  'vggface2_resnet50': ResNet,
  'vggface_vgg16': VGGFace,
  'voice2face_discriminator': lambda: IdentityDiscriminator(
    10, JUDGE_PLAIN, normalise=False, slope=0.2
  ),
  'voice2face_generator': lambda: VoiceToFace(
    PlainVoiceEncoder(), DeconvolutionDecoder(), noise=0.05
  ),
  'wav2lip_generator': Wav2Lip,
  'wav2lip_quality_discriminator': QualityDiscriminator,
}


def _array(*shape, dtype='float32'):
  return jax.ShapeDtypeStruct(shape, dtype)


_SPEECH = dict(audio=_array(1, 4, 104), train=False)
_SPELLED = dict(tokens=_array(1, 3, dtype='int32'), **_SPEECH)
_FACE_PAIR = _array(1, 96, 96, 6)
_MEL = _array(1, 80, 16, 1)
_VOICE = _array(1, 125, 40)
_VOICE_WINDOWS = _array(1, 2, 125, 40)
_PORTRAIT = _array(1, 64, 64, 3)

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
  'cpc_audio': dict(wave=_array(1, 1600)),
  'davs_classifiers': dict(
    words=_array(1, 12, 256),
    net1=_array(1, 20, 64, 64, 64),
    persons=_array(1, 20, 256),
    person=_array(1, 256),
    train=False,
  ),
  'davs_decoder': dict(
    identity=_array(1, 256), net2=_array(1, 32, 32, 160), words=_array(1, 1, 256), train=False
  ),
  'davs_identity_encoder': dict(face=_array(1, 256, 256, 3), train=False),
  'davs_image_discriminator': dict(
    frames=_array(1, 1, 256, 256, 3), mfcc=_array(1, 1, 20, 12), train=False
  ),
  'davs_lip_encoder': dict(video=_array(1, 1, 256, 256, 3), train=False),
  'davs_mfcc_encoder': dict(mfcc=_array(1, 1, 20, 12), train=False),
  'davs_sequence_discriminator': dict(
    frames=_array(1, 6, 256, 256, 3), mfcc=_array(1, 6, 20, 12), train=False
  ),
  'mvm_lrw': dict(video=_array(1, 2, 112, 112, 1), train=False),
  'senet50_ferplus': dict(image=_array(1, 224, 224, 3), train=False),
  'sf2f_facenet': dict(faces=_array(1, 47, 34, 3), train=False),
  'sf2f_generator_128_multires': dict(mel=_VOICE_WINDOWS, train=False),
  'sf2f_generator_64': dict(mel=_VOICE, train=False),
  'sf2f_generator_64_fuser': dict(mel=_VOICE_WINDOWS, train=False),
  'sf2f_identity_discriminator': dict(image=_PORTRAIT, train=False),
  'sf2f_image_discriminator': dict(image=_PORTRAIT, train=False),
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
  'vggface2_resnet50': dict(image=_array(1, 224, 224, 3), train=False),
  'vggface_vgg16': dict(image=_array(1, 224, 224, 3), train=False),
  'voice2face_discriminator': dict(image=_PORTRAIT, train=False),
  'voice2face_generator': dict(mel=_VOICE, train=False),
  'wav2lip_generator': dict(face=_FACE_PAIR, mel=_MEL, train=False),
  'wav2lip_quality_discriminator': dict(face=_array(1, 96, 96, 3)),
}


def official_shapes(network: str):
  """Returns the variables of an official network as shapes and dtypes; computes nothing."""
  module, inputs = OFFICIAL[network](), EXAMPLES[network]
  arrays = {name: x for name, x in inputs.items() if isinstance(x, jax.ShapeDtypeStruct)}
  settings = {name: x for name, x in inputs.items() if name not in arrays}
  variables = jax.eval_shape(lambda x: module.init(jax.random.key(0), **x, **settings), arrays)
  return {name: tree for name, tree in variables.items() if name in ('params', 'batch_stats')}
