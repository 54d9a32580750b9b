"""Installs tfg_jax. Floors, not pins: what a version is needed for stands beside it."""

import pathlib
import re

import setuptools

HERE = pathlib.Path(__file__).parent
VERSION = re.search(r"__version__ = '(.+)'", (HERE / 'tfg_jax' / '__init__.py').read_text())[1]

# TensorFlow is only needed for TensorBoard files and by the MTCNN face detector; nothing in the
# training path imports it. The CPU build keeps it from taking the accelerator's memory.
TENSORFLOW = [
  'tensorflow-cpu>=2.16; platform_system == "Linux" and platform_machine == "x86_64"',
  'tensorflow>=2.16; platform_system != "Linux" or platform_machine != "x86_64"',
  'tensorboard>=2.16',
]
PUPPET = ['espeakng-loader>=0.2']  # carries espeak-ng, which is GPL-3: only corpus making needs it
FACES = ['mtcnn>=1.0', *TENSORFLOW]  # the detector's weights are inside its wheel
# Preparing corpora. Beam holds protobuf below 7 and pillow below 13; TensorFlow 2.21 needs protobuf
# 6.31 and Beam's older releases forbid that, so pip must not go back to them.
# The command `tfds` imports mlcroissant without declaring it.
PREP = ['apache-beam>=2.77', 'mlcroissant>=1.0', *FACES]

EXTRAS = {
  'demo': [*PUPPET, *FACES],
  'puppet': PUPPET,
  'faces': FACES,
  'prep': PREP,
  'torch': ['torch>=2.2'],
  # A page in the browser. Gradio 6.0 moved theme and style to `launch`, as `demo.py` has them.
  'web': [*PUPPET, *FACES, 'gradio>=6.0'],
  # Signed C2PA manifests; the first carries a native library of 50 MB.
  'provenance': ['c2pa-python>=0.38', 'cryptography>=42'],
  'voices': ['webrtcvad-wheels>=2.0.14'],  # the voice activity detector that SF2F cut speech with
  'tpu': ['jax[tpu]>=0.7.2'],
  'cuda': ['jax[cuda12]>=0.7.2'],
}
EXTRAS['test'] = [
  *EXTRAS['demo'],
  *EXTRAS['prep'],
  *EXTRAS['voices'],
  *EXTRAS['web'],
  *EXTRAS['provenance'],
  'hypothesis>=6.100',
  'ipykernel>=6.29',  # these two run the notebook in colab/
  'nbclient>=0.10',
  'packaging>=23',
  'pytest>=8',
  'pytest-xdist>=3.5',
  'playwright>=1.50',  # drives a Chromium or Chrome that is there; tests are skipped without
  'python_speech_features>=0.6',
  'ruff>=0.6',
  'safetensors>=0.4',
  'scikit-image>=0.22',
  'soundfile>=0.12',
]

setuptools.setup(
  name='tfg_jax',
  version=VERSION,
  description='Talking-face generation in JAX: TalkLip, DAVS, SF2F, Speech2Video',
  long_description=(HERE / 'README.md').read_text() if (HERE / 'README.md').exists() else '',
  long_description_content_type='text/markdown',
  license='Apache-2.0',
  python_requires='>=3.11',
  packages=setuptools.find_packages(include=['tfg_jax*', 'data_prep*']),
  install_requires=[
    'absl-py>=2.1',
    'av>=18',  # PyAV: its wheels carry FFmpeg; older ones crash on MPEG program streams
    'clu>=0.0.12',
    'flax>=0.11',
    'google-crc32c>=1.5',  # the masked CRC of TFRecord
    'grain>=0.2.10',
    'jax>=0.7.2',  # what Colab ships
    'librosa>=0.10',  # whose features of sound ours are held against, at hand for people's own
    'ml-collections>=1.0',
    'ml_dtypes>=0.4',  # bfloat16 without JAX
    'numpy>=1.26',
    'opencv-python-headless>=4.9',  # JPEG, and the resize that the public data went through
    'optax>=0.2.7',  # Muon whose rate is Adam's
    'orbax-checkpoint>=0.11.20',
    'pillow>=10',  # PNGs with marks that they are synthetic
    'protobuf>=4.25',
    'scikit-learn>=1.4',  # k-means of the lip expert's targets
    'soxr>=0.3',
    'tensorflow-datasets>=4.9.6',
    'importlib_resources>=6',  # tensorflow-datasets imports it without declaring it
    'tqdm>=4.66',
  ],
  extras_require=EXTRAS,
)
